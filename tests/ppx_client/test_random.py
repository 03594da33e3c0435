"""`ppx_client.random.Generator` against `numpy.random.Generator`: signatures, types, distributions."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats as st

import ppx_client as ppx
from ppx_client.random import Generator, default_rng

NUM = 2000
ALPHA = 1e-4
"""Of each comparison; draws are seeded, so a test that passes once passes always."""

COV = [[2.0, 1.2, 0.0], [1.2, 1.0, -0.3], [0.0, -0.3, 0.5]]
# Method, arguments, and the same distribution with arguments that the comparison must tell apart.
CONTINUOUS = {
    "random": ((), None),
    "normal": ((1.0, 2.0), (1.4, 2.0)),
    "standard_normal": ((), None),
    "uniform": ((-1.0, 3.0), (-1.0, 3.5)),
    "exponential": ((2.0,), (2.6,)),
    "standard_exponential": ((), None),
    "gamma": ((0.5, 3.0), (0.7, 3.0)),
    "standard_gamma": ((2.5,), (3.0,)),
    "beta": ((2.0, 0.7), (2.0, 0.9)),
    "lognormal": ((0.3, 0.8), (0.5, 0.8)),
    "weibull": ((1.7,), (2.5,)),
    "rayleigh": ((2.0,), (2.3,)),
    "power": ((3.0,), (4.0,)),
    "chisquare": ((3.0,), (3.6,)),
    "laplace": ((1.0, 2.0), (1.4, 2.0)),
    "logistic": ((1.0, 2.0), (1.7, 2.0)),
    "gumbel": ((1.0, 2.0), (1.5, 2.0)),
    "pareto": ((3.0,), (4.0,)),
    "standard_cauchy": ((), None),
    "standard_t": ((0.7,), (1.4,)),
    "f": ((3.0, 8.0), (5.0, 4.0)),
    "noncentral_chisquare": ((0.7, 2.0), (0.7, 3.0)),
    "noncentral_f": ((3.0, 8.0, 2.0), (3.0, 8.0, 3.2)),
    "triangular": ((-1.0, 2.0, 3.0), (-1.0, 1.3, 3.0)),
    "wald": ((2.0, 3.0), (2.5, 3.0)),
    "vonmises": ((2.0, 1.5), (2.3, 1.5)),
}
DISCRETE = {
    "integers": ((3, 9), (3, 10)),
    "poisson": ((3.0,), (3.5,)),
    "binomial": ((20, 0.3), (20, 0.34)),
    "geometric": ((0.3,), (0.38,)),
    "negative_binomial": ((2.5, 0.4), (2.5, 0.47)),
    "logseries": ((0.8,), (0.87,)),
    "zipf": ((2.5,), (3.0,)),
    "hypergeometric": ((20, 30, 15), (20, 25, 15)),
}
VECTORS = {
    "multivariate_normal": ([1.0, -2.0, 0.0], COV),
    "dirichlet": ([0.5, 2.0, 1.0],),
    "multinomial": (12, [0.2, 0.5, 0.3]),
    "multivariate_hypergeometric": ([5, 9, 7], 8),
}
OTHERS = ["bytes", "choice", "permutation", "permuted", "shuffle", "spawn", "bit_generator"]
ROWS = [*CONTINUOUS.items(), *DISCRETE.items()]


def seeded(name: str) -> tuple[Generator, np.random.Generator]:
    """Ours and NumPy's, each with a seed of the test."""
    seed = zlib.crc32(name.encode())
    ppx.seed(seed)
    return Generator(), np.random.default_rng(seed)


def agree(ours: Any, theirs: Any) -> bool:
    """Whether two samples can come from one distribution: Kolmogorov-Smirnov, for whole numbers chi-square."""
    if np.asarray(theirs).dtype.kind == "f":
        return bool(st.ks_2samp(ours, theirs).pvalue > ALPHA)
    top = np.quantile(theirs, 0.98)  # what is rare counts together
    table = [np.unique(np.minimum(x, top), return_counts=True) for x in (ours, theirs)]
    values = np.union1d(table[0][0], table[1][0])
    counts = np.zeros((2, len(values)))
    for row, (found, count) in enumerate(table):
        counts[row, np.searchsorted(values, found)] = count
    return bool(st.chi2_contingency(counts).pvalue > ALPHA)


