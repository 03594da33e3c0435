"""Second moments with an exponentially decaying memory, and their damped inverses.

Letters: g groups (1 except for grouped convolutions), R rows, n size of a vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Moment:
    """The running average of E[v v^T] over minibatches, `(g, n, n)`.

    With S_k the second moment of minibatch k, bias corrected as in Adam (Kingma and Ba 2015, section 3):

        M_k = decay M_{k-1} + (1 - decay) S_k,   m_k = decay m_{k-1} + (1 - decay),   average = M_k / m_k
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._memory: Tensor | None = None
        self._mass = 0.0

    @property
    def average(self) -> Tensor | None:
        """`(g, n, n)`; None if nothing was folded in yet."""
        return None if self._memory is None else self._memory / self._mass

    @property
    def sum(self) -> Tensor | None:
        """What came in since the last `fold`, `(g, n, n)`; None if nothing did."""
        return self._sum

    def add(self, outer: Tensor, count: int) -> None:
        """Adds a sum of v v^T, `(g, n, n)`, to the minibatch at hand, which has `count` more samples by that."""
        if count == 0:
            return
        self._sum = outer if self._sum is None else self._sum + outer
        self._count += count

    def fold(self, decay: float) -> None:
        """Takes the minibatch at hand, which has samples, into the average."""
        assert self._sum is not None
        new = self._sum * ((1.0 - decay) / self._count)
        self._memory = new if self._memory is None else new.add_(self._memory, alpha=decay)
        self._mass = decay * self._mass + 1.0 - decay
        self.drop()

    def drop(self) -> None:
        """Forgets the minibatch at hand."""
        self._sum, self._count = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The average's state; empty if there is none."""
        return {} if self._memory is None else {"memory": self._memory.clone(), "mass": self._mass}

    @classmethod
    def of_state(cls, state: dict[str, Any], like: Tensor) -> Moment:
        """A moment in the state of `state_dict`, on the device of a tensor."""
        moment = cls()
        if state:
            moment._memory = state["memory"].to(like.device, copy=True)
            moment._mass = float(state["mass"])
        return moment


def outer_products(rows: Tensor) -> Tensor:
    """Sum of v v^T over vectors `(g, R, n)`, at least in float32."""
    if rows.dtype.itemsize < torch.float32.itemsize:
        rows = rows.float()
    with torch.autocast(rows.device.type, enabled=False):
        return rows.mT @ rows


def damped_inverse(matrix: Tensor, damping: Tensor | float) -> Tensor:
    """(M + damping I)^-1 of symmetric, positive semidefinite matrices `(g, n, n)`; damping a number or `(g, 1)`.

    By Cholesky. Where rounding leaves no positive definite matrix, or would make up the inverse, by eigenvalues: those
    that are zero to within rounding, n eps times the largest, count as directions without data, and the inverse is 0
    on them (the pseudo-inverse).
    """
    damped = matrix.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(damping)
    rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    factor, info = torch.linalg.cholesky_ex(damped)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    largest = damped.diagonal(dim1=-2, dim2=-1).amax(-1)
    if bool(((info == 0) & (pivots > rounding * largest)).all()):
        return torch.cholesky_inverse(factor)
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0.0) + damping
    sound = values > rounding * values.amax(-1, keepdim=True)
    inverted = torch.where(sound, values.reciprocal(), 0.0)
    inverse: Tensor = (vectors * inverted[:, None, :]) @ vectors.mT
    return inverse
