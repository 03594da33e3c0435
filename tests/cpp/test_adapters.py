"""C++ code written against <random>, GSL and rand is controlled by the adapters, which change what it draws from."""

from __future__ import annotations

import math
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from ppx_client.cpp_build import compile_simulator, compiler, toolchain_missing
from ppx_inference import Simulator, TrustWarning, importance_sampling
from ppx_server.protocol import BatchResult

PROGRAMS = Path(__file__).resolve().parent / "programs"
BUILD = Path(__file__).resolve().parents[2] / "build" / "tests"
NUM_TRACES = 1500
NAN = float("nan")
CONTROLLED, PENDING = 1, 8

# In the order of adapters_random.inc.
# fmt: off
DISTRIBUTIONS = [
    "normal", "normal_float", "lognormal", "uniform_real", "uniform_int", "uniform_int_wide",
    "bernoulli", "binomial", "poisson", "geometric", "negative_binomial", "discrete", "exponential",
    "gamma", "weibull", "extreme_value", "chi_squared", "cauchy", "fisher_f", "student_t",
    "piecewise_constant", "piecewise_linear", "generate_canonical", "shuffle", "normal_param",
    "uniform_param", "uniform_int_one",
]
# fmt: on
# In the order of `gsl` in adapters.cpp: what they are for scipy, and the family that inference sees.
GSL: list[tuple[str, Any, str]] = [
    ("uniform", stats.uniform(), "Uniform"),
    ("uniform_pos", stats.uniform(), "Uniform"),
    ("uniform_int", stats.randint(0, 6), "Categorical"),
    ("get", stats.uniform(0, 2**32), "Uniform"),
    ("gaussian", stats.norm(0, 2), "Normal"),
    ("gaussian_ziggurat", stats.norm(0, 2), "Normal"),
    ("ugaussian", stats.norm(), "Normal"),
    ("gaussian_tail", stats.truncnorm(0.5, np.inf, scale=2), "TruncatedNormal"),
    ("lognormal", stats.lognorm(0.5, scale=math.exp(0.1)), "LogNormal"),
    ("flat", stats.uniform(-1, 4), "Uniform"),
    ("exponential", stats.expon(scale=2), "Exponential"),
    ("gamma", stats.gamma(2.5, scale=0.5), "Gamma"),
    ("chisq", stats.chi2(3), "Gamma"),
    ("beta", stats.beta(2, 3), "Beta"),
    ("weibull", stats.weibull_min(2, scale=1.5), "Weibull"),
    ("rayleigh", stats.rayleigh(scale=1.5), "Weibull"),
    ("pareto", stats.pareto(3, scale=1.5), "Exponential"),
    ("poisson", stats.poisson(4), "Poisson"),
    ("bernoulli", stats.bernoulli(0.25), "Bernoulli"),
    ("binomial", stats.binom(10, 0.3), "Binomial"),
    ("discrete", stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3])), "Categorical"),
]
# GSL's own functions, fed by the generator.
GSL_INSIDE: list[tuple[str, Any]] = [
    ("own gaussian", stats.norm(0, 2)),
    ("own tdist", stats.t(3)),
    ("own logistic", stats.logistic(scale=2)),
    ("own get", stats.uniform(0, 2**32)),
    ("own uniform_int", stats.randint(0, 6)),
]


