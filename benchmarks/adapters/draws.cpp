// Draws through the C++ adapters for <random> and <stdlib.h>, against the same without them.
#include <ppx_client/rand.hpp>
#include <ppx_client/random.hpp>
#include <random>

#include "rows.hpp"

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const std::string mode = argv[1], row = argv[2];
    std::mt19937_64 g(1);
    if (row == "normal_distribution") {
        std::normal_distribution<> bare;
        ppx_client::normal_distribution<> ours;
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "uniform_real_distribution") {
        std::uniform_real_distribution<> bare;
        ppx_client::uniform_real_distribution<> ours;
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "uniform_int_distribution(1, 6)") {
        std::uniform_int_distribution<> bare(1, 6);
        ppx_client::uniform_int_distribution<> ours(1, 6);
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "poisson_distribution(4)") {
        std::poisson_distribution<> bare(4.0);
        ppx_client::poisson_distribution<> ours(4.0);
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "gamma_distribution(2.5, 2)") {
        std::gamma_distribution<> bare(2.5, 2.0);
        ppx_client::gamma_distribution<> ours(2.5, 2.0);
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "student_t_distribution(3)") {
        std::student_t_distribution<> bare(3.0);
        ppx_client::student_t_distribution<> ours(3.0);
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(g); });
    }
    if (row == "std::normal_distribution, random_bit_generator_64") {
        std::normal_distribution<> bare, ours;
        ppx_client::random_bit_generator_64 bits;
        return rows::run(mode, [&] { return bare(g); }, [&] { return ours(bits); });
    }
    if (row == "rand()")
        return rows::run(mode, [] { return std::rand(); }, [] { return ppx_client::rand(); });
    std::cerr << "there is no row " << row << '\n';
    return 2;
}
