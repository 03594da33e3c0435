"""Arguments that several commands take: the simulator, seeds and counts, and observations from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ppx_inference.arguments import MOST_SEED
from ppx_inference.cli.console import note
from ppx_inference.progress import Progress, quiet
from ppx_inference.simulator import Simulator
from ppx_server.errors import ObservationError, StoreError
from ppx_server.observations import ObservationSet, Tensor, as_numbers
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
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="The same seed gives the same traces.")]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds a simulator may take for a trace, or between two messages.")
]
StartTimeout = Annotated[
    float | None,
    typer.Option(
        "--start-timeout",
        min=0.001,
        help="Seconds until a simulator must have started and answered; by default 30, or for a "
        "COMMAND --timeout if that is longer.",
        show_default=False,
    ),
]
Cwd = Annotated[
    Path | None,
    typer.Option(
        "--cwd",
        metavar="DIR",
        help="Folder with the files that the simulator reads by relative paths; --cwd . is where you are. Each process "
        "gets them in a working directory of its own, which is empty otherwise, and removed with it.",
        show_default=False,
    ),
]
Uncontrolled = Annotated[
    list[str] | None,
    typer.Option(
        "--uncontrolled",
        metavar="PATTERN",
        help="Leave draws to the prior whose name or whole address matches, such as 'noise*' or '*/random'; repeat it "
        "for several.",
        show_default=False,
    ),
]
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
        help="An observed value: a number, a JSON array, or @FILE (.npy, .json, .csv); nothing, NA, NaN or null is "
        "what was not measured. y[1] is the observation of that name, or else the second visit of y; "
        "@FILE.json alone holds an object of names and values. Repeat it for several.",
        show_default=False,
    ),
]
Partial = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="An observation of which not all visits are given; '*' for all. Without it a trace that makes more or "
        "fewer visits than were given has weight zero.",
        show_default=False,
    ),
]

Given = Mapping[str, Tensor | None]
"""Observations by name, as they are written on the command line."""

_MISSING = ("", "NA", "NaN", "nan", "null", "None")
_FEW_TRACES = 64
_CHECKPOINT_PARTS = (".weights-*", ".proposal.json.*", "weights-*.safetensors", "failures.jsonl")

_VISIT = re.compile(r"(.*\S)\s*\[(\d+)\]")


def open_simulator(
    command: Sequence[str] | None,
    addresses: Sequence[str] | None,
    *,
    workers: int,
    timeout: float,
    start_timeout: float | None,
    cwd: Path | None,
    uncontrolled: Sequence[str] | None = None,
) -> Simulator:
    """Starts the simulator, or connects to it.

    Raises:
        typer.BadParameter: Neither or both of command and address are given, or a folder for a running simulator.
        SimulatorStartError: It does not start or answer.
    """
    check_one_way(command, addresses, cwd)
    if command:
        return Simulator(
            command,
            num_workers=workers,
            timeout=timeout,
            start_timeout=start_timeout,
            cwd=cwd,
            uncontrolled=uncontrolled or (),
        )
    return Simulator(
        address=addresses, timeout=timeout, start_timeout=start_timeout, uncontrolled=uncontrolled or ()
    )


def check_one_way(
    command: Sequence[str] | None, addresses: Sequence[str] | None, cwd: Path | None = None
) -> None:
    """Refuses neither and both of a command and an address, and a folder for a simulator that is running already.

    Raises:
        typer.BadParameter: That is what is given.
    """
    if addresses and cwd is not None:
        raise typer.BadParameter(
            "--cwd is for processes that are started; a running simulator has its own directory"
        )
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


def parse_observations(texts: Sequence[str]) -> Given:
    """Observations as given with `--observe`, names as they are written.

    Args:
        texts: `NAME=VALUE` with a number or a JSON array, or `NAME=@FILE` with a .npy, .json or .csv file. Nothing, NA,
            NaN and null stand for what was not measured. `@FILE.json` alone holds an object of names and values.

    Raises:
        ObservationError: A text or a file cannot be understood, or a name occurs twice.
    """
    observations: dict[str, Tensor | None] = {}
    for text in texts:
        found = _from_object(Path(text[1:])) if text.startswith("@") else _named(text)
        if twice := found.keys() & observations.keys():
            raise ObservationError(f"observation {sorted(twice)[0]!r} is given twice; give it once")
        observations.update(found)
    return observations


def resolve_observations(
    observations: Given, simulator: Simulator, partial: Sequence[str] | None = None
) -> ObservationSet:
    """The set to condition on: `y[1]` is the observation of that name, or else the second visit of y.

    If there is such a name, a few prior traces are executed to see which names the simulator observes.

    Args:
        observations: As `parse_observations` gives them.
        simulator: The simulator.
        partial: Names of which not all visits are given; `*` stands for all.

    Raises:
        ObservationError: A visit is given twice, or `partial` has another name.
    """
    visits = {name: visit for name in observations if (visit := _VISIT.fullmatch(name))}
    if visits and (observed := _observed(simulator, visits)):
        visits = {name: visit for name, visit in visits.items() if name not in observed}
    keys = {name: (visit[1], int(visit[2])) for name, visit in visits.items()}
    whole = "*" in (partial or ())
    return ObservationSet(
        {keys.get(name, name): value for name, value in observations.items()},
        partial=True if whole else [keys[n][0] if n in keys else n for n in partial or ()],
    )


def _observed(simulator: Simulator, visits: Mapping[str, re.Match[str]]) -> set[str]:
    """Names that prior traces observe: of one, or of some if that says nothing of the names in question."""
    observed: set[str] = set()
    for num_traces in (1, _FEW_TRACES):
        traces = simulator.prior(num_traces)
        entries = [traces.addresses[i] for i in set(traces.observations.address_id.tolist())]
        observed = {text for entry in entries for text in (entry.name, entry.address)}
        if all(name in observed or visit[1] in observed for name, visit in visits.items()):
            break
    return observed


def _named(text: str) -> dict[str, Tensor | None]:
    """`NAME=VALUE`; a name may hold `=`, as in `rate[k=1]=3`, so the first one counts behind which there is a value."""
    starts = [i for i, character in enumerate(text) if character == "=" and text[:i].strip()]
    if not starts:
        raise ObservationError(
            f"--observe {text!r} is not NAME=VALUE, NAME=@FILE or @FILE.json; write for example y=1.5"
        )
    for start in starts:
        name, value = text[:start].strip(), text[start + 1 :].strip()
        if value.startswith("@"):
            return {name: _from_file(name, Path(value[1:]))}
        with suppress(json.JSONDecodeError):
            return {name: None if value in _MISSING else _array(name, json.loads(value))}
    name, _, value = text.partition("=")
    raise ObservationError(
        f"the value {value.strip()!r} of observation {name.strip()!r} is neither a number nor a JSON array; "
        f"a file is written as {name.strip()}=@FILE, and nothing behind {name.strip()}= is what was not measured"
    )


def _from_file(name: str, path: Path) -> Tensor | None:
    try:
        match path.suffix.lower():
            case ".npy":
                return _array(name, np.load(path, allow_pickle=False))
            case ".json":
                return _array(name, json.loads(path.read_text(encoding="utf-8")))
            case ".csv" | ".txt":
                return _from_table(name, path)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, ObservationError):
            raise
        raise ObservationError(f"cannot read observation {name!r} from {path}: {error}") from error
    raise ObservationError(
        f"observation {name!r} comes from {path}, whose kind is not known; use a .npy, .json, .csv or .txt file"
    )


def _from_table(name: str, path: Path) -> Tensor | None:
    """Numbers in rows and columns; one row or column is a vector. Empty fields and NA are what was not measured."""
    delimiter = "," if path.suffix.lower() == ".csv" else None
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        content = line.partition("#")[0].strip()
        if not content and "#" in line:
            continue
        fields = [field.strip().strip('"') for field in content.split(delimiter)] or [""]
        if fields == [""]:
            raise ObservationError(
                f"line {number} of {path} is empty; write NA for an observation {name!r} that was not measured, or "
                "remove the line"
            )
        try:
            rows.append([np.nan if field in _MISSING else float(field) for field in fields])
        except ValueError:
            header = "a header, which must be removed" if number == 1 else "no row of numbers"
            raise ObservationError(
                f"cannot read observation {name!r} from {path}: line {number}, {line[:60]!r}, is {header}; the file "
                "must hold the numbers of one observation, and NA or nothing where none was measured"
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise ObservationError(
                f"cannot read observation {name!r} from {path}: line {number} has {len(rows[-1])} fields, those before "
                f"it {len(rows[0])}"
            )
    array = np.array(rows, np.float64)
    return _array(name, array.ravel() if 1 in array.shape else array)


def _from_object(path: Path) -> dict[str, Tensor | None]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ObservationError(f"cannot read observations from {path}: {error}") from error
    if not isinstance(document, dict):
        raise ObservationError(f'{path} holds no JSON object; write {{"name": value, ...}}, or NAME=@{path}')
    return {name: _array(name, value) for name, value in document.items()}


def _array(name: str, value: object) -> Tensor | None:
    return None if value is None else as_numbers(value, f"observation {name!r}")
