// The second translation unit of `everything`.
#include <ppx_client.hpp>

double everything_else() {
    const ppx_client::scope s("elsewhere");
    return ppx_client::sample(ppx_client::Normal{0.0, 1.0}, "mu");
}
