"""Stability diagnostics: closed forms, programs that cannot be differentiated, and what is recommended."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.stability import (
    Action,
    Exponents,
    Growth,
    StepStability,
    Verdict,
    adam_preconditioner,
    adam_threshold,
    descent_threshold,
    difference_product,
    finite_difference_lyapunov,
    finite_difference_sensitivity,
    gradient_horizon,
    hessian_product,
    jacobian_spectrum,
    largest_curvature,
    lyapunov,
    one_at_a_time,
    plot_horizon,
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


# Gradient variance against horizon


def unrolled(r: float) -> Callable[[Tensor, int, int], Tensor]:
    """The logistic map from a random state that theta moves."""

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = 0.2 + 0.6 * torch.rand((), generator=generator, dtype=torch.float64) + theta.sum()
        for _ in range(horizon):
            x = r * x * (1 - x)
        return x

    return loss


def test_variance_of_linear_recurrence_is_exact() -> None:
    """L = a^T theta z: the gradient a^T z has variance a^2T var z, with ES as without."""
    factor, horizons = 1.2, [1, 3, 10, 30]

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        z = torch.randn((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1000))
        x = theta * z
        for _ in range(horizon):
            x = factor * x
        return x.sum()

    study = gradient_horizon(loss, torch.ones(1, dtype=torch.float64), horizons, sigma=0.1, num_seeds=200)
    z = torch.stack(
        [
            torch.randn((), dtype=torch.float64, generator=torch.Generator().manual_seed(s + 1000))
            for s in range(200)
        ]
    )
    np.testing.assert_allclose(
        study.pathwise.variance, float(z.var()) * factor ** (2.0 * np.array(horizons)), rtol=1e-12
    )
    assert study.growth == pytest.approx(math.log(factor), rel=1e-10)
    assert study.growth_error < 1e-10
    # g_ES = a^T z e^2: variance E e^4 - ... = 3 var z around a mean of 0.
    ratio = study.evolution.variance / study.pathwise.variance
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert ratio[0] == pytest.approx(3.0, rel=0.7)


def test_gradients_of_a_chaotic_recurrence_grow_and_those_of_es_do_not() -> None:
    theta = torch.zeros(1, dtype=torch.float64)
    study = gradient_horizon(unrolled(4.0), theta, [2, 5, 10, 15, 20], sigma=0.05, num_seeds=100)
    # |dx_T / dx_0| = 2^T sqrt(x_T (1 - x_T) / (x_0 (1 - x_0))), so the mean square grows by exactly 4 per step.
    assert abs(study.growth - LN2) < max(4 * study.growth_error, 0.02)
    assert study.pathwise.variance[-1] > 1e10 * study.evolution.variance[-1]
    # An ES estimate is at most |e| / (2 sigma), its mean square 1 / (4 sigma^2).
    assert (study.evolution.variance < 1.5 / (4 * 0.05**2)).all()
    advice = recommend(20, study=study)
    assert advice.action is Action.EVOLUTION
    assert "by ES with sigma 0.05" in str(advice)
    # Negative control: the same map where it settles.
    calm = gradient_horizon(unrolled(2.5), theta, [2, 5, 10, 15], sigma=0.05, num_seeds=20)
    assert calm.growth < -0.3
    assert recommend(8, study=calm).action is Action.BACKPROPAGATE
    assert str(calm).count("\n") == 5


def test_gradients_that_overflow_count_as_infinitely_noisy() -> None:
    theta = torch.zeros(1, dtype=torch.float32)

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        return (theta * 1e30**horizon * (seed + 1)).sum()

    study = gradient_horizon(loss, theta, [1, 2], sigma=0.1, num_seeds=3)
    assert study.pathwise.variance[1] == math.inf
    assert math.isnan(study.growth)
    with pytest.raises(ValueError, match="must be a scalar"):
        gradient_horizon(lambda t, h, s: t.expand(3) * 1.0, theta, [1], sigma=0.1, num_seeds=2)
    with pytest.raises(ValueError, match="num_seeds is 1"):
        gradient_horizon(loss, theta, [1], sigma=0.1, num_seeds=1)


def test_figure_shows_both() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    study = gradient_horizon(
        unrolled(4.0), torch.zeros(1, dtype=torch.float64), [1, 4], sigma=0.1, num_seeds=4
    )
    axes = plot_horizon(study)
    assert [line.get_label() for line in axes.lines] == ["backpropagation", "ES, sigma = 0.1"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), study.pathwise.variance)
    mpl.pyplot.close("all")


# Curvature


def quadratic(seed: int = 0) -> tuple[Tensor, list[nn.Parameter], Callable[[], Tensor]]:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(12, 12, generator=g, dtype=torch.float64)
    hessian = root @ root.T / 4
    params = [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((2, 3), (6,))]

    def loss() -> Tensor:
        x = torch.cat([p.reshape(-1) for p in params])
        return 0.5 * x @ hessian @ x

    return hessian, params, loss


@pytest.mark.parametrize("product", [hessian_product, difference_product])
def test_curvature_of_a_quadratic_is_exact(product: Callable) -> None:
    hessian, params, loss = quadratic()
    before = [p.detach().clone() for p in params]
    found = largest_curvature(loss, params, product=product, tolerance=1e-9)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    rel = 1e-10 if product is hessian_product else 1e-7
    assert found.value == pytest.approx(exact, rel=rel)
    assert found.num_products <= 12
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p, old)
        assert p.grad is None
    # What it says of its error holds, also where it stops early.
    early = largest_curvature(loss, params, product=product, max_products=3, tolerance=0.0)
    distance = float((torch.linalg.eigvalsh(hessian) - early.value).abs().min())
    assert early.num_products == 3
    assert 1e-6 < distance <= early.residual * (1 + 1e-6)


def test_curvature_takes_the_largest_not_the_largest_in_size() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    weight = torch.tensor([-5.0, 1.0, 2.0]).double()
    assert largest_curvature(lambda: 0.5 * (weight * p * p).sum(), [p]).value == pytest.approx(2.0)
    assert largest_curvature(lambda: p.sum(), [p]).value == 0.0
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert largest_curvature(lambda: (p * p).sum(), [unused, p]).value == pytest.approx(2.0)
    with pytest.raises(ValueError, match="not finite"):
        largest_curvature(lambda: (p * p).sum() * math.inf, [p])
    with pytest.raises(ValueError, match="preconditioner"):
        largest_curvature(lambda: (p * p).sum(), [p], preconditioner=torch.ones(2))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
def test_gradient_descent_diverges_on_the_right_side(momentum: float, share: float, diverges: bool) -> None:
    _, params, loss = quadratic()
    curvature = largest_curvature(loss, params, tolerance=1e-9).value
    threshold = descent_threshold(momentum)
    verdict = StepStability(share * threshold / curvature, curvature, threshold)
    assert verdict.stable == (not diverges)
    optimizer = torch.optim.SGD(params, lr=verdict.alpha, momentum=momentum)
    first = loss().item()
    for _ in range(2000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert (loss().item() > 10 * first) == diverges
    warned = recommend(1, exponents=_exponents(0.0), stability=verdict).warnings
    assert bool(warned) == diverges


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "at_the_edge"), [(0.2, True), (0.02, False)])
def test_training_settles_at_the_edge(lr: float, at_the_edge: bool) -> None:
    """Progressive sharpening and the edge of stability (Cohen et al. 2021, figure 1), on a small network."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, 20, generator=g), torch.randn(100, 1, generator=g)
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    params = list(network.parameters())
    optimizer = torch.optim.SGD(params, lr=lr)

    def loss() -> Tensor:
        return 0.5 * ((network(x) - y) ** 2).mean()

    start = lr * largest_curvature(loss, params, tolerance=1e-2).value
    for _ in range(1000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    end = lr * largest_curvature(loss, params, tolerance=1e-2).value
    assert start < 0.6
    assert (1.9 < end < 2.2) == at_the_edge
    assert end > 2 * start


@pytest.mark.parametrize("make", [torch.optim.Adam, AdamHD])
@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
def test_adam_diverges_on_the_right_side_of_its_own_threshold(
    make: Callable, share: float, diverges: bool
) -> None:
    """The threshold is that of Adam with its denominator held fixed."""
    _, params, loss = quadratic()
    settings = {"hypergrad_lr": 0.0} if make is AdamHD else {}
    optimizer = make(params, lr=0.0, betas=(0.9, 0.999), **settings)
    for _ in range(300):  # at rest: moments settle, the parameters stay
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    scale = adam_preconditioner(optimizer, params)
    expected = torch.cat([p.grad.abs().reshape(-1) for p in params]) + 1e-8
    torch.testing.assert_close(scale, expected, rtol=1e-9, atol=0)
    curvature = largest_curvature(loss, params, preconditioner=scale, tolerance=1e-9).value
    threshold = adam_threshold(0.9)
    assert threshold == pytest.approx(38.0)
    alpha = share * threshold / curvature
    # Adam with its denominator held at `scale`: m <- 0.9 m + 0.1 g, x <- x - alpha m / scale.
    moment = torch.zeros_like(scale)
    first = loss().item()
    for _ in range(2000):
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params)])
        moment = 0.9 * moment + 0.1 * gradient
        with torch.no_grad():
            for p, move in zip(params, (alpha * moment / scale).split([6, 6]), strict=True):
                p -= move.view_as(p)
    assert (loss().item() > 10 * first) == diverges


