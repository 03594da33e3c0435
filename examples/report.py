"""What the demo shows: two posteriors of one event side by side, in tables and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ppx_inference import Posterior, plots

DECAY_TABLE = Path(__file__).resolve().parents[1] / "simulators" / "tau_decay" / "decay_table.inc"
QUANTITIES = {
    "px": "$p_x$ [GeV]",
    "py": "$p_y$ [GeV]",
    "pz": "$p_z$ [GeV]",
    "visible_energy": "visible energy [GeV]",
    "leading_energy": "leading particle's energy [GeV]",
    "num_em": "electrons and photons",
}
"""What is asked of the event, besides the decay channel, with its label in figures."""
MOST_SIGMAS = 4.0
"""Monte Carlo standard deviations by which two engines may differ and still agree."""
MIN_ESS = 10.0
"""Below it two engines are not compared. It is low, because RMH reaches no more than 20 to 60 in the demo's time; at
such sizes the errors are uncertain themselves, and agreement is a weak statement."""
_CONVERGED = 1.05
"""R-hat above which the verdict says that the Markov chains have not converged."""
_MOST_CHANNELS = 5
_PUBLISHED_GRID = (20, 35, 35)
_SYMBOLS = {
    "pi0": "π⁰",
    "pi": "π",
    "nu": "ν",
    "mu": "μ",
    "K0": "K⁰",
    "gamma": "γ",
    "eta": "η",
    "omega": "ω",
    "phi": "φ",
}


class Event(NamedTuple):
    """The event to be inferred.

    Attributes:
        image: `(nz, nx, ny)` energies, GeV.
        truth: True values by name.
    """

    image: NDArray[np.float64]
    truth: Mapping[str, float]


class Row(NamedTuple):
    """One quantity as two engines see it.

    Attributes:
        label: What it is.
        truth: Its true value, in words.
        ic: Mean and standard deviation by inference compilation.
        rmh: The same by RMH.
        sigmas: Difference of the means over its Monte Carlo standard deviation.
    """

    label: str
    truth: str
    ic: tuple[float, float]
    rmh: tuple[float, float]
    sigmas: float


def channel_name(number: float) -> str:
    """The final state of a decay channel, without the tau neutrino of a hadronic one."""
    names = _channels()
    return names[int(number)] if int(number) < len(names) else f"channel {int(number)}"


def compare(ic: Posterior, rmh: Posterior, event: Event) -> list[Row]:
    """The quantities that are asked for and the most probable channels, as both engines see them."""
    rows = []
    for name, label in QUANTITIES.items():
        a, b = ic[name], rmh[name]
        pairs = (float(a.mean()), float(a.std())), (float(b.mean()), float(b.std()))
        label = name.replace("_", " ") + (" [GeV]" if "GeV" in label else "")
        sigmas = monte_carlo_sigmas(pairs[0], a.ess, pairs[1], b.ess)
        rows.append(Row(label, f"{event.truth[name]:.2f}", pairs[0], pairs[1], sigmas))
    a, b = ic["channel"], rmh["channel"]
    masses = a.probabilities(), b.probabilities()
    channels = sorted(
        masses[0].keys() | masses[1].keys(), key=lambda c: -masses[0].get(c, 0.0) - masses[1].get(c, 0.0)
    )
    for channel in channels[:_MOST_CHANNELS]:
        pairs = _probability(masses[0].get(channel, 0.0)), _probability(masses[1].get(channel, 0.0))
        truth = "true" if channel == event.truth["channel"] else ""
        sigmas = monte_carlo_sigmas(pairs[0], a.ess, pairs[1], b.ess)
        rows.append(Row(f"P({channel_name(channel)})", truth, pairs[0], pairs[1], sigmas))
    return rows


def monte_carlo_sigmas(a: tuple[float, float], ess_a: float, b: tuple[float, float], ess_b: float) -> float:
    """How far two means are apart: |mean_a - mean_b| / sqrt(sd_a^2 / ESS_a + sd_b^2 / ESS_b)."""
    ess = [max(e, 1.0) if math.isfinite(e) else 1.0 for e in (ess_a, ess_b)]
    error = math.sqrt(a[1] ** 2 / ess[0] + b[1] ** 2 / ess[1])
    difference = abs(a[0] - b[0])
    return difference / error if error > 0 else (0.0 if difference == 0 else math.inf)


def verdict(rows: Sequence[Row], ic: Posterior, rmh: Posterior) -> str:
    """Whether the two engines agree, in a sentence."""
    poor = [p.provenance.engine.replace("_", " ") for p in (ic, rmh) if not p.ess >= MIN_ESS]
    worst = max(rows, key=lambda row: row.sigmas)
    largest = f"the largest difference is {worst.sigmas:.1f} Monte Carlo standard deviations ({worst.label})"
    if poor:
        return (
            f"Too few effective samples by {' and '.join(poor)} to say whether the engines agree; {largest}."
        )
    if worst.sigmas <= MOST_SIGMAS:
        agree = f"The two engines agree within their Monte Carlo errors: {largest}."
        if rmh.r_hat is not None and rmh.r_hat > _CONVERGED:
            agree += f" The check is weak: RMH has not converged (R-hat {rmh.r_hat:.2f}, ESS {rmh.ess:.0f})."
        return agree
    return f"The two engines do not agree: {largest}. At least one has not converged."


def print_comparison(console: Console, rows: Sequence[Row], ic: Posterior, rmh: Posterior) -> None:
    """Prints the table of quantities and that of the engines."""
    table = Table(title="what the calorimeter says about the decay", title_style="bold", header_style="bold")
    for column in ("", "truth", "IC", "RMH", "difference / error"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        texts = [
            f"{mean:.3f}" if row.label.startswith("P(") else f"{mean:.2f} ± {sd:.2f}" for mean, sd in row[2:4]
        ]
        table.add_row(row.label, row.truth, *texts, f"{row.sigmas:.1f}")
    engines = Table(header_style="bold")
    for column in ("engine", "traces", "ESS", "k-hat", "R-hat", "log evidence", "traces/s", "ESS/s"):
        engines.add_column(column, justify="left" if column == "engine" else "right")
    for name, posterior in (("IC", ic), ("RMH", rmh)):
        about = posterior.provenance
        evidence = posterior.log_evidence
        engines.add_row(
            name,
            f"{about.num_executions:,}",
            f"{posterior.ess:,.0f}",
            "-" if posterior.pareto_k is None else f"{posterior.pareto_k:.2f}",
            "-" if posterior.r_hat is None else f"{posterior.r_hat:.3f}",
            "-" if evidence is None else f"{evidence:.2f} ± {posterior.log_evidence_std:.2f}",
            f"{about.traces_per_second:,.0f}",
            f"{posterior.ess / about.wall_seconds:.2f}",
        )
    console.print(table)
    console.print(engines)


def write_report(
    output: Path, rows: Sequence[Row], sentence: str, posteriors: Mapping[str, Posterior]
) -> None:
    """Writes the same as text and as JSON, `report.txt` and `report.json`."""
    with (output / "report.txt").open("w", encoding="utf-8") as file:
        console = Console(file=file, width=110)
        print_comparison(console, rows, *posteriors.values())
        console.print(sentence, soft_wrap=True)
    engines: dict[str, Any] = {
        name: {
            "num_executions": posterior.provenance.num_executions,
            "seconds": posterior.provenance.wall_seconds,
            "ess": posterior.ess,
            "pareto_k": posterior.pareto_k,
            "r_hat": posterior.r_hat,
            "log_evidence": posterior.log_evidence,
        }
        for name, posterior in posteriors.items()
    }
    document = {"rows": [row._asdict() for row in rows], "verdict": sentence, "engines": engines}
    (output / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_figures(
    output: Path,
    event: Event,
    posteriors: Mapping[str, Posterior],
    predicted: Posterior,
    history: Sequence[plots.TrainingStep],
) -> list[str]:
    """Draws everything into `output`; returns the names of the files."""
    half_width = 3.0 if event.image.shape == _PUBLISHED_GRID else 1.5
    sides = [plots.GridAxis(name, -half_width, half_width) for name in ("x", "y")]
    observed = predicted["calorimeter"].values
    momenta, others = list(QUANTITIES)[:3], list(QUANTITIES)[3:]
    figures = {
        "momentum.png": plots.marginals(posteriors, momenta, truth=event.truth, labels=QUANTITIES),
        "energies.png": plots.marginals(posteriors, others, truth=event.truth, labels=QUANTITIES),
        "channel.png": plots.probabilities(
            posteriors,
            "channel",
            categories=_channels(),
            truth=int(event.truth["channel"]),
            label="the decay channel",
        ),
        "calorimeter.png": plots.grids(
            event.image, observed, axes=[plots.GridAxis("z", 4.0, 15.0), *sides], unit="GeV"
        ),
        "training.png": plots.training(history),
    }
    for name, figure in figures.items():
        figure.savefig(output / name)
    return list(figures)


def _probability(p: float) -> tuple[float, float]:
    return p, math.sqrt(p * (1.0 - p))


def _channels() -> list[str]:
    """Names of the decay channels by their numbers; none where the table is not at hand."""
    if not DECAY_TABLE.exists():
        return []
    rows = re.findall(
        r"^tau *\|[^|]*\|([^|]*)\|([^|]*)$", DECAY_TABLE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [_symbols(name) for name, daughters in rows if daughters.strip() != "unstable"]


def _symbols(name: str) -> str:
    """`pi 2pi0` as π 2π⁰."""
    words = [re.fullmatch(r"(\d?)(.*)", word) for word in name.split()]
    return " ".join(w[1] + _SYMBOLS.get(w[2], w[2]) for w in words if w)
