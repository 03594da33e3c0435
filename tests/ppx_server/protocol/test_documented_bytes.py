"""docs/protocol.md against the implementation: its bytes, tables and numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ppx_server.distributions import family
from ppx_server.philox import normals, uniforms
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Event,
    Handshake,
    Observation,
    Run,
    RunBatch,
    Sample,
    TensorColumns,
    WireAddress,
    WireDistribution,
    decode,
    encode,
)
from ppx_server.protocol.states import SENT_BY_CONTROLLER, TRANSITIONS, State
from ppx_server.protocol.wire import FAMILY_NAMES, MESSAGES, PARAM_NAMES, REQUIRED_CAPABILITY
from tests.ppx_server.protocol.examples import NAN, floats, ids, no_loops, no_tensors, octets, same

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
MU = WireAddress("det/mu", "mu", "Normal", ())
Y = WireAddress("det/y", "y", "Normal", ())
PRIOR = (1.0, 2.0)


def normal(x: float, mean: float, stddev: float) -> float:
    return float(family("Normal").log_prob(x, (mean, stddev)))


Z = (0.5, float(normals(42, 1, 1)[0, 0]))
VALUES = tuple(1.0 + 2.0 * z for z in Z)
DESCRIBED: dict[str, Event] = {
    "Handshake": Handshake("pps", ("error", "batch")),
    "Run": Run(),
    "Sample": Sample("det/mu", "mu", WireDistribution("Normal", PRIOR), True),
    "RunBatch": RunBatch(
        batch=1,
        seed=42,
        index=np.array([0, 1], np.uint64),
        ask=False,
        offsets=ids(0, 1, 1),
        address=ids(0),
        instance=ids(0),
        value=floats(NAN),
        z=floats(0.5),
        addresses=(MU,),
        observations_id=1,
        observations=(Observation("y", 0, 8.0),),
    ),
    "BatchResult": BatchResult(
        batch=1,
        seconds=0.001,
        status=octets(0, 0),
        offsets=ids(0, 1, 2),
        address=ids(0, 0),
        instance=ids(0, 0),
        params=ids(0, 0),
        value=floats(*VALUES),
        z=floats(*Z),
        log_prob=floats(*(normal(x, *PRIOR) for x in VALUES)),
        flags=octets(3, 1),
        params_offsets=ids(0, 2),
        params_data=floats(*PRIOR),
        observations=TensorColumns(
            ids(0, 1, 2),
            ids(1, 1),
            ids(0, 0),
            ids(0, 0, 0),
            floats(),
            floats(*(normal(8.0, x, 1.0) for x in VALUES)),
        ),
        tags=no_tensors(2),
        results=no_tensors(2),
        loops=no_loops(2),
        addresses=(MU, Y),
    ),
}


def documented_bytes() -> dict[str, bytes]:
    """The annotated dumps, by the name before them; positions must be right."""
    found = {}
    for name, block in re.findall(r"<!-- bytes: (\w+) -->\n```hex\n(.*?)```", DOCUMENT, re.S):
        data = b""
        for line in block.splitlines():
            place, octets_ = re.match(r"(\w{4})  ((?:[0-9a-f]{2} )+) *;", line).groups()
            assert int(place, 16) == len(data), line
            data += bytes.fromhex(octets_)
        found[name] = data
    return found


def table(name: str) -> list[list[str]]:
    """The rows of the table behind a comment, or below a heading that begins so."""
    text = DOCUMENT.split(name, 1)[1]
    rows = re.search(r"^\|.*?\n\n", text, re.S | re.M)[0].strip().splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_all_examples_are_described() -> None:
    assert list(documented_bytes()) == list(DESCRIBED)


@pytest.mark.parametrize("name", DESCRIBED)
def test_documented_bytes_are_read_as_described(name: str) -> None:
    event = decode(documented_bytes()[name])
    if isinstance(event, BatchResult):  # computed values may differ by rounding
        expected = DESCRIBED[name]
        for column in ("value", "z", "log_prob"):
            np.testing.assert_allclose(getattr(event, column), getattr(expected, column), rtol=1e-12)
        np.testing.assert_allclose(event.observations.log_prob, expected.observations.log_prob, rtol=1e-12)
        event = event._replace(
            value=expected.value, z=expected.z, log_prob=expected.log_prob, observations=expected.observations
        )
    assert same(event, DESCRIBED[name])


@pytest.mark.parametrize("name", DESCRIBED)
def test_documented_bytes_are_what_is_written(name: str) -> None:
    data = documented_bytes()[name]
    assert encode(decode(data)) == data


def test_documented_messages_are_those_of_the_package() -> None:
    rows = table("## 3. Messages")
    assert [(int(code), name) for code, name, *_ in rows] == [
        (i, m.__name__) for i, m in enumerate(MESSAGES, 1)
    ]
    for message, (_, name, sender, capability, fields) in zip(MESSAGES, rows, strict=True):
        assert (sender == "controller") == (message in SENT_BY_CONTROLLER)
        assert capability == REQUIRED_CAPABILITY.get(name, "")
        assert re.findall(r"\w+", fields) == list(message._fields)


def test_documented_capabilities_are_those_of_the_package() -> None:
    assert [row[0] for row in table("### Capabilities")] == list(CAPABILITIES)


def test_documented_states_are_those_of_the_package() -> None:
    documented = {(state, message): target for state, message, target in table("<!-- table: states -->")}
    ours = {
        (state.name, message.__name__): target.name
        for state, transitions in TRANSITIONS.items()
        for message, target in transitions.items()
    }
    assert documented == ours
    assert {state for state, _ in documented} == set(State.__members__) - {"ERROR"}


def test_documented_families_are_those_of_the_package() -> None:
    rows = table("### Standard coordinates")
    assert [(int(code), name) for code, name, *_ in rows] == list(enumerate(FAMILY_NAMES, 1))
    for _, name, params, *_ in rows:
        places = [re.search(rf"\b{param}\b", params) for param in PARAM_NAMES[name]]
        assert all(places)
        assert [place.start() for place in places] == sorted(place.start() for place in places)


@pytest.mark.parametrize("row", table("<!-- table: numbers -->"), ids=" ".join)
def test_documented_random_numbers(row: list[str]) -> None:
    seed, index, stream, n = map(int, row[:4])
    where = {"start": n, "stream": stream}
    assert uniforms(seed, [index], 1, **where)[0, 0] == float.fromhex(row[4])
    np.testing.assert_allclose(normals(seed, [index], 1, **where)[0, 0], float(row[5]), rtol=1e-14)


@pytest.mark.parametrize(
    "row", table("<!-- table: values -->"), ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}"
)
def test_documented_values(row: list[str]) -> None:
    kind, (params, z, value, log_prob) = family(row[0]), row[1:]
    given = tuple(map(float, params.split(",")))
    arrays = (np.array(given),) if row[0] == "Categorical" else given
    np.testing.assert_allclose(kind.from_z(float(z), arrays), float(value), rtol=1e-9)
    np.testing.assert_allclose(kind.log_prob(float(value), arrays), float(log_prob), rtol=1e-9)