def test_error_of_a_loss_that_is_not_twice_differentiable_says_what_to_do() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x * x).sum()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 2 * grad * ctx.saved_tensors[0]

    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for loss in (
        lambda: Square.apply(p),
        lambda: Square.apply(p) ** 2,
        lambda: Square.apply(p) + (p**3).sum(),
    ):
        with pytest.raises(RuntimeError, match="once only") as caught:
            largest_curvature(loss, [p])
        assert "product=difference_product" in caught.value.__notes__[0]
    value = largest_curvature(lambda: Square.apply(p) ** 2, [p], product=difference_product).value
    assert value == pytest.approx(36.0, rel=1e-8)  # of 4 |p|^2 I + 8 p p^T


def test_preconditioner_needs_moments() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="first step"):
        adam_preconditioner(torch.optim.Adam([p]), [p])
    with pytest.raises(ValueError, match="momentum"):
        descent_threshold(1.0)
    with pytest.raises(ValueError, match="beta1"):
        adam_threshold(-0.1)


# Recommendations


def _exponents(rate: float, error: float = 1e-3) -> Exponents:
    mean = torch.tensor([rate])
    return Exponents(mean, torch.tensor([error]), mean[None], 100, torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("rate", "horizon", "action", "steps"),
    [
        (0.0, 1000, Action.BACKPROPAGATE, 1000),
        (0.05, 80, Action.BACKPROPAGATE, 80),  # e^4 = 55
        (0.05, 200, Action.TRUNCATE, 92),  # ln 100 / 0.05
        (0.05, 1000, Action.EVOLUTION, 0),  # 92 is less than a quarter of them
        (LN2, 100, Action.EVOLUTION, 0),
        (-0.1, 1000, Action.TRUNCATE, 70),  # ln 1000 / 0.1
        (-0.1, 60, Action.BACKPROPAGATE, 60),
        (-math.inf, 60, Action.TRUNCATE, 1),
        (5.0, 10_000, Action.EVOLUTION, 0),  # exp of it is no float
    ],
)
def test_recommendations(rate: float, horizon: int, action: Action, steps: int) -> None:
    advice = recommend(horizon, exponents=_exponents(rate))
    assert (advice.action, advice.num_steps) == (action, steps)
    head = str(advice).splitlines()[0]
    words = {
        Action.BACKPROPAGATE: f"backpropagate through all {horizon} steps",
        Action.TRUNCATE: f"truncate to about {steps} steps",
        Action.EVOLUTION: "use ES/PES",
    }
    assert head == words[action]
    assert "because" in str(advice)


def test_a_rate_within_its_error_is_no_chaos() -> None:
    assert recommend(1000, exponents=_exponents(0.02, 0.02)).action is Action.BACKPROPAGATE
    assert recommend(1000, exponents=_exponents(0.02, 0.001)).action is Action.EVOLUTION


def test_recommendation_needs_something_to_go_by() -> None:
    with pytest.raises(ValueError, match="no rate"):
        recommend(10)
    with pytest.raises(ValueError, match="horizon is 0"):
        recommend(0, exponents=_exponents(0.1))
    grown = Growth(Verdict.SMOOTH, 0.5, 0.01, 5, 0, 9, 1e-9, "linear")
    assert recommend(100, exponents=grown).action is Action.EVOLUTION
