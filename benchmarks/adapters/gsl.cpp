// Draws through the adapters for GSL, against GSL's own generator. A name in brackets is no macro: it is GSL's function.
#include <gsl/gsl_rng.h>
#include <ppx_client/gsl_randist.hpp>

#include "rows.hpp"

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const std::string mode = argv[1], row = argv[2];
    gsl_rng* const bare = gsl_rng_alloc(gsl_rng_mt19937);
    gsl_rng* const ours = gsl_rng_alloc(ppx_client::gsl_rng_ppx);
    if (row == "gsl_ran_gaussian, gsl_rng_ppx")
        return rows::run(mode, [&] { return (gsl_ran_gaussian)(bare, 1.0); },
                         [&] { return (gsl_ran_gaussian)(ours, 1.0); });
    if (row == "gsl_ran_gaussian, gsl_randist.hpp")
        return rows::run(mode, [&] { return (gsl_ran_gaussian)(bare, 1.0); },
                         [&] { return gsl_ran_gaussian(ours, 1.0); });
    if (row == "gsl_ran_poisson(4), gsl_randist.hpp")
        return rows::run(mode, [&] { return (gsl_ran_poisson)(bare, 4.0); },
                         [&] { return gsl_ran_poisson(ours, 4.0); });
    std::cerr << "there is no row " << row << '\n';
    return 2;
}