def has_gsl() -> bool:
    source = "#include <gsl/gsl_rng.h>\n"
    command = [*compiler(), "-x", "c++", "-E", "-o", "/dev/null", "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def program() -> Path:
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    flags = [str(PROGRAMS / "adapters_else.cpp"), "-O0", "-Wpedantic", "-Werror"]
    if has_gsl():
        flags += ["-DWITH_GSL", "-lgsl", "-lgslcblas"]
    return compile_simulator(PROGRAMS / "adapters.cpp", BUILD / "adapters", flags=flags)


@pytest.fixture
def gsl() -> None:
    if not has_gsl():
        pytest.skip("no GSL: apt-get install libgsl-dev")


@pytest.fixture(scope="module")
def controller(program: Path, serving: Any, connected: Any) -> Iterator[Any]:
    with serving(program) as served, connected(served.address) as controller:
        yield controller


@pytest.fixture(scope="module")
def prior(controller: Any) -> BatchResult:
    result = controller.play(range(NUM_TRACES), seed=3)
    assert isinstance(result, BatchResult)
    assert not result.failures, result.failures[0]
    return result


def tags(controller: Any, result: BatchResult, name: str) -> np.ndarray:
    """The values of an array tag, `(traces, elements)`."""
    rows = [row for row, number in enumerate(result.tags.address) if controller.known[number].name == name]
    offsets = result.tags.data_offsets
    return np.array([result.tags.data[offsets[row] : offsets[row + 1]] for row in rows])


class Draw(NamedTuple):
    address: str
    family: str
    instance: int
    value: float
    flags: int


def draws(controller: Any, result: BatchResult, trace: int = 0) -> list[Draw]:
    rows = range(result.offsets[trace], result.offsets[trace + 1])
    known = [controller.known[result.address[row]] for row in rows]
    return [
        Draw(a.address, a.family, int(result.instance[row]), float(result.value[row]), int(result.flags[row]))
        for a, row in zip(known, rows, strict=True)
    ]


@pytest.fixture(scope="module")
def standard(program: Path) -> np.ndarray:
    """The same numbers by the standard library alone, `(traces, distributions)`."""
    output = subprocess.run(
        [program, "std", str(NUM_TRACES)], capture_output=True, text=True, check=True
    ).stdout
    return np.loadtxt(output.splitlines())


LIMIT = 1e-4
"""Below this probability two samples are not of one distribution; about 150 pairs are compared."""


def unlike(ours: np.ndarray, theirs: np.ndarray) -> list[str]:
    """Distributions whose two samples differ (Kolmogorov-Smirnov, for whole numbers conservative)."""
    assert ours.shape == theirs.shape == (NUM_TRACES, len(DISTRIBUTIONS))
    columns = zip(DISTRIBUTIONS, ours.T, theirs.T, strict=True)
    return [name for name, a, b in columns if stats.ks_2samp(a, b, method="asymp").pvalue < LIMIT]


@pytest.mark.parametrize("tag", ["random", "std on 32 bits", "std on 64 bits"])
def test_distributions_are_those_of_the_standard_library(
    tag: str, controller: Any, prior: BatchResult, standard: np.ndarray
) -> None:
    assert unlike(tags(controller, prior, tag), standard) == []


def test_other_distributions_are_noticed(controller: Any, prior: BatchResult, standard: np.ndarray) -> None:
    assert unlike(tags(controller, prior, "random") * 1.3 + 0.2, standard) == DISTRIBUTIONS


def test_the_interface_is_that_of_the_standard_library(program: Path) -> None:
    subprocess.run([program, "interface"], check=True)


def test_what_inference_sees(controller: Any, prior: BatchResult) -> None:
    found = [draw for draw in draws(controller, prior) if draw.address.startswith("addresses/")]
    assert [
        draw[0].removeprefix("addresses/").replace("adapters_cpp", "A") + f" {draw[2]}" for draw in found
    ] == [
        "noise 0",
        "A:48:hit 0",
        "noise 1",
        "A:48:hit 1",
        "A:42:Detector/uniform 0",  # a generator that is a member: where its class was made
        "A:51:/uniform 0",  # a global one
        "A:62:operator() 0",
        "A:61:addresses/uniform 0",  # two std:: draws on a local one
        "A:61:addresses/uniform 1",
        "bits/uniform 0",
        "t/normal 0",
        "t/mean_square 0",
        "kind 0",
        "A:75:addresses 0",
        "u 0",
        "A:77:addresses/uniform 0",
        "A:78:addresses/uniform 0",
        "A:79:addresses 0",
        "adapters_else_cpp:10:elsewhere 0",
        "adapters_else_cpp:10:elsewhere 1",
    ]
    families = (
        "Normal Exponential Normal Exponential Uniform Uniform Poisson Uniform Uniform Uniform Normal Gamma"
    )
    families += " Categorical Uniform Uniform Uniform Uniform Uniform Normal Uniform"
    assert [draw.family for draw in found] == families.split()
    assert {draw.flags for draw in found} == {CONTROLLED}


def test_a_double_of_the_standard_library_is_two_draws_of_32_bits_or_one_of_64(
    controller: Any, prior: BatchResult
) -> None:
    addresses = [draw.address for draw in draws(controller, prior)]
    assert addresses.count("bits64/uniform") < addresses.count("bits32/uniform")
    assert addresses.count("bits32/uniform") < 2 * addresses.count("bits64/uniform")
    assert not [address for address in addresses if "<" in address or "random_tcc" in address]


def test_function_templates_have_their_name_only(controller: Any, prior: BatchResult) -> None:
    found = draws(controller, prior)[0]
    assert (found.address, found.family) == ("adapters_random_inc:10:one_of_each", "Normal")


def test_addresses_and_draws_are_those_of_any_process(
    program: Path, serving: Any, connected: Any, controller: Any, prior: BatchResult
) -> None:
    with serving(program) as served, connected(served.address) as other:
        again = other.play(range(5), seed=3)
        assert other.known == controller.known[: len(other.known)]
    np.testing.assert_array_equal(again.address, prior.address[: len(again.address)])
    np.testing.assert_array_equal(again.value, prior.value[: len(again.value)])


def test_a_trace_is_replayed_from_its_choices(controller: Any, prior: BatchResult) -> None:
    rows = range(prior.offsets[5], prior.offsets[6])
    choices = [
        (controller.known[prior.address[row]], int(prior.instance[row]), float(prior.value[row]), NAN)
        for row in rows
    ]
    replay = controller.play([77], [choices], seed=8, ask=True)
    assert replay.status.tolist() == [0]
    np.testing.assert_array_equal(replay.value, prior.value[rows])
    np.testing.assert_array_equal(replay.log_prob, prior.log_prob[rows])
    for name in ("random", "std on 32 bits", "std on 64 bits"):
        np.testing.assert_array_equal(tags(controller, replay, name)[0], tags(controller, prior, name)[5])


@pytest.mark.parametrize("z", [-50.0, -9.0, 9.0, 50.0])
def test_numbers_stay_in_their_range_however_far_out_the_coordinate(z: float, controller: Any) -> None:
    wanted = {"Uniform", "Categorical", "Exponential"}
    every = [a for a in controller.known if a.family in wanted and not a.address.startswith("bits")]
    script = [(address, visit, NAN, z) for address in every for visit in range(5)]
    result = controller.play([1], [script])
    assert not result.failures
    x = dict(zip(DISTRIBUTIONS, tags(controller, result, "random")[0], strict=True))
    assert -1 <= x["uniform_real"] < 3
    assert 0 <= x["generate_canonical"] < 1
    assert 1 <= x["uniform_int"] <= 6
    assert -5e9 <= x["uniform_int_wide"] <= 5e9
    assert -1 <= x["piecewise_constant"] < 3
    assert -1 <= x["piecewise_linear"] < 3
    assert np.isfinite([x["cauchy"], x["extreme_value"], x["geometric"]]).all()


def test_without_a_controller_the_seed_decides(program: Path) -> None:
    def numbers(seed: str) -> str:
        command = [program, "local"]
        return subprocess.run(
            command, env={"PPX_SEED": seed}, capture_output=True, text=True, check=True
        ).stdout

    assert numbers("1") == numbers("1") != numbers("2")


@pytest.mark.usefixtures("gsl")
def test_gsl_functions_draw_from_the_distributions_that_they_say(controller: Any, prior: BatchResult) -> None:
    numbers = tags(controller, prior, "gsl")
    ours, others = np.split(numbers, 2, axis=1)
    expected = [(name, distribution) for name, distribution, _ in GSL] + GSL_INSIDE

    def wrong(columns: np.ndarray) -> list[str]:
        pairs = zip(expected, columns.T, strict=True)
        return [name for (name, distribution), x in pairs if not fits(distribution, x)]

    assert wrong(ours) == []
    assert wrong(1.3 * ours + 0.2) == [name for name, _ in expected]
    assert (others == others[0]).all()  # another generator is left alone: the same seed in every trace


def fits(distribution: Any, x: np.ndarray) -> bool:
    """Whether a sample is of a distribution of scipy."""
    if not hasattr(distribution, "pmf"):
        return bool(stats.kstest(x, distribution.cdf).pvalue > LIMIT)
    if (x != np.floor(x)).any():
        return False
    low, high = int(x.min()), int(x.max())
    expected = distribution.pmf(np.arange(low, high + 1)) * len(x)
    counts = np.bincount((x - low).astype(int))
    often = expected >= 5
    rest = len(x) - expected[often].sum(), len(x) - counts[often].sum()
    found, wanted = np.append(counts[often], rest[1]), np.append(expected[often], max(rest[0], 1e-6))
    return bool(stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > LIMIT)


@pytest.mark.usefixtures("gsl")
def test_inference_sees_the_families_of_gsl_functions(controller: Any, prior: BatchResult) -> None:
    found = [draw for draw in draws(controller, prior) if draw.address.startswith("gsl/adapters_cpp")]
    assert [draw.family for draw in found] == [family for *_, family in GSL]
    inside = [draw for draw in draws(controller, prior) if draw.address == "gsl/gsl_rng"]
    assert {draw.family for draw in inside} == {"Uniform"}
    assert [draw.instance for draw in inside] == list(range(len(inside)))


def exact(y: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of mu ~ N(1, 5), y ~ N(mu, 2) (variances): conjugate formulas."""
    variance = 1 / (1 / 5 + 2 / 2)
    return variance * (1 / 5 + sum(y) / 2), math.sqrt(variance)


def score(command: list[str]) -> float:
    """How many standard errors the posterior mean is from the exact one."""
    y = (2.5, 4.0)
    with Simulator(command, num_workers=1) as simulator, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior = importance_sampling(simulator, {"y0": y[0], "y1": y[1]}, num_traces=3000, seed=2)
    mean, std = exact(y)
    assert posterior.ess > 300
    return abs(posterior["mu"].mean() - mean) / (std / math.sqrt(posterior.ess))


@pytest.mark.parametrize("way", ["gaussian", "bits"])
def test_the_posterior_is_exact(way: str, program: Path) -> None:
    assert score([str(program), way]) < 4


@pytest.mark.usefixtures("gsl")
def test_the_posterior_by_gsl_is_exact(program: Path) -> None:
    assert score([str(program), "gsl"]) < 4


def test_the_posterior_of_another_prior_is_rejected(program: Path) -> None:
    assert score([str(program), "wrong"]) > 4


@pytest.mark.usefixtures("gsl")
def test_a_trace_can_end_inside_a_function_of_gsl(program: Path, connected: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        process = subprocess.Popen([program, "gsl"], env={"PPX_BIND": address}, stderr=subprocess.DEVNULL)
        try:
            with connected(address) as controller:
                for _ in range(20):
                    pending = controller.play([1, 2], [(), ()], ask=True)
                    assert pending.status.tolist() == [2, 2]
                    assert pending.flags.tolist() == [CONTROLLED | PENDING] * 2
                assert controller.play([1]).status.tolist() == [0]
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
