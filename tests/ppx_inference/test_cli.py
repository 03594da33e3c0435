"""The command line, driven as a user drives it: against real simulators, with mistakes and interruptions."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from ppx_inference import Posterior
from ppx_inference.cli.application import app
from ppx_inference.cli.console import _broken
from ppx_inference.cli.options import parse_observations
from ppx_server.errors import ObservationError
from ppx_server.store import TraceStore
from ppx_server.trace import Status

GAUSSIAN = [sys.executable, str(Path(__file__).parents[2] / "simulators" / "gaussian" / "gaussian.py")]
OBSERVE = ["--observe", "y0=8", "--observe", "y1=9"]
EXACT_MEAN, EXACT_STD = 7.25, 0.91287
COMMANDS = [
    "check", "prior", "train", "posterior", "replay", "show",
    "cpp-flags", "c-flags", "fortran-module", "r-files", "javascript-files",
]  # fmt: skip


def ppx(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def document(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON document on stdout, which must hold nothing else."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ppx_inference.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name != ".lock"}


def stop_when(
    process: subprocess.Popen[str], ready: Callable[[], bool], number: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """Sends a signal to the process as soon as it is ready; returns its exit code, stdout and stderr."""
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], list[str]]:
    """Makes a simulator from the body of its `forward`; its command."""

    def made(body: str) -> list[str]:
        path = tmp_path / "model.py"
        text = "import random\nimport ppx_client as ppx\nruns = 0\ndef forward():\n    global runs\n    runs += 1\n"
        path.write_text(
            text + textwrap.indent(textwrap.dedent(body), "    ") + "\nppx.serve(forward, name='model')\n"
        )
        return [sys.executable, str(path)]

    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "checkpoint"
    result = ppx(
        "train",
        "-o",
        path,
        "-n",
        "1500",
        "--lstm-size",
        "16",
        "--batch-size",
        "64",
        "--json",
        "--",
        *GAUSSIAN,
    )
    found = document(result)
    assert (found["observed"], found["num_traces"], found["stopped"]) == (["y0", "y1"], 1500, "done")
    return path


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_an_example(self, command: str) -> None:
        result = ppx(command, "--help")
        assert result.exit_code == 0
        assert re.search(rf"Examples?:\s.*(ppx {command}|\(ppx {command})", result.stdout, re.DOTALL)

    def test_ppx_alone_lists_the_commands(self) -> None:
        assert all(command in ppx().output for command in COMMANDS)

    def test_the_version_is_said(self) -> None:
        assert ppx("--version").stdout == f"ppx {version('ppx')}\n"

    @pytest.mark.parametrize("command", COMMANDS[:6])
    def test_lines_are_broken_once(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        told = ppx(command, "--help").stdout.partition("Example")[0].strip().splitlines()[2:]
        paragraphs = "\n".join(line.strip() for line in told).strip().split("\n\n")
        for paragraph in paragraphs:
            assert all(len(line) > 50 for line in paragraph.splitlines()[:-1]), paragraph


class TestStarting:
    def test_a_simulator_that_reads_by_relative_paths(self, tmp_path: Path) -> None:
        (tmp_path / "sigma.dat").write_text("0.5")
        reads = [sys.executable, Path(__file__).parents[1] / "integration" / "directory_models.py", "reads"]
        without = ppx("prior", "--workers", 1, "-n", 4, "--", *reads)
        assert without.exit_code == 1
        assert "on the command line --cwd ." in without.stderr
        found = ppx("prior", "--json", "--cwd", tmp_path, "--workers", 1, "-n", 4, "--", *reads)
        assert document(found)["num_failed"] == 0
        replayed = ppx("replay", "--index", 1, "--cwd", tmp_path, "--", *reads)
        assert replayed.exit_code == 0
        assert "the simulator printed" not in replayed.output  # only where it serves, which is no news

    def test_the_start_may_take_as_long_as_it_is_given(self) -> None:
        short = ["--start-timeout", "0.2", "--timeout", "9"]
        result = ppx("check", "--json", *short, "--only", "draws", "--", "sleep", "9")
        (finding,) = document(result, exit_code=1)["checks"]
        assert "within 0.2 s" in finding["detail"]
        assert "is waited for by --start-timeout" in finding["remedy"]

    @pytest.mark.parametrize("command", ["prior", "posterior", "train", "check", "replay"])
    def test_every_command_that_starts_a_simulator_takes_both(self, command: str) -> None:
        text = ppx(command, "--help").stdout
        assert "--cwd" in text
        assert "--start-timeout" in text


class TestMistakes:
    def test_no_simulator_at_the_address(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        result = ppx("prior", "--start-timeout", "0.5", "--json", "--address", address)
        assert document(result, exit_code=1)["error"]["type"] == "SimulatorStartError"
        assert result.stderr.startswith("error:")
        assert address in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["prior"],
            ["prior", "--address", "tcp://localhost:1", "--", "true"],
            ["prior", "--address", "tcp://localhost:1", "--cwd", "."],
            ["prior", "--seed", "18446744073709551616", "--", "true"],
            ["prior", "-n", "1e3", "--", "true"],
            ["replay", "--index", "9223372036854775808", "--", "true"],
            ["replay", "--", "true"],
            ["replay", "-i", "1", "--store", "a", "--failures", "b", "--", "true"],
            ["replay", "-i", "1", "--store", "a", "--seed", "2", "--", "true"],
            ["replay", "-i", "1"],
            ["posterior", "-e", "ic", *OBSERVE, "--", "true"],
            ["posterior", "-e", "importance", "--chains", "3", *OBSERVE, "--", "true"],
            ["posterior", "-e", "nonsense", *OBSERVE, "--", "true"],
            ["train", "--", "true"],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_exits_with_2(self, arguments: list[str]) -> None:
        assert ppx(*arguments).exit_code == 2

    @pytest.mark.parametrize(
        ("observe", "message"),
        [
            ([*OBSERVE, "--observe", "typo=1"], "never observes 'typo'"),
            (["--observe", "y0=abc"], "neither a number"),
            ([], "nothing is observed"),
        ],
        ids=["unknown", "no number", "none"],
    )
    def test_wrong_observations_give_one_clear_line(self, observe: list[str], message: str) -> None:
        result = ppx("posterior", "-e", "importance", "-n", "10", *observe, "--", *GAUSSIAN)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr

    def test_what_exists_is_not_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("mine")
        for command in (["prior"], ["posterior", *OBSERVE], ["train"]):
            result = ppx(*command, "-o", tmp_path, "--", *GAUSSIAN)
            assert result.exit_code == 1
            assert "already" in result.stderr

    def test_show_says_what_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for path, said in (
            ("nothing", "there is nothing at"),
            ("file", "is a file, not a result"),
            (".", "holds no result"),
        ):
            result = ppx("show", tmp_path / path)
            assert result.exit_code == 1
            assert result.stderr.startswith("error:")
            assert said in result.stderr
            assert "Errno" not in result.stderr

    @pytest.mark.parametrize(
        ("option", "file", "said"),
        [
            ("--plot", "nowhere/p.png", "there is no folder"),
            ("--plot", "p.jpeg", "end with .png"),
            ("--csv", "nowhere/t.csv", "cannot write"),
        ],
    )
    def test_files_that_cannot_be_written(self, option: str, file: str, said: str, tmp_path: Path) -> None:
        ppx("prior", "-n", "5", "--workers", "1", "-o", tmp_path / "s", "--", *GAUSSIAN)
        result = ppx("show", tmp_path / "s", option, tmp_path / file)
        assert result.exit_code > 0
        assert said in " ".join(result.stderr.split())
        assert "Errno" not in result.stderr

    def test_a_program_that_is_a_file_of_this_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model.py").write_text("")
        (tmp_path / "sim").write_text("#!/bin/sh\n")
        (tmp_path / "data").write_text("")
        (tmp_path / "sim").chmod(0o755)
        for program, remedy in (
            ("model.py", "python model.py"),
            ("sim", "./sim"),
            ("data", "chmod"),
            ("x", "build it"),
        ):
            result = ppx("prior", "--", program)
            assert result.exit_code == 1
            assert remedy in result.stderr

    def test_a_posterior_is_no_proposal(self, tmp_path: Path) -> None:
        ppx("prior", "-n", "5", "--workers", "1", "-o", tmp_path / "s", "--", *GAUSSIAN)
        result = ppx("posterior", "--proposal", tmp_path / "s", *OBSERVE, "--", *GAUSSIAN)
        assert result.exit_code == 1
        assert "holds traces, not a proposal" in result.stderr


class TestObservations:
    def test_numbers_arrays_visits_and_files(self, tmp_path: Path) -> None:
        image = np.arange(6.0).reshape(2, 3)
        np.save(tmp_path / "image.npy", image)
        np.savetxt(tmp_path / "image.csv", image, delimiter=",")
        (tmp_path / "image.json").write_text(json.dumps(image.tolist()))
        (tmp_path / "several.json").write_text('{"a": 1, "b[2]": [1, 2]}')
        found = parse_observations(
            ["x=1.5", "v=[1, 2]", "y[1]=-2e3", f"@{tmp_path}/several.json"]
            + [f"{kind}=@{tmp_path}/image.{kind}" for kind in ("npy", "csv", "json")]
        )
        assert found["x"] == 1.5
        assert found["v"].tolist() == [1, 2]
        assert found["y[1]"] == -2000
        assert found["a"] == 1
        assert found["b[2]"].tolist() == [1, 2]
        for kind in ("npy", "csv", "json"):
            np.testing.assert_array_equal(found[kind], image)

    @pytest.mark.parametrize(
        "texts",
        [
            ["y"],
            ["=1"],
            ["y=[1, [2]]"],
            ["y=1", "y=2"],
            ["y=@/nowhere.npy"],
            ["y=@README.md"],
            ["@/nowhere.json"],
        ],
        ids=" ".join,
    )
    def test_mistakes(self, texts: list[str]) -> None:
        with pytest.raises(ObservationError):
            parse_observations(texts)

    def test_what_was_not_measured(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("1.5,,NA\n4,5,NaN\n")
        (tmp_path / "b.csv").write_text("# comment\n1\nNA\n3\n")
        (tmp_path / "c.json").write_text("[1, null, NaN]")
        np.save(tmp_path / "d.npy", [1.0, np.nan])
        (tmp_path / "e.json").write_text('{"e": null, "f": [null, 2]}')
        texts = [f"{p.stem}=@{p}" for p in sorted(tmp_path.iterdir()) if p.stem != "e"]
        found = parse_observations([*texts, f"@{tmp_path}/e.json", "g=", "h=NA", "i=null", "j=[NaN]"])
        nan = np.nan
        np.testing.assert_array_equal(found["a"], [[1.5, nan, nan], [4, 5, nan]])
        np.testing.assert_array_equal(found["b"], [1, nan, 3])
        np.testing.assert_array_equal(found["c"], [1, nan, nan])
        np.testing.assert_array_equal(found["d"], [1, nan])
        np.testing.assert_array_equal(found["f"], [nan, 2])
        np.testing.assert_array_equal(found["j"], [nan])
        assert [found[name] for name in "eghi"] == [None] * 4

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("day,count\n1,2\n", "line 1, 'day,count', is a header, which must be removed"),
            ("1\n\n3\n", "line 2 of .* is empty; write NA"),
            ("1,2\n3\n", "line 2 has 1 fields, those before it 2"),
            ("1,x\n", "line 1, '1,x', is a header"),
        ],
        ids=["header", "gap", "ragged", "text"],
    )
    def test_tables_that_are_none(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "y.csv").write_text(content)
        with pytest.raises(ObservationError, match=message):
            parse_observations([f"y=@{tmp_path}/y.csv"])

    def test_names_with_an_equals_sign(self, tmp_path: Path) -> None:
        folder = tmp_path / "a=b"
        folder.mkdir()
        np.save(folder / "y.npy", 1.0)
        found = parse_observations(["rate[k=1]=3", "x=2", f"y=@{folder}/y.npy", "z[k=2]="])
        assert found == {"rate[k=1]": 3.0, "x": 2.0, "y": 1.0, "z[k=2]": None}

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(ObservationError, match="pickle"):
            parse_observations([f"y=@{tmp_path}/bad.npy"])


class TestPrior:
    def test_summary(self) -> None:
        found = document(ppx("prior", "-n", "400", "--seed", "3", "--json", "--", *GAUSSIAN))
        mu = found["quantities"]["mu"]
        assert mu["mean"] == pytest.approx(1.0, abs=4 * 5**0.5 / 400**0.5)
        assert mu["std"] == pytest.approx(5**0.5, rel=0.2)
        assert found["traces_per_second"] > 0

    def test_the_same_command_goes_on(self, tmp_path: Path) -> None:
        for n in (70, 150, 150, 60):
            result = ppx("prior", "-n", n, "--seed", "5", "-o", tmp_path / "parts", "--", *GAUSSIAN)
            assert result.exit_code == 0, result.output
        assert "150 traces are in" in result.stderr
        ppx("prior", "-n", "150", "--seed", "5", "--workers", "1", "-o", tmp_path / "whole", "--", *GAUSSIAN)
        assert files(tmp_path / "parts") == files(tmp_path / "whole")
        assert TraceStore.open(tmp_path / "parts").read().index.tolist() == list(range(150))
        shown = document(ppx("show", tmp_path / "whole", "--json"))
        assert shown["num_traces"] == 150

    def test_another_run_is_not_mixed_in(self, model: Callable[[str], list[str]], tmp_path: Path) -> None:
        draw = 'x = ppx.sample(ppx.Normal(0, 1), name="x")'
        run = ["prior", "-n", "9", "--seed", "6", "-o", tmp_path / "s"]
        assert ppx(*run, "--", *model(draw)).exit_code == 0
        before = files(tmp_path / "s")
        other_seed = ppx(*run[:3], "--seed", "7", *run[5:], "--", *model(draw))
        other_model = ppx(*run, "--", *GAUSSIAN)
        changed_model = ppx(*run, "--", *model(draw + " * 2"))
        for result, reason in (
            (other_seed, "seed is 6 there and 7 here"),
            (other_model, "model name is 'model' there and 'gaussian' here"),
            (changed_model, "fingerprint is"),
        ):
            assert result.exit_code == 1
            assert reason in result.stderr
        assert files(tmp_path / "s") == before

    def test_a_killed_run_and_any_number_of_workers_give_the_same_bytes(self, tmp_path: Path) -> None:
        run = ["prior", "--seed", "5", "-n", "130000", "-q"]
        store = tmp_path / "killed"
        manifest = store / "manifest.json"
        for workers, mark in (
            ("1", "model_name"),
            ("2", "shard-000000"),
        ):  # before the first shard, and after it
            process = start(*run, "--workers", workers, "-o", store, "--", *GAUSSIAN)
            stop_when(
                process, lambda mark=mark: manifest.exists() and mark in manifest.read_text(), signal.SIGKILL
            )
        assert len(TraceStore.open(store)) == 65_536
        goes_on = ppx(*run, "--workers", "3", "-o", store, "--", *GAUSSIAN)
        assert goes_on.exit_code == 0
        assert "65,536 traces are in" in goes_on.stderr
        ppx(*run, "--workers", "2", "-o", tmp_path / "whole", "--", *GAUSSIAN)
        assert files(store) == files(tmp_path / "whole")
        (tmp_path / "whole" / "shard-000000.arrow").write_bytes(b"damaged")
        for damaged in (
            ["show", tmp_path / "whole"],
            ["replay", "-i", "5", "--store", tmp_path / "whole", "--", *GAUSSIAN],
        ):
            result = ppx(*damaged)
            assert result.exit_code == 1
            assert "shard-000000.arrow (traces 0 to 65535): it has 7 bytes" in result.stderr


FAILING = """
x = ppx.sample(ppx.Normal(0, 1), name="x")
ppx.tag(2 * x, name="twice")
print("the momentum is", x, flush=True)
if x > 1.5:
    raise ArithmeticError("the table of cross sections is negative")
