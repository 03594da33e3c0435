"""Distribution families against mpmath, SciPy and torch, and against themselves."""

from __future__ import annotations

from math import inf, nan

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import (
    FAMILIES,
    Z_MAX,
    Kind,
    family,
    family_codes,
    from_z_columns,
    log_prob_columns,
    to_z_columns,
    z_interval_columns,
)
from ppx_server.errors import DistributionError
from ppx_server.trace import Params

CONTINUOUS = [
    ("Normal", (1.0, 2.0)),
    ("Uniform", (-1.0, 3.0)),
    ("Beta", (2.0, 0.5)),
    ("Beta", (30.0, 20.0)),
    ("Exponential", (2.0,)),
    ("Gamma", (2.5, 3.0)),
    ("Gamma", (0.05, 3.0)),
    ("Gamma", (300.0, 0.1)),
    ("LogNormal", (0.5, 1.5)),
    ("Weibull", (2.0, 1.5)),
    ("Weibull", (2.0, 0.3)),
    ("TruncatedNormal", (0.0, 1.0, -1.0, 2.0)),
    ("TruncatedNormal", (0.0, 1.0, 30.0, 31.0)),
    ("TruncatedNormal", (0.0, 1.0, -31.0, -30.0)),
    ("TruncatedNormal", (0.0, 1.0, 30.0, inf)),
    ("TruncatedNormal", (-30.0, 1.0, 0.0, inf)),
    ("TruncatedNormal", (0.0, 1.0, -inf, -8.0)),
    ("TruncatedNormal", (0.0, 1.0, -inf, inf)),
    ("TruncatedNormal", (0.0, 1.0, -50.0, 40.0)),
    ("TruncatedNormal", (0.0, 1.0, 1e5, 1e5 + 1.0)),
    ("TruncatedNormal", (1.0, 1e3, 0.0, 1e-3)),
    ("TruncatedNormal", (0.0, 1.0, 8.0, 8.0 + 1e-9)),
]
ORDERED = [
    ("Poisson", (4.0,)),
    ("Poisson", (1e-3,)),
    ("Poisson", (500.0,)),
    ("Binomial", (10.0, 0.3)),
    ("Binomial", (200.0, 0.01)),
    ("Binomial", (200.0, 0.999)),
    ("Bernoulli", (1e-12,)),
    ("Bernoulli", (0.7,)),
]
CATEGORICAL = [("Categorical", ((0.1, 0.0, 0.2, 0.7),)), ("Categorical", ((2.0, 5.0, 1e-30),))]
ALL = CONTINUOUS + ORDERED + CATEGORICAL
COORDINATES = np.array(
    [-60.0, -35.0, -20.0, -8.0, -3.0, -1.0, -0.01, 0.0, 0.3, 2.0, 5.0, 9.0, 25.0, 35.0, 60.0]
)


def scalars(name: str, params: tuple) -> tuple[float, ...]:
    return params[0] if name == "Categorical" else params


def normal_cdf(z: mp.mpf) -> mp.mpf:
    return mp.erfc(-z / mp.sqrt(2)) / 2


