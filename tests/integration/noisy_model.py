"""A simulator that leaves draws to the prior in every way that there is; noisy_model.cpp is its twin."""

import numpy as np

import ppx_client as ppx


@ppx.uncontrolled()
def left(name: str) -> float:
    return ppx.sample(ppx.Normal(0.0, 1.0), name=name)


def give_up() -> None:
    with ppx.uncontrolled():
        ppx.sample(ppx.Exponential(1.0), name="before")
        raise ArithmeticError


def forward() -> float:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    total = x
    with ppx.rejection("loop"):
        while ppx.sample(ppx.Uniform(0.0, 1.0), name="u") > 0.7:
            total += ppx.sample(ppx.Gamma(0.5, 2.0), name="g", control=False)
    with ppx.uncontrolled():
        total += left("twice") + ppx.sample(ppx.Poisson(2.0 + x * x), name="n")
        total += ppx.sample(ppx.Normal(np.zeros(3), 2.0), name="a").sum()
    try:
        give_up()
    except ArithmeticError:
        total += left("after") + ppx.sample(ppx.Normal(x, 1.0), name="twice")
    with ppx.scope("walk"):
        for _ in range(20):
            total += ppx.sample(ppx.Uniform(-1.0, 1.0), name="step")
    total += ppx.sample(ppx.Normal(np.zeros(2), 1.0), name="noise[0]").sum()
    k = ppx.sample(ppx.Categorical([0.2, 0.3, 0.5]), name="k")
    ppx.observe(ppx.Normal(total, 1.0 + k), name="y")
    ppx.tag(total, name="total")
    return total


if __name__ == "__main__":
    ppx.serve(forward, name="noisy")
