// A draw and an observation of every family, with ordinary and extreme parameters.
#include <cmath>
#include <ppx_client.hpp>
#include <string>

using namespace ppx_client;

template <class D>
static void draw(const std::string& name, const D& distribution) {
    sample(distribution, name);
    observe(distribution, name + ".observed");
}

static void families() {
    draw("normal", Normal{0.5, 2.0});
    draw("normal.wide", Normal{-3.0, 1e200});
    draw("uniform", Uniform{-1.0, 2.0});
    draw("uniform.far", Uniform{1e6, 1e6 + 1e-3});
    draw("categorical", Categorical{{0.2, 0.0, 3.0, 0.5}});
    draw("categorical.skew", Categorical{{1e-9, 1.0, 1e-9}});
    draw("categorical.tiny", Categorical{{0.0, 1e-200, 0.0}});  // a product with a small tail vanishes
    draw("categorical.least", Categorical{{0.0, 5e-324}});
    draw("categorical.last", Categorical{{5e-324, 0.0}});
    draw("categorical.wide", Categorical{{0.0, 1e-320, 0.0, 1e300, 0.0}});
    draw("poisson", Poisson{4.0});
    draw("poisson.rare", Poisson{1e-3});
    draw("poisson.many", Poisson{1e5});
    draw("bernoulli", Bernoulli{0.25});
    draw("bernoulli.rare", Bernoulli{1e-12});
    draw("bernoulli.sure", Bernoulli{1.0});
    draw("beta", Beta{2.0, 3.0});
    draw("beta.edges", Beta{0.5, 0.25});
    draw("beta.many", Beta{400.0, 30.0});
    draw("exponential", Exponential{2.0});
    draw("gamma", Gamma{2.5, 0.5});
    draw("gamma.small", Gamma{0.01, 3.0});
    draw("gamma.many", Gamma{1e4, 10.0});
    draw("log_normal", LogNormal{0.1, 0.2});
    draw("log_normal.wide", LogNormal{1.0, 30.0});
    draw("binomial", Binomial{10, 0.3});
    draw("binomial.none", Binomial{0, 0.3});
    draw("binomial.sure", Binomial{5, 1.0});
    draw("binomial.many", Binomial{10000, 0.7});
    draw("weibull", Weibull{1.5, 2.0});
    draw("weibull.edge", Weibull{1.5, 0.25});
    draw("truncated", TruncatedNormal{0.5, 2.0, -1.0, 3.0});
    draw("truncated.none", TruncatedNormal{0.5, 2.0, -INFINITY, INFINITY});
    draw("truncated.tail", TruncatedNormal{0.0, 1.0, 6.0, INFINITY});
    draw("truncated.low", TruncatedNormal{0.0, 1.0, -INFINITY, -9.0});
    draw("truncated.far", TruncatedNormal{0.0, 1.0, 45.0, 45.01});
    draw("truncated.remote", TruncatedNormal{1.0, 0.5, -400.0, -300.0});
    draw("truncated.narrow", TruncatedNormal{1.0, 0.5, 2.0, 2.0 + 1e-9});
}

int main() { return serve(families, "families"); }
