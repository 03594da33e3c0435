"""What a posterior says: the table, the line of diagnostics and the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppx_inference.cli.console import number, show, table
from ppx_inference.posterior import Posterior, SummaryRow
from ppx_inference.ruled_out import explain
from ppx_server.completeness import mismatches

_MAX_SHOWN = 40
"""Rows of a table on the screen; all are in the JSON document, and can be asked for by name."""


def posterior_document(posterior: Posterior, names: Sequence[str] = ()) -> dict[str, Any]:
    """A posterior as JSON values."""
    provenance = posterior.provenance
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
        "quantities": {row.name: _without_name(row) for row in posterior.summary(*names)},
    }


def show_posterior(posterior: Posterior, names: Sequence[str] = ()) -> None:
    """Prints the diagnostics and the table of quantities on stdout."""
    rows = posterior.summary(*names)
    title = posterior.provenance.engine.replace("_", " ")
    columns = ["quantity", "mean", "sd", "5 %", "50 %", "95 %", "ESS", "in traces"]
    chains = posterior.provenance.num_chains > 0
    made = table(title, [*columns, "R-hat"] if chains else columns)
    for row in rows[: len(names) or _MAX_SHOWN]:
        numbers = [number(x) for x in (row.mean, row.std, row.q05, row.q50, row.q95)]
        r_hat = [number(row.r_hat, 3)] if chains else []
        made.add_row(row.name, *numbers, f"{row.ess:,.0f}", f"{row.present:.1%}", *r_hat)
    show(made)
    if len(rows) > _MAX_SHOWN and not names:
        show(f"and {len(rows) - _MAX_SHOWN} more; ask for them by name")
    show(diagnostics_line(posterior))
    if len(mismatches(posterior.traces)) and (text := explain(posterior.traces)) not in posterior.doubts:
        show(text)


def diagnostics_line(posterior: Posterior) -> str:
    """Number of traces, how far they can be trusted, and how fast they came."""
    provenance = posterior.provenance
    parts = [f"{len(posterior):,} traces"]
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
    return {key: value for key, value in row._asdict().items() if key != "name"}
