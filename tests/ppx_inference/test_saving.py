"""A result is saved whole or not at all, whatever signal comes while a certain part of it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ppx_inference import Posterior
from ppx_inference.cli.application import app
from ppx_server.errors import StoreError
from ppx_server.script import ScriptBatch
from ppx_server.store import TraceStore, buffer, directory, missing

GAUSSIAN = [sys.executable, str(Path(__file__).parents[2] / "simulators" / "gaussian" / "gaussian.py")]
RUN = ["-n", "1000", "--seed", "1", "--workers", "1"]
INFER = ["posterior", *RUN, "--observe", "y0=8", "--observe", "y1=9"]

SIGNALLED = """
import os, sys
from ppx_server.store import buffer, directory
numbers = [int(n) for n in sys.argv.pop(1).split()]
buffer.SHARD_TRACES = 100
written, write = 0, directory.write_shard
def signalled(*arguments):
    global written
    result = write(*arguments)
    written += 1
    if written == 3:
        for number in numbers:
            os.kill(os.getpid(), number)
    return result
directory.write_shard = signalled
from ppx_inference.cli import main
main()
"""
"""The command line, sending itself signals when the third shard of a hundred traces is written."""


def ppx(signals: list[signal.Signals], *arguments: object) -> subprocess.CompletedProcess[str]:
    numbers = " ".join(str(int(number)) for number in signals)
    command = [sys.executable, "-c", SIGNALLED, numbers, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def show(path: Path) -> Any:
    return CliRunner().invoke(app, ["show", str(path)])


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("importance", signal.SIGINT),
        pytest.param("importance", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("rmh", signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_one_signal_waits_for_the_end(engine: str, number: signal.Signals, tmp_path: Path) -> None:
    done = ppx([number], *INFER, "-e", engine, "-o", tmp_path / "r", "--", *GAUSSIAN)
    assert done.returncode == 130
    saved = Posterior.open(tmp_path / "r")
    total = f"{len(saved):,} traces"
    assert len(saved) >= 1000
    assert not saved.provenance.interrupted
    assert f"saving {total} to {tmp_path / 'r'}; interrupt it again to give it up" in done.stderr
    assert f"interrupted: the {total} that were finished are in {tmp_path / 'r'}" in done.stderr
    assert "nothing" not in done.stderr
    assert total in done.stdout


@pytest.mark.slow
def test_a_second_signal_gives_it_up_and_leaves_nothing(tmp_path: Path) -> None:
    done = ppx(
        [signal.SIGINT, signal.SIGINT], *INFER, "-e", "importance", "-o", tmp_path / "r", "--", *GAUSSIAN
    )
    assert done.returncode == 130
    assert "1,000 traces were finished, but saving was given up; nothing is kept" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_a_part_and_gives_way(tmp_path: Path) -> None:
    result = tmp_path / "r"
    run = [*INFER, "-e", "importance", "-o", result, "--", *GAUSSIAN]
    assert ppx([signal.SIGKILL], *run).returncode == -signal.SIGKILL
    assert missing(result) == 800  # of the third shard the manifest does not know yet
    shown = show(result)
    assert shown.exit_code == 1
    assert "is a part of a posterior: 200 of 1,000 traces were written" in shown.stderr
    with pytest.raises(StoreError, match="is a part"):
        Posterior.open(result)
    again = CliRunner().invoke(app, [str(argument) for argument in run])
    assert again.exit_code == 0, again.stderr
    assert (
        f"{result} holds a part of a result (800 traces are missing), which will be replaced" in again.stderr
    )
    assert "1,000 traces" in show(result).stdout


@pytest.mark.slow
def test_prior_traces_say_how_many_are_kept(tmp_path: Path) -> None:
    store = tmp_path / "s"
    done = ppx([signal.SIGINT], "prior", *RUN, "-o", store, "--", *GAUSSIAN)
    kept = TraceStore.open(store)
    assert done.returncode == 130
    assert f"interrupted: {len(kept):,} traces are in {store}; the same command goes on" in done.stderr
    assert kept.num_missing == 0  # it is open-ended
    assert ppx([], "prior", *RUN, "-o", store, "--", *GAUSSIAN).returncode == 0
    assert len(TraceStore.open(store)) == 1000


@pytest.fixture
def posterior(in_process) -> Posterior:
    def model(ppx):
        ppx.sample("Normal", 0.0, 1.0, name="x")

    return Posterior.of_traces(in_process(model).execute(ScriptBatch.empty(1, np.arange(300)), None))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, shards: set[int]) -> None:
    """Ctrl-C when a shard of a hundred traces is written."""
    write, written = directory.write_shard, 0

    def interrupted(*arguments):
        nonlocal written
        written += 1
        if written in shards:
            os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(buffer, "SHARD_TRACES", 100)
    monkeypatch.setattr(directory, "write_shard", interrupted)


def test_the_library_raises_when_all_is_saved(
    posterior: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        posterior.save(tmp_path / "r")
    assert len(Posterior.open(tmp_path / "r")) == 300
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_given_up_leaves_the_place_as_it_was(
    posterior: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, {2, 3})
    with pytest.raises(KeyboardInterrupt):
        posterior.save(tmp_path / "r")
    assert not (tmp_path / "r").exists()
    monkeypatch.undo()
    posterior.save(tmp_path / "r")
    with pytest.raises(StoreError, match="not empty"):
        posterior.save(tmp_path / "r")


def test_a_full_disk_leaves_nothing(
    posterior: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ppx_server.store import writer

    def full(record: object, path: Path) -> None:
        if path.name.startswith("shard-000001"):
            raise OSError(28, "No space left on device")
        write(record, path)

    write = writer.write_record_batch
    monkeypatch.setattr(buffer, "SHARD_TRACES", 100)
    monkeypatch.setattr(writer, "write_record_batch", full)
    with pytest.raises(StoreError, match="No space left"):
        posterior.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_being_written_is_not_replaced(posterior: Posterior, tmp_path: Path) -> None:
    store = TraceStore.create(tmp_path / "r", metadata={"kind": "ppx posterior"}, total=300)
    with pytest.raises(StoreError, match="being written to"):
        posterior.save(tmp_path / "r")
    with pytest.raises(StoreError, match="is being written: 0 of 300 traces so far; wait"):
        Posterior.open(tmp_path / "r")
    store.close()
    posterior.save(tmp_path / "r")
    assert len(Posterior.open(tmp_path / "r")) == 300


def test_a_part_with_a_file_of_somebody_else_is_not_replaced(posterior: Posterior, tmp_path: Path) -> None:
    TraceStore.create(tmp_path / "r", total=300).close()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        posterior.save(tmp_path / "r")
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"


def test_saving_reports_progress(posterior: Posterior, tmp_path: Path) -> None:
    reports = []
    posterior.save(tmp_path / "r", progress=reports.append)
    assert (reports[-1].done, reports[-1].total) == (300, 300)
    assert reports[-1].message == f"saving to {tmp_path / 'r'}"


TRAINING = """
import os, sys
from ppx_proposals import checkpoint
numbers = [int(n) for n in sys.argv.pop(1).split()]
written, write = 0, checkpoint._write
def signalled(path, content):
    global written
    written += 1
    if written == 2:
        for number in numbers:
            os.kill(os.getpid(), number)
    write(path, content)
checkpoint._write = signalled
from ppx_inference.cli import main
main()
"""
"""Training, with signals between the weights and the file that names them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "said"),
    [
        ([signal.SIGINT], 0, "saving what was learnt to"),
        ([signal.SIGTERM], 0, "saving what was learnt to"),
        ([signal.SIGINT] * 2, 130, "interrupted: nothing is kept"),
        ([signal.SIGKILL], -9, ""),
    ],
    ids=["SIGINT", "SIGTERM", "twice", "SIGKILL"],
)
def test_a_checkpoint_is_whole_or_not_there(
    signals: list[signal.Signals], code: int, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    run = ["train", "-o", str(folder), "-n", "200", "--lstm-size", "8", "--workers", "1", "--", *GAUSSIAN]
    numbers = " ".join(str(int(n)) for n in signals)
    done = subprocess.run([sys.executable, "-c", TRAINING, numbers, *run], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    shown = show(folder)
    assert (shown.exit_code == 0) == (code == 0)
    if code:
        assert "stopped before its first checkpoint was whole" in shown.stderr
        again = CliRunner().invoke(app, run)
        assert again.exit_code == 0, again.stderr
        assert len(list(folder.iterdir())) == 2