def exact_tails(name: str, x: float, params: tuple[float, ...]) -> tuple[mp.mpf, mp.mpf]:
    """F(x) and 1 - F(x) from the textbook formulas."""
    x, p = mp.mpf(x), [mp.mpf(v) for v in params]
    match name:
        case "Normal" | "LogNormal":
            z = ((mp.log(x) if name == "LogNormal" else x) - p[0]) / p[1]
            return normal_cdf(z), normal_cdf(-z)
        case "Uniform":
            return (x - p[0]) / (p[1] - p[0]), (p[1] - x) / (p[1] - p[0])
        case "Beta":
            lower = mp.betainc(*p, 0, x, regularized=True)
            return lower, mp.betainc(p[1], p[0], 0, 1 - x, regularized=True)
        case "Exponential":
            return -mp.expm1(-p[0] * x), mp.exp(-p[0] * x)
        case "Gamma":
            upper = mp.gammainc(p[0], p[1] * x, mp.inf, regularized=True)
            return mp.gammainc(p[0], 0, p[1] * x, regularized=True), upper
        case "Weibull":
            hazard = (x / p[0]) ** p[1]
            return -mp.expm1(-hazard), mp.exp(-hazard)
        case "TruncatedNormal":
            a, b, t = ((v - p[0]) / p[1] for v in (p[2], p[3], x))
            sign = 1 if a + b < 0 else -1
            below, above = (abs(normal_cdf(sign * v) - normal_cdf(sign * u)) for u, v in ((a, t), (t, b)))
            return below / (below + above), above / (below + above)
        case "Poisson":
            lower = mp.gammainc(x + 1, p[0], mp.inf, regularized=True)
            return lower, mp.gammainc(x + 1, 0, p[0], regularized=True)
        case "Binomial":
            n, k = int(p[0]), int(x)
            mass = [mp.binomial(n, i) * p[1] ** i * (1 - p[1]) ** (n - i) for i in range(n + 1)]
            return mp.fsum(mass[: k + 1]), mp.fsum(mass[k + 1 :])
        case _:
            return (1 - p[0], p[0]) if x < 1 else (mp.mpf(1), mp.mpf(0))


def exact_log_prob(name: str, x: float, params: tuple[float, ...]) -> mp.mpf:
    x, p = mp.mpf(x), [mp.mpf(v) for v in params]
    match name:
        case "Normal":
            return mp.log(mp.npdf(x, *p))
        case "Uniform":
            return -mp.log(p[1] - p[0])
        case "Beta":
            return (p[0] - 1) * mp.log(x) + (p[1] - 1) * mp.log(1 - x) - mp.log(mp.beta(*p))
        case "Exponential":
            return mp.log(p[0]) - p[0] * x
        case "Gamma":
            return p[0] * mp.log(p[1]) + (p[0] - 1) * mp.log(x) - p[1] * x - mp.loggamma(p[0])
        case "LogNormal":
            return mp.log(mp.npdf(mp.log(x), *p)) - mp.log(x)
        case "Weibull":
            return mp.log(p[1] / p[0]) + (p[1] - 1) * mp.log(x / p[0]) - (x / p[0]) ** p[1]
        case _:
            a, b, t = ((v - p[0]) / p[1] for v in (p[2], p[3], x))
            sign = 1 if a + b < 0 else -1
            return mp.log(mp.npdf(t)) - mp.log(p[1] * abs(normal_cdf(sign * b) - normal_cdf(sign * a)))


@pytest.mark.parametrize(("name", "params"), CONTINUOUS)
def test_continuous_families_agree_with_mpmath_to_the_far_tails(name: str, params: tuple) -> None:
    f = family(name)
    for x in np.unique(f.from_z(COORDINATES[1:-1], params)):
        low, high = f.support(params)
        if x in (low, high):
            continue  # the tail is beyond what a double can say next to this edge
        with mp.workdps(400 if name == "TruncatedNormal" else 60):
            p, q = exact_tails(name, float(x), params)
            log_prob = exact_log_prob(name, float(x), params)
            z = mp.mpf(float(f.to_z(x, params)))
            # An error dz of the coordinate changes the log of the smaller tail by about |z| dz.
            tail, own = (p, normal_cdf(z)) if p < q else (q, normal_cdf(-z))
            error = abs(mp.log(own) - mp.log(tail)) / max(1, abs(z)) ** 2
        assert error < 1e-13
        np.testing.assert_allclose(f.cdf(x, params), float(p), rtol=2e-12)
        np.testing.assert_allclose(f.sf(x, params), float(q), rtol=2e-12)
        np.testing.assert_allclose(f.log_prob(x, params), float(log_prob), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), ORDERED)
