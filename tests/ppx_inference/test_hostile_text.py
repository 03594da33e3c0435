"""Whatever a simulator names is text: it moves no cursor, forges no line, begins no tag, whatever the command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ppx_inference import Posterior, Simulator, TrustWarning, importance_sampling, plots
from ppx_inference.cli.application import app
from ppx_server.errors import PPXError

ESC = "\x1b]0;forged\x07\x1b[2J\x9b31m\u202e\x7f"
HOSTILE = f"a[/nope] [bold]$x$ <b>&\"' :smile:{ESC}\r\nerror: a forged line\n"
"""Of every kind: terminal, markup, mathtext, XML, emoji, bidirectional, lines."""
MODEL = f"""
import sys
import ppx_client as ppx
NAME = {HOSTILE!r}
runs = 0
def forward():
    global runs
    runs += 1
    x = ppx.sample(ppx.Normal(0, 1), name=NAME)
    ppx.sample(ppx.Normal(0, 1), name="=cmd()" + NAME)
    ppx.tag(x, name="tag" + NAME)
    if "fails" in sys.argv and x > 1.5:
        print(NAME, flush=True)
        raise ArithmeticError(NAME)
    ppx.observe(ppx.Normal(x, 1), name="y" + NAME)
    return x
ppx.serve(forward, name="model" + NAME)
"""
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> None:
    """No control character but the line feed, and no line that is not ours."""
    assert not CONTROL.search(text), CONTROL.search(text)
    assert "\nerror: a forged line" not in text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("hostile") / "model.py"
    path.write_text(MODEL)
    return [sys.executable, str(path)]


@pytest.fixture(scope="module")
def result(model: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "result"
    observe = json.dumps({f"y{HOSTILE}": 1.0})
    (path.parent / "y.json").write_text(observe)
    run = [
        "posterior",
        "-e",
        "importance",
        "-n",
        "200",
        "--workers",
        "1",
        "--observe",
        f"@{path.parent / 'y.json'}",
    ]
    done = ppx(*run, "-o", str(path), "--csv", str(path.parent / "t.csv"), "--", *model, "fails")
    assert "traces failed" in done.stderr
    clean((path.parent / "t.csv").read_text(encoding="utf-8"))
    return path


def ppx(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    clean(done.stdout)
    clean(done.stderr)
    return done


def test_names_are_shown_as_they_are(result: Path) -> None:
    shown = ppx("show", result).stdout
    assert "[/nope] [bold]$x$ <b>&\"' :smile:" in shown
    assert r"\x1b]0;forged\x07" in shown
    document = json.loads(ppx("show", result, "--json").stdout)
    assert document["model_name"].startswith("model" + HOSTILE[:20])
    assert any("[/nope]" in name for name in document["quantities"])


def test_figures_and_tables(result: Path, tmp_path: Path) -> None:
    ppx("show", result, "--plot", tmp_path / "p.svg", "--csv", tmp_path / "t.csv")
    for name in ("p.svg", "t.csv"):
        clean((tmp_path / name).read_text(encoding="utf-8"))
    ET.parse(tmp_path / "p.svg")
    header = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "\"'=cmd()" in header
    posterior = Posterior.open(result)
    name = next(n for n in posterior.names if n.startswith("a["))
    figure = plots.marginals(posterior, [name])
    assert r"\$x\$" in figure.axes[0].get_xlabel()
    figure.canvas.draw()


def test_check(model: list[str], tmp_path: Path) -> None:
    run = ["check", "-q", "--seconds", "1", "-n", "50"]
    for more in ([], ["--json"]):
        done = ppx(
            *run, *more, "--only", "draws", "--only", "speed", "--graph", tmp_path / "g.svg", "--", *model
        )
        assert "[/nope] [bold]$x$" in done.stdout
    clean((tmp_path / "g.svg").read_text(encoding="utf-8"))
    ET.parse(tmp_path / "g.svg")


def test_prior_and_replay(model: list[str], result: Path, tmp_path: Path) -> None:
    ppx("prior", "-n", 20, "--workers", 1, "--", *model)
    done = ppx("prior", "-n", 60, "--workers", 1, "-o", tmp_path / "s", "--", *model, "fails")
    assert r"\x1b]0;forged" in done.stderr
    (told,) = re.findall(r"replay one with: ppx (replay .*)", done.stderr)
    failed = ppx(*shlex.split(told), code=1)
    assert "ArithmeticError" in failed.stderr
    index = int(Posterior.open(result).traces.index[(Posterior.open(result).log_weight > -1e300)][0])
    for more in ([], ["--json"]):
        ppx("replay", "--store", result, "--index", index, *more, "--", *model, "fails")


@pytest.mark.slow
def test_train(model: list[str], tmp_path: Path) -> None:
    run = ["train", "-o", tmp_path / "c", "-n", "150", "--lstm-size", "8", "--workers", "1"]
    ppx(*run, "--", *model)
    ppx("show", tmp_path / "c")
    ppx("show", tmp_path / "c", "--json")
    ppx("show", tmp_path / "c", "--plot", tmp_path / "c.svg")
    clean((tmp_path / "c.svg").read_text(encoding="utf-8"))


def test_errors_and_warnings_of_the_library(model: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Simulator([*model, "fails"], num_workers=1) as simulator:
            posterior = importance_sampling(simulator, {f"y{HOSTILE}": 1.0}, num_traces=60)
            with pytest.raises(PPXError) as unknown:
                posterior["nothing like it"]
            with pytest.raises(PPXError) as unobserved:
                importance_sampling(simulator, {"z": 1.0}, num_traces=60)
    assert any(issubclass(w.category, TrustWarning) for w in caught)
    for text in (*(str(w.message) for w in caught), str(unknown.value), str(unobserved.value)):
        clean(text)
    clean(repr(posterior))
    clean(repr(posterior[next(iter(posterior.names))]))
    clean("\n".join(posterior.failures.values()))
    clean(simulator.model_name)


def test_output_of_a_simulator_that_dies() -> None:
    program = f"import sys; print({HOSTILE!r}, flush=True); sys.exit(3)"
    done = ppx("prior", "--", sys.executable, "-c", program, code=1)
    assert "    error: a forged line" in done.stderr


@pytest.mark.slow
def test_nothing_else_comes_out_of_a_process(result: Path) -> None:
    command = [sys.executable, "-m", "ppx_inference.cli", "show", str(result)]
    done = subprocess.run(command, capture_output=True, check=True)
    for stream in (done.stdout, done.stderr):
        clean(stream.decode())
