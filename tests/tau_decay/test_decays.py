"""The physics of the decay, in both languages: conservation laws, frequencies and spectra."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, kstest
from tau_kinematics import DECAY_TABLE, Node, decay_tau, spectral_weight

Event = dict[str, Any]
M_TAU = DECAY_TABLE.tau.particle.mass
SIGNIFICANCE = 1e-4
"""Probability with which a right simulator would fail one test, over seeds; the seeds are fixed."""


def worst_violation(events: Iterable[Event]) -> float:
    """Largest difference, in any component, between a decaying particle and its daughters (GeV)."""
    worst = 0.0
    for event in events:
        for parent, *daughters in event["vertices"]:
            total = np.sum([momentum for _, momentum in daughters], axis=0)
            worst = max(worst, float(np.max(np.abs(total - parent[1]))))
    return worst


def test_four_momentum_is_conserved_at_every_vertex(many_events: list[Event]) -> None:
    assert worst_violation(many_events) < 1e-9


def test_a_violation_would_be_noticed(events: list[Event]) -> None:
    event = {"vertices": [[["tau", [1, 0, 0, 0]], ["pi", [0.4, 0, 0, 2e-9]], ["nu", [0.6, 0, 0, 0]]]]}
    assert worst_violation([*events, event]) > 1e-9


def test_particles_are_on_their_mass_shells(many_events: list[Event]) -> None:
    for event in many_events[:3000]:
        for vertex in event["vertices"]:
            for name, (e, x, y, z) in vertex:
                particle = DECAY_TABLE.particles[name]
                if particle.width == 0.0 and particle.kind != "system":
                    assert abs(e * e - x * x - y * y - z * z - particle.mass**2) < 1e-12 * max(1.0, e * e)


def chi_square_tail(counts: dict[str, int], fractions: dict[str, float]) -> float:
    """Probability of a chi-square larger than that of the counts; channels with fewer than 5 expected are pooled."""
    n = sum(counts.values())
    kept = [c for c in fractions if n * fractions[c] >= 5.0]
    expected = [n * fractions[c] for c in kept]
    observed = [counts.get(c, 0) for c in kept]
    expected.append(n - sum(expected))
    observed.append(n - sum(observed))
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(chi2.sf(statistic, len(kept)))


def test_channels_come_with_their_branching_fractions(many_events: list[Event]) -> None:
    names = [mode.name for mode in DECAY_TABLE.tau.modes]
    fractions = dict(zip(names, DECAY_TABLE.tau.fractions, strict=True))
    counts = Counter(event["channel"] for event in many_events)
    assert chi_square_tail(counts, fractions) > SIGNIFICANCE
    wrong = fractions | {"pi": fractions["pi"] + 0.03, "pi pi0": fractions["pi pi0"] - 0.03}
    assert chi_square_tail(counts, wrong) < SIGNIFICANCE


def mass_cdf(node: Node, m0: float, width: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """CDF of the mass of a resonance in tau -> nu + resonance: Breit-Wigner in m^2 times the spectral weight."""
    m = np.linspace(node.low, min(node.high, M_TAU), 4001)
    weight = [spectral_weight(x, node.low, M_TAU) for x in m.tolist()]
    density = 2.0 * m * np.array(weight) / ((m**2 - m0**2) ** 2 + (m0 * width) ** 2)
    cdf = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return lambda x: np.interp(x, m, cdf / cdf[-1])


def resonance_masses(events: Iterable[Event], channel: str, name: str) -> NDArray[np.float64]:
    """Masses (GeV) of the resonance that a tau decayed to directly."""
    parents = [v[2][1] for e in events if e["channel"] == channel for v in e["vertices"] if v[0][0] == "tau"]
    assert all(v[2][0] == name for e in events if e["channel"] == channel for v in e["vertices"][:1])
    p = np.array(parents)
    return np.sqrt(p[:, 0] ** 2 - np.sum(p[:, 1:] ** 2, axis=1))


@pytest.mark.parametrize(("channel", "name"), [("pi pi0", "rho"), ("3pi", "a1"), ("pi K0", "K*")])
def test_resonances_have_their_line_shapes(many_events: list[Event], channel: str, name: str) -> None:
    node = next(m.daughters[1] for m in DECAY_TABLE.tau.modes if m.name == channel)
    masses = resonance_masses(many_events, channel, name)
    m0, width = node.particle.mass, node.particle.width
    assert kstest(masses, mass_cdf(node, m0, width)).pvalue > SIGNIFICANCE
    # Shifted by as much as this many events can tell: three times the width of the KS statistic's distribution.
    shift = 3.0 * width / math.sqrt(len(masses)) * math.pi / 2.0
    if channel == "pi pi0":
        assert kstest(masses, mass_cdf(node, m0 + shift, width)).pvalue < SIGNIFICANCE


def test_the_rho_peak_is_at_the_rho_mass(many_events: list[Event]) -> None:
    masses = resonance_masses(many_events, "pi pi0", "rho")
    counts, edges = np.histogram(masses, bins=np.arange(0.30, 1.5, 0.04))
    top = int(np.argmax(counts))
    # Phase space pulls the peak some 10 MeV down.
    assert 0.72 < 0.5 * (edges[top] + edges[top + 1]) < 0.80


def test_electrons_have_the_michel_spectrum(many_events: list[Event]) -> None:
    x = []
    e_max = 0.5 * M_TAU
    for event in many_events:
        if event["channel"] == "e nu nu":
            tau, electron = np.array(event["vertices"][0][0][1]), np.array(event["vertices"][0][1][1])
            x.append((tau[0] * electron[0] - tau[1:] @ electron[1:]) / M_TAU / e_max)
    # The integral of 2 (3x^2 - 2x^3), the spectrum normalised on (0, 1).
    assert kstest(x, lambda x: 2 * x**3 - x**4).pvalue > SIGNIFICANCE
    assert kstest(x, lambda x: x**3).pvalue < SIGNIFICANCE


def test_traces_have_variable_length_and_repeated_addresses(many_events: list[Event]) -> None:
    lengths = [len(event["draws"]) for event in many_events]
    assert len(set(lengths)) > 20
    assert 10 <= np.median(lengths) <= 25
    repeats = [max(Counter(a for a, _ in event["draws"]).values()) for event in many_events]
    assert max(repeats) >= 5
    assert min(repeats) == 1


def test_every_trace_begins_with_the_momentum_and_the_channel(many_events: list[Event]) -> None:
    for event in many_events:
        draws = event["draws"][:4]
        assert [address for address, _ in draws] == ["px", "py", "pz", "channel"]
        assert event["vertices"][0][0][1][1:] == [value for _, value in draws[:3]]
        assert DECAY_TABLE.tau.modes[int(draws[3][1])].name == event["channel"]


class _Stubborn:
    """Accepts nothing."""

    def uniform(self, low: float, high: float, name: str) -> float:
        return low + (high - low) * (1.0 - 1e-12 if name == "accept" else 0.5)

    def normal(self, mean: float, sd: float, name: str) -> float:
        return mean

    def categorical(self, probs: Sequence[float], name: str) -> int:
        return 4

    def scope(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def rejection(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


def test_a_rejection_loop_forced_for_ever_ends_with_an_error() -> None:
    with pytest.raises(RuntimeError, match="no mass accepted for decay/rho in 1000 attempts"):
        decay_tau(_Stubborn())
