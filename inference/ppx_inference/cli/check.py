"""`ppx check`: the conformance kit on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ppx_inference.cli.console import (
    FAILED,
    Interrupted,
    note,
    reported,
    show,
    show_json,
    table,
)
from ppx_inference.cli.options import (
    Addresses,
    AsJson,
    Command,
    Cwd,
    Quiet,
    Seed,
    StartTimeout,
    Timeout,
    Uncontrolled,
    check_one_way,
)
from ppx_inference.conformance.checks import CHECKS, Check, judge, unstarted
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level, Subject
from ppx_inference.conformance.graph import svg
from ppx_inference.conformance.report import AddressRow, address_rows, document, passed
from ppx_server.errors import SimulatorStartError
from ppx_server.text import counted, plain

_MARKS = {
    Level.PASS: Text("pass", "green"),
    Level.WARN: Text("WARN", "yellow"),
    Level.FAIL: Text("FAIL", "bold red"),
    Level.SKIP: Text("skip", "dim"),
}
_MOST_ROWS = 60
"""Addresses that are listed; --json has all of them."""


@reported
def check(
    command: Command = None,
    addresses: Addresses = None,
    num_traces: Annotated[
        int, typer.Option("--num-traces", "-n", min=2, help="Prior traces to draw, if time allows.")
    ] = 1600,
    seed: Seed = 0,
    timeout: Timeout = 60.0,
    start_timeout: StartTimeout = None,
    cwd: Cwd = None,
    uncontrolled: Uncontrolled = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=1.0,
            envvar="PPX_CHECK_SECONDS",
            help="How long it should take, about: slow simulators run less often.",
        ),
    ] = 15.0,
    runs: Annotated[int, typer.Option(min=1, help="Runs to look for leaks in, if time allows.")] = 10_000,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make this check only; repeat it for several.", show_default=False),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this check out; repeat it for several.", show_default=False),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Draw which random choices follow each other.", show_default=False
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is a failure.")] = False,
    list_checks: Annotated[bool, typer.Option("--list", help="Say what is checked, and do nothing.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Judges a simulator in any language: can it be steered, and are its results right?

    It is started several times, and made to run the same traces again, in other company, by batches and draw by draw,
    with values forced and observed. What is wrong comes with its remedy, and with the random choices it makes. The exit
    code is 1 if a check fails. docs/conformance.md explains every check.

    Examples:

      ppx check -- ./tau_decay --grid 8x11x11

      ppx check --graph choices.svg -- python simulators/hmm/hmm.py

      ppx check --cwd data --start-timeout 120 -- ./sim cards.dat

      ppx check --strict --json -- ./sim > report.json

      ppx check --address tcp://localhost:5555 --only "same seed" --only log_prob
    """
    checks = _chosen(only or (), skip or ())
    if list_checks:
        _list(checks)
        return
    check_one_way(command, addresses, cwd)
    if addresses and len(addresses) > 1:
        raise typer.BadParameter("one simulator is checked at a time; give one --address")
    subject = Subject(
        command or (),
        addresses[0] if addresses else "",
        seed,
        timeout,
        num_traces,
        seconds,
        runs,
        start_timeout,
        cwd,
        tuple(uncontrolled or ()),
    )
    findings: list[Finding] = []
    try:
        evidence = Evidence(subject)
    except SimulatorStartError as error:
        findings.append(unstarted(error))
        _conclude(findings, None, as_json=as_json, strict=strict, graph=None)
        return
    with evidence:
        try:
            with _progress(quiet=quiet) as say:
                for finding in judge(evidence, checks, say):
                    findings.append(finding)
        except KeyboardInterrupt:
            found = document(findings, evidence, strict=strict, complete=False)
            if not as_json:
                _show(findings, evidence)
            raise Interrupted(
                f"{len(findings)} findings are shown, the others are not known", found
            ) from None
        _conclude(findings, evidence, as_json=as_json, strict=strict, graph=graph)


