"""`ppx_client.random.Generator` under a controller: addresses, names, replays, and an exact posterior."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ppx_inference import Simulator, importance_sampling
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

MODEL = '''
import sys

import numpy as np
import scipy.stats

import ppx_client as ppx
from ppx_client.random import Generator


def simulate(rng):
    """A NumPy simulator that knows nothing of PPX."""
    mu = rng.normal(1.0, 5**0.5)
    doubled = 2 * rng.normal()
    a, b = rng.normal(), rng.normal()
    t = rng.standard_t(3)
    die = rng.integers(1, 7)
    order = rng.permutation(3)
    coin = rng.integers(2)
    noise = rng.normal(np.zeros(3), [1.0, 0.0, 2.0])
    weights = rng.dirichlet([1.0, 2.0, 3.0])
    counts = rng.multinomial(9, weights)
    angle = rng.vonmises(0.0, 2.0)
    items = list(range(5))
    rng.shuffle(items)
    skewed = scipy.stats.gamma.rvs(2.0, random_state=rng)
    either = rng.normal() if a > 0 else rng.uniform()
    total = sum(map(rng.exponential, [1.0, 2.0]))
    loop = [rng.poisson(3) for _ in range(2)]
    return mu + 0.0 * (doubled + a + b + t + die + coin + noise.sum() + counts[0] + angle + items[0] + skewed + loop[0])


class Detector:
    def __init__(self, rng):
        self.rng = rng
        self.gain = rng.normal(1.0, 0.1)


def everything(rng):
    """Every other method, with many numbers and with one."""
    for size in (None, 3):
        for draw in (rng.random, rng.standard_normal, rng.standard_exponential, rng.standard_cauchy):
            draw(size=size)
        rng.uniform(0, 2, size), rng.exponential(2.0, size), rng.gamma(2, 1, size), rng.standard_gamma(2, size)
        rng.beta(1, 2, size), rng.lognormal(0, 1, size), rng.binomial(9, 0.3, size), rng.weibull(2, size)
        rng.rayleigh(2, size), rng.power(2, size), rng.chisquare(2, size), rng.laplace(0, 1, size)
        rng.logistic(0, 1, size), rng.gumbel(0, 1, size), rng.pareto(3, size), rng.f(2, 8, size)
        rng.noncentral_chisquare(2, 1, size), rng.noncentral_f(2, 8, 1, size), rng.triangular(0, 1, 2, size)
        rng.wald(1, 1, size), rng.geometric(0.3, size), rng.negative_binomial(3, 0.4, size)
        rng.logseries(0.4, size), rng.zipf(3, size), rng.hypergeometric(9, 8, 7, size)
        rng.multivariate_normal([0, 1], [[2, 1], [1, 2]], size), rng.multivariate_hypergeometric([3, 4, 5], 6, size)
        rng.integers(0, 1000, size), rng.choice(9, size), rng.choice([1.0, 2.0], size, p=[0.3, 0.7])
        rng.choice(9, size, replace=False), rng.permutation(4), rng.permuted([[1, 2], [3, 4]], axis=1), rng.bytes(3)


def forward():
    rng = Generator()
    mu = simulate(rng)
    with ppx.scope("detector"):
        gain = Detector(Generator(control=False)).gain
        named = rng.named("efficiency").beta(2, 1)
        shared = rng.named("far").standard_t(4)
    everything(rng)
    ppx.observe(ppx.Normal(mu, 2**0.5), name="y0")
    ppx.observe(ppx.Normal(mu, 2**0.5), name="y1")
    return mu


ppx.serve(forward, "numpy")
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numpy") / "model.py"
    path.write_text(textwrap.dedent(MODEL))
    return path


@pytest.fixture(scope="module")
def simulator(script: Path) -> Iterator[Simulator]:
    with Simulator([sys.executable, str(script)], num_workers=1) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def traces(simulator: Simulator) -> TraceBatch:
    batch = simulator.prior(20, seed=3)
    assert (batch.status == Status.OK).all(), batch.failures
    return batch


def named(traces: TraceBatch, name: str) -> tuple[list[str], list[str]]:
    """Addresses and families of the draws and tags with a name."""
    found = [a for a in traces.addresses if a.name == name]
    return [a.address for a in found], [a.family for a in found]


def test_a_draw_has_the_name_of_its_variable_and_the_address_of_its_place(traces: TraceBatch) -> None:
    assert named(traces, "mu")[1] == ["Normal"]
    (address,) = named(traces, "mu")[0]
    assert address.startswith("model:")
    assert address.endswith(":simulate")
    assert named(traces, "coin")[1] == ["Categorical"]
    assert named(traces, "gain")[1] == ["Normal"]
    assert named(traces, "gain")[0][0].startswith("detector/model:")
    assert all(named(traces, name) == ([], []) for name in ("doubled", "a", "items", "loop", "total"))
    assert set(named(traces, "either")[1]) == {"Normal", "Uniform"}


def test_a_computed_number_is_a_tag_above_its_draws(traces: TraceBatch) -> None:
    for name, part in (
        ("t", "uniform"),
        ("die", "index"),
        ("order", "uniform"),
        ("noise", "normal"),  # as its second element is no draw
        ("weights", "beta"),
        ("counts", "binomial"),
        ("angle", "first"),
    ):
        ((address,), families) = named(traces, name)
        assert families == [""]
        assert f"{address}/{part}" in {a.address for a in traces.addresses}
    tags = traces.tags
    noise = tags.dense(tags.rows(traces.addresses.find("noise")), (3,))
    assert (noise[:, 1] == 0.0).all()
    assert (noise[:, 0] != 0.0).all()
    t = tags.dense(tags.rows(traces.addresses.find("t")), ())
    (row,) = [i for i, a in enumerate(traces.addresses) if a.address == f"{named(traces, 't')[0][0]}/uniform"]
    np.testing.assert_allclose(stats.t(3).cdf(t), traces.value[traces.address_id == row], rtol=1e-9)


def test_names_are_addresses_if_they_are_given(traces: TraceBatch) -> None:
    assert named(traces, "efficiency") == (["detector/efficiency"], ["Beta"])
    assert named(traces, "far") == (["detector/far"], [""])
    assert "detector/far/uniform" in {a.address for a in traces.addresses}


def test_a_library_draws_at_the_place_that_calls_it(traces: TraceBatch) -> None:
    found = [a.address for a in traces.addresses if "gamma_gen" in a.address]
    assert len(found) == 1
    assert found[0].startswith("model:")
    assert ":simulate/gamma_gen::_rvs" in found[0]


def test_only_what_may_be_controlled_is(traces: TraceBatch) -> None:
    (gain,) = traces.addresses.find("gain")
    assert (traces.controlled == (traces.address_id != gain)).all()


def test_rejection_loops_are_marked(traces: TraceBatch) -> None:
    places = {traces.addresses[i].address.rsplit(":", 1)[1] for i in traces.loops.address_id.tolist()}
    assert places == {"simulate", "everything"}


def test_addresses_do_not_depend_on_traces(simulator: Simulator, traces: TraceBatch) -> None:
    known = len(traces.addresses)
    simulator.prior(20, seed=4)
    assert len(simulator.addresses) == known


@pytest.mark.parametrize("by_z", [False, True])
def test_replays(simulator: Simulator, traces: TraceBatch, by_z: bool) -> None:
    again = simulator.execute(ScriptBatch.replay(traces, by_z=by_z), None)
    np.testing.assert_allclose(again.value, traces.value, rtol=1e-9)
    assert (again.address_id == traces.address_id).all()
    np.testing.assert_allclose(again.tags.data, traces.tags.data, rtol=1e-6, atol=1e-9)


def test_draw_by_draw_it_does_the_same(script: Path, traces: TraceBatch) -> None:
    with Simulator([sys.executable, str(script)], num_workers=1, batches=False) as simulator:
        slow = simulator.prior(5, seed=3)
    fast = traces.select(np.arange(5))
    np.testing.assert_allclose(slow.value, fast.value, rtol=1e-9)
    np.testing.assert_allclose(slow.tags.data, fast.tags.data, rtol=1e-6, atol=1e-9)


GAUSSIAN = """
import ppx_client as ppx
from ppx_client.random import Generator