@pytest.mark.parametrize("name", [name for name in dir(np.random.Generator) if not name.startswith("_")])
def test_every_method_of_numpy_has_its_parameters(name: str) -> None:
    assert name in [*CONTINUOUS, *DISCRETE, *VECTORS, *OTHERS], (
        f"NumPy has a new method {name}: it is refused"
    )
    assert name in vars(Generator)
    assert getattr(Generator, name).__doc__
    if name == "bit_generator":
        return
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Generator, np.random.Generator))
    assert [(p.name, p.kind) for p in ours.parameters.values()][1:] == [
        (p.name, p.kind) for p in theirs.parameters.values()
    ][1:]
    for parameter, original in zip(ours.parameters.values(), theirs.parameters.values(), strict=True):
        assert parameter.default == original.default


@pytest.mark.parametrize(
    ("name", "arguments"), ROWS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_numbers_have_numpys_distribution(name: str, arguments: tuple[Any, Any]) -> None:
    generator, reference = seeded(name)
    right, wrong = arguments
    ours = getattr(generator, name)(*right, size=NUM)
    assert agree(ours, getattr(reference, name)(*right, size=NUM))
    different = getattr(reference, name)(*wrong, size=NUM) if wrong else 1.7 * ours
    assert not agree(ours, different)


@pytest.mark.parametrize(
    "name", ["normal", "logistic", "standard_t", "poisson", "hypergeometric", "integers"]
)
def test_one_number_at_a_time_has_the_same_distribution(name: str) -> None:
    generator, reference = seeded(name)
    arguments = (CONTINUOUS | DISCRETE)[name][0]
    ours = np.array([getattr(generator, name)(*arguments) for _ in range(1500)])
    assert agree(ours, getattr(reference, name)(*arguments, size=1500))


@pytest.mark.parametrize(("name", "arguments"), VECTORS.items(), ids=list(VECTORS))
def test_vectors_have_numpys_distribution(name: str, arguments: tuple[Any, ...]) -> None:
    generator, reference = seeded(name)
    ours, theirs = (getattr(rng, name)(*arguments, size=NUM) for rng in (generator, reference))
    for direction in (*np.eye(3), np.array([1.0, 1.0, 0.0])):
        assert agree(ours @ direction, theirs @ direction)
    independent = ours[:, 0] + np.random.default_rng(1).permutation(ours[:, 1])
    assert not agree(independent, theirs[:, 0] + theirs[:, 1])


@pytest.mark.parametrize("method", ["svd", "eigh", "cholesky"])
def test_covariances(method: str) -> None:
    ppx.seed(1)
    x = Generator().multivariate_normal([0.0, 0.0, 0.0], COV, size=4000, method=method)
    np.testing.assert_allclose(np.cov(x.T), COV, atol=0.2)
    assert not np.allclose(np.cov(x.T), np.diag(np.diag(COV)), atol=0.2)
    with pytest.raises(ppx.DistributionError, match="positive-semidefinite"):
        Generator().multivariate_normal([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]], check_valid="raise")
    with pytest.warns(RuntimeWarning, match="positive-semidefinite"):
        Generator().multivariate_normal([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]])


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE, *VECTORS])
@pytest.mark.parametrize("size", [None, 0, 3, (2, 3), (), [2]], ids=str)
def test_types_and_shapes_are_numpys(name: str, size: Any) -> None:
    arguments = VECTORS.get(name) or (CONTINUOUS | DISCRETE)[name][0]
    generator, reference = seeded(name)
    ours, theirs = (getattr(rng, name)(*arguments, size=size) for rng in (generator, reference))
    assert type(ours) is type(theirs)
    assert np.shape(ours) == np.shape(theirs)
    assert np.asarray(ours).dtype == np.asarray(theirs).dtype