def test_ordered_families_agree_with_mpmath_to_the_far_tails(name: str, params: tuple) -> None:
    f = family(name)
    for x in np.unique(f.from_z(COORDINATES[1:-1], params)):
        with mp.workdps(400):
            p1, q1 = exact_tails(name, float(x), params)
            p0, q0 = exact_tails(name, float(x) - 1, params) if x > 0 else (mp.mpf(0), mp.mpf(1))
            mass, middle = p1 - p0, mp.mpf(float(f.to_z(x, params)))
            tail = min(p0 + p1, q0 + q1) / 2
            own = normal_cdf(-abs(middle))
            error = abs(mp.log(own) - mp.log(tail)) / max(1, abs(middle)) ** 2
        assert error < 1e-13
        assert (middle < 0) == (p0 + p1 < q0 + q1)
        np.testing.assert_allclose(f.cdf(x, params), float(p1), rtol=1e-12)
        np.testing.assert_allclose(f.sf(x, params), float(q1), rtol=1e-12)
        np.testing.assert_allclose(f.log_prob(x, params), float(mp.log(mass)), rtol=2e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), [c for c in ORDERED if c[0] != "Bernoulli"])
def test_discrete_quantile_is_the_smallest_that_reaches_u(name: str, params: tuple) -> None:
    f = family(name)
    u = np.concatenate([np.linspace(0.001, 0.999, 333), 10.0 ** -np.arange(1, 300.0, 7)])
    x = f.icdf(u, params)
    assert (f.cdf(x, params) >= u * (1 - 1e-14)).all()
    assert (f.cdf(x - 1, params) < u).all()
    z = np.linspace(0.5, 37.0, 60)
    x = f.from_z(z, params)
    q = stats.norm.sf(z)
    assert (f.sf(x, params) <= q * (1 + 1e-12)).all()
    assert (f.sf(x - 1, params) > q * (1 - 1e-12)).all()


SCIPY = {
    "Normal": lambda m, s: stats.norm(m, s),
    "Uniform": lambda a, b: stats.uniform(a, b - a),
    "Poisson": stats.poisson,
    "Bernoulli": stats.bernoulli,
    "Beta": stats.beta,
    "Exponential": lambda rate: stats.expon(scale=1 / rate),
    "Gamma": lambda a, rate: stats.gamma(a, scale=1 / rate),
    "LogNormal": lambda m, s: stats.lognorm(s, scale=np.exp(m)),
    "Binomial": stats.binom,
    "Weibull": lambda scale, c: stats.weibull_min(c, scale=scale),
    "TruncatedNormal": lambda m, s, a, b: stats.truncnorm((a - m) / s, (b - m) / s, m, s),
}
BODY = [
    ("Normal", (-3.0, 0.7)),
    ("Uniform", (2.0, 2.5)),
    ("Poisson", (11.0,)),
    ("Bernoulli", (0.25,)),
    ("Beta", (0.5, 1.5)),
    ("Exponential", (0.1,)),
    ("Gamma", (5.0, 0.2)),
    ("LogNormal", (-1.0, 0.4)),
    ("Binomial", (40.0, 0.6)),
    ("Weibull", (3.0, 0.8)),
    ("TruncatedNormal", (1.0, 2.0, 0.0, 4.0)),
]


@pytest.mark.parametrize(("name", "params"), BODY)
def test_families_agree_with_scipy(name: str, params: tuple) -> None:
    f, reference = family(name), SCIPY[name](*params)
    u = np.linspace(0.01, 0.99, 99)
    x = f.icdf(u, params)
    np.testing.assert_allclose(x, reference.ppf(u), rtol=1e-9)
    np.testing.assert_allclose(f.cdf(x, params), reference.cdf(x), rtol=1e-9)
    log_prob = reference.logpdf(x) if f.kind is Kind.CONTINUOUS else reference.logpmf(x)
    np.testing.assert_allclose(f.log_prob(x, params), log_prob, rtol=1e-9)


@pytest.mark.parametrize(("name", "params"), [*BODY[:-1], ("Categorical", ((0.1, 0.3, 0.6),))])
def test_parameters_mean_what_they_mean_in_torch_and_pyprob(name: str, params: tuple) -> None:
    f = family(name)
    x = f.from_z(np.linspace(-2.0, 2.0, 9), params)
    arguments = (torch.tensor(p, dtype=torch.float64) for p in params)
    log_prob = getattr(torch.distributions, name)(*arguments).log_prob(torch.tensor(x))
    np.testing.assert_allclose(f.log_prob(x, params), log_prob.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), ALL)
