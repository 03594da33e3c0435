"""What commands say about traces that failed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppx_inference.cli.console import note, warn
from ppx_inference.failures import FILE, FailureReport


@dataclass(frozen=True)
class Invocation:
    """How a command was told to reach the simulator and what was observed, for the command that replays a trace."""

    command: Sequence[str] | None
    addresses: Sequence[str] | None
    observe: Sequence[str] = ()
    cwd: Path | None = None

    def replay(self, what: str) -> str:
        """The command line of `ppx replay`."""
        words = [w for text in self.observe for w in ("--observe", text)]
        words += [w for address in self.addresses or () for w in ("--address", address)]
        words += ["--cwd", str(self.cwd)] if self.cwd is not None else []
        words += ["--", *self.command] if self.command else []
        return f"ppx replay {what} {shlex.join(words)}"


def report_failures(report: FailureReport, folder: Path | None, invocation: Invocation) -> None:
    """Saves the failed traces beside the result, if there are any, and says how to replay one."""
    if not report.num_failed:
        return
    warn(report.summary())
    file = folder / FILE if folder is not None and folder.is_dir() else None
    if file is not None:
        report.save(file)
        note(f"they are listed in {file}")
    if not report.first:
        return
    first = report.first[0]
    if first.from_prior:
        what = f"--seed {first.seed} --index {first.index}"
    elif file is not None:
        what = f"--failures {shlex.quote(str(file))} --index {first.index}"
    else:
        note("with --output, what is needed to replay them is saved")
        return
    note(f"replay one with: {invocation.replay(what)}")
