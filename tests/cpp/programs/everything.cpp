// Every statement and family of the client, spread over two translation units (see everything_else.cpp).
//
//     everything                serves one trace of everything
//     everything local N        N draws of each family without a controller, one line each
//     everything once           one trace without a controller
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ppx_client.hpp>
#include <string>
#include <vector>

double everything_else();

namespace {

using namespace ppx_client;

double in_an_anonymous_namespace() { return sample(Uniform{-1.0, 2.0}); }

double helper() { return sample(Exponential{2.0}, "e"); }

Tensor everything() {
    const double mu = sample(Normal{0.5, 2}, "mu");
    sample(Uniform{-1.0f, 2.0}, "uniform", false);
    const std::int64_t index = sample(Categorical{{0.2, 0.0, 0.8}}, "categorical");
    sample(Poisson{4}, "poisson");
    sample(Bernoulli{0.25}, "bernoulli");
    sample(Beta{2.0, 3.0}, "beta");
    sample(Exponential{2.0}, "exponential");
    sample(Gamma{2.5, 0.5}, "gamma");
    sample(LogNormal{0.1, 0.2}, "log_normal");
    sample(Binomial{10, 0.3}, "binomial");
    sample(Weibull{1.5, 2.0}, "weibull");
    const Tensor array = sample(Normal{std::vector<double>{1.0, 2.0, 3.0}, 0.1}, "array");
    in_an_anonymous_namespace();
    const auto lambda = [] { return sample(Uniform{0.0, 1.0}); };
    lambda();
    {
        scope outer("detector");
        helper();
        scope inner("inner");
        helper();
    }
    helper();
    const double elsewhere = everything_else();
    const double y = observe(Normal{mu, 0.5}, "y");
    const double given = observe(Normal{mu, 0.5}, 3, "given");
    const Tensor image = observe(Normal{Tensor{{1, 2, 3, 4, 5, 6}, {1, 2, 3}}, 0.5}, "image");
    observe(Normal{mu, 0.5}, std::vector<double>{3.0, 4.0}, "repeated");
    tag(mu * 2, "twice");
    tag(array, "array");
    return Tensor{{y, given, image[5], static_cast<double>(index), elsewhere, array[2]}, {2, 3}};
}

template <class D>
void print_draws(const char* name, const D& distribution, int count) {
    seed(7);
    std::printf("%s", name);
    for (int i = 0; i < count; ++i) std::printf(" %.17g", static_cast<double>(sample(distribution)));
    std::printf("\n");
}

void print_local_draws(int count) {
    print_draws("Normal", Normal{0.5, 2.0}, count);
    print_draws("Uniform", Uniform{-1.0, 2.0}, count);
    print_draws("Categorical", Categorical{{0.2, 0.0, 0.3, 0.5}}, count);
    print_draws("Poisson", Poisson{4.0}, count);
    print_draws("Bernoulli", Bernoulli{0.25}, count);
    print_draws("Beta", Beta{2.0, 3.0}, count);
    print_draws("Exponential", Exponential{2.0}, count);
    print_draws("Gamma", Gamma{2.5, 0.5}, count);
    print_draws("LogNormal", LogNormal{0.1, 0.2}, count);
    print_draws("Binomial", Binomial{10, 0.3}, count);
    print_draws("Weibull", Weibull{1.5, 2.0}, count);
    print_draws("TruncatedNormal", TruncatedNormal{0.5, 2.0, -1.0, 3.0}, count);
    print_draws("TruncatedNormal.tail", TruncatedNormal{0.0, 1.0, 6.0, INFINITY}, count);
    print_draws("TruncatedNormal.low", TruncatedNormal{0.0, 1.0, -INFINITY, -9.0}, count);
    print_draws("TruncatedNormal.far", TruncatedNormal{0.0, 1.0, 45.0, 45.01}, count);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    try {
        if (command == "local") print_local_draws(std::atoi(argv[2]));
        if (command == "once") {
            for (const double x : everything()) std::printf("%.17g\n", x);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
    return command.empty() ? serve(everything, "everything") : 0;
}