def test_values_of_any_coordinate_are_finite_inside_and_increasing(name: str, params: tuple) -> None:
    f = family(name)
    z = np.concatenate([[-1e6, -60.0], np.linspace(-37.5, 37.5, 301), [60.0, 1e6]])
    x = f.from_z(z, params)
    assert np.isfinite(x).all()
    assert f.contains(x, params).all()
    assert (np.diff(x) >= 0).all()
    assert np.isfinite(f.log_prob(x, params)).all()
    coordinates = f.to_z(x, params)
    assert np.isfinite(coordinates).all()
    assert (np.diff(coordinates) >= 0).all()
    if name not in ("Normal", "LogNormal"):
        assert (np.abs(coordinates) <= Z_MAX).all()


ROUND_TRIP = [  # families whose values keep the precision of both tails
    ("Normal", (0.0, 1e-200)),
    ("Exponential", (2.0,)),
    ("Gamma", (2.5, 3.0)),
    ("LogNormal", (0.0, 1.0)),
    ("Weibull", (2.0, 1.5)),
    ("TruncatedNormal", (0.0, 1.0, 0.0, inf)),
    ("TruncatedNormal", (0.0, 3.0, -inf, 0.0)),
]


@pytest.mark.parametrize(("name", "params"), ROUND_TRIP)
def test_coordinates_come_back(name: str, params: tuple) -> None:
    f = family(name)
    z = np.linspace(-37.0, 37.0, 149)
    np.testing.assert_allclose(f.to_z(f.from_z(z, params), params), z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), ORDERED + CATEGORICAL)
def test_discrete_values_come_back_and_intervals_tile_the_line(name: str, params: tuple) -> None:
    f = family(name)
    low, high = f.support(params)
    x = np.arange(low, min(high, 40.0) + 1)
    start, end = f.z_interval(x, params)
    possible = np.isfinite(f.log_prob(x, params)) & (end > start)
    np.testing.assert_array_equal(f.from_z(f.to_z(x, params), params)[possible], x[possible])
    assert start[0] == -inf
    np.testing.assert_array_equal(start[1:], end[:-1])
    if np.isfinite(high) and high <= 40:
        assert end[-1] == inf
    mass = np.where(
        start > 0, stats.norm.sf(start) - stats.norm.sf(end), stats.norm.cdf(end) - stats.norm.cdf(start)
    )
    np.testing.assert_allclose(mass, np.exp(f.log_prob(x, params)), rtol=1e-9, atol=1e-15)
    middle = f.to_z(x, params)
    assert ((start <= middle) & (middle <= end))[possible].all()


def test_intervals_of_continuous_values_are_points() -> None:
    low, high = family("Gamma").z_interval([0.5, 2.0], (2.0, 1.0))
    np.testing.assert_array_equal(low, high)
    np.testing.assert_array_equal(low, family("Gamma").to_z([0.5, 2.0], (2.0, 1.0)))


@pytest.mark.parametrize(("name", "params"), ALL)
def test_scalar_path_is_the_vector_path(name: str, params: tuple) -> None:
    f = family(name)
    z = np.concatenate([COORDINATES, np.random.default_rng(1).standard_normal(200)])
    scalar = np.array([f.from_z_scalar(float(v), scalars(name, params)) for v in z])
    vector = f.from_z(z, params)
    if f.kind is Kind.CONTINUOUS:
        # Near an edge, rounding is that of the edge.
        np.testing.assert_allclose(scalar, vector, rtol=2e-12, atol=1e-15 * np.abs(vector).max())
    else:
        np.testing.assert_array_equal(scalar, vector)


WEIGHTS = [
    (0.0, 1e-200),  # a product with Phi(-24) vanishes
    (0.0, 5e-324),
    (5e-324, 0.0),
    (0.0, 5e-324, 0.0),
    (0.0, 1e-308, 1e-308, 0.0),
    (1e308, 5e-324, 0.0),
    (0.0, 1e-320, 1e300),
    (1e6, 0.0, 1e-300, 0.0, 1e300),
    (0.1, 0.2, 0.3, 0.0, 0.4),
    (5e-324,) * 5,
    (1.0,),
]
WHOLE_RANGE = np.concatenate([np.linspace(-40.0, 40.0, 321), [-37.5, -1e-9, 1e-9, 37.5]])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_no_impossible_category_over_the_whole_range(weights: tuple[float, ...]) -> None:
    f = family("Categorical")
    vector = f.from_z(WHOLE_RANGE, (weights,))
    np.testing.assert_array_equal([f.from_z_scalar(float(z), weights) for z in WHOLE_RANGE], vector)
    assert (np.array(weights)[vector.astype(int)] > 0.0).all()


