"""What the packages offer, by name; everything has a docstring, and names that are imported late are there."""

from __future__ import annotations

import subprocess
import sys

import ppx_proposals
from ppx_proposals import optim


def test_every_public_name_is_there_and_documented() -> None:
    assert len(ppx_proposals.__all__) == 12
    assert len(optim.__all__) == 17
    for module in (ppx_proposals, optim):
        assert sorted(module.__all__) == sorted(dir(module))
        assert [name for name in module.__all__ if not getattr(module, name).__doc__] == []


def test_hypergradient_optimizers_do_not_wait_for_the_others() -> None:
    code = """
import sys, ppx_proposals.optim as optim
assert not {"pytorch_optimizer", "scipy", "matplotlib", "ppx_proposals.optim.tower"} & set(sys.modules)
assert optim.Lookahead and "pytorch_optimizer" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
