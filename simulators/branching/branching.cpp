// A model that branches on a Poisson draw; the same as branching.py, where the exact posterior stands.
#include <cstdint>
#include <ppx_client.hpp>

// 1 for n < 2; otherwise start from 1, 1 and add n - 2 times.
static std::int64_t fibonacci(std::int64_t n) {
    std::int64_t a = 1, b = 1;
    for (std::int64_t i = 0; i < n - 2; ++i) {
        const std::int64_t next = a + b;
        a = b;
        b = next;
    }
    return b;
}

// Returns r.
static double branching() {
    const ppx_client::Poisson count{4.0};
    const std::int64_t r = ppx_client::sample(count, "r");
    const std::int64_t rate = r > 4 ? 6 : 1 + fibonacci(3 * r) + ppx_client::sample(count, "extra");
    ppx_client::observe(ppx_client::Poisson{rate}, "y");
    return static_cast<double>(r);
}

int main() { return ppx_client::serve(branching, "branching"); }
