"""What a JavaScript simulator says to a controller, against an independent implementation of the wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ALL = ("observed_value", "error", "truncated_normal", "batch", "rejection", "shutdown")
Serve = Callable[..., Any]


def test_ppx_1_0_conversation(serve: Serve) -> None:
    simulator = serve(
        """
        const mu = await ppx.sample(ppx.Normal(0.5, 2), "mu");
        const k = await ppx.scope("detector", () => ppx.scope("layer", async () => {
          return ppx.sample(ppx.Categorical([0.25, 0.75]), "k", { control: false });
        }));
        const y = await ppx.observe(ppx.Poisson(3), "y");
        await ppx.observe(ppx.Exponential(3), "given", 1.5);
        await ppx.rejection("loop", async () => ppx.tag(mu * 2, "twice"));
        return [mu, k, y];
        """
    )
    controller = simulator.stranger()
    assert controller.handshake().text[1:] == ("model",)  # nothing that PPX 1.0 does not know
    for _ in range(2):
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
        np.testing.assert_array_equal(seen.value, [16777217.1, 1.0, np.nan])


def test_capabilities(serve: Serve) -> None:
    controller = serve(
        """
        const y = await ppx.observe(ppx.Normal([0, 1], [1, 2]), "y");
        const z = await ppx.observe(ppx.Normal(0, 1), "z", 5);
        await ppx.rejection("loop", async () => ppx.sample(ppx.Normal(0, 1), "x"));
        return [...y, z];
        """
    ).stranger()
    text = controller.handshake(*ALL).text
    assert text[1:] == ("model", "observed_value", "error", "rejection", "shutdown")
    for z in (None, 7.0):  # a controller that leaves a given value alone need not send it back
        seen = controller.send("Run")
        assert [p.tolist() for p in seen.params] == [[0.0, 1.0], [1.0, 2.0]]
        assert controller.send("ObserveResult", [3.0, 4.0]).value == 5.0
        seen = controller.send("ObserveResult", z)
        assert (*seen[:3], bool(seen.value)) == ("Rejection", "loop", "loop", True)
        assert controller.send("RejectionResult").body == "Sample"
        seen = controller.send("SampleResult", 0.0)
        assert (*seen[:3], bool(seen.value)) == ("Rejection", "loop", "loop", False)
        assert controller.send("RejectionResult").value.tolist() == [3.0, 4.0, z or 5.0]


FAMILIES = {
    "Normal": (0.5, 2.0),
    "Uniform": (-1.0, 3.0),
    "Categorical": ([0.5, 1.0, 2.5],),
    "Poisson": (4.0,),
    "Bernoulli": (0.3,),
    "Beta": (0.5, 2.0),
    "Exponential": (0.25,),
    "Gamma": (2.5, 0.5),
    "LogNormal": (0.5, 1.5),
    "Binomial": (20.0, 0.35),
    "Weibull": (2.0, 1.5),
}


def test_families(serve: Serve) -> None:
    draws = [
        f'await ppx.sample(ppx.{family}({", ".join(map(str, params))}), "x");'
        for family, params in FAMILIES.items()
    ]
    controller = serve("\n".join(draws)).connect()
    seen = controller.send("Run")
    for family, params in FAMILIES.items():
        assert seen.family == family
        assert [p.tolist() for p in seen.params] == list(params)
        seen = controller.send("SampleResult", 1.0)
    assert seen.body == "RunResult"


def test_arrays(serve: Serve) -> None:
    controller = serve(
        """
        const x = await ppx.sample(ppx.Normal([0, 0, 0], 2), "x");
        await ppx.tag(Float32Array.from(x), "x");
        await ppx.sample(ppx.Binomial(3, [0.5]), "k");
        return x;
        """
    ).connect()
    seen = controller.send("Run")
    assert [p.tolist() for p in seen.params] == [[0.0] * 3, [2.0] * 3]
    assert controller.send("SampleResult", [1.0, 2.0, 3.0]).value.tolist() == [1.0, 2.0, 3.0]
    assert [p.tolist() for p in controller.send("TagResult").params] == [[3.0], [0.5]]
    assert controller.send("SampleResult", 2.0).value.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("distribution", "value", "words"),
    [
        ("Normal(0, 1)", np.nan, "finite"),
        ("Normal(0, 1)", [1.0, 2.0], "shape"),
        ("Poisson(1)", 0.5, "whole"),
        ("Poisson(1)", -1.0, ">= 0"),
        ("Categorical([0.5, 0.5])", 2.0, "< 2"),
        ("Normal([0, 0], 1)", [[1.0, 2.0]], "shape"),
        ("Normal([0, 0], 1)", None, "no value"),
    ],
)
def test_values_the_model_cannot_have_drawn_end_the_trace(
    serve: Serve, distribution: str, value: Any, words: str
) -> None:
    # The model catches whatever it can, and goes on: the trace is over all the same.
    controller = serve(f'try {{ await ppx.sample(ppx.{distribution}, "x"); }} catch {{}}\nreturn 1;').connect(
        "error"
    )
    assert controller.send("Run").name == "x"
    seen = controller.send("SampleResult", value)
    assert seen.body == "Error"
    assert words in seen.text[0]
    assert " x " in seen.text[0]
    assert controller.send("Run").body == "Sample"


@pytest.mark.parametrize(
    ("result", "value"),
    [("undefined", None), ("null", None), ("2.5", 2.5), ("[1, 2]", [1.0, 2.0]), ("[]", [])],
)
def test_results(serve: Serve, result: str, value: Any) -> None:
    controller = serve(f"return {result};").connect()
    seen = controller.send("Run")
    assert seen.body == "RunResult"
    assert (None if seen.value is None else seen.value.tolist()) == value


ERRORS = {
    "return 'text';": "the result of the model is neither a number nor a flat array",
    "return [[1], [2]];": "the result of the model is neither a number nor a flat array",
    "await ppx.sample(ppx.Normal(0, 1));": "name = undefined: give every statement a name",
    "await ppx.sample(0.5, 'x');": "x: this is no distribution; write e.g. ppx.Normal(0, 1)",
    "ppx.Normal(0, -1);": "Normal: stddev = -1, but it must be finite and > 0",
    "ppx.Normal([0, 0], [1]);": "Normal: arrays of 2 and 1",
    "ppx.Normal(0);": "Normal takes mean and stddev",
    "ppx.Uniform(2, [3, 1]);": "Uniform: high = 1, but it must be finite and above low",
    "ppx.Categorical([0, 0]);": "Categorical: probs = 0,0, but it must be",
    "await ppx.observe(ppx.Normal(0, 1), 'y', [1]);": "the observed value at y must have the shape [] and no NaN",
}


def test_errors_of_models_say_what_and_where(serve: Serve) -> None:
    cases = "".join(f"case {i}: {code} break;\n" for i, code in enumerate(ERRORS))
    choice = 'await ppx.sample(ppx.Poisson(1), "case")'
    controller = serve(f"switch ({choice}) {{\n{cases}}}").connect("error")
    for number, (code, words) in enumerate(ERRORS.items()):
        assert controller.send("Run").name == "case"
        seen = controller.send("SampleResult", float(number))
        assert seen.body == "Error"
        assert words in seen.text[0]
        assert "return" in code or f"(model.mjs:{number + 4} in forward)" in seen.text[0]
