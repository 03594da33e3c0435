"""A model that branches on a Poisson draw: the number of draws and the likelihood depend on it. Exact posterior known.

r ~ Poisson(4). If r > 4, l = 6; else l = 1 + fib(3 r) + another Poisson(4) draw. y ~ Poisson(l). For y = 6 the
probabilities of r = 0..9 are .03037 .12279 .04404 0 0 .33805 .22537 .12878 .06439 .02862, the mean is 5.11228 and
the log evidence -2.60015 (by enumeration). The model is the one of pyprob's tests.
"""

from __future__ import annotations

import ppx_client as ppx


def fibonacci(n: int) -> int:
    """1 for n < 2; otherwise start from 1, 1 and add n - 2 times."""
    a, b = 1, 1
    for _ in range(n - 2):
        a, b = b, a + b
    return b


def branching() -> int:
    """Returns r."""
    count = ppx.Poisson(4.0)
    r: int = ppx.sample(count, name="r")
    rate = 6 if r > 4 else 1 + fibonacci(3 * r) + ppx.sample(count, name="extra")
    ppx.observe(ppx.Poisson(rate), name="y")
    return r


if __name__ == "__main__":
    ppx.serve(branching, name="branching")
