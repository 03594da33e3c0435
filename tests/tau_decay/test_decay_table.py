"""The particle and decay table: against the PDG's masses, and against the measured branching fractions."""

from __future__ import annotations

import pytest
from particle import Particle
from tau_kinematics import DECAY_TABLE, Mode, Node

PDG_NAMES = {
    "tau": "tau-", "gamma": "gamma", "e": "e-", "mu": "mu-", "pi": "pi-", "K": "K-", "KL": "K(L)0", "KS": "K(S)0",
    "K0": "K0", "pi0": "pi0", "eta": "eta", "rho": "rho(770)-", "a1": "a(1)(1260)-", "K*": "K*(892)-",
    "omega": "omega(782)", "phi": "phi(1020)",
}  # fmt: skip

# Percent; the PDG's fit of the branching fractions of the tau-.
BRANCHING = {
    "e nu nu": 17.82, "mu nu nu": 17.39, "pi": 10.82, "K": 0.696, "pi pi0": 25.49, "K pi0": 0.433, "pi 2pi0": 9.26,
    "K 2pi0": 0.065, "pi 3pi0": 1.04, "K 3pi0": 0.048, "h 4pi0": 0.11, "pi K0": 0.838, "K K0": 0.1486,
    "pi K0 pi0": 0.382, "K K0 pi0": 0.150, "pi K0 2pi0": 0.026, "pi KS KS": 0.0235, "pi KS KL": 0.108,
    "pi KL KL": 0.0235, "pi pi0 KS KL": 0.032, "K0 h h h": 0.025, "3pi": 8.99, "3pi pi0": 2.74, "3h 2pi0": 0.10,
    "pi K K": 0.1435, "pi K K pi0": 0.0061, "K pi pi": 0.293, "K pi pi pi0": 0.039, "5h": 0.0829, "5h pi0": 0.0165,
    "eta pi pi0": 0.139, "eta K": 0.0155, "eta K pi0": 0.0048, "eta K0 pi": 0.0094, "pi omega": 1.95,
    "h pi0 omega": 0.41, "K omega": 0.041, "K phi": 0.0044, "pi gamma": 0.038,
}  # fmt: skip


@pytest.mark.parametrize("name", PDG_NAMES)
def test_masses_and_widths_are_the_pdgs(name: str) -> None:
    ours = DECAY_TABLE.particles[name]
    pdg = next(p for p in Particle.findall(name=PDG_NAMES[name]))
    # The table of particle may be of another year; the a1 is hardly known.
    tolerance = 0.05 if name == "a1" else 2e-4
    assert 1e3 * ours.mass == pytest.approx(pdg.mass or 0.0, rel=tolerance, abs=1e-12)
    if ours.width > 0.0:
        assert 1e3 * ours.width == pytest.approx(pdg.width, rel=0.05)


def test_the_channels_have_the_measured_fractions() -> None:
    tau = DECAY_TABLE.tau
    assert [mode.name for mode in tau.modes] == list(BRANCHING)
    total = sum(BRANCHING.values())
    assert total == pytest.approx(99.95, abs=0.01)
    assert tau.fractions == pytest.approx([b / total for b in BRANCHING.values()])


def test_decay_trees_hold_what_their_names_say() -> None:
    for mode in DECAY_TABLE.tau.modes:
        leaves = sorted(leaf for leaf in _leaves(mode) if leaf != "nu")
        expected: list[str] = []
        for word in mode.name.replace("nu", "").split():
            count, particle = (int(word[0]), word[1:]) if word[0].isdigit() else (1, word)
            expected += count * ["pi" if particle == "h" else particle]
        assert leaves in (sorted(expected), sorted("K" if e == "h" else e for e in expected)), mode.name


def test_every_decay_is_possible() -> None:
    def check(node: Node) -> None:
        assert node.modes or node.particle.kind not in ("unstable", "system"), (
            f"{node.particle.name} does not decay"
        )
        for mode in node.modes:
            assert sum(d.low for d in mode.daughters) <= node.high
            assert sum(d.low for d in mode.daughters) <= node.low or node.particle.name == "tau"
            for daughter in mode.daughters:
                check(daughter)

    check(DECAY_TABLE.tau)


def test_prong_fractions_are_the_measured_ones() -> None:
    prongs: dict[int, float] = {}
    for fraction, mode in zip(DECAY_TABLE.tau.fractions, DECAY_TABLE.tau.modes, strict=True):
        for number, probability in _prongs(mode).items():
            prongs[number] = prongs.get(number, 0.0) + 100.0 * fraction * probability
    # PDG: 85.2 and 14.6; like there, the pions of a KS do not count.
    assert prongs[1] == pytest.approx(85.2, abs=0.2)
    assert prongs[3] == pytest.approx(14.6, abs=0.2)


def _leaves(mode: Mode) -> list[str]:
    """Names of the daughters at the end of the brackets; particles with modes of their own stay whole."""
    names: list[str] = []
    for node in mode.daughters:
        if node.modes and node.modes[0].name == "":
            names += _leaves(node.modes[0])
        else:
            names.append(node.particle.name)
    return names


def _prongs(mode: Mode) -> dict[int, float]:
    """Probability of every number of charged particles."""
    total = {0: 1.0}
    for node in mode.daughters:
        own = {1 if node.particle.name in ("pi", "K", "e", "mu") else 0: 1.0}
        if node.modes and node.particle.name not in ("K0", "KS"):
            own = {}
            for fraction, inner in zip(node.fractions, node.modes, strict=True):
                for number, probability in _prongs(inner).items():
                    own[number] = own.get(number, 0.0) + fraction * probability
        combined: dict[int, float] = {}
        for a, p in total.items():
            for b, q in own.items():
                combined[a + b] = combined.get(a + b, 0.0) + p * q
        total = combined
    return total