@pytest.mark.parametrize("call", [
    lambda rng: rng.normal([0.0, 1.0], [[1.0], [2.0]]),
    lambda rng: rng.gamma(np.ones(3), 2, size=(4, 3)),
    lambda rng: rng.normal(np.array(1.0), np.float32(2.0)),
    lambda rng: rng.poisson([1, 2]),
    lambda rng: rng.standard_t([3, 4], size=(2, 2)),
    lambda rng: rng.geometric([0.1, 1.0]),
    lambda rng: rng.negative_binomial(3, [0.5, 1.0]),
    lambda rng: rng.multinomial([3, 4], [[0.5, 0.5], [0.1, 0.9]]),
    lambda rng: rng.random(3, dtype=np.float32),
    lambda rng: rng.random(dtype=np.float32),
    lambda rng: rng.standard_normal(out=np.zeros(4)),
    lambda rng: rng.standard_gamma([1.0, 2.0], out=np.zeros(2)),
    lambda rng: rng.standard_exponential(2, np.float32, "inv"),
    lambda rng: rng.integers(5, dtype=np.uint8),
    lambda rng: rng.integers(2, dtype=bool, size=3),
    lambda rng: rng.integers(5, dtype=int),
    lambda rng: rng.integers([1, 2], [[5], [600]], endpoint=True),
    lambda rng: rng.integers(0, 2**64, size=2, dtype=np.uint64),
    lambda rng: rng.integers(1e6),
    lambda rng: rng.integers([0.5, -1.5], 3.7),
    lambda rng: rng.choice([], 0),
    lambda rng: rng.choice(3, p=np.full(3, 0.3333, np.float32)),
    lambda rng: rng.permuted(np.zeros((0, 3)), axis=1),
    lambda rng: rng.choice(5),
    lambda rng: rng.choice(5, p=[0.2] * 5),
    lambda rng: rng.choice([1.5, 2.5], 3),
    lambda rng: rng.choice(["a", "b"]),
    lambda rng: rng.choice(np.eye(3), 2, axis=1),
    lambda rng: rng.choice(np.eye(3)),
    lambda rng: rng.choice(100, (2, 3), replace=False),
    lambda rng: rng.choice(4, 2, False, [0.5, 0.5, 0.0, 0.0], shuffle=False),
    lambda rng: rng.permutation(4),
    lambda rng: rng.permutation([[1, 2], [3, 4]], axis=1),
    lambda rng: rng.permuted([[1.0, 2.0], [3.0, 4.0]], axis=1),
    lambda rng: rng.permuted([[1, 2], [3, 4]]),
    lambda rng: rng.bytes(5),
    lambda rng: rng.shuffle([1, 2]),
])  # fmt: skip
def test_what_numpy_accepts_gives_what_it_gives(call: Callable[[Any], Any]) -> None:
    ours, theirs = call(Generator()), call(np.random.default_rng(0))
    assert type(ours) is type(theirs)
    assert np.shape(ours) == np.shape(theirs)
    assert np.asarray(ours).dtype == np.asarray(theirs).dtype


@pytest.mark.parametrize(("name", "arguments", "value"), [
    ("normal", (2.0, 0.0), 2.0),
    ("uniform", (2.0, 2.0), 2.0),
    ("exponential", (0.0,), 0.0),
    ("gamma", (0.0, 1.0), 0.0),
    ("gamma", (1.0, 0.0), 0.0),
    ("standard_gamma", (0.0,), 0.0),
    ("lognormal", (0.0, 0.0), 1.0),
    ("weibull", (0.0,), 0.0),
    ("rayleigh", (0.0,), 0.0),
    ("poisson", (0.0,), 0),
    ("binomial", (0, 0.5), 0),
    ("geometric", (1.0,), 1),
    ("integers", (3, 4), 3),
    ("choice", (1,), 0),
    ("hypergeometric", (0, 5, 3), 0),
])  # fmt: skip
def test_parameters_that_leave_no_choice(name: str, arguments: tuple[Any, ...], value: float) -> None:
    assert (
        getattr(Generator(), name)(*arguments) == value == getattr(np.random.default_rng(0), name)(*arguments)
    )


