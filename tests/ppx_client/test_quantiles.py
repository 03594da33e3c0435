"""Values of coordinates: one by one and in arrays the same, finite, possible, over the whole range of both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

import ppx_client as ppx
from ppx_client.array_quantiles import ARRAY, parameter_matrix
from ppx_client.quantiles import SCALAR, tails
from ppx_server.distributions import family

Z = np.concatenate([np.linspace(-40.0, 40.0, 81), [-37.5, -8.0, -1e-9, 1e-9, 8.0, 37.5]])
TAILS = np.array([tails(z) for z in Z.tolist()]).T
EXTREME = (5e-324, 1e-310, 1e-300, 1e-10, 1e-3, 0.3, 1.0, 50.0, 1e10, 1e300)
PROBABILITIES = (0.0, 5e-324, 1e-300, 1e-17, 1e-9, 0.3, 0.5, np.nextafter(0.5, 1.0), 0.9, 1 - 2.0**-53, 1.0)
TRIALS = (0.0, 1.0, 2.0, 5.0, 31.0, 32.0, 33.0, 1e4, 1e9)
WEIGHTS = (
    (0.0, 1e-200, 0.0),  # a product with Phi(-24) vanishes
    (0.0, 5e-324, 0.0),
    (5e-324, 0.0, 0.0),
    (0.0, 1e-308, 1e-308),
    (1e308, 5e-324, 0.0),
    (0.0, 1e-320, 1e300),
    (1e300, 1e-320, 0.0),
    (0.1, 0.2, 0.3),
    (5e-324, 5e-324, 5e-324),
)


def distributions() -> Iterator[ppx.Distribution]:
    """One element each."""
    for kind in (ppx.Beta, ppx.Gamma, ppx.Weibull):
        yield from (kind([a], [b]) for a, b in product(EXTREME, EXTREME))
    for scale in EXTREME:
        yield ppx.Exponential([scale])
        yield from (ppx.Normal([mean], [scale]) for mean in (0.0, -1.0, 1e300))
        yield from (ppx.LogNormal([loc], [scale]) for loc in (0.0, -700.0, 1e300))
    yield from (ppx.Uniform([low], [high]) for low, high in ((0.0, 5e-324), (0.0, 1e300), (-8e307, 8e307)))
    yield from (ppx.Poisson([rate]) for rate in (0.0, 5e-324, 1e-300, 0.3, 10.0, 32.0, 32.1, 1e3, 1e10))
    yield from (ppx.Bernoulli([p]) for p in PROBABILITIES)
    yield from (ppx.Binomial([n], [p]) for n, p in product(TRIALS, PROBABILITIES))
    yield from (ppx.Categorical([weights]) for weights in WEIGHTS)


FAMILIES = {name: [d for d in distributions() if type(d).__name__ == name] for name in (
    "Normal", "Uniform", "Categorical", "Poisson", "Bernoulli", "Beta", "Exponential", "Gamma", "LogNormal", "Binomial",
    "Weibull",
)}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_arrays_hold_what_scalars_are(name: str) -> None:
    reference = family(name)
    found = [*FAMILIES[name]]
    # All at once, each at every coordinate.
    params = [
        np.repeat(np.concatenate(one), len(Z), 0) for one in zip(*(d.params for d in found), strict=True)
    ]
    p, q, z = (np.tile(one, len(found)) for one in (*TAILS, Z))
    code = found[0].code
    with np.errstate(all="ignore"):
        together = ARRAY[code](p, q, z, *params).reshape(len(found), len(Z))
    for row, one in enumerate(found):
        vector = parameter_matrix(one)[0].tolist()
        scalar = np.array(
            [SCALAR[code](p, q, z, vector) for p, q, z in zip(*TAILS.tolist(), Z.tolist(), strict=True)]
        )
        exact = tuple(map(float, vector)) if name != "Categorical" else (vector,)
        assert reference.contains(scalar, exact).all(), vector
        if one.discrete:
            np.testing.assert_array_equal(together[row], scalar, err_msg=str(vector))
            np.testing.assert_array_equal(reference.from_z(Z, exact), scalar, err_msg=str(vector))
        else:
            np.testing.assert_allclose(together[row], scalar, rtol=1e-9, err_msg=str(vector))
            np.testing.assert_allclose(reference.from_z(Z, exact), scalar, rtol=1e-9, err_msg=str(vector))
        if name == "Categorical":
            assert (np.array(vector)[scalar.astype(int)] > 0.0).all(), vector


def test_arrays_of_all_kinds_of_counts_hold_what_scalars_are() -> None:
    rng = np.random.default_rng(4)
    size = 3000
    z = rng.choice([1.0, 6.0, 15.0], size) * rng.standard_normal(size)
    p, q = np.array([tails(one) for one in z.tolist()]).T
    probs = np.where(rng.random(size) < 0.5, rng.random(size), rng.choice(PROBABILITIES, size))
    for one in (
        ppx.Binomial(rng.integers(0, 6, size), probs),
        ppx.Binomial(rng.integers(0, 6, size), 0.3),
        ppx.Binomial(rng.integers(0, 60, size), probs),
        ppx.Binomial(rng.integers(0, 6000, size), probs),
        ppx.Poisson(10.0 ** rng.uniform(-3.0, 4.0, size)),
    ):
        scalar = [
            SCALAR[one.code](*numbers)
            for numbers in zip(
                p.tolist(), q.tolist(), z.tolist(), parameter_matrix(one).tolist(), strict=True
            )
        ]
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(ARRAY[one.code](p, q, z, *one.params), scalar)