EXTREME = (5e-324, 1e-310, 1e-300, 1e-10, 1e-3, 0.3, 1.0, 50.0, 1e10, 1e300, 1.7e308)
EXTREMES = [
    *(("Normal", (mean, scale)) for mean in (0.0, 1e300) for scale in EXTREME),
    *(("LogNormal", (loc, scale)) for loc in (0.0, -700.0, 1e300) for scale in EXTREME),
    *(("Uniform", bounds) for bounds in ((0.0, 5e-324), (0.0, 1e300), (-8e307, 8e307), (1.0, 1.0 + 2**-52))),
    *((name, (value,)) for name in ("Exponential",) for value in EXTREME),
    *((name, (a, b)) for name in ("Gamma", "Weibull") for a in EXTREME for b in EXTREME),
    *(("Beta", (a, b)) for a in EXTREME[:-1] for b in EXTREME[:-1]),
    *(("Poisson", (rate,)) for rate in (0.0, 5e-324, 1e-300, 0.3, 31.9, 32.1, 1e10)),
    *(("Binomial", (n, p)) for n in (0.0, 1.0, 5.0, 33.0, 1e9) for p in (0.0, 5e-324, 1e-17, 0.5, 1 - 2**-53, 1.0)),
    *(("Bernoulli", (p,)) for p in (0.0, 5e-324, 1e-17, 0.5, 1 - 2**-53, 1.0)),
]  # fmt: skip


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in EXTREMES))
def test_scalar_path_is_the_vector_path_for_extreme_parameters(name: str) -> None:
    f, z = family(name), WHOLE_RANGE[::8]
    for params in (params for other, params in EXTREMES if other == name):
        scalar = np.array([f.from_z_scalar(float(v), params) for v in z])
        vector = f.from_z(z, params)
        assert f.contains(scalar, params).all(), params
        np.testing.assert_allclose(
            scalar, vector, rtol=0 if f.kind is not Kind.CONTINUOUS else 1e-9, err_msg=str(params)
        )


@pytest.mark.parametrize(("name", "params"), ALL)
def test_out_of_support_is_minus_infinity_and_never_nan(name: str, params: tuple) -> None:
    f = family(name)
    low, high = (float(edge) for edge in f.support(params))
    outside = [inf, -inf, nan]
    outside += [low - 1.0] if low > -inf else []
    outside += [high + 1.0] if high < inf else []
    outside += [low + 0.5] if f.kind is not Kind.CONTINUOUS else []
    x = np.array(outside)
    np.testing.assert_array_equal(f.log_prob(x, params), -inf)
    z = f.to_z(x, params)
    assert np.isfinite(z).all()
    assert z[0] >= Z_MAX
    assert z[1] <= -Z_MAX


@pytest.mark.parametrize(("name", "params"), CONTINUOUS)
def test_edges_of_the_support_are_no_trap(name: str, params: tuple) -> None:
    f = family(name)
    edges = np.array(f.support(params))
    edges = edges[np.isfinite(edges)]
    log_prob = f.log_prob(edges, params)
    assert not (np.isnan(log_prob) | np.isposinf(log_prob)).any()
    assert (np.abs(f.to_z(edges, params)) == Z_MAX).all()


@pytest.mark.parametrize(("name", "params"), ALL)
def test_icdf_at_its_ends(name: str, params: tuple) -> None:
    f = family(name)
    low, high = f.support(params)
    x = f.icdf([0.0, 1.0, -0.1, 1.1, nan], params)
    np.testing.assert_array_equal(x, [low, high, nan, nan, nan])


