"""`patched`: global generators are PPX's while a model runs, and themselves afterwards."""

# ruff: noqa: NPY002 (what it warns of is what is tested)

from __future__ import annotations

import copy
import pickle
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import gauss
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
from numpy.random import normal

import ppx_client as ppx
from ppx_client.patching import patched
from ppx_client.random import Generator
from ppx_inference import Simulator
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

FROZEN = st.norm(1.0, 2.0)
NAMES = [name for name, value in vars(random).items() if getattr(value, "__self__", None) is random._inst]
NUMPY_NAMES = [
    name
    for name, value in vars(np.random).items()
    if getattr(value, "__self__", None) is np.random.mtrand._rand
    or name in ("seed", "ranf", "sample", "get_bit_generator", "set_bit_generator")
]


def everything() -> list[Any]:
    """Whatever the patch replaces."""
    return [
        *(getattr(random, name) for name in NAMES),
        *(getattr(np.random, name) for name in [*NUMPY_NAMES, "default_rng"]),
        *(
            random._inst,
            np.random.mtrand._rand,
            gauss,
            normal,
            FROZEN.dist._random_state,
            st.norm._random_state,
        ),
    ]


ORIGINALS = everything()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert all(now is before for now, before in zip(everything(), ORIGINALS, strict=True))


def test_everything_is_replaced() -> None:
    with patched():
        assert not any(now is before for now, before in zip(everything(), ORIGINALS, strict=True))


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, type("EndOfTrace", (BaseException,), {})]
)
def test_exceptions_restore(error: type[BaseException]) -> None:
    @patched
    def forward() -> None:
        random.random()
        raise error

    with pytest.raises(error):
        forward()


def test_blocks_nest() -> None:
    with patched(), patched(default_rng=True):
        assert isinstance(np.random.default_rng(3), Generator)
        inner = everything()
        with patched(), patched(), patched(control=False):
            pass
        assert all(now is before for now, before in zip(everything(), inner, strict=True))


def test_modules_imported_meanwhile_do_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lately_imported.py").write_text("from random import gauss\n")
    monkeypatch.syspath_prepend(tmp_path)
    with patched():
        import lately_imported  # type: ignore[import-not-found]

        assert lately_imported.gauss is not ORIGINALS[NAMES.index("gauss")]
    assert lately_imported.gauss is gauss
    with patched():
        assert lately_imported.gauss is not ORIGINALS[NAMES.index("gauss")]


def test_threads_may_end_blocks_in_any_order() -> None:
    first, second = patched(), patched(default_rng=True)
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert isinstance(np.random.default_rng(3), Generator)
    second.__exit__()


def test_what_runs_piece_by_piece_is_refused() -> None:
    def generate() -> Iterator[float]:
        yield random.random()

    with pytest.raises(ppx.UncontrolledError, match="that runs all of it"):
        patched(generate)


variable: Any = random.gauss
deleted: Any = np.random.normal


def test_what_the_program_assigns_stays() -> None:
    global variable, deleted
    with patched():
        assert variable is random.gauss
        assert deleted is np.random.normal
        variable = 1
        del deleted
    assert variable == 1
    assert "deleted" not in globals()
    with patched():
        assert variable == 1


def test_copies_are_of_the_same_kind() -> None:
    with patched():
        copies = copy.deepcopy(np.random.mtrand._rand), pickle.loads(pickle.dumps(np.random.mtrand._rand))
        assert [np.shape(twin.randn(2)) for twin in copies] == [(2,), (2,)]


def test_libraries_that_want_a_random_state_get_one() -> None:
    with patched():
        assert isinstance(np.random.mtrand._rand, np.random.RandomState)
        assert isinstance(np.random.mtrand._rand, np.random.Generator)
        assert np.random.default_rng(np.random.mtrand._rand) is np.random.mtrand._rand


@pytest.mark.parametrize("call", [
    lambda: random.choices([]),
    lambda: random.choice([]),
    lambda: random.sample({1, 2}, 1),
    lambda: random.sample([1], 2),
    lambda: random.sample([1, 2], 1, counts=[2]),
    lambda: random.randint(2, 1),
    lambda: random.randrange(0),
])  # fmt: skip
def test_what_python_rejects_is_rejected(call: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)) as theirs:
        call()
    with patched(), pytest.raises(theirs.type):
        call()


def test_numbers_may_be_as_large_as_pythons() -> None:
    with patched():
        assert 10**30 <= random.randint(10**30, 10**30 + 5) <= 10**30 + 5
        assert {random.randrange(10**40) > 10**39 for _ in range(300)} == {True, False}
        assert len(set(random.sample(range(10**12), 5))) == 5
        assert sorted(random.sample("ab", 3, counts=[1, 2])) == ["a", "b", "b"]


