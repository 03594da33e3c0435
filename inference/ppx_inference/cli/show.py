"""`ppx show`: what a saved result says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppx_inference.cli.console import note, reported, show_json, warn
from ppx_inference.cli.console import show as show_text
from ppx_inference.cli.options import AsJson, Csv, is_fragment
from ppx_inference.cli.summary import posterior_document, show_posterior, write_table
from ppx_inference.posterior import Posterior
from ppx_server.errors import StoreError
from ppx_server.store import TraceStore
from ppx_server.store.manifest import MANIFEST

_FIGURES = (".png", ".pdf", ".svg")


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
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Shows a saved posterior, prior traces or a trained proposal; --plot draws it, --csv writes its traces as a table.

    Examples:

      ppx show result

      ppx show result --name px --name py --plot marginals.pdf

      ppx show result --csv result.csv

      ppx show checkpoint --plot training.png
    """
    if plot is not None:
        _check_figure(plot)
    if (result / "proposal.json").exists():
        if csv is not None:
            raise typer.BadParameter(
                f"{result} is a trained proposal, which holds no traces; leave --csv out"
            )
        _show_proposal(result, plot, as_json=as_json)
        return
    posterior = _open(result)
    wanted = names or []
    if plot is not None:
        from ppx_inference import plots

        scalars = [element.name for name in wanted for element in posterior.quantity(name).elements()]
        plots.marginals({posterior.provenance.engine.replace("_", " "): posterior}, scalars).savefig(plot)
        note(f"figure written to {plot}")
    if csv is not None:
        write_table(posterior, csv, wanted)
    if as_json:
        show_json(posterior_document(posterior, wanted))
        return
    show_posterior(posterior, wanted)
    for doubt in posterior.doubts if posterior.provenance.engine != "prior" else ():
        warn(doubt)


def _open(path: Path) -> Posterior:
    if not path.exists():
        raise StoreError(f"there is nothing at {path}; give the folder that --output of ppx named")
    if not path.is_dir():
        raise StoreError(f"{path} is a file, not a result; give the folder that --output of ppx named")
    if not (path / MANIFEST).exists():
        what = (
            "training was stopped before its first checkpoint was whole"
            if is_fragment(path)
            else "no result of ppx"
        )
        raise StoreError(
            f"the folder {path} holds no result ({what}): neither {MANIFEST} nor proposal.json is there"
        )
    store = TraceStore.open(path)
    if store.metadata.get("kind") != "ppx prior":
        return Posterior.open(path)
    if not len(store):
        raise StoreError(f"{path} holds no trace yet; fill it with ppx prior")
    return Posterior.of_traces(store.read())


def _check_figure(path: Path) -> None:
    """Raises typer.BadParameter if no figure can be written there."""
    if path.suffix.lower() not in _FIGURES:
        raise typer.BadParameter(f"--plot {path} is no figure; let its name end with {', '.join(_FIGURES)}")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"--plot {path}: there is no folder {path.absolute().parent}; make it first")


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
