"""The calorimeter, in both languages: it measures the visible energy, and where it went."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tau_calorimeter import EM, HADRONIC, MAX_RESOLUTION, Z_HIGH, Z_LOW
from tau_kinematics import DECAY_TABLE

Event = dict[str, Any]


def final_state(event: Event) -> list[tuple[str, list[float]]]:
    """Particles that do not decay, in order of the decays (a depth-first walk of the vertices)."""
    vertices = list(event["vertices"])

    def walk() -> list[tuple[str, list[float]]]:
        _, *daughters = vertices.pop(0)
        found: list[tuple[str, list[float]]] = []
        for name, momentum in daughters:
            decays = DECAY_TABLE.particles[name].kind in ("unstable", "system")
            found += walk() if decays else [(name, momentum)]
        return found

    return walk()


def smeared_energies(event: Event) -> list[float]:
    """What the showers and tracks of an event should deposit, from its draws."""
    smearings = [value for address, value in event["draws"] if address.endswith("smearing")]
    energies = []
    for name, (e, _, _, z) in final_state(event):
        kind = DECAY_TABLE.particles[name].kind
        if kind == "invisible" or z <= 0.0:
            continue
        if kind == "muon":
            energies.append(2.0)
            continue
        response = EM if kind == "em" else HADRONIC
        sigma = min(MAX_RESOLUTION, math.sqrt(response.stochastic**2 / e + response.constant**2))
        energies.append(e * math.exp(sigma * smearings.pop(0) - 0.5 * sigma**2))
    assert not smearings
    return energies


def test_deposits_sum_to_the_smeared_energies_exactly(events: list[Event]) -> None:
    for event in events:
        assert sum(event["image"]) == pytest.approx(sum(smeared_energies(event)), rel=1e-12)


def test_the_calorimeter_measures_the_visible_energy(many_events: list[Event]) -> None:
    deposited = np.array([event["image"][0] for event in many_events])
    visible = np.array([event["tags"]["visible_energy"] for event in many_events])

    def bias(deposited: NDArray[np.float64]) -> float:
        """Mean of the difference in standard errors."""
        difference = deposited - visible
        return float(difference.mean() / (difference.std() / math.sqrt(len(difference))))

    assert abs(bias(deposited)) < 4.0
    assert abs(bias(1.02 * deposited)) > 4.0


def test_missing_and_visible_momentum_add_up_to_the_tau(events: list[Event]) -> None:
    for event in events:
        seen = [
            p
            for name, p in final_state(event)
            if DECAY_TABLE.particles[name].kind != "invisible" and p[3] > 0
        ]
        total = np.array(event["result"]) + np.sum([[0.0] * 4, *seen], axis=0)
        assert total == pytest.approx(event["vertices"][0][0][1], abs=1e-9)


def test_tags_describe_the_final_state(events: list[Event]) -> None:
    for event in events:
        seen = [(DECAY_TABLE.particles[n].kind, p[0]) for n, p in final_state(event) if p[3] > 0]
        seen = [(kind, e) for kind, e in seen if kind != "invisible"]
        energies = [*sorted((e for _, e in seen), reverse=True), 0.0, 0.0]
        tags = event["tags"]
        assert tags["leading_energy"] == energies[0]
        assert tags["subleading_energy"] == energies[1]
        assert tags["num_em"] == sum(kind == "em" for kind, _ in seen)
        assert tags["num_hadronic"] == sum(kind == "hadronic" for kind, _ in seen)


def centre(event: Event, shape: tuple[int, int, int], half_width: float) -> tuple[float, float, float]:
    """Mean position (z, x, y) of the deposits, from the middles of the voxels."""
    image = np.array(event["image"]).reshape(shape)
    z = Z_LOW + (Z_HIGH - Z_LOW) * (np.arange(shape[0]) + 0.5) / shape[0]
    x, y = (half_width * (2.0 * (np.arange(n) + 0.5) / n - 1.0) for n in shape[1:])
    weights = [image.sum(axis=axes) / image.sum() for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(float(w @ position) for w, position in zip(weights, (z, x, y), strict=True))  # type: ignore[return-value]


def test_showers_are_where_the_particles_go(command: list[str], run_events: Any) -> None:
    events = run_events(command, 60, 3, "--grid", "12x16x16", "--half-width", "3")
    depths: dict[str, list[float]] = {"e nu nu": [], "pi": []}
    for event in events:
        if event["channel"] in depths:
            z, x, y = centre(event, (12, 16, 16), 3.0)
            depths[event["channel"]].append(z)
            _, px, py, pz = next(p for n, p in final_state(event) if n in ("e", "pi"))
            # Beyond that, the outermost voxels, which catch what is outside, would pull.
            if max(abs(px), abs(py)) * z / pz < 2.0:
                assert x == pytest.approx(z * px / pz, abs=0.05)
                assert y == pytest.approx(z * py / pz, abs=0.05)
    # The face, plus five longitudinal widths.
    assert np.mean(depths["e nu nu"]) == pytest.approx(Z_LOW + 5 * 0.5, abs=0.1)
    assert np.mean(depths["pi"]) == pytest.approx(Z_LOW + 5 * 1.0, abs=0.1)


def test_a_muon_leaves_a_track(events: list[Event]) -> None:
    images = [np.array(e["image"]).reshape(8, 11, 11) for e in events if e["channel"] == "mu nu nu"]
    assert images
    for image in images:
        assert image.sum(axis=(1, 2)) == pytest.approx(np.full(8, 2.0 / 8))


def test_noise_has_the_stated_size(events: list[Event]) -> None:
    noise = np.concatenate([np.subtract(e["observed"], e["image"]) for e in events])
    n = len(noise)
    assert abs(noise.mean()) < 4.0 * 0.8 / math.sqrt(n)
    assert noise.std() == pytest.approx(0.8, rel=4.0 / math.sqrt(2.0 * n))


def test_noise_goes_with_the_root_of_the_voxel_volume(command: list[str], run_events: Any) -> None:
    (event,) = run_events(command, 1, 4, "--grid", "20x35x35")
    noise = np.subtract(event["observed"], event["image"])
    volume = (6.0 / 35) ** 2 / 20 / ((3.0 / 11) ** 2 / 8)
    assert len(noise) == 20 * 35 * 35
    assert noise.std() == pytest.approx(0.8 * math.sqrt(volume), rel=4.0 / math.sqrt(2.0 * len(noise)))
