"""What a simulator says to a controller, against an independent implementation of the wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ALL = (
    "observed_value",
    "error",
    "truncated_normal",
    "batch",
    "rejection",
    "shutdown",
    "missing",
    "uncontrolled",
)
Serve = Callable[..., Any]


def test_ppx_1_0_conversation(serve: Serve) -> None:
    controller = serve(
        """
        mu = ppx.sample(ppx.Normal(0.5, 2), name="mu")
        with ppx.scope("detector"):
            with ppx.scope("layer"):
                k = ppx.sample(ppx.Categorical([0.25, 0.75]), name="k", control=False)
        y = ppx.observe(ppx.Poisson(3.0), name="y")
        ppx.observe(ppx.Exponential(3.0), 1.5, name="given")
        ppx.tag(mu * 2, name="twice")
        return np.array([mu, k, y])
        """
    ).connect()
    assert controller.handshake().text[1:] == ("model",)
    for _ in range(2):  # the second time through the client's templates
        seen = controller.send("Run")
        assert seen[:4] == ("Sample", "mu", "mu", "Normal")
        assert [p.tolist() for p in seen.params] == [0.5, 2.0]
        assert seen.control
        seen = controller.send("SampleResult", 16777217.1)
        assert seen[:4] == ("Sample", "detector/layer/k", "k", "Categorical")
        assert seen.params[0].tolist() == [0.25, 0.75]
        assert not seen.control
        seen = controller.send("SampleResult", [1.0])
        assert seen[:4] == ("Observe", "y", "y", "Poisson")
        assert seen.value is None
        seen = controller.send("ObserveResult")
        assert seen[:4] == ("Observe", "given", "given", "Exponential")
        assert seen.value == 1.5
        seen = controller.send("ObserveResult")
        assert seen[:3] == ("Tag", "twice", "twice")
        assert seen.value == 2 * 16777217.1
        seen = controller.send("TagResult")
        assert seen.body == "RunResult"
        assert seen.value is not None
        np.testing.assert_array_equal(seen.value, [16777217.1, 1.0, np.nan])


def test_observed_values_come_back(serve: Serve) -> None:
    controller = serve(
        """
        y = ppx.observe(ppx.Poisson(3.0), name="y")
        assert type(y) is int
        z = ppx.observe(ppx.Normal(np.zeros(2), 1.0), np.ones(2), name="z")
        return np.concatenate([[y], z])
        """
    ).connect()
    assert controller.handshake(*ALL).text[2:] == ALL
    controller.send("Run")
    controller.send("ObserveResult", 7.0)
    assert controller.send("ObserveResult", [3.0, 4.0]).value.tolist() == [7.0, 3.0, 4.0]
    # A controller that leaves a given value alone need not send it back.
    controller.send("Run")
    controller.send("ObserveResult", 7.0)
    assert controller.send("ObserveResult").value.tolist() == [7.0, 1.0, 1.0]


def test_array_draws_broadcast_and_keep_their_shape(serve: Serve) -> None:
    controller = serve(
        """
        x = ppx.sample(ppx.Normal(np.zeros((2, 1)), [1.0, 2.0, 3.0]), name="x")
        k = ppx.sample(ppx.Categorical(np.ones((2, 4))), name="k")
        assert x.shape == (2, 3) and x.dtype == np.float64
        assert k.shape == (2,) and k.dtype == np.int64
        ppx.observe(ppx.Normal(0.0, 1.0), x[0], name="y")
        return x.sum()
        """
    ).connect()
    controller.handshake()
    seen = controller.send("Run")
    assert [p.shape for p in seen.params] == [(2, 3), (2, 3)]
    assert seen.params[1][1].tolist() == [1.0, 2.0, 3.0]
    assert controller.send("SampleResult", np.arange(6.0).reshape(2, 3)).params[0].shape == (2, 4)
    seen = controller.send("SampleResult", [3.0, 0.0])
    assert [p.shape for p in seen.params] == [(3,), (3,)]
    assert seen.value.tolist() == [0.0, 1.0, 2.0]
    assert controller.send("ObserveResult").value == 15.0


def test_truncated_normal_is_refused_by_ppx_1_0_and_sent_to_newer_controllers(serve: Serve) -> None:
    simulator = serve("return ppx.sample(ppx.TruncatedNormal(0.0, 1.0, 0.0, np.inf), name='x')")
    old = simulator.connect()
    old.handshake()
    assert old.send("Run").body == "Reset"
    new = simulator.connect()
    new.handshake("truncated_normal", "error")
    seen = new.send("Run")
    assert seen.family == "TruncatedNormal"
    assert [p.item() for p in seen.params] == [0.0, 1.0, 0.0, np.inf]
    assert new.send("SampleResult", 0.5).value == 0.5
    lacking = simulator.connect()
    lacking.handshake("error")
    seen = lacking.send("Run")
    assert seen.body == "Error"
    assert "TruncatedNormal at x" in seen.text[0]
    assert "truncated_normal" in seen.text[0]
    assert "TruncatedNormal at x" in simulator.stop()[1]


@pytest.mark.parametrize(
    ("model", "value", "words"),
    [
        ("ppx.sample(ppx.Normal(0, 1), name='x')", np.nan, "finite"),
        ("ppx.sample(ppx.Normal(0, 1), name='x')", [1.0, 2.0], "shape"),
        ("ppx.sample(ppx.Poisson(1), name='x')", 0.5, "whole"),
        ("ppx.sample(ppx.Poisson(1), name='x')", -1.0, ">= 0"),
        ("ppx.sample(ppx.Categorical([0.5, 0.5]), name='x')", 2.0, "Categorical of 2"),
        ("ppx.sample(ppx.Normal([0, 0], 1), name='x')", [[1.0, 2.0]], "shape"),
        ("ppx.sample(ppx.Normal([0, 0], 1), name='x')", None, "no value"),
    ],
)
def test_values_the_model_cannot_have_drawn_end_the_trace(
    serve: Serve, model: str, value: Any, words: str
) -> None:
    # The model catches whatever it can, and goes on: the trace is over all the same.
    controller = serve(f"try:\n    {model}\nexcept BaseException:\n    pass\nreturn 1.0").connect()
    controller.handshake(*ALL)
    assert controller.send("Run").name == "x"
    seen = controller.send("SampleResult", value)
    assert seen.body == "Error"
    assert words in seen.text[0]
    assert " x " in seen.text[0]
    assert controller.send("Run").body == "Sample"


@pytest.mark.parametrize(
    ("result", "value"),
    [("None", None), ("1", 1.0), ("2.5", 2.5), ("np.float32(0.5)", 0.5), ("[1, 2]", [1.0, 2.0])],
)
def test_results(serve: Serve, result: str, value: Any) -> None:
    controller = serve(f"return {result}").connect()
    controller.handshake()
    seen = controller.send("Run")
    assert seen.body == "RunResult"
    assert (None if seen.value is None else seen.value.tolist()) == value


@pytest.mark.parametrize("result", ["(1.0, 2.0)", "{'a': 1.0}", "'text'", "[[1], [2, 3]]", "1j"])
def test_results_that_are_no_tensor(serve: Serve, result: str) -> None:
    controller = serve(f"return {result}").connect()
    controller.handshake(*ALL)
    seen = controller.send("Run")
    assert seen.body == "Error"
    assert "the result of model is a" in seen.text[0]
    assert "tag()" in seen.text[0]
