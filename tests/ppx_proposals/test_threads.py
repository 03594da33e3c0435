"""Arithmetic takes few threads while it shares the cores with simulators, and as many as before afterwards."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from ppx_proposals.threads import arithmetic_threads


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_threads_are_limited_in_the_block_only() -> None:
    before = torch.get_num_threads(), blas_threads()
    with arithmetic_threads(1):
        assert torch.get_num_threads() == 1
        assert blas_threads() == {1}
    assert (torch.get_num_threads(), blas_threads()) == before


def test_by_default_half_of_the_cores_are_left_to_simulators() -> None:
    with arithmetic_threads():
        assert torch.get_num_threads() <= max(1, (os.cpu_count() or 1) // 2)


def test_an_error_in_the_block_gives_the_threads_back() -> None:
    before = torch.get_num_threads(), blas_threads()
    with pytest.raises(RuntimeError), arithmetic_threads(1):
        raise RuntimeError
    assert (torch.get_num_threads(), blas_threads()) == before
