"""Patterns of names, and traces of which some draws have no rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppx_server.address import Address
from ppx_server.collecting import Collection
from ppx_server.script import ScriptBatch
from ppx_server.store import TraceStore
from ppx_server.trace import DrawFlag, TraceBatch, positions
from ppx_server.uncontrolled import Uncontrolled, escape, noise_advice, without_uncontrolled

MakeTraces = Callable[..., TraceBatch]


@pytest.mark.parametrize(
    ("pattern", "address", "name", "matches"),
    [
        ("noise", "noise", "noise", True),
        ("noise", "scope/noise", "noise", True),
        ("noise", "scope/noise", "", False),  # the whole address
        ("*/noise", "a/b/noise", "", True),
        ("nois?", "noise", "noise", True),
        ("[n-p]oise", "noise", "noise", True),
        ("[!n]oise", "noise", "noise", False),
        ("NOISE", "noise", "noise", False),
        ("noise[0]", "noise[0]", "noise[0]", False),
        ("noise[[]0]", "noise[0]", "noise[0]", True),
        ("x[", "x[", "", True),
        ("", "model:1:2:f", "", False),
    ],
)
def test_patterns_are_those_of_a_shell(pattern: str, address: str, name: str, matches: bool) -> None:
    if not pattern:
        with pytest.raises(ValueError, match="give a list of patterns"):
            Uncontrolled((pattern,))
        return
    assert Uncontrolled((pattern,)).matches(address, name) is matches


def test_an_escaped_text_matches_itself_alone() -> None:
    text = "rnorm(1, m[*]?)"
    left = Uncontrolled((escape(text),))
    assert left.matches(text, "")
    assert not left.matches("rnorm(1, m[1]x)", "")
    with pytest.raises(ValueError, match="give a list of patterns"):
        Uncontrolled("noise")  # type: ignore[arg-type]


def test_unmatched_patterns_are_told_apart() -> None:
    draws = [Address("s/x", "x", "Normal", ()), Address("model:1:2:f", "", "Uniform", ())]
    assert Uncontrolled(("x", "y", "model:*", "s/?z")).unmatched(draws) == ("y", "s/?z")


@pytest.fixture
def sparse(make_traces: MakeTraces) -> tuple[TraceBatch, TraceBatch]:
    """Traces, and the same without every third draw."""
    traces = make_traces(20)
    rng = np.random.default_rng(0)
    flags = np.where(rng.random(len(traces.value)) < 0.6, DrawFlag.CONTROLLED, 0).astype(np.uint8)
    ends = np.repeat(traces.length, np.diff(traces.loops.offsets))
    begin, end = (np.minimum(at, ends).astype(np.int32) for at in (traces.loops.begin, traces.loops.end))
    whole = replace(traces, flags=flags, loops=replace(traces.loops, begin=begin, end=end))
    return whole, without_uncontrolled(whole)


def test_rows_know_their_ordinals(sparse: tuple[TraceBatch, TraceBatch]) -> None:
    whole, left = sparse
    kept = np.flatnonzero(whole.controlled)
    np.testing.assert_array_equal(left.value, whole.value[kept])
    np.testing.assert_array_equal(left.ordinals, positions(whole.offsets)[kept])
    np.testing.assert_array_equal(left.length, [whole.controlled[a:b].sum() for a, b in spans(whole)])
    for k, (a, _) in enumerate(spans(whole)):
        loops = slice(*left.loops.offsets[k : k + 2])
        for name in ("begin", "end"):
            due = [whole.controlled[a : a + at].sum() for at in getattr(whole.loops, name)[loops]]
            np.testing.assert_array_equal(getattr(left.loops, name)[loops], due)
    forced = replace(whole, flags=np.where(whole.flags == 0, DrawFlag.FORCED, whole.flags).astype(np.uint8))
    assert without_uncontrolled(forced) is forced


def spans(traces: TraceBatch) -> list[tuple[int, int]]:
    return list(zip(traces.offsets[:-1].tolist(), traces.offsets[1:].tolist(), strict=True))


def test_ordinals_go_with_their_traces(sparse: tuple[TraceBatch, TraceBatch]) -> None:
    whole, left = sparse
    chosen = [3, 0, 7, 7]
    np.testing.assert_array_equal(
        left.select(chosen).ordinals, np.concatenate([left.ordinals[slice(*spans(left)[k])] for k in chosen])
    )
    order = [whole.select([0, 1]), left.select([2, 3]), whole.select([4])]
    due = np.concatenate([b.ordinals for b in order])
    np.testing.assert_array_equal(TraceBatch.concatenate(order).ordinals, due)
    collected = Collection(5)
    for batch in order:
        collected.append(batch)
    np.testing.assert_array_equal(collected.traces().ordinals, due)
    assert TraceBatch.concatenate([whole.select([0]), whole.select([1])]).ordinal is None


def test_stores_keep_ordinals(sparse: tuple[TraceBatch, TraceBatch], tmp_path: Path) -> None:
    whole, left = sparse
    for name, traces in (("left", left), ("whole", whole), ("same", replace(whole, ordinal=whole.ordinals))):
        with TraceStore.create(tmp_path / name) as store:
            for k in range(0, len(traces), 6):
                store.append(traces.select(np.arange(k, min(k + 6, len(traces)))))
        read = TraceStore.open(tmp_path / name).read()
        np.testing.assert_array_equal(read.ordinals, traces.ordinals)
        assert read.ordinals.dtype == np.int64
        assert (read.ordinal is None) == (name != "left")
    bytes_of = {n: next((tmp_path / n).glob("tail-*")).read_bytes() for n in ("whole", "same")}
    assert (
        bytes_of["whole"] == bytes_of["same"]
    )  # a function of the traces, and as before there were ordinals


def test_advice_names_the_address_of_the_noise(in_process: Callable[..., object]) -> None:
    def model(ppx):
        ppx.sample("Normal", 0.0, 1.0, name="x")
        for _ in range(400):
            ppx.sample("Normal", 0.0, 1.0, name="noise[t]", control=controlled)

    controlled = True
    execute = in_process(model).execute  # type: ignore[attr-defined]
    advice = noise_advice(execute(ScriptBatch.empty(0, np.arange(3)), None))
    assert "401 draws per trace" in advice
    assert "control=False" in advice
    assert "uncontrolled=['noise[[]t]']" in advice
    controlled = False
    assert noise_advice(execute(ScriptBatch.empty(0, np.arange(3)), None)) == ""