def test_arrays_of_which_some_elements_have_no_choice() -> None:
    ppx.seed(1)
    x = Generator().normal([1.0, 2.0, 3.0], [0.0, 1.0, 0.0])
    assert x[[0, 2]].tolist() == [1.0, 3.0]
    assert x[1] != 2.0


@pytest.mark.parametrize("call", [
    lambda rng: rng.normal(0.0, -1.0),
    lambda rng: rng.normal(0.0, [1.0, -1.0]),
    lambda rng: rng.uniform(2.0, 1.0),
    lambda rng: rng.gamma(-1.0, 0.0),
    lambda rng: rng.laplace(0.0, -1.0),
    lambda rng: rng.normal(np.zeros(3), 1.0, size=2),
    lambda rng: rng.integers(3, 3),
    lambda rng: rng.integers(300, dtype=np.uint8),
    lambda rng: rng.choice(3, 4, replace=False),
    lambda rng: rng.choice(3, p=[0.5, 0.5]),
    lambda rng: rng.choice(2, p=[0.5, 0.6]),
    lambda rng: rng.choice([]),
    lambda rng: rng.multinomial(3, [0.9, 0.9, 0.1]),
    lambda rng: rng.hypergeometric(1, 1, 3),
    lambda rng: rng.standard_normal(3, out=np.zeros(4)),
])  # fmt: skip
def test_what_numpy_rejects_is_rejected(call: Callable[[Any], Any]) -> None:
    for rng in (np.random.default_rng(0), Generator()):
        with pytest.raises(ValueError, match=r"\w"):
            call(rng)


@pytest.mark.parametrize("call", [
    lambda rng: rng.integers(5, dtype=float),
    lambda rng: rng.random(3, dtype=np.int64),
    lambda rng: rng.random(out=np.zeros(3, np.float32)),
])  # fmt: skip
def test_types_that_numpy_rejects_are_rejected(call: Callable[[Any], Any]) -> None:
    for rng in (np.random.default_rng(0), Generator()):
        with pytest.raises(TypeError):
            call(rng)


def test_many_outcomes_are_all_reached() -> None:
    ppx.seed(3)
    rng = Generator()
    wide = rng.integers(0, 1000, size=20_000)
    assert (wide.min(), wide.max()) == (0, 999)
    assert abs(wide.mean() - 499.5) < 4 * 1000 / 12**0.5 / 20_000**0.5
    huge = rng.integers(-(2**63), 2**63, size=2000)
    assert abs((huge / 2.0**63).mean()) < 4 * 3**-0.5 / 2000**0.5
    assert len(np.unique(huge % 1024)) > 800  # the last bits are random, too
    uneven = rng.integers(0, 3 << 62, size=3000, dtype=np.uint64) % np.uint64(3)
    assert st.chisquare(np.bincount(uneven.astype(int))).pvalue > ALPHA  # 64 bits are too few for that
    few = rng.integers([0, 0], [70, 3], size=(500, 2))
    assert (few.max(0) == [69, 2]).all()


def test_choices_have_their_probabilities() -> None:
    ppx.seed(4)
    rng = Generator()
    p = np.array([0.1, 0.0, 0.6, 0.3])
    for count in (4, 100):  # as a Categorical, and as a Uniform
        probs = np.zeros(count)
        probs[-4:] = p
        found = np.bincount(rng.choice(count, 4000, p=probs), minlength=count)[-4:] / 4000
        assert (abs(found - p) <= 4 * (p * (1 - p) / 4000) ** 0.5).all()
    pairs = np.array([rng.choice(4, 2, replace=False, p=p) for _ in range(3000)])
    # First 0 then 2: p0 p2 / (1 - p0).
    exact = 0.1 * 0.6 / 0.9
    error = 4 * (exact * (1 - exact) / 3000) ** 0.5
    assert abs((pairs == [0, 2]).all(1).mean() - exact) < error
    assert not abs((pairs == [2, 0]).all(1).mean() - exact) < error