SAME = [
    (lambda: random.gauss(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: gauss(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: random.normalvariate(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: random.uniform(3, 1), ppx.Uniform(1.0, 3.0)),
    (lambda: random.random(), ppx.Uniform(0.0, 1.0)),
    (lambda: random.expovariate(2), ppx.Exponential(2.0)),
    (lambda: random.gammavariate(2, 3), ppx.Gamma(2.0, 1 / 3)),
    (lambda: random.betavariate(2, 3), ppx.Beta(2.0, 3.0)),
    (lambda: random.lognormvariate(1, 2), ppx.LogNormal(1.0, 2.0)),
    (lambda: random.weibullvariate(1, 2), ppx.Weibull(1.0, 2.0)),
    (lambda: random.randrange(3), ppx.Categorical([1.0] * 3)),
    (lambda: normal(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: np.random.normal(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: np.random.poisson(4), ppx.Poisson(4.0)),
    (lambda: np.random.rand(), ppx.Uniform(0.0, 1.0)),
    (lambda: np.random.randn(3), ppx.Normal(np.zeros(3), 1.0)),
    (lambda: np.random.randint(3), ppx.Categorical([1.0] * 3)),
    (lambda: st.norm.rvs(1, 2), ppx.Normal(1.0, 2.0)),
    (lambda: FROZEN.rvs(), ppx.Normal(1.0, 2.0)),
    (lambda: st.norm(1, 2).rvs(), ppx.Normal(1.0, 2.0)),
]


@pytest.mark.parametrize(("draw", "distribution"), SAME)
def test_families_are_drawn_as_such(draw: Callable[[], Any], distribution: ppx.Distribution) -> None:
    with patched():
        ppx.seed(5)
        random.seed(1)  # is the controller's affair
        np.random.seed(1)
        first = draw()
    ppx.seed(5)
    np.testing.assert_allclose(first, ppx.sample(distribution), rtol=1e-15)


def moments(draw: Callable[[], float]) -> tuple[float, float]:
    ppx.seed(6)
    with patched():
        x = [float(draw()) for _ in range(1500)]
    return float(np.mean(x)), float(np.std(x))


@pytest.mark.parametrize(("draw", "mean", "std"), [
    (lambda: random.triangular(0, 1, 0.5), 0.5, 24**-0.5),
    (lambda: random.paretovariate(4), 4 / 3, (4 / (9 * 2)) ** 0.5),
    (lambda: random.randint(1, 6), 3.5, (35 / 12) ** 0.5),
    (lambda: random.choice([1, 3]), 2, 1),
    (lambda: random.choices([1, 3], [1, 3])[0], 2.5, 0.75**0.5),
    (lambda: random.choices(range(100), cum_weights=range(1, 101))[0], 49.5, (9999 / 12) ** 0.5),
    (lambda: random.sample([1, 2, 6], 2)[1], 3, (14 / 3) ** 0.5),
    (lambda: random.sample([1, 3], 1, counts=[1, 3])[0], 2.5, 0.75**0.5),
    (lambda: (x := [1, 2, 6], random.shuffle(x))[0][0], 3, (14 / 3) ** 0.5),
    (lambda: random.getrandbits(2), 1.5, 1.25**0.5),
    (lambda: random.getrandbits(70) / 2**70, 0.5, 12**-0.5),
    (lambda: random.randbytes(3)[1], 127.5, (65535 / 12) ** 0.5),
    (lambda: random.randrange(10, 0, -3), 5.5, 11.25**0.5),
    (lambda: np.random.random_integers(3), 2, (2 / 3) ** 0.5),
    (lambda: np.random.permutation(3)[0], 1, (2 / 3) ** 0.5),
    (lambda: np.random.logistic(1, 2), 1, 2 * np.pi / 3**0.5),
])  # fmt: skip
def test_the_others_have_their_moments(draw: Callable[[], float], mean: float, std: float) -> None:
    found_mean, found_std = moments(draw)
    assert abs(found_mean - mean) < 4 * std / 1500**0.5
    assert abs(found_std / std - 1) < 0.12
    assert not abs(found_mean - (mean + 0.25 * std)) < 4 * std / 1500**0.5


@pytest.mark.parametrize(
    "draw", [lambda: np.random.set_bit_generator(None), lambda: np.random.get_bit_generator().random_raw()]
)
def test_what_cannot_be_controlled_is_refused(draw: Callable[[], Any]) -> None:
    with patched(), pytest.raises(ppx.UncontrolledError, match=r"; "):
        draw()


def test_states_of_the_global_generators_are_kept_and_set_back() -> None:
    with patched():
        states = random.getstate(), np.random.get_state()
        random.setstate(states[0])
        np.random.set_state(states[1])
        random.random(), np.random.rand()
        assert states[0] != random.getstate()
        assert states[1] != np.random.get_state()


def test_generators_may_be_left_alone() -> None:
    with patched(default_rng=False):
        assert type(random.Random()) is random.Random
        fixed = np.random.default_rng(1).normal()
        with pytest.raises(ppx.UncontrolledError, match="would draw behind the controller's back; "):
            np.random.default_rng()
    assert fixed == np.random.default_rng(1).normal()


class Derived(random.Random):
    """Made before anything was patched."""


OWN = [
    (lambda: random.Random(3).gauss(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: random.Random().random(), ppx.Uniform(0.0, 1.0)),
    (lambda: random.SystemRandom().expovariate(2.0), ppx.Exponential(2.0)),
    (lambda: np.random.RandomState(3).normal(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: np.random.RandomState(seed=3).randn(), ppx.Normal(0.0, 1.0)),
    (lambda: np.random.default_rng(3).normal(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: np.random.Generator(np.random.PCG64(3)).normal(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: np.random.Generator(np.random.default_rng().bit_generator).normal(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: copy.deepcopy(random.Random(3)).gauss(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: pickle.loads(pickle.dumps(np.random.RandomState(3))).randn(), ppx.Normal(0.0, 1.0)),
    (lambda: np.random.default_rng(3).spawn(1)[0].normal(0, 1), ppx.Normal(0.0, 1.0)),
    (lambda: st.norm.rvs(0, 1, random_state=7), ppx.Normal(0.0, 1.0)),
    (lambda: st.norm.rvs(0, 1, random_state=np.random.default_rng(7)), ppx.Normal(0.0, 1.0)),
    (lambda: type("Mine", (random.Random,), {})(3).gauss(0, 1), ppx.Normal(0.0, 1.0)),
]


@pytest.mark.parametrize(("draw", "distribution"), OWN)
def test_generators_that_a_model_makes_are_controlled(
    draw: Callable[[], Any], distribution: ppx.Distribution
) -> None:
    with patched():
        ppx.seed(5)
        first = draw()
    ppx.seed(5)
    np.testing.assert_allclose(first, ppx.sample(distribution), rtol=1e-15)
    assert draw() != first


def test_own_generators_are_of_their_types() -> None:
    real = random.Random(1), np.random.RandomState(1), np.random.default_rng(1), Derived(1)
    with patched():
        made = random.Random(1), np.random.RandomState(1), np.random.default_rng(1)
        for one, kind in zip(made, (random.Random, np.random.RandomState, np.random.Generator), strict=True):
            assert isinstance(one, kind)
        assert isinstance(real[0], random.Random)
        assert isinstance(real[1], np.random.RandomState)
        assert isinstance(real[2], np.random.Generator)
        assert issubclass(Derived, random.Random)
        assert not isinstance(1, random.Random)
        assert not isinstance(made[0], type("Mine", (random.Random,), {}))
    assert all(map(isinstance, made, (random.Random, np.random.RandomState, np.random.Generator)))


def test_the_standard_library_draws_for_itself() -> None:
    with patched():
        names = tempfile._RandomNameSequence()
        assert next(names)
    assert type(names.rng) is random.Random


MODEL = """
import random
import numpy as np
import ppx_client as ppx
from random import gauss

ORIGINAL = random.gauss

@ppx.patched(default_rng=True)
def simulate():
    mu = random.gauss(1.0, 5**0.5)
    step = np.random.normal(mu, 1.0)
    jump = gauss(0.0, 1.0)
    rng = np.random.default_rng(3)
    far = rng.normal()
    items = [1, 2, 3]
    random.shuffle(items)
    die = random.randint(1, 6)
    return mu + step + jump + far + items[0]

def forward():
    ppx.tag(float(random.gauss is ORIGINAL and gauss is ORIGINAL), name="clean")
    return simulate()

if __name__ == "__main__":
    ppx.serve(forward, "globals")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("globals") / "model.py"
    path.write_text(MODEL)
    return path


def test_a_served_model_is_controlled(script: Path) -> None:
    with Simulator([sys.executable, str(script)], num_workers=1) as simulator:
        traces = simulator.prior(50, seed=1)
        again = simulator.execute(ScriptBatch.replay(traces), None)
        assert len(simulator.addresses) == len(traces.addresses)
    assert {a.name for a in traces.addresses} == {"mu", "step", "jump", "far", "die", "clean", ""}
    assert all(a.address.startswith("model:") for a in traces.addresses if a.name not in ("clean", ""))
    np.testing.assert_array_equal(again.value, traces.value)
    np.testing.assert_array_equal(again.results.data, traces.results.data)
    assert clean(traces) == {1.0}


def clean(traces: TraceBatch) -> set[float]:
    return set(traces.tags.dense(traces.tags.rows(traces.addresses.find("clean")), ()).tolist())


def test_an_abandoned_trace_leaves_nothing_behind(serve: Callable[..., Any], script: Path) -> None:
    controller = serve(script).connect()
    for _ in range(2):
        controller.handshake()
        assert controller.send("Run").value == 1.0
        assert controller.send("TagResult").name == "mu"  # the next Handshake comes instead of its value
