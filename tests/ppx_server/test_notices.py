"""What the client library says of a model on the output of its process, collected by the controller."""

from __future__ import annotations

import sys

from ppx_inference import Simulator
from ppx_server.notices import Notices


def texts(*pieces: bytes) -> list[str]:
    notices = Notices()
    for piece in pieces:
        notices.feed(piece)
    return notices.texts


def test_lines_that_come_in_pieces_are_put_together() -> None:
    assert texts(b"model.py:3: ModelWarning: pp", b"x: drawn on a thread\n  x = draw()\n") == [
        "drawn on a thread"
    ]


def test_each_is_kept_once_and_not_very_many() -> None:
    assert texts(b"ppx: one\nppx: two\nppx: one\n") == ["one", "two"]
    assert len(texts(b"".join(b"ppx: notice %d\n" % i for i in range(100)))) == 20


def test_other_output_is_none() -> None:
    assert texts(b"ppx: serving PPX at ipc:///tmp/a\nmyppx: 3\nan unfinished ppx: line", b"x" * 10_000) == []


def test_a_simulator_has_those_of_its_processes_also_of_dead_ones() -> None:
    program = (
        "import os, sys, ppx_client as ppx\n"
        "def forward():\n"
        "    print('ppx: it draws on a thread', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
        "ppx.serve(forward, name='warned of')\n"
    )
    with Simulator([sys.executable, "-c", program], num_workers=1) as simulator:
        assert simulator.notices == []
        simulator.prior(1)
        assert simulator.notices == ["it draws on a thread"]