def simulate(rng):
    mu = rng.normal(1.0, 5**0.5)
    return mu

def forward():
    mu = simulate(Generator({options}))
    ppx.observe(ppx.Normal(mu, 2**0.5), name="y0")
    ppx.observe(ppx.Normal(mu, 2**0.5), name="y1")

ppx.serve(forward, "gaussian")
"""


def test_exact_posterior(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GAUSSIAN.format(options=""))
    with Simulator([sys.executable, str(tmp_path / "model.py")], num_workers=1) as simulator:
        posterior = importance_sampling(simulator, {"y0": 2.5, "y1": 4.0}, num_traces=4000, seed=4)
        other = importance_sampling(simulator, {"y0": 3.5, "y1": 5.0}, num_traces=4000, seed=4)
    # Conjugate normal: precisions add, means are weighted by them.
    precision = 1 / 5 + 2 / 2
    mean, std = (1 / 5 + (2.5 + 4.0) / 2) / precision, precision**-0.5
    assert posterior.ess > 500
    assert abs(posterior["mu"].mean() - mean) < 4 * std / posterior.ess**0.5
    assert abs(posterior["mu"].std() - std) < 4 * std / (2 * posterior.ess) ** 0.5
    assert abs(other["mu"].mean() - mean) > 4 * std / other.ess**0.5
