"""Models that draw on other threads and in other processes; which of them runs, a file says at every trace."""

# ruff: noqa: NPY002 (models of others draw like this)

import contextvars
import multiprocessing
import multiprocessing.pool
import os
import queue
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import ppx_client as ppx

FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
KEPT = ThreadPoolExecutor(1)


def draw(mu=0.0):
    return ppx.sample(ppx.Normal(mu, 1.0), name="x")


def on_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def pairs(function):
    """Two draws on threads that are waited for, between two on the model's own."""
    mu = draw()
    with ppx.scope("inner"):
        x, y = function(partial(draw, mu)), function(partial(draw, mu))
    return mu + x + y + draw(y)


def executor(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def thread_pool(function):
    with multiprocessing.pool.ThreadPool(1) as pool:
        return pool.apply(function)


def kept(function):
    return KEPT.submit(function).result()


def in_context(function):
    return on_thread(partial(contextvars.copy_context().run, function))


def nested(function):
    return on_thread(lambda: executor(function))


def patched():
    with ppx.patched():
        mu = random.gauss(0.0, 1.0)
        x = on_thread(lambda: random.gauss(mu, 1.0) + float(np.random.normal(size=3).sum()))
    return mu + x


def refused():
    """A value that a script forces is refused on a thread, and nobody looks at the exception."""
    on_thread(tossed)
    return 1.0


def tossed():
    try:
        ppx.sample(ppx.Categorical([0.5, 0.5]), name="coin")
    except BaseException:
        return


def waits_for_ever():
    """A thread that is to bring a number dies of the end of the trace."""
    numbers = queue.Queue()
    threading.Thread(target=lambda: numbers.put(ppx.sample(ppx.Categorical([0.5, 0.5]), name="coin"))).start()
    return numbers.get()


LATE = []


def outlives():
    """A thread of the trace before draws in the next one, and nobody looks at the exception."""
    x = draw()
    for event, thread in LATE:
        event.set()
        thread.join()
    event = threading.Event()
    thread = threading.Thread(target=lambda: (event.wait(), swallowed()))
    thread.start()
    LATE[:] = [(event, thread)]
    return x


def together():
    """Two threads draw at the same time: one waits for the controller, or for the other."""
    barrier = threading.Barrier(2)

    def often():
        barrier.wait()
        for _ in range(100_000):
            ppx.sample(ppx.Normal(np.zeros(300), 1.0), name="many")

    threads = [threading.Thread(target=often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def several():
    """Two threads that live at the same time, one drawing after the other."""
    go = [threading.Event(), threading.Event()]
    threads = []
    for event in go:
        threads.append(threading.Thread(target=lambda event=event: (draw(), event.set(), last.wait())))
    last = threading.Event()
    for thread, event in zip(threads, go, strict=True):
        thread.start()
        event.wait()
    last.set()
    for thread in threads:
        thread.join()


def forked(statement=draw):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(statement()).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = os.read(read, 100)
    os.close(read)
    os.waitpid(child, 0)
    return float(text or b"1")


def forked_thread():
    return forked(lambda: on_thread(draw))


def forked_observe():
    return forked(lambda: ppx.observe(ppx.Normal(0.0, 1.0), 0.5, name="y"))


def forked_tag():
    return forked(lambda: ppx.tag(0.5, name="t"))


def forked_generator():
    return forked(ppx.random.Generator().normal)


def forked_patched():
    return ppx.patched(partial(forked, lambda: random.gauss(0.0, 1.0)))()


def runs_on():
    """The child comes back with the parent, as after a forgotten exit."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return 1.0


def exits():
    """The child ends as scripts do."""
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def fork_pool():
    with FORK.Pool(2) as pool:
        return sum(pool.map(draw, [0.0, 1.0]))


def early_pool():
    return EARLY.apply(draw, (0.0,))


def swallowed(_=None):
    try:
        return draw()
    except Exception:
        return 0.0


def spawn_pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(swallowed)


MODELS = {
    **{
        f.__name__: partial(pairs, f)
        for f in (on_thread, executor, thread_pool, kept, in_context, nested)
    },
    "directly": partial(pairs, lambda function: function()),
    **{
        f.__name__: f
        for f in (
            patched, refused, waits_for_ever, outlives, together, several, forked, forked_thread, forked_observe,
            forked_tag, forked_generator, forked_patched, runs_on, exits, fork_pool, early_pool, spawn_pool,
        )
    },
}  # fmt: skip


def forward():
    return MODELS[Path(sys.argv[1]).read_text()]()


EARLY = FORK.Pool(1) if FORK and __name__ == "__main__" else None

if __name__ == "__main__":
    ppx.serve(forward, "elsewhere")
