"""Every statement and family, as everything.c, everything.f90 and everything.R have them, too."""

import ppx_client as ppx


def forward():
    mu = ppx.sample(ppx.Normal(0.5, 2.0), name="mu")
    ppx.sample(ppx.Uniform(-1.0, 2.0), name="uniform", control=False)
    k = ppx.sample(ppx.Categorical([0.2, 0.0, 0.8]), name="categorical")
    n = ppx.sample(ppx.Poisson(4.0), name="poisson")
    ppx.sample(ppx.Bernoulli(0.25), name="bernoulli")
    ppx.sample(ppx.Beta(2.0, 3.0), name="beta")
    ppx.sample(ppx.Exponential(2.0), name="exponential")
    ppx.sample(ppx.Gamma(2.5, 0.5), name="gamma")
    ppx.sample(ppx.LogNormal(0.1, 0.2), name="lognormal")
    ppx.sample(ppx.Binomial(10, 0.3), name="binomial")
    ppx.sample(ppx.Weibull(1.5, 2.0), name="weibull")
    ppx.sample(ppx.TruncatedNormal(mu, 1.0, -1.0, 3.0), name="truncated_normal")
    noise = ppx.sample(ppx.Normal([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]), name="noise")
    flat = ppx.sample(ppx.Uniform([0.0, 0.0], 1.0), name="flat")
    ppx.sample(ppx.Categorical([[0.5, 0.5], [0.1, 0.9]]), name="indices")
    with ppx.scope("detector"), ppx.rejection("loop"):
        while ppx.sample(ppx.Uniform(0.0, 1.0), name="try") > 0.5:
            pass
    ppx.observe(ppx.Normal(mu, 0.5), name="y")
    ppx.observe(ppx.Poisson(n + 1.0), 3.0, name="count")
    ppx.observe(ppx.Categorical([0.5, 0.5]), name="index")
    ppx.observe(ppx.Normal(noise, 0.5), name="image")
    ppx.observe(ppx.Exponential(2.0), [0.5, 0.25], name="repeated")
    ppx.tag(mu * 2.0, name="twice")
    ppx.tag(noise, name="noise")
    return [mu, float(k), flat[1]]


if __name__ == "__main__":
    ppx.serve(forward, name="everything")
