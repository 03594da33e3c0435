// The second translation unit of `adapters`.
#include <ppx_client/rand.hpp>
#include <ppx_client/random.hpp>
#ifdef WITH_GSL
#include <ppx_client/gsl_randist.hpp>
#endif

double elsewhere() {
    std::mt19937 g;
    return ppx_client::normal_distribution<>(0.0, 1.0)(g) + ppx_client::uniform();
}
