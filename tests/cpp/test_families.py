"""Batches of the C++ client agree with ppx_server's distributions: values of coordinates, and densities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ppx_server.distributions import family
from ppx_server.philox import Stream, normals
from ppx_server.protocol import BatchResult, WireAddress

COORDINATES = (
    -39.0,
    -37.4,
    -24.0,
    -12.0,
    -8.3,
    -8.0,
    -4.2,
    -2.0,
    -0.7,
    -1e-3,
    0.0,
    0.3,
    1.1,
    3.9,
    6.0,
    9.5,
    24.0,
    37.4,
    50.0,
)
VALUES = (-1e300, -2.0, -1.0, 0.0, 1e-320, 1e-3, 0.25, 1.0, 2.0, 3.0, 5.0, 10.0, 45.005, 1e6, 1e300)
COUNTS = (-3.0, 0.0, 1.0, 2.0, 5.0, 11.0, 1e5, 2.0**53)
WHOLE = ("Poisson", "Bernoulli", "Binomial")
NAN = float("nan")


@pytest.fixture(scope="module")
def controller(compiled: Any, serving: Any, connected: Any) -> Iterator[Any]:
    """Connected to the simulator families.cpp, which lives for all tests of this file."""
    with serving(compiled("families")) as served, connected(served.address) as controller:
        controller.play([0])
        yield controller


def draws(controller: Any) -> list[WireAddress]:
    """The addresses of the draws, in their order."""
    return [a for a in controller.known if not a.name.endswith(".observed")]


def params_of(address: WireAddress, result: BatchResult, row: int) -> tuple[Any, ...]:
    """The parameters that the simulator reports for a row."""
    number = result.params[row]
    params = result.params_data[result.params_offsets[number] : result.params_offsets[number + 1]]
    return (params,) if address.family == "Categorical" else tuple(params.tolist())


def assert_agrees(controller: Any, result: BatchResult, z: np.ndarray | None) -> None:
    """Values are those of coordinates `(traces, draws)`, if given, and densities those of the values."""
    traces, sites = len(result.status), draws(controller)
    assert not result.failures, result.failures[0]
    value, log_prob = (column.reshape(traces, len(sites)) for column in (result.value, result.log_prob))
    for i, site in enumerate(sites):
        assert controller.known[result.address[i]] == site
        kind, params = family(site.family), params_of(site, result, i)
        if z is not None:
            np.testing.assert_allclose(
                value[:, i], kind.from_z(z[:, i], params), rtol=1e-9, err_msg=site.name
            )
        expected = kind.log_prob(value[:, i], params)
        np.testing.assert_allclose(log_prob[:, i], expected, rtol=1e-9, atol=1e-12, err_msg=site.name)


def test_prior_draws_are_those_of_ppx_server(controller: Any) -> None:
    index = [0, 1, 2**40 + 5, *range(100, 160)]
    result = controller.play(index, seed=2**63 + 11)
    z = normals(2**63 + 11, np.array(index, np.uint64), len(draws(controller)))
    np.testing.assert_allclose(result.z.reshape(z.shape), z, rtol=1e-12)
    assert_agrees(controller, result, z)
    assert set(result.flags) == {1}


def test_drawn_observations_are_those_of_ppx_server(controller: Any) -> None:
    result = controller.play(range(20), seed=3)
    sites = [a for a in controller.known if a.name.endswith(".observed")]
    z = normals(3, np.arange(20), len(sites), stream=Stream.OBSERVATIONS)
    rows = result.observations
    value, log_prob = rows.data.reshape(z.shape), rows.log_prob.reshape(z.shape)
    for i, site in enumerate(sites):
        assert controller.known[rows.address[i]] == site
        kind, params = family(site.family), params_of(draws(controller)[i], result, i)
        np.testing.assert_allclose(value[:, i], kind.from_z(z[:, i], params), rtol=1e-9, err_msg=site.name)
        expected = kind.log_prob(value[:, i], params)
        np.testing.assert_allclose(log_prob[:, i], expected, rtol=1e-9, atol=1e-12, err_msg=site.name)


def test_coordinates_are_forced_far_into_both_tails(controller: Any) -> None:
    sites = draws(controller)
    # Beyond this, Normal{-3, 1e200} and the like stay finite.
    result = controller.play(
        range(len(COORDINATES)), [[(site, 0, NAN, z) for site in sites] for z in COORDINATES]
    )
    assert_agrees(controller, result, np.repeat(np.array(COORDINATES)[:, None], len(sites), axis=1))
    assert set(result.flags) == {3}
    np.testing.assert_array_equal(result.z.reshape(-1, len(sites))[:, 0], COORDINATES)


def test_values_are_forced_in_and_out_of_the_support(controller: Any) -> None:
    sites = [site for site in draws(controller) if site.family not in (*WHOLE, "Categorical")]
    result = controller.play(range(len(VALUES)), [[(site, 0, x, 0.0) for site in sites] for x in VALUES])
    assert_agrees(controller, result, None)
    forced = result.flags == 3
    assert np.isnan(result.z[forced]).all()
    assert np.isneginf(result.log_prob[forced]).any()


def test_counts_are_forced_in_and_out_of_the_support(controller: Any) -> None:
    sites = [site for site in draws(controller) if site.family in WHOLE]
    result = controller.play(range(len(COUNTS)), [[(site, 0, x, 0.0) for site in sites] for x in COUNTS])
    assert_agrees(controller, result, None)
    assert np.isneginf(result.log_prob[result.flags == 3]).any()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 0.5, 4.0, -1.0])
def test_values_that_no_model_can_have_fail_the_trace(controller: Any, value: float) -> None:
    (site,) = (site for site in draws(controller) if site.name == "categorical")
    result = controller.play([0, 1], [[(site, 0, value, 0.0)], [(site, 0, 2.0, 0.0)]])
    assert result.status.tolist() == [1, 0]
    (failure,) = result.failures
    assert (failure.trace, failure.kind) == (0, 2)
    assert f"the script forces {value:.9g} for draw 'categorical' (Categorical, visit 0), but it must be" in (
        failure.message
    )
    assert result.offsets[1] == [site.name for site in draws(controller)].index("categorical")