if x < -2.5:
    import os; os.abort()
ppx.observe(ppx.Normal(x, 1), name="y")
"""


class TestFailures:
    def test_a_prior_run_goes_on_and_says_what_failed(
        self, model: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        command, store = model(FAILING), tmp_path / "s"
        result = ppx("prior", "-n", "200", "--seed", "1", "-o", store, "--", *command)
        assert result.exit_code == 0, result.output
        traces = TraceStore.open(store).read()
        failed = traces.index[traces.status == Status.FAILED].tolist()
        raised = [i for i in failed if "cross sections" in traces.failures[i]]
        assert 0 < len(raised) < len(failed) < 30
        assert f"{len(failed)} of 200 traces failed" in result.stderr
        first = rf"ArithmeticError: .* \(model.py:\d+ in forward\) \[first: seed 1, trace {raised[0]}\]"
        assert re.search(first, result.stderr)
        assert f"ppx replay --seed 1 --index {failed[0]} -- {sys.executable}" in result.stderr
        listed = [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]
        assert [(f["seed"], f["index"], f["choices"]) for f in listed] == [(1, i, []) for i in failed]

        again = ppx("replay", "--seed", "1", "-i", raised[0], "--json", "--", *command)
        found = document(again, exit_code=1)
        assert "ArithmeticError: the table of cross sections is negative" in found["error"]
        assert "the momentum is" in found["output"]
        (draw,) = found["draws"]
        assert (draw["name"], draw["visit"], draw["family"], draw["params"]) == ("x", 0, "Normal", [0, 1])
        assert draw["value"] == traces.select([raised[0]]).value[0] > 1.5
        assert found["tags"] == [{"name": "twice", "visit": 0, "value": 2 * draw["value"], "log_prob": 0}]
        assert found["observations"] == found["results"] == []

        ppx("prior", "-n", "200", "--seed", "1", "--workers", "1", "-o", tmp_path / "other", "--", *command)
        assert files(tmp_path / "other") == files(store)

        crashed = next(i for i in failed if i not in raised)
        for source in (["--seed", "1"], ["--store", store], ["--failures", store / "failures.jsonl"]):
            result = ppx("replay", *source, "-i", crashed, "--", *command)
            assert result.exit_code == 1
            assert f"trace {crashed} of seed 1 fails" in result.stderr
            assert "SIGABRT" in result.stdout
            assert re.search(r"0 .* x .* Normal\(0, 1\) .* -2\.", result.stdout)

    def test_a_trace_that_an_engine_steered_is_replayed_with_its_choices(
        self, model: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        command, result = model(FAILING.replace("x < -2.5", "False")), tmp_path / "result"
        run = ["posterior", "-e", "rmh", "-n", "2000", "--seed", "1", "--observe", "y=0.5", "-o", result]
        ran = ppx(*run, "--", *command)
        assert ran.exit_code == 0, ran.output
        listed = [json.loads(line) for line in (result / "failures.jsonl").read_text().splitlines()]
        steered = next(f for f in listed if f["choices"])
        again = [
            "replay",
            "--failures",
            result / "failures.jsonl",
            "-i",
            steered["index"],
            "--observe",
            "y=0.5",
        ]
        found = document(ppx(*again, "--json", "--", *command), exit_code=1)
        assert found["draws"][0]["chosen"] == "forced"
        assert found["draws"][0]["value"] > 1.5
        assert "cross sections" in found["error"]
        missing = ppx(*again[:3], "-i", "10000000", "--", *command)
        assert missing.exit_code == 1
        assert "holds no failed trace with index 10000000; it holds" in missing.stderr

    def test_a_posterior_says_what_failed(self, model: Callable[[str], list[str]], tmp_path: Path) -> None:
        command = model(FAILING.replace("x < -2.5", "False"))
        run = ["posterior", "-e", "importance", "-n", "300", "--seed", "1", "--observe", "y=0.5"]
        result = ppx(*run, "--json", "--", *command)
        num_failed = document(result)["num_failed"]
        assert num_failed > 0
        assert f"{num_failed} of 300 traces failed" in result.stderr
        (told,) = re.findall(r"replay one with: ppx (replay .*)", result.stderr)
        assert "--observe y=0.5" in told
        replayed = ppx(*shlex.split(told))
        assert replayed.exit_code == 1
        assert "cross sections is negative" in replayed.stderr

    def test_a_simulator_that_fails_too_often_ends_the_run(
        self, model: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        command = model(FAILING.replace("x > 1.5", "x > 0"))
        for run in (["prior", "-o", tmp_path / "s"], ["posterior", "-e", "importance", "--observe", "y=1"]):
            result = ppx(*run, "-n", "500", "--seed", "1", "--", *command)
            assert result.exit_code == 1
            assert re.search(r"cross sections is negative .*seed 1, trace \d+", result.stderr)

    def test_training_says_what_failed(self, model: Callable[[str], list[str]], tmp_path: Path) -> None:
        run = ["train", "-o", tmp_path / "c", "-n", "300", "--lstm-size", "16", "--seed", "1"]
        result = ppx(*run, "--", *model(FAILING.replace("x < -2.5", "False")))
        assert result.exit_code == 0, result.output
        assert "traces failed" in result.stderr
        assert "ppx replay --seed 1 --index" in result.stderr
        assert (tmp_path / "c" / "failures.jsonl").exists()


class TestReplay:
    def test_a_sound_trace_is_shown(self, tmp_path: Path) -> None:
        store = tmp_path / "s"
        ppx("prior", "-n", "20", "--seed", "3", "-o", store, "--", *GAUSSIAN, "--marsaglia")
        recorded = TraceStore.open(store).trace(7)
        result = ppx("replay", "--store", store, "-i", "7", "--", *GAUSSIAN, "--marsaglia")
        assert result.exit_code == 0, result.output
        assert "warning" not in result.stderr
        assert result.stdout.count("Uniform(-1, 1)") == len(recorded.value)
        found = document(ppx("replay", "--seed", "3", "-i", "7", "--json", "--", *GAUSSIAN, "--marsaglia"))
        assert [d["value"] for d in found["draws"]] == recorded.value.tolist()
        assert [o["value"] for o in found["observations"]] == recorded.observations.data.tolist()
        assert found["results"][0]["value"] == recorded.results.data[0]
        given = document(ppx("replay", "--seed", "3", "-i", "7", *OBSERVE, "--json", "--", *GAUSSIAN))
        assert [o["value"] for o in given["observations"]] == [None, None]

    def test_a_simulator_that_does_something_else_now_is_noticed(
        self, model: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        draw = 'ppx.sample(ppx.Normal(0, 1), name="x")'
        ppx("prior", "-n", "5", "-o", tmp_path / "s", "--", *model(draw))
        result = ppx(
            "replay", "--store", tmp_path / "s", "-i", "2", "--", *model(draw.replace("Normal(0", "Normal(1"))
        )
        assert result.exit_code == 0
        assert "draw 0 has params [1.0, 1.0], the recorded trace [0.0, 1.0]" in result.stderr


class TestPosterior:
    @pytest.mark.parametrize("engine", ["importance", "lmh", "rmh"])
    def test_engines_find_the_exact_posterior(self, engine: str, tmp_path: Path) -> None:
        run = [
            "posterior",
            "-e",
            engine,
            "-n",
            "3000",
            "--seed",
            "2",
            *OBSERVE,
            "-o",
            tmp_path / "result",
            "--json",
        ]
        found = document(ppx(*run, "--", *GAUSSIAN))
        mu = found["quantities"]["mu"]
        assert mu["mean"] == pytest.approx(EXACT_MEAN, abs=4 * EXACT_STD / mu["ess"] ** 0.5)
        saved = Posterior.open(tmp_path / "result")
        assert saved["mu"].mean() == pytest.approx(mu["mean"])
        shown = document(ppx("show", tmp_path / "result", "--json"))
        assert shown["quantities"] == found["quantities"]
        assert f"{mu['mean']:.4g}" in ppx("show", tmp_path / "result").stdout

    def test_inference_compilation_with_a_checkpoint(self, checkpoint: Path) -> None:
        found = document(
            ppx("posterior", "--proposal", checkpoint, "-n", "400", *OBSERVE, "--json", "--", *GAUSSIAN)
        )
        assert found["engine"] == "inference_compilation"
        mu = found["quantities"]["mu"]
        assert mu["mean"] == pytest.approx(EXACT_MEAN, abs=4 * EXACT_STD / mu["ess"] ** 0.5)

    def test_doubts_are_one_line_on_stderr(self) -> None:
        result = ppx("posterior", "-e", "importance", "-n", "50", *OBSERVE, "--", *GAUSSIAN)
        assert result.exit_code == 0
        assert "warning: importance_sampling: effective sample size" in result.stderr
        assert "warning" not in result.stdout

    def test_what_was_left_out_counts_as_not_measured_and_is_told(
        self, model: Callable[[str], list[str]], tmp_path: Path
    ) -> None:
        command = model(
            """
            x = ppx.sample(ppx.Normal(0, 1), name="x")
            if runs == 100:
                ppx.observe(ppx.Normal(x, 1), name="sometimes")
            ppx.observe(ppx.Normal(x, 1), name="y")
            """
        )
        run = ["posterior", "-e", "importance", "--workers", "1", "-n", "500", "--observe", "y=0.5"]
        result = ppx(*run, "-o", tmp_path / "result", "--", *command)
        assert result.exit_code == 0
        assert "not given, so taken as not measured: sometimes" in result.stderr
        assert Posterior.open(tmp_path / "result").weights.all()

    def test_traces_of_other_visits_are_told_and_partial_keeps_them(
        self, model: Callable[[str], list[str]]
    ) -> None:
        command = model(
            """
            x = ppx.sample(ppx.Normal(0, 1), name="x")
            for _ in range(ppx.sample(ppx.Poisson(1.0), name="n")):
                ppx.observe(ppx.Normal(x, 1), name="y")
            """
        )
        run = ["posterior", "-e", "importance", "--workers", "1", "-n", "500", "--observe", "y[0]=0.5"]
        result = ppx(*run, "--", *command)
        assert result.exit_code == 0
        assert "of 500 traces" in result.stdout
        assert "made fewer visits of 'y' than were given" in result.stdout
        partial = ppx(*run, "--partial", "y", "--", *command)
        assert partial.exit_code == 0
        assert "rule out" not in partial.stdout


UNNAMED = """
for _ in range(3):
    ppx.sample(ppx.Normal(0, 1), name="step")
