"""Signals that come in a block that must end are neither lost nor early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ppx_server.interrupts import uninterrupted


@pytest.fixture
def handled() -> Iterator[list[str]]:
    """What the handlers have done: Ctrl-C raises, SIGTERM takes note."""
    done: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        done.append("SIGINT")
        raise KeyboardInterrupt

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: done.append("SIGTERM")),
    }
    yield done
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_for_the_end_of_the_block(handled: list[str]) -> None:
    @uninterrupted()
    def block() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        handled.append("end of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert handled == ["end of the block", "SIGINT"]


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_signals_of_two_kinds_are_both_handled_in_their_order(first: str, handled: list[str]) -> None:
    order = [first, "SIGTERM" if first == "SIGINT" else "SIGINT"]

    @uninterrupted()
    def block() -> None:
        for name in (*order, first):  # the second one of a kind says nothing new
            os.kill(os.getpid(), signal.Signals[name])

    with pytest.raises(KeyboardInterrupt):
        block()
    assert handled == order


def test_an_error_of_the_block_is_kept_beside_the_interrupt(handled: list[str]) -> None:
    @uninterrupted()
    def block() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("the block failed")

    with pytest.raises(KeyboardInterrupt) as caught:
        block()
    assert isinstance(caught.value.__context__, OSError)


def test_the_handlers_are_back_after_the_block(handled: list[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_leave_the_handlers_alone(handled: list[str]) -> None:
    seen = []

    def block() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
