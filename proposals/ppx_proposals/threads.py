"""How many threads do arithmetic: few, since simulators run at the same time.

BLAS threads wait for each other actively, after each of thousands of small products. If the simulators or other
programs have one of their cores, all wait for it: with two busy cores and two threads, inference on tau decay made 35
traces/s, with one thread 900.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import threadpoolctl
import torch


@contextmanager
def arithmetic_threads(count: int | None = None) -> Iterator[None]:
    """Sets how many threads do arithmetic, in PyTorch and in NumPy's BLAS, for the duration of the block.

    Args:
        count: Threads; None for at most half of the cores, and not more than are set now.
    """
    before = torch.get_num_threads()
    chosen = count or max(1, min(before, (os.cpu_count() or 1) // 2))
    torch.set_num_threads(chosen)
    try:
        with threadpoolctl.threadpool_limits(chosen, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