x = ppx.sample(ppx.Normal(0, 1))
ppx.sample(ppx.Categorical([0.25, 0.75]), name="channel")
ppx.observe(ppx.Normal(x, 0.1), name="y")
return x
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A posterior of a model most of whose draws have no name of their own, and its simulator."""
    folder = tmp_path_factory.mktemp("tables")
    body = textwrap.indent(UNNAMED, "    ")
    (folder / "model.py").write_text(
        f"import ppx_client as ppx\ndef forward():\n{body}\nppx.serve(forward, name='gum')\n"
    )
    command = [sys.executable, str(folder / "model.py")]
    run = ["posterior", "-e", "importance", "-n", "300", "--workers", "1", "--observe", "y=0.5"]
    result = ppx(*run, "-o", folder / "r", "--csv", folder / "t.csv", "--", *command)
    assert result.exit_code == 0, result.output
    assert f"table written to {folder / 't.csv'}" in result.stderr
    return folder, command


class TestTables:
    def test_draws_without_a_name_visits_and_the_result_have_rows(
        self, saved: tuple[Path, list[str]]
    ) -> None:
        shown = ppx("show", saved[0] / "r").stdout
        for row in ("result", "step[0]", "step[2]", "model:6:9:forward"):
            assert re.search(rf"{re.escape(row)} +│ +-?\d", shown), shown
        assert re.search(r"channel +│ [01]: \d+\.\d%, [01]: \d+\.\d% +│", shown)
        one = document(ppx("show", saved[0] / "r", "--name", "step[2]", "--name", "channel", "--json"))
        assert list(one["quantities"]) == ["step[2]", "channel"]
        assert sum(one["quantities"]["channel"]["probabilities"].values()) == pytest.approx(1.0)
        assert one["quantities"]["channel"]["mean"] is None
        assert one["num_quantities"] == 6

    def test_a_csv_file_has_a_row_per_trace(self, saved: tuple[Path, list[str]]) -> None:
        folder, _ = saved
        frame, posterior = pd.read_csv(folder / "t.csv"), Posterior.open(folder / "r")
        assert len(frame) == 300
        assert (frame["weight"] * frame["result"]).sum() == pytest.approx(posterior.result.mean())
        ppx("show", folder / "r", "--csv", folder / "one.csv", "--name", "channel")
        assert list(pd.read_csv(folder / "one.csv"))[4:] == ["channel"]

    def test_a_saved_trace_is_replayed_with_its_observations(self, saved: tuple[Path, list[str]]) -> None:
        folder, command = saved
        found = document(ppx("replay", "--store", folder / "r", "-i", "5", "--json", "--", *command))
        recorded = TraceStore.open(folder / "r").trace(5)
        (y,) = found["observations"]
        assert y["value"] is None
        assert y["log_prob"] == pytest.approx(recorded.observations.log_prob[0])
        assert found["output"] == ""
        other = document(
            ppx("replay", "--store", folder / "r", "-i", "5", "--observe", "y=7", "--json", "--", *command)
        )
        assert other["observations"][0]["log_prob"] != y["log_prob"]

    def test_what_is_left_out_is_said(self, model: Callable[[str], list[str]]) -> None:
        command = model('for _ in range(100):\n    ppx.sample(ppx.Normal(0, 1), name="noise")')
        shown = ppx("prior", "-n", "5", "--workers", "1", "--", *command).stdout
        assert shown.count("noise[") == 40
        assert "and 60 more quantities: ask by --name" in shown

    def test_long_addresses_are_whole_where_there_is_no_terminal(
        self, model: Callable[[str], list[str]]
    ) -> None:
        name = "a_long_scope/" * 12 + "x"
        shown = ppx(
            "prior", "-n", "5", "--workers", "1", "--", *model(f"ppx.sample(ppx.Normal(0, 1), name={name!r})")
        )
        assert name in shown.stdout
        assert _broken("seir:18:20:draw_parameters:beta:gamma").splitlines() == [
            "seir:18:20:draw_parameters:beta:",
            "gamma",
        ]

    def test_one_of_a_thing_is_singular(self, model: Callable[[str], list[str]]) -> None:
        command = model('ppx.observe(ppx.Normal(ppx.sample(ppx.Normal(0, 1), name="x"), 1), name="y")')
        checked = ppx(
            "check", "-q", "--seconds", "1", "--only", "draws", "--only", "lengths", "--", *command
        ).stdout
        assert "1 draw per trace" in checked
        assert "always 1 draw" in checked
        assert "1 draws" not in checked
        assert ppx("prior", "-n", "1", "--workers", "1", "--", *command).stderr.startswith("1 trace in")


class TestTrain:
    def test_resume_and_show(self, checkpoint: Path, tmp_path: Path) -> None:
        found = document(
            ppx(
                "train",
                "-o",
                checkpoint,
                "-n",
                "1700",
                "--batch-size",
                "64",
                "--resume",
                "--json",
                "--",
                *GAUSSIAN,
            )
        )
        assert found["num_traces"] == 1700
        shown = ppx("show", checkpoint, "--plot", tmp_path / "training.png")
        assert "1,700 traces" in shown.stdout
        assert (tmp_path / "training.png").stat().st_size > 5000

    def test_an_observation_that_is_not_there(self, tmp_path: Path) -> None:
        result = ppx("train", "-o", tmp_path / "c", "-n", "64", "--observed", "typo", "--", *GAUSSIAN)
        assert result.exit_code == 1
        assert "typo" in result.stderr


class TestInterruption:
    def test_prior_keeps_its_store(self, model: Callable[[str], list[str]], tmp_path: Path) -> None:
        store, trigger = tmp_path / "traces", tmp_path / "runs"
        command = model(
            f"""
            if runs == 2000:
                open({str(trigger)!r}, "w").close()
            ppx.sample(ppx.Normal(0, 1), name="x")
            """
        )
        process = start("prior", "-n", "10000000", "-o", store, "--json", "--", *command)
        code, out, err = stop_when(process, trigger.exists)
        assert code == 130
        kept = TraceStore.open(store)
        assert 0 < len(kept.read()) == len(kept)
        assert f"{len(kept):,} traces" in err
        assert json.loads(out)["interrupted"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_posterior_keeps_its_traces(self, number: signal.Signals, tmp_path: Path) -> None:
        trigger = tmp_path / "runs"
        counting = f"import ppx_client as ppx, pathlib\nfile = pathlib.Path({str(trigger)!r})\nruns = 0\n"
        counting += textwrap.dedent(
            """
            def forward():
                global runs
                runs += 1
                if runs == 600:
                    file.touch()
                ppx.observe(ppx.Normal(ppx.sample(ppx.Normal(0, 1), name="x"), 1), name="y")

            ppx.serve(forward, name="counting")
            """
        )
        (tmp_path / "counting.py").write_text(counting)
        run = ["posterior", "-e", "importance", "-n", "10000000", "--workers", "1", "--observe", "y=1"]
        process = start(*run, "-o", tmp_path / "result", "--", sys.executable, tmp_path / "counting.py")
        code, out, err = stop_when(process, trigger.exists, number)
        assert code == 130
        kept = Posterior.open(tmp_path / "result")
        assert kept.provenance.interrupted
        assert f"the {len(kept):,} traces that were finished are in" in err
        assert "importance sampling" in out

    def test_training_keeps_its_checkpoint(self, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoint"
        log = tmp_path / "log"
        script = (
            "import ppx_client as ppx, pathlib\nruns = 0\ndef forward():\n    global runs\n    runs += 1\n"
        )
        script += f"    if runs == 900: pathlib.Path({str(log)!r}).touch()\n"
        script += "    ppx.observe(ppx.Normal(ppx.sample(ppx.Normal(0, 1), name='x'), 1), name='y')\n"
        script += "ppx.serve(forward, name='counting')\n"
        (tmp_path / "counting.py").write_text(script)
        sizes = ["--lstm-size", "16", "--batch-size", "32"]
        process = start(
            "train", "-o", folder, "-n", "10000000", *sizes, "--", sys.executable, tmp_path / "counting.py"
        )
        code, _, err = stop_when(process, log.exists)
        assert code == 130
        assert "go on with --resume" in err
        assert document(ppx("show", folder, "--json"))["stopped"] == "interrupted"

    def test_nothing_finished_is_said(self, tmp_path: Path) -> None:
        started = tmp_path / "started"
        process = start("posterior", "--observe", "y=1", "--", "bash", "-c", f"touch {started}; sleep 100")
        code, _, err = stop_when(process, started.exists)
        assert code == 130
        assert "nothing" in err


def test_results_go_to_stdout_and_nothing_else_does() -> None:
    run = [sys.executable, "-m", "ppx_inference.cli", "posterior", "-n", "300", *OBSERVE, "--", *GAUSSIAN]
    result = subprocess.run(
        run, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm-256color"}
    )
    assert "\x1b" not in result.stdout + result.stderr
    assert "mu" in result.stdout
    assert "/s" not in result.stderr  # no progress bar


def test_cpp_flags_compile_a_simulator(tmp_path: Path) -> None:
    result = ppx("cpp-flags")
    if result.exit_code:
        assert "apt-get install" in result.stderr
        pytest.skip("no C++ toolchain")
    (tmp_path / "simulator.cpp").write_text("#include <ppx_client.hpp>\n")
    command: Sequence[str] = ["g++", "-std=c++17", "-fsyntax-only", "simulator.cpp", *result.stdout.split()]
    subprocess.run(command, check=True, cwd=tmp_path)
