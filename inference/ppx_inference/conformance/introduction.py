"""How fast the simulator is, and how it presents itself: for information."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.text import counted

_SHARE, _MOST_TRACES = 0.03, 100_000
"""Of the time for all, to measure the speed in; and what that may take of the controller's memory."""


def handshake(evidence: Evidence) -> Iterator[Finding]:
    """What it said when it was greeted."""
    simulator, milliseconds = evidence.simulator, 1000 * evidence.start_seconds
    way = "executes batches" if evidence.takes_batches else "speaks PPX 1.0, draw by draw"
    verb = "started and answered" if evidence.subject.command else "answered"
    detail = f"{simulator.model_name!r} {verb} after {milliseconds:,.0f} ms; it {way}"
    facts = {
        "milliseconds": milliseconds,
        "batches": evidence.takes_batches,
        "fingerprint": simulator.fingerprint,
    }
    if simulator.model_name:
        yield Finding("handshake", Level.PASS, detail, facts=facts)
        return
    remedy = "give the model a name: results are labelled by it"
    yield Finding("handshake", Level.WARN, detail, remedy, facts)


def speed(evidence: Evidence) -> Iterator[Finding]:
    """Prior traces per second by one simulator, and what a draw costs."""
    subject = evidence.subject
    number = min(int(_SHARE * subject.seconds / max(evidence.seconds_per_trace, 1e-9)), _MOST_TRACES)
    traces, seconds = evidence.traces, evidence.prior_seconds
    if number > len(traces):  # as many as that go to the simulator in batches of the size it likes
        started = time.perf_counter()
        traces = evidence.simulator.prior(number, seed=subject.seed)
        seconds = time.perf_counter() - started
    rate = len(traces) / max(seconds, 1e-9)
    per_trace = len(traces.value) / len(traces)
    facts = {"traces_per_second": rate, "draws_per_trace": per_trace}
    detail = f"{counted(rate, 'trace')}/s of {counted(per_trace, 'draw')}"
    if per_trace:
        facts["microseconds_per_draw"] = 1e6 / rate / per_trace
        detail += f", {facts['microseconds_per_draw']:,.3g} us per draw"
    way = "by batches" if evidence.takes_batches and not evidence.defect else "draw by draw"
    yield Finding("speed", Level.PASS, f"{detail} ({way}, one process)", facts=facts)
