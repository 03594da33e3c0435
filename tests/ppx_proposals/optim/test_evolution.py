"""Evolution strategies: unbiased where truncation is not, and everything around the estimate behaves."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.evolution import (
    PES,
    PESA,
    EvolutionStrategy,
    NonFiniteLossError,
    State,
    TruncatedES,
    each_member,
    each_start,
)

FLOAT = torch.float64
ALL = [PES, PESA, TruncatedES]

# Influence balancing (Tallec and Ollivier 2017, arXiv 1702.05043, section 5; sizes as in arXiv 2112.13835): theta
# enters 23 states with the signs of SIGN and only later sums up in the first one, which should be 1. There
# s_0 = 2 theta sum(SIGN) = -6 theta in the end, so theta = -1/6; but at once theta raises s_0.
SIZE = 23
TRANSITION = 0.5 * (torch.eye(SIZE, dtype=FLOAT) + torch.diag(torch.ones(SIZE - 1, dtype=FLOAT), 1))
SIGN = torch.tensor([1.0] * 10 + [-1.0] * 13, dtype=FLOAT)


def balance(params: Tensor, state: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    state = state @ TRANSITION.T + params * SIGN
    return state, 0.5 * (state[:, 0] - 1.0) ** 2


def balance_start(seeds: Tensor) -> Tensor:
    return torch.ones(len(seeds), SIZE, dtype=FLOAT)


def balance_ten(params: Tensor, state: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    total = params.new_zeros(len(params))
    for _ in range(10):
        state, loss = balance(params, state, seeds)
        total = total + loss
    return state, total


def exact(unroll: Any, theta: float, count: int) -> tuple[list[float], list[float]]:
    """d L_t / d theta by backpropagation through everything, and through the last unroll only."""
    leaf = torch.tensor([[theta]], dtype=FLOAT, requires_grad=True)
    seeds = torch.zeros(1, dtype=torch.int64)
    state, through_all, truncated = balance_start(seeds), [], []
    for _ in range(count):
        _, short = unroll(leaf, state.detach(), seeds)
        truncated.append(float(torch.autograd.grad(short.sum(), leaf)[0]))
        state, loss = unroll(leaf, state, seeds)
        through_all.append(float(torch.autograd.grad(loss.sum(), leaf, retain_graph=True)[0]))
    return through_all, truncated


def strategy(
    kind: type[EvolutionStrategy], unroll: Any = balance, start: Any = balance_start, **own: Any
) -> Any:
    theta = nn.Parameter(torch.full((1,), 0.5, dtype=FLOAT))
    settings = {
        "num_unrolls": 1000,
        "num_pairs": 8,
        "sigma": 0.1,
        "generator": torch.Generator().manual_seed(1),
    }
    return kind([own.pop("theta", theta)], unroll, start, **{**settings, **own})


def z_scores(
    kind: type[EvolutionStrategy], at: tuple[int, ...], truth: list[float], **own: Any
) -> list[float]:
    """Distances of estimates from the truth, in standard errors."""
    pes = strategy(kind, num_pairs=4000, **own)
    found = [pes.backward() for _ in range(max(at) + 1)]
    return [(float(found[t].gradient) - truth[t]) / float(found[t].standard_error) for t in at]


@pytest.mark.parametrize("kind", [PES, PESA])
@pytest.mark.parametrize(("unroll", "at"), [(balance, (1, 10, 25, 80)), (balance_ten, (1, 3, 7))])
def test_gradient_is_unbiased_where_truncation_has_the_wrong_sign(
    kind: type[EvolutionStrategy], unroll: Any, at: tuple[int, ...]
) -> None:
    truth, truncated = exact(unroll, 0.5, max(at) + 1)
    assert max(map(abs, z_scores(kind, at, truth, unroll=unroll))) < 4
    # Negative controls: truncated ES estimates what truncated backpropagation computes, which has the wrong sign.
    assert max(map(abs, z_scores(TruncatedES, at, truth, unroll=unroll))) > 20
    assert max(map(abs, z_scores(TruncatedES, at, truncated, unroll=unroll))) < 4
    assert truth[at[-1]] > 0 > truncated[at[-1]]


def test_first_unroll_is_exact_with_the_analytic_gradient() -> None:
    found = strategy(PESA).backward()
    assert float(found.gradient) == pytest.approx(exact(balance, 0.5, 1)[0][0], rel=1e-12)
    assert float(found.standard_error) == 0


@pytest.mark.parametrize("unroll", [balance, balance_ten])
def test_analytic_gradient_takes_variance_away(unroll: Any) -> None:
    """For each of the first four unrolls, and never adds any later."""
    plain, analytic = (strategy(kind, unroll, num_pairs=2000) for kind in (PES, PESA))
    ratios = [
        float(analytic.backward().standard_error) ** 2 / float(plain.backward().standard_error) ** 2
        for _ in range(10)
    ]
    assert max(ratios[:4]) < 0.9
    assert max(ratios) < 1.0


@pytest.mark.parametrize("kind", [PES, TruncatedES, pytest.param(PESA, marks=pytest.mark.slow)])
def test_only_untruncated_influence_is_balanced(kind: type[EvolutionStrategy]) -> None:
    theta = nn.Parameter(torch.full((1,), 0.5, dtype=FLOAT))
    pes = strategy(kind, theta=theta, num_unrolls=10**9, num_pairs=500)
    optimizer = torch.optim.SGD([theta], lr=1e-4)
    for _ in range(2000):
        optimizer.zero_grad()
        pes.backward()
        optimizer.step()
    if kind is TruncatedES:
        assert theta.item() > 1.0
    else:
        assert theta.item() == pytest.approx(-1 / 6, abs=1e-4)


def no_state(seeds: Tensor) -> State:
    return ()


def test_gradient_of_a_step_is_that_of_the_smoothed_loss() -> None:
    """E[theta + e > 0] = Phi(theta / sigma), whose derivative is a normal density; backpropagation gives 0."""
    theta = nn.Parameter(torch.full((1,), 0.05, dtype=FLOAT))

    def step(params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        return (), (params[:, 0] > 0).to(FLOAT)

    pes = strategy(PES, step, no_state, theta=theta, num_unrolls=1, num_pairs=20_000)
    found = pes.backward()
    density = math.exp(-0.5 * (0.05 / 0.1) ** 2) / (0.1 * math.sqrt(2 * math.pi))
    assert abs(float(found.gradient) - density) < 4 * float(found.standard_error) < 0.5 * density
    with pytest.raises(ValueError, match="use PES for a black box"):
        strategy(PESA, step, no_state, num_unrolls=1).backward()


def test_every_parameter_gets_its_own_gradient_and_sigma() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, 40.0, 50.0], dtype=FLOAT)
    seen = []

    def unroll(params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        seen.append(params)
        return (), params @ weights

    first = nn.Parameter(torch.zeros(3, 1, dtype=FLOAT))
    second = nn.Parameter(torch.ones(2, dtype=FLOAT))
    generator = torch.Generator().manual_seed(2)
    pes = PES(
        [first, second],
        unroll,
        no_state,
        num_unrolls=1,
        num_pairs=4000,
        sigma=(0.5, 0.01),
        generator=generator,
    )
    found = pes.backward()
    assert ((found.gradient - weights).abs() < 4 * found.standard_error).all()
    assert torch.equal(torch.cat([first.grad.reshape(-1), second.grad]), found.gradient)
    assert seen[0].std(dim=0).tolist() == pytest.approx([0.5] * 3 + [0.01] * 2, rel=0.1)
    assert seen[0].mean(dim=0).tolist() == pytest.approx([0, 0, 0, 1, 1], abs=1e-12)  # antithetic
    before = first.grad.clone()
    again = pes.backward()  # adds up, as autograd does
    assert torch.equal(first.grad, before + again.gradient[:3, None])


def test_common_random_numbers_cancel_noise() -> None:
    def noise_of(seeds: Tensor) -> Tensor:
        return 1000.0 * torch.sin(seeds.to(FLOAT))

    def common(params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        assert torch.equal(*seeds.chunk(2))
        assert len(seeds.unique()) == len(seeds) // 2
        return (), params[:, 0] + noise_of(seeds)

    def independent(params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        return (), params[:, 0] + noise_of(seeds + torch.arange(len(seeds)))

    errors = [
        float(strategy(PES, unroll, no_state, num_unrolls=1, num_pairs=500).backward().standard_error)
        for unroll in (common, independent)
    ]
    assert errors[0] < 0.1
    assert errors[1] > 100.0


@pytest.mark.parametrize("kind", ALL)
def test_resumed_run_is_the_run_that_was_not_stopped(kind: type[EvolutionStrategy]) -> None:
    def make(value: float) -> tuple[Any, nn.Parameter, AdamHD]:
        theta = nn.Parameter(torch.full((1,), value, dtype=FLOAT))
        generator = torch.Generator().manual_seed(7)
        own = {"num_unrolls": 5, "num_pairs": 6, "ages": "spread", "generator": generator}
        unroll = each_member(lambda p, s, seed: ({"s": s["s"] + p}, ((s["s"] + p + seed % 3) ** 2).sum()))
        start = each_start(lambda seed: {"s": torch.full((1,), seed % 5, dtype=FLOAT)})
        return strategy(kind, unroll, start, theta=theta, **own), theta, AdamHD([theta], lr=0.01)

    def run(pes: Any, optimizer: AdamHD, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            pes.backward()
            optimizer.step()

    pes, theta, optimizer = make(0.5)
    run(pes, optimizer, 7)
    file = io.BytesIO()
    torch.save([pes.state_dict(), theta.detach().clone(), optimizer.state_dict()], file)
    run(pes, optimizer, 6)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, other, other_optimizer = make(float(saved[1]))
    run(resumed, other_optimizer, 3)  # whatever it did before
    resumed.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[2])
    other.data.copy_(saved[1])
    run(resumed, other_optimizer, 6)
    assert torch.equal(theta, other)
    with pytest.raises(ValueError, match="make it with the settings"):
        strategy(kind, num_pairs=3).load_state_dict(saved[0])
    number = ALL.index(kind)
    for another in (*ALL[:number], *ALL[number + 1 :]):
        before = (
            fresh := strategy(another, num_pairs=6, start=lambda seeds: {"s": seeds[:, None] * 1.0})
        ).state_dict()
        with pytest.raises(ValueError, match="estimator of the same kind"):
            fresh.load_state_dict(saved[0])
        assert torch.equal(fresh.state_dict()["state"]["s"], before["state"]["s"])


@pytest.mark.parametrize("kind", ALL)
def test_episodes_begin_anew(kind: type[EvolutionStrategy]) -> None:
    truth, _ = exact(balance, 0.5, 2)
    pes = strategy(kind, num_unrolls=2, num_pairs=4000)
    found = [pes.backward() for _ in range(5)]
    for t in (0, 2, 4):
        assert abs(float(found[t].gradient) - truth[0]) <= 4 * float(found[t].standard_error) + 1e-12


def test_spread_pairs_see_the_whole_episode() -> None:
    """State is the number of the unroll; in the second round every estimate has one pair at each of the four."""
    seen = []

    def unroll(params: Tensor, state: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(sorted(state[:4].tolist()))
        assert torch.equal(*state.chunk(2))
        return state + 1, params[:, 0]

    pes = strategy(PES, unroll, torch.zeros_like, num_unrolls=4, num_pairs=4, ages="spread")
    for _ in range(9):
        pes.backward()
    assert seen[0] == [0, 0, 0, 0]
    assert all(row == [0, 1, 2, 3] for row in seen[4:])


def fragile(params: Tensor, state: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    loss = params[:, 0] + 1.0 + state[:, 0]
    return state + 1.0, torch.where(seeds % 4 == 0, torch.where(params[:, 0] > 0.5, math.nan, loss), loss)


def fragile_start(seeds: Tensor) -> Tensor:
    return torch.zeros(len(seeds), 1, dtype=FLOAT)


def test_failure_is_an_error_that_changes_nothing_and_can_be_reproduced() -> None:
    pes = strategy(PES, fragile, fragile_start, num_pairs=30)
    theta = pes._params[0]
    before = pes.state_dict()
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match=r"of 30 pairs; the first has losses .*nan") as caught:
            pes.backward()
        after = pes.state_dict()
        assert theta.grad is None
        assert all(torch.equal(after[k], before[k]) for k in ("state", "accumulated", "age", "generator"))
    seeds = torch.tensor([caught.value.seed])
    assert torch.isnan(fragile(caught.value.params[None], fragile_start(seeds), seeds)[1]).all()


def test_failed_pairs_are_restarted_and_counted() -> None:
    pes = strategy(PES, fragile, fragile_start, num_pairs=400, failures="restart")
    first = pes.backward()
    assert 50 < first.num_failed < 150  # a quarter, whichever of the two fails
    assert torch.isfinite(first.gradient).all()
    assert abs(float(first.gradient) - 1.0) < 4 * float(first.standard_error)
    state = pes.state_dict()
    failed = state["age"] == 0
    assert int(failed.sum()) == pes.num_failed == first.num_failed
    assert (state["accumulated"][failed] == 0).all()
    assert (state["state"][failed.repeat(2)] == 0).all()
    assert (state["state"][~failed.repeat(2)] == 1).all()

    def hopeless(params: Tensor, state: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        return state, torch.full((len(params),), math.inf, dtype=FLOAT)

    with pytest.raises(NonFiniteLossError):
        strategy(PES, hopeless, fragile_start, failures="restart").backward()


@pytest.mark.parametrize("kind", ALL)
def test_member_by_member_is_the_batch(kind: type[EvolutionStrategy]) -> None:
    one = each_member(lambda p, s, seed: tuple(t[0] for t in balance(p[None], s[None], torch.tensor([seed]))))
    start = each_start(lambda seed: balance_start(torch.tensor([seed]))[0])
    whole, singly = strategy(kind), strategy(kind, one, start)
    for _ in range(3):
        torch.testing.assert_close(whole.backward().gradient, singly.backward().gradient, rtol=1e-10, atol=0)


class Memory(NamedTuple):
    state: Tensor
    age: Tensor


@pytest.mark.parametrize("kind", ALL)
def test_states_may_be_named_tuples(kind: type[EvolutionStrategy]) -> None:
    def unroll(params: Tensor, memory: Memory, seeds: Tensor) -> tuple[Memory, Tensor]:
        state, loss = balance(params, memory.state, seeds)
        return Memory(state, memory.age + 1), loss

    named = strategy(kind, unroll, lambda seeds: Memory(balance_start(seeds), seeds * 0), num_unrolls=2)
    plain = strategy(kind, num_unrolls=2)
    for age in (1, 0, 1):
        assert torch.equal(named.backward().gradient, plain.backward().gradient)
        assert (named.state_dict()["state"].age == age).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_pairs": 0}, "at least 1"),
        ({"num_unrolls": 0}, "at least 1"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"sigma": (0.1, 0.2)}, "one for each"),
        ({"ages": "even"}, "'equal' or 'spread'"),
        ({"failures": "skip"}, "'raise' or 'restart'"),
        ({"theta": torch.zeros(2, dtype=torch.int64)}, "floating type"),
        ({"start": lambda seeds: torch.zeros(3)}, "need 16 rows"),
        ({"start": lambda seeds: "state"}, "not str"),
        ({"unroll": lambda p, s, seeds: (s, p)}, "must return 16 losses"),
        ({"unroll": lambda p, s, seeds: (s[:3], p[:, 0])}, "need 16 rows"),
        ({"unroll": each_member(lambda p, s, seed: ([s] * (1 + seed % 2), p[0]))}, "differ in their lengths"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(PES, **settings).backward()