@pytest.mark.parametrize("call", [
    lambda rng: rng.permutation(4),
    lambda rng: rng.permuted(np.arange(4)),
    lambda rng: rng.permuted(np.arange(8).reshape(2, 4) % 4, axis=1)[1],
    lambda rng: rng.permuted(np.arange(4)[:, None], axis=0)[:, 0],
    lambda rng: rng.choice(4, 4, replace=False),
    lambda rng: (x := [0, 1, 2, 3], rng.shuffle(x))[0],
    lambda rng: (x := np.arange(4), rng.shuffle(x))[0],
])  # fmt: skip
def test_all_orders_are_equally_likely(call: Callable[[Any], Any]) -> None:
    ppx.seed(5)
    rng = Generator()
    orders = np.array([call(rng) for _ in range(1200)]) @ [64, 16, 4, 1]
    values, counts = np.unique(orders, return_counts=True)
    assert len(values) == 24
    assert st.chisquare(counts).pvalue > ALPHA
    assert st.chisquare(counts + 40 * (np.arange(24) < 12)).pvalue < ALPHA


def test_some_of_very_many_are_drawn_without_listing_them() -> None:
    assert len(set(Generator().choice(10**12, 5, replace=False).tolist())) == 5


def test_shuffling_moves_rows() -> None:
    rows = np.arange(12).reshape(4, 3)
    Generator().shuffle(rows)
    assert sorted(rows[:, 0]) == [0, 3, 6, 9]
    assert (rows[:, 1] == rows[:, 0] + 1).all()
    Generator().shuffle(rows, axis=1)
    assert (np.sort(rows % 3, axis=1) == [0, 1, 2]).all()


def test_numbers_are_those_of_sample() -> None:
    ppx.seed(6)
    expected = [ppx.sample(ppx.Normal(1.0, 2.0)), *ppx.sample(ppx.Gamma(np.full(3, 2.0), 0.5))]
    ppx.seed(6)
    rng = Generator()
    assert [rng.normal(1, 2), *rng.gamma(2, 2, size=3)] == expected


@pytest.mark.parametrize("module", ["ppx_client.random", "ppx_client.patching", "ppx_client.statements"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted
    assert not found.failed


def test_it_passes_for_a_generator() -> None:
    rng = Generator()
    assert np.random.default_rng(rng) is rng
    assert default_rng(rng) is rng
    assert isinstance(default_rng(3), Generator)
    for twin in (copy.deepcopy(rng.named("x")), pickle.loads(pickle.dumps(rng.named("x")))):
        assert isinstance(twin, Generator)
    assert [type(child) for child in rng.spawn(2)] == [Generator, Generator]
    assert "control=True" in repr(rng)
    assert rng.named("x") is rng.named("x")


@pytest.mark.parametrize(
    "distribution", [st.norm(1, 2), st.gamma(3), st.poisson(4), st.randint(0, 9), st.norminvgauss(2, 1)]
)
def test_scipy_draws_from_it(distribution: Any) -> None:
    ppx.seed(8)
    ours = distribution.rvs(size=1000, random_state=Generator())
    assert agree(ours, distribution.rvs(size=1000, random_state=np.random.default_rng(8)))
    ppx.seed(8)
    np.testing.assert_array_equal(ours, distribution.rvs(size=1000, random_state=Generator()))


def test_a_state_is_kept_and_set_back() -> None:
    rng = Generator()
    assert isinstance(rng.bit_generator, np.random.BitGenerator)
    start = copy.deepcopy(rng.bit_generator.state)
    rng.bit_generator.state = start
    assert start["bit_generator"] == np.random.default_rng(1).bit_generator.state["bit_generator"]
    rng.normal()
    assert rng.bit_generator.state != start
    with pytest.warns(ppx.ModelWarning, match="ppx: the state of a random number generator is set back"):
        rng.bit_generator.state = start
    rng.bit_generator.state = start  # told once


def test_what_cannot_be_controlled_is_refused() -> None:
    rng = Generator()
    for draw in (
        lambda: rng.bit_generator.random_raw(),
        lambda: rng.bit_generator.ctypes,
        lambda: np.random.Generator(rng.bit_generator),
    ):
        with pytest.raises(ppx.UncontrolledError, match="has no bits"):
            draw()
    with pytest.raises(ppx.PPXError, match="not empty"):
        rng.named("")
