"""What a posterior says: the table, the line of diagnostics and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppx_inference.cli.console import Table, note, number, show, table
from ppx_inference.posterior import Posterior, SummaryRow
from ppx_inference.table import write_csv
from ppx_server.text import counted

_MAX_SHOWN = 40
"""Rows of a table on the screen; all can be asked for by name."""
_MAX_CATEGORIES = 8


def posterior_document(posterior: Posterior, names: Sequence[str] = ()) -> dict[str, Any]:
    """A posterior as JSON values."""
    provenance, rows = posterior.provenance, posterior.summary(*names)
    return {
        "model_name": provenance.model_name,
        "engine": provenance.engine,
        "seed": provenance.seed,
        "observations": provenance.observations,
        "num_traces": len(posterior),
        "num_executions": provenance.num_executions,
        "num_failed": posterior.num_failed,
        "wall_seconds": provenance.wall_seconds,
        "traces_per_second": provenance.traces_per_second,
        "ess": posterior.ess,
        "pareto_k": posterior.pareto_k,
        "log_evidence": posterior.log_evidence,
        "log_evidence_std": posterior.log_evidence_std,
        "r_hat": posterior.r_hat,
        "num_chains": provenance.num_chains,
        "acceptance_rate": provenance.acceptance_rate,
        "interrupted": provenance.interrupted,
        "settings": provenance.settings,
        "doubts": posterior.doubts,
        "quantities": {row.name: _without_name(row) for row in rows},
        "num_quantities": posterior.num_quantities,
    }


def show_posterior(posterior: Posterior, names: Sequence[str] = ()) -> None:
    """Prints the diagnostics and the tables of quantities on stdout."""
    rows = posterior.summary(*names, most=None if names else _MAX_SHOWN)
    numeric = [row for row in rows if row.probabilities is None]
    categorical = [row for row in rows if row.probabilities is not None]
    title = posterior.provenance.engine.replace("_", " ")
    if numeric:
        show(_numbers(title, numeric, r_hat=posterior.provenance.num_chains > 0))
    if categorical:
        made = table(
            f"{title}: categories" if numeric else title,
            ["quantity", "probabilities", "ESS", "in traces"],
            left=2,
        )
        for row in categorical:
            made.add_row(row.name, _probabilities(row), _ess(row), f"{row.present:.1%}")
        show(made)
    if not rows:
        show(f"{title}: the traces hold no draw, tag or result")
    if (left := posterior.num_quantities - len(rows)) > 0 and not names:
        show(
            f"and {counted(left, 'more quantity')}: ask by --name (visits and elements of arrays as x[0]), or write "
            "them to a file by --csv"
        )
    show(diagnostics_line(posterior))


def write_table(posterior: Posterior, path: Path, names: Sequence[str] = ()) -> None:
    """Writes a CSV file, and says so."""
    left_out = write_csv(posterior, path, names)
    note(f"table written to {path}" + (f", without {left_out}: ask for others by --name" if left_out else ""))


def _numbers(title: str, rows: Sequence[SummaryRow], *, r_hat: bool) -> Table:
    columns = ["quantity", "mean", "sd", "5 %", "50 %", "95 %", "ESS", "in traces"]
    made = table(title, [*columns, "R-hat"] if r_hat else columns)
    for row in rows:
        numbers = [number(x) for x in (row.mean, row.std, row.q05, row.q50, row.q95)]
        more = [number(row.r_hat, 3)] if r_hat else []
        made.add_row(row.name, *numbers, _ess(row), f"{row.present:.1%}", *more)
    return made


def _ess(row: SummaryRow) -> str:
    return "-" if math.isnan(row.ess) else f"{row.ess:,.0f}"


def _probabilities(row: SummaryRow) -> str:
    """The most probable values."""
    known = sorted((row.probabilities or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    known = [pair for pair in known if pair[1] > 0]
    shown = ", ".join(f"{value:g}: {probability:.1%}" for value, probability in known[:_MAX_CATEGORIES])
    more = len(known) - _MAX_CATEGORIES
    return f"{shown}, {more} more" if more > 0 else shown or "-"


def diagnostics_line(posterior: Posterior) -> str:
    """Number of traces, how far they can be trusted, and how fast they came."""
    provenance = posterior.provenance
    parts = [counted(len(posterior), "trace")]
    if provenance.engine != "prior":
        parts.append(f"ESS {posterior.ess:,.0f}")
    if posterior.pareto_k is not None and provenance.engine != "prior":
        parts.append(f"k-hat {number(posterior.pareto_k, 2)}")
    if posterior.log_evidence is not None and provenance.engine != "prior":
        parts.append(f"log evidence {posterior.log_evidence:.3f} ± {number(posterior.log_evidence_std, 2)}")
    if posterior.r_hat is not None:
        parts.append(f"R-hat {posterior.r_hat:.3f}")
    if provenance.acceptance_rate is not None:
        parts.append(f"accepted {provenance.acceptance_rate:.0%}")
    if provenance.wall_seconds > 0:
        parts.append(f"{provenance.wall_seconds:.1f} s ({provenance.traces_per_second:,.0f} traces/s)")
    return ", ".join(parts)


def _without_name(row: SummaryRow) -> dict[str, Any]:
    without = {"name"} if row.probabilities is not None else {"name", "probabilities"}
    return {key: value for key, value in row._asdict().items() if key not in without}
