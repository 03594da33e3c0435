"""The commands of `ppx`, put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from ppx_inference.cli.c_flags import c_flags
from ppx_inference.cli.check import check
from ppx_inference.cli.console import show as show_text
from ppx_inference.cli.cpp_flags import cpp_flags
from ppx_inference.cli.options import COMMAND_SETTINGS
from ppx_inference.cli.posterior import posterior
from ppx_inference.cli.prior import prior
from ppx_inference.cli.replay import replay
from ppx_inference.cli.show import show
from ppx_inference.cli.train import train

app = typer.Typer(
    name="ppx",
    help="Bayesian inference over every random choice of a simulator, in its own process and language.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _help(command: Callable[..., None]) -> str:
    """The docstring with a line per paragraph, so that lines are broken once, where the terminal ends."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(p.replace("\n", " ") for p in paragraphs)


for _command in (check, prior, train, posterior, replay):
    app.command(help=_help(_command), context_settings=COMMAND_SETTINGS)(_command)
app.command(help=_help(show))(show)
app.command("cpp-flags")(cpp_flags)
app.command("c-flags")(c_flags)


def _version(*, asked: bool) -> None:
    if asked:
        show_text(f"ppx {version('ppx')}")
        raise typer.Exit


@app.callback()
def _ppx(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _version(asked=asked),
            is_eager=True,
            help="Say which version this is.",
        ),
    ] = False,
) -> None:
    """Bayesian inference over every random choice of a simulator, in its own process and language."""


def main() -> None:
    """Runs the command line."""
    app(prog_name="ppx")