def _conclude(
    findings: Sequence[Finding], evidence: Evidence | None, *, as_json: bool, strict: bool, graph: Path | None
) -> None:
    """Shows everything, and ends with the exit code that belongs to it."""
    if as_json:
        show_json(document(findings, evidence, strict=strict))
    else:
        _show(findings, evidence)
    if graph is not None and evidence is not None:
        if len(evidence.traces.value):
            graph.write_text(svg(evidence.sound, evidence.simulator.model_name), encoding="utf-8")
            note(f"wrote {graph}")
        else:
            note(f"there are no draws: {graph} is not written")
    if not passed(findings, strict=strict):
        raise typer.Exit(FAILED)


def _chosen(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """The checks to make.

    Raises:
        typer.BadParameter: A name is none of theirs.
    """
    known = [c.name for c in CHECKS]
    for name in (*only, *skip):
        if name not in known:
            raise typer.BadParameter(
                f"there is no check {name!r}; the checks are {', '.join(map(repr, known))}"
            )
    return [c for c in CHECKS if (not only or c.name in only) and c.name not in skip]


def _list(checks: Sequence[Check]) -> None:
    listing = table("checks", ["name", "what it finds out", "needs"], left=3)
    for one in checks:
        listing.add_row(one.name, one.purpose, ", ".join(one.needs))
    show(listing)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Says on a terminal what is being checked."""
    if quiet or not sys.stderr.isatty():
        yield lambda text: None
        return
    with Console(stderr=True).status("checking") as status:
        yield lambda text: status.update(Text(f"checking: {plain(text)}"))


def _show(findings: Sequence[Finding], evidence: Evidence | None) -> None:
    traces = None if evidence is None else evidence.seen
    name = "" if evidence is None else evidence.simulator.model_name
    if traces is not None:
        _show_addresses(address_rows(traces), name, len(traces))
    listing = table(f"checks of {name}" if name else "checks", ["", "check", "what was found"], left=3)
    for finding in _condensed(findings):
        text = Text(plain(finding.detail, lines=True))
        if finding.remedy:
            arrow = ("\n->", "dim" if finding.level is Level.PASS else "bold")
            text = Text.assemble(text, arrow, " ", plain(finding.remedy, lines=True))
        listing.add_row(_MARKS[finding.level], finding.check, text)
    show(listing)
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    show(", ".join(f"{n} {level}" for level, n in counts.items() if n))


def _condensed(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Findings; those of the parts of a check that passed as one, and those that were skipped for one reason."""
    together: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        together.setdefault(_row(finding), []).append(finding)
    for row, members in together.items():
        first = members[0]
        names = [f.check for f in members]
        if row[0] == Level.PASS and "/" in first.check:
            parts = ", ".join(name.partition("/")[2] for name in names)
            yield Finding(row[1], Level.PASS, f"{len(members)} parts: {parts}")
        elif len(members) > 1:
            yield Finding(f"{len(members)} checks", first.level, f"{first.detail} ({', '.join(names)})")
        else:
            yield first


def _row(finding: Finding) -> tuple[str, ...]:
    """Findings of the same row are shown as one."""
    check, slash, _ = finding.check.partition("/")
    if finding.level is Level.PASS and slash:
        return str(finding.level), check
    if finding.level is Level.SKIP:
        return str(finding.level), finding.detail
    return str(finding.level), finding.check, finding.detail


def _show_addresses(rows: Sequence[AddressRow], name: str, num_traces: int) -> None:
    listing = table(
        f"addresses of {name} in {counted(num_traces, 'trace')}",
        ["address", "name", "kind", "family", "shape", "traces", "visits per trace"],
        left=5,
    )
    for row in rows[:_MOST_ROWS]:
        shape = "x".join(map(str, row.shape))
        visits = f"{row.visits:,.0f}" if row.visits >= 100 else f"{row.visits:.3g}"
        listing.add_row(row.address, row.name, row.kind, row.family, shape, f"{row.share:.1%}", visits)
    show(listing)
    if len(rows) > _MOST_ROWS:
        show(f"and {counted(len(rows) - _MOST_ROWS, 'more address')}")
