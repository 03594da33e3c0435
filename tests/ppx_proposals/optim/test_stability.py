"""Lyapunov exponents and sensitivities: closed forms, and programs that have no derivative."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.stability import (
    Action,
    Exponents,
    Verdict,
    finite_difference_lyapunov,
    finite_difference_sensitivity,
    jacobian_spectrum,
    lyapunov,
    one_at_a_time,
    recommend,
    recurrent_core,
)

LN2 = math.log(2.0)
CAT = math.log((3 + math.sqrt(5)) / 2)


def uniform(*size: int, low: float = 0.05, high: float = 0.95, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(size, generator=g, dtype=torch.float64)


def logistic(r: float) -> Callable[[Tensor], Tensor]:
    return lambda x: r * x * (1 - x)


def henon(s: Tensor) -> Tensor:
    x, y = s.unbind(1)
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], dim=1)


def within(exponents: Exponents, expected: float, index: int = 0) -> bool:
    """Whether the expected value is within 4 standard errors."""
    error = float(exponents.standard_error[index])
    assert error < 0.02
    return abs(float(exponents.mean[index]) - expected) < 4 * error


# Lyapunov exponents


def test_logistic_map_has_ln_2() -> None:
    found = lyapunov(logistic(4.0), uniform(1000, 1), 100, burn_in=30)
    assert within(found, LN2)
    assert float(found.standard_error[0]) < 2e-3
    # Negative controls: another parameter, and the finite map x -> 2x, whose exponent is the same for another reason.
    assert not within(lyapunov(logistic(3.95), uniform(1000, 1), 100, burn_in=30), LN2)
    assert lyapunov(lambda x: 2 * x, uniform(2, 1), 5).largest == pytest.approx(LN2, abs=1e-14)


def test_standard_error_is_that_of_repeated_measurements() -> None:
    repeats = [lyapunov(logistic(4.0), uniform(25, 1, seed=s), 25, burn_in=10) for s in range(25)]
    spread = float(torch.stack([r.mean for r in repeats]).std())
    stated = float(torch.stack([r.standard_error for r in repeats]).mean())
    assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 24) + 4 / math.sqrt(2 * 24 * 25))
    # Negative control: steps taken as independent, with the exact deviation of log |4 - 8 x|, pi / sqrt(12).
    assert math.pi / math.sqrt(12 * 25 * 25) > 2 * spread
    # One long orbit, cut into blocks, states about the same as many short ones of the same length together.
    alone = lyapunov(logistic(4.0), uniform(1, 1), 625)
    assert stated / 3 < float(alone.standard_error[0]) < stated * 3


def test_linear_map_has_logarithms_of_its_eigenvalues() -> None:
    values = torch.tensor([1.5, -1.1, 0.7, 0.2], dtype=torch.float64)
    vectors = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = vectors @ values.diag() @ torch.linalg.inv(vectors)
    found = lyapunov(lambda s: s @ matrix.T, uniform(3, 4), 100, k=4, burn_in=400)
    torch.testing.assert_close(found.mean, values.abs().log(), rtol=1e-9, atol=1e-9)
    # The leading two alone are the same numbers: no whole Jacobian is needed.
    two = lyapunov(lambda s: s @ matrix.T, uniform(3, 4), 100, k=2, burn_in=400)
    torch.testing.assert_close(two.mean, values[:2].abs().log(), rtol=1e-9, atol=1e-9)
    # Negative control: the singular values, which one step has, are others.
    singular = jacobian_spectrum(lambda s: s @ matrix.T, uniform(3, 4))
    torch.testing.assert_close(singular.singular_values[0], torch.linalg.svdvals(matrix))
    torch.testing.assert_close(singular.spectral_radius, torch.full((3,), 1.5, dtype=torch.float64))
    assert abs(float(singular.singular_values[0, 0].log()) - math.log(1.5)) > 0.1


def test_cat_map_and_henon_map() -> None:
    cat = lyapunov(
        lambda s: torch.remainder(s @ torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double(), 1.0),
        uniform(5, 2),
        50,
        k=2,
        burn_in=40,
    )
    torch.testing.assert_close(cat.mean, torch.tensor([CAT, -CAT], dtype=torch.float64), rtol=1e-10, atol=0)
    start = torch.zeros(1000, 2, dtype=torch.float64) + 0.1 * uniform(1000, 2)
    found = lyapunov(henon, start, 200, k=2, burn_in=100)
    assert within(found, 0.4192)  # Sprott 2003, "Chaos and Time-Series Analysis", table A
    # Areas shrink by |det J| = 0.3 at every step, whatever the orbit.
    torch.testing.assert_close(
        found.mean.sum(), torch.tensor(math.log(0.3), dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_states_that_leave_the_domain_and_other_errors() -> None:
    with pytest.raises(ValueError, match="no longer finite at step"):
        lyapunov(lambda x: x * x, torch.full((1, 1), 3.0), 50)
    with pytest.raises(ValueError, match=r"state\[None\]"):
        lyapunov(henon, torch.zeros(2), 5)
    with pytest.raises(ValueError, match="1 to 2 exponents"):
        lyapunov(henon, torch.zeros(1, 2), 5, k=3)
    with pytest.raises(ValueError, match="keep their shape"):
        lyapunov(lambda s: s[:, :1], torch.zeros(1, 2), 5)
    with pytest.raises(ValueError, match="do not reach"):
        lyapunov(lambda s, x: s + x, torch.zeros(1, 2), 5, inputs=torch.zeros(5, 1, 2))
    assert lyapunov(lambda s: 0 * s, torch.ones(1, 2), 3).largest == -math.inf


# Recurrent cores


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "relu"])
def test_cores_are_the_layers_of_torch(kind: str, layers: int, bias: bool) -> None:
    torch.manual_seed(0)
    if kind == "relu":
        module: nn.RNNBase = nn.RNN(3, 4, layers, bias=bias, nonlinearity="relu")
    else:
        module = getattr(nn, kind)(3, 4, layers, bias=bias)
    module = module.double()
    inputs = torch.randn(6, 5, 3, dtype=torch.float64)
    core = recurrent_core(module)
    states = core.states(inputs)
    output, last = module(inputs)
    state = core(states[-1], inputs[-1])
    top = state.reshape(5, layers, -1)[:, :, :4]
    torch.testing.assert_close(top[:, -1], output[-1])
    torch.testing.assert_close(top.transpose(0, 1), last[0] if kind == "LSTM" else last)


def test_jacobians_of_a_cell_are_autograds() -> None:
    torch.manual_seed(1)
    for cell in (nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)):
        core = recurrent_core(cell.double())
        inputs = torch.randn(7, 2, 3, dtype=torch.float64)
        states = core.states(inputs).flatten(0, 1)
        found = jacobian_spectrum(core, states, inputs=inputs.flatten(0, 1))

        def step(flat: Tensor, cell: nn.Module = cell, value: Tensor = inputs[3, 1]) -> Tensor:
            if isinstance(cell, nn.LSTMCell):
                h, c = cell(value[None], tuple(flat[None].chunk(2, dim=1)))
                return torch.cat([h, c], dim=1)[0]
            return cell(value[None], flat[None])[0]

        jacobian = torch.autograd.functional.jacobian(step, states[7])
        torch.testing.assert_close(found.singular_values[7], torch.linalg.svdvals(jacobian))
        torch.testing.assert_close(found.spectral_radius[7], torch.linalg.eigvals(jacobian).abs().max())
        assert "singular value" in str(found)


def test_exponents_say_how_gradients_through_a_recurrent_layer_grow() -> None:
    """Along data: the exponents of the core against autograd through `nn.RNN` itself."""
    torch.manual_seed(2)
    module = nn.RNN(2, 16).double()
    inputs = torch.randn(260, 12, 2, dtype=torch.float64)
    for gain, sign in ((0.5, -1), (6.0, 1)):
        with torch.no_grad():
            nn.init.orthogonal_(module.weight_hh_l0, gain)
        core = recurrent_core(module)
        found = lyapunov(core, core.start(inputs), 60, inputs=inputs, burn_in=200)
        start = core.states(inputs)[200].requires_grad_()
        last = module(inputs[200:], start[None])[1][0]
        weight = torch.randn(16, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((last @ weight).sum(), start)
        rate = float((gradient.norm(dim=1) / weight.norm()).log().mean()) / 60
        assert sign * found.largest > 0.02
        assert rate == pytest.approx(found.largest, abs=0.05)
        if sign < 0:
            assert found.largest < math.log(0.5)  # tanh' <= 1


def test_layers_that_are_no_map_are_refused() -> None:
    with pytest.raises(ValueError, match="both directions"):
        recurrent_core(nn.LSTM(2, 3, bidirectional=True))
    with pytest.raises(ValueError, match="eval"):
        recurrent_core(nn.GRU(2, 3, 2, dropout=0.5))
    assert recurrent_core(nn.GRU(2, 3, 2, dropout=0.5).eval()).size == 6
    with pytest.raises(TypeError, match="Linear"):
        recurrent_core(nn.Linear(2, 2))


# Finite differences


def orbit(theta: np.ndarray, num_steps: int, r: float = 4.0) -> np.ndarray:
    """Logistic map from x0, `(R,)` -> `(R, T)`."""
    x, out = theta, []
    for _ in range(num_steps):
        out.append(x)
        x = r * x * (1 - x)
    return np.stack(out, axis=1)


def chaotic(theta: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """A black box: the seed moves the initial state, theta moves it a little more."""
    return orbit(0.2 + 0.6 * np.random.default_rng(7).random(1000)[seed] + theta[:, 0], 60)


def test_finite_differences_find_ln_2_too() -> None:
    found = finite_difference_lyapunov(chaotic, [0.0], np.arange(300), burn_in=3)
    assert found.verdict is Verdict.SMOOTH
    assert found.rate is not None
    assert 0 < found.standard_error < 0.01
    assert abs(found.rate - LN2) < 4 * found.standard_error
    assert 15 < found.last < 45  # 1e-11 doubles 36 times until it is of order 1
    assert "nats per step" in str(found)
    # Negative control: to measure up to where the orbits have long parted sees no growth there.
    apart = np.abs(orbit(np.array([0.3 + 1e-9]), 60) - orbit(np.array([0.3]), 60))[0]
    assert abs(math.log(apart[-1] / apart[3]) / 56 - LN2) > 0.1


def test_single_precision_gets_a_larger_step() -> None:
    def program(theta: np.ndarray, seed: np.ndarray) -> np.ndarray:
        return np.sin(np.float32(1.0) + theta + seed[:, None]).astype(np.float32)

    found = finite_difference_sensitivity(program, [0.5], [0, 1, 2])
    assert found.verdict is Verdict.SMOOTH
    assert found.jacobian is not None
    np.testing.assert_allclose(found.jacobian[:, 0, 0], np.cos(1.5 + np.arange(3)), rtol=2e-2, atol=2e-3)
    assert 1e-5 < found.step[0] < 0.1
    double = finite_difference_sensitivity(lambda t, s: np.sin(1.0 + t + s[:, None]), [0.5], [0, 1, 2])
    assert double.jacobian is not None
    np.testing.assert_allclose(double.jacobian[:, 0, 0], np.cos(1.5 + np.arange(3)), rtol=1e-6)
    assert double.step[0] < found.step[0]


def test_large_steps_may_leave_the_domain() -> None:
    def program(theta: np.ndarray, seed: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(theta) * np.arange(1, 6)

    found = finite_difference_sensitivity(program, [1e-3], [0, 1], scale=[0.1])
    assert found.jacobian is not None
    np.testing.assert_allclose(found.jacobian[0, :, 0], 1e3 * np.arange(1, 6), rtol=1e-5)
    assert finite_difference_lyapunov(program, [1e-3], [0], direction=[0.1]).verdict is Verdict.SMOOTH


def test_jacobian_of_several_parameters_and_outputs() -> None:
    def program(theta: np.ndarray, seed: int) -> np.ndarray:
        a, b = theta
        noise = np.random.default_rng(seed).normal()
        return np.array([[a * b, noise * a], [a**2, 3.0]])

    found = finite_difference_sensitivity(one_at_a_time(program), [2.0, 0.0], [4, 5])
    assert found.jacobian is not None
    assert found.jacobian.shape == (2, 2, 2, 2)
    for row, seed in enumerate((4, 5)):
        noise = np.random.default_rng(seed).normal()
        expected = np.array([[[0, 2], [noise, 0]], [[4, 0], [0, 0]]])
        np.testing.assert_allclose(found.jacobian[row], expected, atol=1e-5)


def jumping(theta: np.ndarray, seed: int) -> np.ndarray:
    """Repeats itself, but its generator is seeded with theta as well."""
    words = [seed, int(np.float64(theta[0]).view(np.uint64))]
    return theta[0] + np.random.default_rng(words).normal(size=20)


def noisy(generator: np.random.Generator) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda theta, seed: theta[0] + 1e-9 * generator.normal(size=20)


def counted(theta: np.ndarray, seed: int) -> np.ndarray:
    return np.floor(7.3 * theta[0] + np.random.default_rng(seed).random(20))


@pytest.mark.parametrize(
    ("program", "verdict", "words"),
    [
        (jumping, Verdict.JUMPS, "without relation"),
        (noisy(np.random.default_rng(0)), Verdict.NOISY, "does not fix"),
        (counted, Verdict.FLAT, "discrete"),
        (
            lambda theta, seed: theta[0] * np.arange(1.0, 21.0),
            Verdict.SMOOTH,
            "agree",
        ),  # the negative control
    ],
)
def test_programs_without_a_derivative_get_no_number(
    program: Callable[[np.ndarray, int], np.ndarray], verdict: Verdict, words: str
) -> None:
    f = one_at_a_time(program)
    sensitivity = finite_difference_sensitivity(f, [1.0], np.arange(5))
    growth = finite_difference_lyapunov(f, [1.0], np.arange(5))
    assert sensitivity.verdict is growth.verdict is verdict
    assert words in str(sensitivity)
    for number in (sensitivity.jacobian, growth.rate):
        assert (number is None) == (verdict is not Verdict.SMOOTH)
    if verdict is not Verdict.SMOOTH:
        assert words in str(growth)
        for told in ({"exponents": growth}, {"sensitivity": sensitivity}):
            advice = recommend(50, **told)
            assert advice.action is Action.EVOLUTION
            assert words in str(advice)


def test_a_stable_program_forgets() -> None:
    def program(theta: np.ndarray, seed: np.ndarray) -> np.ndarray:
        return (theta + seed[:, None]) * np.append(0.0, 0.5 ** np.arange(12))  # the first does not move

    found = finite_difference_lyapunov(program, [0.3], [1, 2, 3], burn_in=1)
    assert found.rate == pytest.approx(-LN2, abs=1e-6)
    assert found.last == 12


def test_errors_of_finite_differences() -> None:
    with pytest.raises(ValueError, match="not finite at theta"):
        finite_difference_sensitivity(lambda t, s: t * np.nan, [1.0], [0])
    with pytest.raises(ValueError, match="first axis"):
        finite_difference_sensitivity(lambda t, s: t[0, 0], [1.0], [0])
    with pytest.raises(ValueError, match="series"):
        finite_difference_lyapunov(lambda t, s: t, [1.0], [0])
    with pytest.raises(ValueError, match=r"theta must be \(P,\)"):
        finite_difference_sensitivity(lambda t, s: t, 1.0, [0])
    with pytest.raises(ValueError, match="not be 0"):
        finite_difference_sensitivity(lambda t, s: t, [1.0, 2.0], [0], scale=[1.0, 0.0])