@pytest.mark.parametrize(("name", "params"), [*BODY, *CATEGORICAL])
def test_samples_have_the_right_distribution(name: str, params: tuple) -> None:
    f = family(name)
    x = f.sample(params, np.random.default_rng(5), (4000,))
    assert x.shape == (4000,)
    values = np.unique(x) if f.kind is not Kind.CONTINUOUS else f.icdf(np.linspace(0.05, 0.95, 19), params)
    expected = f.cdf(values, params)
    found = (x[:, None] <= values).mean(0)
    tolerance = 4.0 * np.sqrt(expected * (1 - expected) / 4000) + 1e-12
    assert (np.abs(found - expected) <= tolerance).all()


def test_truncated_normals_with_random_far_bounds_invert_themselves() -> None:
    rng = np.random.default_rng(3)
    low = rng.normal(0, 30, 2000)
    params = (np.zeros(2000), np.ones(2000), low, low + 10.0 ** rng.uniform(-3, 2, 2000))
    f = family("TruncatedNormal")
    z = rng.uniform(-5, 5, 2000)
    x = f.from_z(z, params)
    # The value's own rounding, as a change of its coordinate: density over the slope of the normal CDF.
    slope = np.exp(f.log_prob(x, params) + 0.5 * z**2) * np.sqrt(2 * np.pi)
    resolution = 4 * slope * np.spacing(np.abs(x) + np.abs(low)) + 1e-11
    assert (np.abs(f.to_z(x, params) - z) <= resolution).all()


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([n for n in FAMILIES if n != "Categorical"]),
    first=st.floats(1e-3, 1e3),
    second=st.floats(1e-3, 1e3),
    z=st.floats(-37.0, 37.0),
)
def test_any_valid_parameters_give_finite_values(name: str, first: float, second: float, z: float) -> None:
    f = family(name)
    choices = {
        "Uniform": (-first, second),
        "Bernoulli": (min(first, 1.0),),
        "Binomial": (float(int(first)), min(second, 1.0)),
        "TruncatedNormal": (first, second, first / 2, 2 * first),
    }
    params = choices.get(name, (first, second)[: len(f.param_names)])
    f.validate(params)
    f.validate_scalar(params)
    x = float(f.from_z(z, params))
    assert np.isfinite([x, f.log_prob(x, params), f.to_z(x, params)]).all()
    if f.kind is not Kind.CONTINUOUS:
        assert f.from_z(f.to_z(x, params), params) == x
        assert f.from_z_scalar(z, params) == x


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.just(0.0) | st.floats(5e-324, 1e300), min_size=1, max_size=30).filter(
        lambda w: sum(w) > 0
    ),
    z=st.floats(-40, 40),
)
def test_categorical_never_draws_what_is_impossible(weights: list[float], z: float) -> None:
    k = family("Categorical").from_z_scalar(z, tuple(weights))
    assert k == family("Categorical").from_z(z, (weights,))
    assert weights[int(k)] > 0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("Normal", (0.0, -1.0), "Normal: stddev = -1.0, but it must be finite and > 0"),
        ("Normal", (nan, 1.0), "mean = nan"),
        ("Normal", (0.0,), "takes 2 parameters \\(mean, stddev\\), not 1"),
        ("Uniform", (2.0, 2.0), "high - low = 0.0"),
        ("Uniform", (-1e308, 1e308), "high - low = inf"),
        ("Poisson", (-1.0,), "rate = -1.0"),
        ("Poisson", (inf,), "rate = inf"),
        ("Bernoulli", (1.5,), "probs = 1.5, but it must be between 0 and 1"),
        ("Beta", (0.0, 1.0), "concentration1 = 0.0"),
        ("Exponential", (0.0,), "rate = 0.0"),
        ("Gamma", (1.0, 0.0), "rate = 0.0"),
        ("LogNormal", (inf, 1.0), "loc = inf"),
        ("Binomial", (2.5, 0.5), "total_count = 2.5, but it must be an integer"),
        ("Binomial", (2.0, nan), "probs = nan"),
        ("Weibull", (1.0, -2.0), "concentration = -2.0"),
        ("TruncatedNormal", (0.0, 1.0, 2.0, 1.0), "low = 2.0, but it must be < high = 1.0"),
        ("TruncatedNormal", (0.0, 1.0, inf, inf), "low = inf"),
    ],
)
def test_bad_parameters_are_named(name: str, params: tuple[float, ...], message: str) -> None:
    with pytest.raises(DistributionError, match=message):
        family(name).validate(params)
    with pytest.raises(DistributionError, match=message):
        family(name).validate_scalar(params)


