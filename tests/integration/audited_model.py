"""Draws of all families, scalars and arrays, some not controlled, in an order that a script need not follow."""

from __future__ import annotations

import ppx_client as ppx


def forward() -> float:
    """One trace."""
    count = ppx.sample(ppx.Poisson(3.5), name="count")
    ppx.sample(ppx.Uniform(-1.0, 1.0), name="shift")
    ppx.sample(ppx.Normal([1e6, -2.0, 0.0], [1e-3, 1.0, 2.0]), name="array")
    ppx.sample(ppx.Categorical([0.2, 0.0, 0.5, 0.3]), name="kind", control=False)
    ppx.sample(ppx.Bernoulli(0.3), name="coin")
    ppx.sample(ppx.Beta(0.5, 2.0), name="share")
    ppx.sample(ppx.Exponential(0.25), name="time")
    ppx.sample(ppx.Gamma(2.5, 0.5), name="energy")
    ppx.sample(ppx.LogNormal(0.5, 1.5), name="scale")
    ppx.sample(ppx.Binomial(20, 0.35), name="hits")
    ppx.sample(ppx.Weibull(2.0, 1.5), name="life")
    ppx.sample(ppx.TruncatedNormal(0.0, 1.0, 2.0, 9.0), name="cut")
    return sum(ppx.sample(ppx.Normal(0.0, 1.0), name="step") for _ in range(count))


if __name__ == "__main__":
    ppx.serve(forward, "audited")
