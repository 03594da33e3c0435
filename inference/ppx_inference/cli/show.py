"""`ppx show`: what a saved result says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppx_inference.cli.console import note, reported, show_json, warn
from ppx_inference.cli.console import show as show_text
from ppx_inference.cli.options import AsJson
from ppx_inference.cli.summary import posterior_document, show_posterior
from ppx_inference.posterior import Posterior
from ppx_server.errors import StoreError
from ppx_server.store import TraceStore


@reported
def show(
    result: Annotated[
        Path,
        typer.Argument(help="What ppx posterior, ppx prior or ppx train wrote.", show_default=False),
    ],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="Only this quantity; repeat it for several.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a figure (.png, .pdf or .svg).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a saved posterior, prior traces or a trained proposal; --plot draws it.

    Examples:

      ppx show result

      ppx show result --name px --name py --plot marginals.pdf

      ppx show checkpoint --plot training.png
    """
    if (result / "proposal.json").exists():
        _show_proposal(result, plot, as_json=as_json)
        return
    posterior = _open(result)
    wanted = names or []
    if plot is not None:
        from ppx_inference import plots

        plots.marginals({posterior.provenance.engine.replace("_", " "): posterior}, wanted).savefig(plot)
        note(f"figure written to {plot}")
    if as_json:
        show_json(posterior_document(posterior, wanted))
        return
    show_posterior(posterior, wanted)
    for doubt in posterior.doubts if posterior.provenance.engine != "prior" else ():
        warn(doubt)


def _open(path: Path) -> Posterior:
    store = TraceStore.open(path)
    if store.metadata.get("kind") != "ppx prior":
        return Posterior.open(path)
    if not len(store):
        raise StoreError(f"{path} holds no trace yet; fill it with ppx prior")
    return Posterior.of_traces(store.read())


def _show_proposal(path: Path, plot: Path | None, *, as_json: bool) -> None:
    from ppx_inference.cli.train import proposal_document, proposal_line
    from ppx_inference.compilation import Proposal

    proposal = Proposal.load(path, device="cpu")
    if plot is not None:
        from ppx_inference import plots

        plots.training(proposal.history).savefig(plot)
        note(f"figure written to {plot}")
    if as_json:
        show_json(proposal_document(proposal))
    else:
        show_text(proposal_line(proposal))