def test_bad_elements_and_shapes_are_named() -> None:
    with pytest.raises(DistributionError, match=r"stddev = 0.0 at element \(1,\)"):
        family("Normal").validate((0.0, [1.0, 0.0, 2.0]))
    with pytest.raises(DistributionError, match=r"shapes do not match: mean \(2,\), stddev \(3,\)"):
        family("Normal").validate(([0.0, 0.0], [1.0, 1.0, 1.0]))
    for probs in ([0.5, -0.5], [0.0, 0.0], [nan, 1.0], [], 1.0):
        with pytest.raises(DistributionError, match="Categorical"):
            family("Categorical").validate((probs,))
    for weights in ((0.5, -0.5), (0.0, 0.0), (nan, 1.0), (1.0, nan), ()):
        with pytest.raises(DistributionError, match="Categorical"):
            family("Categorical").validate_scalar(weights)
    with pytest.raises(
        DistributionError, match="unknown distribution family 'Cauchy'; the known ones are Normal"
    ):
        family("Cauchy")


@pytest.mark.parametrize(("name", "params"), ALL)
def test_valid_parameters_pass(name: str, params: tuple) -> None:
    family(name).validate(params)
    family(name).validate_scalar(scalars(name, params))


def test_table_is_in_wire_order() -> None:
    assert [f.code for f in FAMILIES.values()] == list(range(1, 13))
    assert list(FAMILIES)[:3] == ["Normal", "Uniform", "Categorical"]
    assert list(FAMILIES)[-1] == "TruncatedNormal"


def mixed_columns(rows: int) -> tuple[np.ndarray, Params, np.ndarray, np.ndarray]:
    vectors = [np.asarray(scalars(name, params)) for name, params in ALL]
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in vectors])])
    rng = np.random.default_rng(0)
    which = rng.integers(len(ALL), size=rows)
    codes = np.array([FAMILIES[name].code for name, _ in ALL], np.uint8)[which]
    return codes, Params(np.concatenate(vectors), offsets), which, rng.standard_normal(rows) * 3


def test_columns_of_mixed_families_are_those_of_each_family() -> None:
    codes, params, which, z = mixed_columns(500)
    value = from_z_columns(z, codes, params, which)
    log_prob = log_prob_columns(value, codes, params, which)
    coordinate = to_z_columns(value, codes, params, which)
    low, high = z_interval_columns(value, codes, params, which)
    for row in range(500):
        name, p = ALL[which[row]]
        f = family(name)
        x = value[row]
        found = [x, log_prob[row], coordinate[row], low[row], high[row]]
        expected = [f.from_z(z[row], p), f.log_prob(x, p), f.to_z(x, p), *f.z_interval(x, p)]
        # Vector instructions round differently from scalar ones.
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_columns_may_be_empty_or_of_one_family() -> None:
    params = Params(np.array([0.0, 1.0]), np.array([0, 2]))
    assert log_prob_columns([], [], params, []).shape == (0,)
    np.testing.assert_array_equal(to_z_columns([0.5, 1.0], 1, params, [0, 0]), [0.5, 1.0])


def test_columns_reject_unknown_codes_and_short_vectors() -> None:
    params = Params(np.array([0.0, 1.0, 3.0]), np.array([0, 2, 3]))
    with pytest.raises(DistributionError, match="family code 13"):
        log_prob_columns([0.0], [13], params, [0])
    with pytest.raises(DistributionError, match=r"Normal takes 2 parameters .* row 0 has 1"):
        log_prob_columns([0.0], [1], params, [1])


def test_family_codes_of_an_address_table() -> None:
    table = AddressTable([Address("a", "", "Gamma", ()), Address("t", "t", "", (3,))])
    np.testing.assert_array_equal(family_codes(table), [8, 0])
