"""The pure parts of the conformance kit: differences, varying parts of addresses, transitions, and the drawing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ppx_inference.conformance import wire
from ppx_inference.conformance.addresses import varying_part
from ppx_inference.conformance.checks import CHECKS
from ppx_inference.conformance.differences import briefly, first_difference
from ppx_inference.conformance.generators import imported
from ppx_inference.conformance.graph import svg
from ppx_inference.conformance.layout import arranged, layered
from ppx_inference.conformance.loops import rounds_to_try, unmarked
from ppx_inference.conformance.reasons import Fault, fault
from ppx_inference.conformance.report import END, START, address_rows, transitions
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

K = 200


def branching(ppx):
    """Some of everything: a branch, a loop, an array, an observation, a tag, a result."""
    n = int(ppx.sample("Poisson", 2.0, name="n"))
    total = 0.0 + sum(ppx.sample("Normal", float(i), 1.0, name="step") for i in range(n))
    with ppx.scope("detector"):
        hits = ppx.sample("Normal", np.array([total, 0.0]), 1.0, name="hits")
    ppx.observe("Normal", float(hits[0]), 2.0, name="y")
    ppx.tag(total, name="total")
    return total


@pytest.fixture(scope="module")
def traces(in_process) -> TraceBatch:
    return in_process(branching).execute(ScriptBatch.empty(3, np.arange(K)), None)


def changed(values: np.ndarray, position: int, value: float) -> np.ndarray:
    values = values.copy()
    values[position] = value
    return values


class TestDifferences:
    def test_the_same_traces_do_not_differ(self, traces: TraceBatch, in_process) -> None:
        again = in_process(branching).execute(ScriptBatch.empty(3, np.arange(K)), None)
        assert again.addresses is not traces.addresses
        assert first_difference(traces, again) is None

    def test_another_address(self, traces: TraceBatch) -> None:
        row = int(traces.offsets[5])
        other = int(traces.address_id[row]) + 1
        found = first_difference(traces, replace(traces, address_id=changed(traces.address_id, row, other)))
        assert found is not None
        assert (found.index, found.kind, found.before) == (5, "address", "n")
        assert "trace 5 parts at draw 1" in found.text

    def test_another_value(self, traces: TraceBatch) -> None:
        row = int(traces.offsets[7]) + 1
        found = first_difference(traces, replace(traces, value=changed(traces.value, row, 99.5)))
        assert found is not None
        assert (found.index, found.kind) == (7, "value")
        assert "99.5" in found.text

    def test_rounding_is_none(self, traces: TraceBatch) -> None:
        assert first_difference(traces, replace(traces, value=traces.value * (1 + 1e-12))) is None

    def test_other_parameters(self, traces: TraceBatch) -> None:
        params = replace(traces.params, data=traces.params.data + 0.25)
        found = first_difference(traces, replace(traces, params=params))
        assert found is not None
        assert (found.index, found.kind) == (0, "parameters")
        assert "(2)" in found.text
        assert "(2.25)" in found.text

    @pytest.mark.parametrize(
        ("table", "kind"), [("observations", "observation"), ("tags", "tag"), ("results", "result")]
    )
    def test_another_tensor(self, traces: TraceBatch, table: str, kind: str) -> None:
        old = getattr(traces, table)
        row = int(old.offsets[9])
        data = changed(old.data, int(old.data_offsets[row]), 77.0)
        found = first_difference(traces, replace(traces, **{table: replace(old, data=data)}))
        assert found is not None
        assert (found.index, found.kind) == (9, kind)

    def test_a_trace_that_fails(self, traces: TraceBatch) -> None:
        status = changed(traces.status, 4, Status.FAILED)
        again = replace(traces, status=status, failures={4: "out of luck"})
        found = first_difference(traces, again)
        assert found is not None
        assert (found.index, found.kind) == (4, "failure")
        assert "out of luck" in found.text
        assert first_difference(again, again) is None

    def test_reasons_are_cut_to_a_line(self) -> None:
        reason = "it ended with exit code 3; its last output:\n    reading\n    no table\n"
        assert briefly(reason) == "it ended with exit code 3 (no table)"
        assert briefly("") == "without a reason"
        assert len(briefly("x" * 1000)) == 300


def test_the_documentation_has_every_check_in_its_order() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    checks, parts = (
        [
            cell.strip()
            for row in table.split("\n\n")[1].splitlines()[2:]
            for cell in row.split("|")[1].split(",")
        ]
        for table in (text.split("<!-- table: checks -->")[1], text.split("<!-- table: parts -->")[1])
    )
    assert checks == [check.name for check in CHECKS]
    assert sorted(parts) == sorted(["handshake", *(part.name for part in wire.PARTS)])


class TestVaryingParts:
    def test_a_pointer(self) -> None:
        part = varying_part(["hit of 0x7f80aa10/x3", "hit of 0x7f80bb20/x3"])
        assert part is not None
        assert (part.template, part.is_pointer) == ("hit of #/x3", True)

    def test_a_counter(self) -> None:
        part = varying_part([f"x{i}" for i in range(20)])
        assert part is not None
        assert (part.template, part.is_pointer) == ("x#", False)
        assert part.examples == ("x0", "x1", "x2")

    @pytest.mark.parametrize("addresses", [["mu", "sigma"], ["x1", "x1"], ["a/x1", "b/x2"]])
    def test_addresses_that_are_not_alike(self, addresses: list[str]) -> None:
        assert varying_part(addresses) is None


class TestReport:
    def test_addresses_count_traces_and_visits(self, traces: TraceBatch) -> None:
        rows = {row.address: row for row in address_rows(traces)}
        assert (rows["n"].share, rows["n"].visits) == (1.0, 1.0)
        hits = rows["detector/hits"]
        assert (hits.shape, hits.visits) == ((2,), 1.0)  # an array draw is one draw
        assert rows["step"].share < 1.0 < rows["step"].visits
        assert [row.kind for row in rows.values()].count("draw") == 3

    def test_transitions_leave_with_probability_one(self, traces: TraceBatch) -> None:
        found = transitions(traces)
        for source in {t.source for t in found}:
            leaving = [t for t in found if t.source == source]
            assert sum(t.probability for t in leaving) == pytest.approx(1.0)
        assert sum(t.number for t in found if t.source == START) == K
        assert sum(t.number for t in found if t.target == END) == K

    def test_addresses_can_be_passed_over(self, traces: TraceBatch) -> None:
        (n,) = traces.addresses.find("n")
        assert [(t.source, t.target, t.number) for t in transitions(traces, among=[n])] == [
            (START, n, K),
            (n, END, K),
        ]


class TestDrawing:
    def test_boxes_of_a_layer_do_not_overlap_and_edges_lead_down(self) -> None:
        rng = np.random.default_rng(1)
        widths = {i: float(rng.uniform(50, 200)) for i in range(30)}
        edges = [(int(a), int(b)) for a, b in rng.integers(0, 30, (60, 2))]
        layout = layered(widths, edges, gap=10.0)
        assert set(layout.x) == set(widths)
        for row in range(layout.num_layers):
            nodes = sorted((i for i in widths if layout.layer[i] == row), key=lambda i: layout.x[i])
            for a, b in pairwise(nodes):
                assert layout.x[b] - layout.x[a] >= (widths[a] + widths[b]) / 2 + 10.0 - 1e-6
        for a, b in edges:
            if a < b:
                assert layout.layer[a] < layout.layer[b]
                assert len(layout.ways[a, b]) == 1 + layout.layer[b] - layout.layer[a]
        assert min(layout.x[i] - widths[i] / 2 for i in widths) >= -1e-6

    def test_an_order_has_little_weight_back(self) -> None:
        weights = {(0, 1): 5.0, (1, 0): 1.0, (1, 2): 3.0, (2, 3): 3.0, (3, 1): 1.0, (3, 3): 9.0}
        assert arranged([1, 0, 3, 2], weights) == [0, 1, 2, 3]

    def test_the_document_names_everything(self, traces: TraceBatch) -> None:
        root = ET.fromstring(svg(traces, "a <model> & more"))
        text = " ".join(root.itertext())
        assert f"a <model> & more: {K} traces, 3 addresses" in text
        assert all(address in text for address in ("n", "step", "detector/hits", "start", "end"))
        assert "Normal 2 · 100 %" in text

    def test_of_many_addresses_the_most_frequent_are_drawn(self, in_process) -> None:
        def model(ppx):
            kind = int(ppx.sample("Categorical", np.full(200, 0.005), name="kind"))
            ppx.sample("Normal", 0.0, 1.0, name=f"x{kind}")

        many = in_process(model).execute(ScriptBatch.empty(0, np.arange(500)), None)
        document = svg(many, "many")
        assert "of which the 60 that most traces visit" in document
        assert ">kind<" in document


def coins(ppx):
    n = 0
    while ppx.sample("Bernoulli", 0.6, name="coin"):
        n += 1
    ppx.observe("Normal", float(n), 1.0, name="y")


def walk(ppx):
    """Only the side on which it leaves matters, so single steps can often be left out."""
    x = 0.0
    while abs(x) < 2.0:
        x += ppx.sample("Normal", 0.0, 1.0, name="step")
    ppx.observe("Normal", float(np.sign(x)), 1.0, name="y")


def queue(ppx):
    """Customers who do not wait leave no trace but their time."""
    t = wait = 0.0
    while (t := t + ppx.sample("Exponential", 1.0, name="arrival")) < 5.0:
        wait = max(0.0, wait + ppx.sample("Exponential", 1.5, name="service") - 1.0)
    ppx.observe("Normal", wait, 0.5, name="y")


def counted(ppx):
    tries = 0
    while ppx.sample("Normal", 0.0, 1.0, name="x") < 0.5:
        tries += 1
    ppx.tag(float(tries), name="tries")


def steps(ppx):
    """As many as were drawn before."""
    n = int(ppx.sample("Poisson", 4.0, name="n"))
    ppx.tag(max([0.0, *(ppx.sample("Normal", 0.0, 1.0, name="x") for _ in range(n))]), name="largest")


def rejected(ppx):
    while (x := ppx.sample("Normal", 0.0, 1.0, name="x")) < 0.5:
        pass
    ppx.observe("Normal", x, 1.0, name="y")


def rejected_twice(ppx):
    """Two loops at one address: what the first accepts matters."""

    def accepted():
        while True:
            x, y = (ppx.sample("Uniform", -1.0, 1.0, name=name) for name in "xy")
            if x * x + y * y < 1.0:
                return x

    ppx.observe("Normal", accepted() + accepted(), 1.0, name="z")


def rejected_in_rounds_of_many_lengths(ppx):
    while (x := ppx.sample("Uniform", -1.0, 1.0, name="x")) < -0.5 or ppx.sample(
        "Uniform", -1.0, 1.0, name="y"
    ) > x:
        pass
    ppx.observe("Normal", x, 1.0, name="z")


class TestRejectionLoops:
    @pytest.mark.parametrize("model", [coins, walk, queue, counted, steps], ids=lambda model: model.__name__)
    def test_loops_that_do_something_are_none(self, in_process, model) -> None:
        simulator = in_process(model)
        traces = simulator.execute(ScriptBatch.empty(1, np.arange(K)), None)
        rounds = rounds_to_try(traces, 400)
        assert len(rounds) > 30
        assert unmarked(simulator, traces, rounds) == []

    @pytest.mark.parametrize(
        "model",
        [rejected, rejected_twice, rejected_in_rounds_of_many_lengths],
        ids=lambda model: model.__name__,
    )
    def test_rejection_loops_are_found(self, in_process, model) -> None:
        simulator = in_process(model)
        traces = simulator.execute(ScriptBatch.empty(1, np.arange(K)), None)
        (loop, *_) = unmarked(simulator, traces, rounds_to_try(traces, 400))
        assert traces.addresses[loop.address_id].name == "x"
        assert 2 <= loop.rejected <= loop.tried


class TestReasons:
    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("NameError: the simulator crashed in mid-trace (model.py:3 in forward)", Fault.MODEL),
            ("the simulator './a': the model failed: it broke off", Fault.MODEL),
            (
                "the simulator 'python -c\nx' crashed in mid-trace: process 3 was ended by SIGSEGV",
                Fault.CRASH,
            ),
            ("the simulator at ipc://a closed the connection in mid-trace", Fault.CRASH),
            ("the simulator './a' sent nothing for 5 s; raise `timeout`", Fault.HANG),
            ("the simulator './a' broke off: no message", Fault.PROTOCOL),
            ("", Fault.MODEL),
        ],
    )
    def test_who_is_to_blame(self, reason: str, expected: Fault) -> None:
        assert fault(reason) is expected


def test_imported_functions_are_those_that_a_program_takes_from_libraries() -> None:
    names = imported(Path("/bin/ls"))
    assert names is not None
    assert "malloc" in names
    assert imported(Path(__file__)) is None
