"""Arguments that several commands take: the simulator, seeds and counts, and observations from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ppx_inference.cli.console import note
from ppx_inference.progress import Progress, quiet
from ppx_inference.simulator import Simulator
from ppx_server.errors import ObservationError, StoreError
from ppx_server.store import missing, vacant

COMMAND_SETTINGS = {"allow_interspersed_args": False}
"""What follows the first word of the simulator's command belongs to it, so that `--` may be left out."""

Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[--] COMMAND...",
        help="Program and arguments that start the simulator. Options of ppx come before it.",
        show_default=False,
    ),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        metavar="tcp://HOST:PORT",
        help="A simulator that is already running, instead of COMMAND; repeat it for several.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Simulator processes to start.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same traces.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds a simulator may take between two messages.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

Csv = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a table with one row per trace: its weight and every quantity.",
        show_default=False,
    ),
]

Observe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="An observed value: a number, a JSON array, or @FILE (.npy, .json, .csv). y[1] is the second visit of y; "
        "@FILE.json alone holds an object of names and values. Repeat it for several.",
        show_default=False,
    ),
]

_CHECKPOINT_PARTS = (".weights-*", ".proposal.json.*", "weights-*.safetensors", "failures.jsonl")

_VISIT = re.compile(r"(.*\S)\s*\[(\d+)\]")


def open_simulator(
    command: Sequence[str] | None, addresses: Sequence[str] | None, *, workers: int, timeout: float
) -> Simulator:
    """Starts the simulator, or connects to it.

    Raises:
        typer.BadParameter: Neither or both of command and address are given.
        SimulatorStartError: It does not start or answer.
    """
    check_one_way(command, addresses)
    if command:
        return Simulator(command, num_workers=workers, timeout=timeout)
    return Simulator(address=addresses, timeout=timeout, start_timeout=min(timeout, 30.0))


def check_one_way(command: Sequence[str] | None, addresses: Sequence[str] | None) -> None:
    """Refuses neither and both of a command and an address.

    Raises:
        typer.BadParameter: Neither or both are given.
    """
    if bool(command) == bool(addresses):
        raise typer.BadParameter(
            "give the command that starts the simulator, as in 'ppx check -- ./tau_decay', or the address of a "
            f"running one, as in '--address tcp://localhost:5555'{'; not both' if command else ''}"
        )


def shown(is_quiet: bool) -> Progress | None:
    """The `progress` argument of engines: a bar if stderr is a terminal, or nothing."""
    return quiet if is_quiet else None


def refuse_existing(output: Path | None) -> None:
    """Looks before a long run whether its result can be written; what a killed process left gives way to it.

    Raises:
        StoreError: There is something at `output`.
    """
    if output is None:
        return
    if lacking := missing(output):
        note(f"{output} holds a part of a result ({lacking:,} traces are missing), which will be replaced")
    if not (vacant(output) or is_fragment(output)):
        raise StoreError(f"there is something at {output} already; choose another --output or remove it")


def is_fragment(checkpoint: Path) -> bool:
    """Whether a folder holds no more than what training left that was killed while it wrote its first checkpoint."""
    left = {path for pattern in _CHECKPOINT_PARTS for path in checkpoint.glob(pattern)}
    return checkpoint.is_dir() and left == set(checkpoint.iterdir())


def parse_observations(texts: Sequence[str]) -> dict[str | tuple[str, int], NDArray[np.float64]]:
    """Observations as given with `--observe`.

    Args:
        texts: `NAME=VALUE` with a number or a JSON array, or `NAME=@FILE` with a .npy, .json or .csv file; a name
            `y[1]` is the second visit of y. `@FILE.json` alone holds an object of names and values.

    Raises:
        ObservationError: A text or a file cannot be understood, or a name occurs twice.
    """
    observations: dict[str | tuple[str, int], NDArray[np.float64]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and text.startswith("@"):
            found = _from_object(Path(text[1:]))
        elif equals and name.strip():
            found = {_key(name.strip()): _value(name.strip(), value.strip())}
        else:
            raise ObservationError(
                f"--observe {text!r} is not NAME=VALUE, NAME=@FILE or @FILE.json; write for example y=1.5"
            )
        if twice := found.keys() & observations.keys():
            raise ObservationError(f"observation {sorted(map(str, twice))[0]!r} is given twice; give it once")
        observations.update(found)
    return observations


def _key(name: str) -> str | tuple[str, int]:
    visit = _VISIT.fullmatch(name)
    return (visit[1], int(visit[2])) if visit else name


def _value(name: str, text: str) -> NDArray[np.float64]:
    if text.startswith("@"):
        return _from_file(name, Path(text[1:]))
    try:
        return _array(name, json.loads(text))
    except json.JSONDecodeError:
        raise ObservationError(
            f"the value {text!r} of observation {name!r} is neither a number nor a JSON array; "
            f"a file is written as {name}=@FILE"
        ) from None


def _from_file(name: str, path: Path) -> NDArray[np.float64]:
    try:
        match path.suffix.lower():
            case ".npy":
                return _array(name, np.load(path, allow_pickle=False))
            case ".json":
                return _array(name, json.loads(path.read_text(encoding="utf-8")))
            case ".csv" | ".txt":
                delimiter = "," if path.suffix.lower() == ".csv" else None
                return _array(name, np.loadtxt(path, delimiter=delimiter, ndmin=1))
    except (OSError, EOFError, ValueError) as error:
        raise ObservationError(f"cannot read observation {name!r} from {path}: {error}") from error
    raise ObservationError(
        f"observation {name!r} comes from {path}, whose kind is not known; use a .npy, .json, .csv or .txt file"
    )


def _from_object(path: Path) -> dict[str | tuple[str, int], NDArray[np.float64]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ObservationError(f"cannot read observations from {path}: {error}") from error
    if not isinstance(document, dict):
        raise ObservationError(f'{path} holds no JSON object; write {{"name": value, ...}}, or NAME=@{path}')
    return {_key(name): _array(name, value) for name, value in document.items()}


def _array(name: str, value: object) -> NDArray[np.float64]:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ObservationError(f"observation {name!r} is not an array of numbers: {error}") from error
