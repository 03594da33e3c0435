// The model of attacked_model.py in C++.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ppx_client.hpp>
#include <thread>

int main(int argc, char** argv) {
    const char* const file = argc > 1 ? argv[1] : "/dev/null";
    const auto pause = std::chrono::microseconds(argc > 2 ? std::atoi(argv[2]) : 0);
    std::FILE* const count = std::fopen(file, "ab");
    return ppx_client::serve(
        [&] {
            std::this_thread::sleep_for(pause);
            std::fputc('.', count);
            std::fflush(count);
            const double mu = ppx_client::sample(ppx_client::Normal(1.0, 2.0), "mu");
            ppx_client::observe(ppx_client::Normal(mu, 1.0), "y");
            return mu;
        },
        "attacked");
}
