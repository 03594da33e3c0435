"""FOOF: gradient descent on neurons (Benzing 2022, arXiv 2201.12250)."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ppx_proposals.optim.curvature.factors import Moment, damped_inverse
from ppx_proposals.optim.curvature.layers import Block
from ppx_proposals.optim.curvature.preconditioner import Preconditioner
from ppx_proposals.optim.curvature.recurrent import Outputs, Recurrent, State, given, met, packed_rows


@final
class FOOF(Preconditioner):
    """Moves weights so that what they give moves along its own gradient.

    With a_r the inputs that a weight W met (1 appended for the bias), z_r = W a_r, R such rows, and e_r = R dL / dz_r,
    one step with learning rate eta changes W by the solution of

        min over V of  1/R sum_r |V a_r + eta e_r|^2 + lambda |V|^2

    which is V = -eta G (A + lambda I)^-1, where G = dL / dW and A = E[a a^T] over rows: samples, positions of a
    convolution, time steps. With `decay=0` this is exact for the minibatch at hand; else A remembers earlier ones.

        >>> import torch
        >>> from ppx_proposals.optim.sgd_hd import SGDHD
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = SGDHD(model.parameters(), lr=0.1)
        >>> FOOF(model, 1e-2).attach(optimizer)

    See `Preconditioner` for the arguments. Of an LSTM, the matrices of inputs and of states are treated apart, with
    E[x x^T] and E[h h^T].
    """

    def _moments(self) -> dict[str, dict[str, Moment]]:
        return {"inputs": self._inputs}

    def _is_known(self, block: Block) -> bool:
        return block.name in self._inputs and self._inputs[block.name].average is not None

    def _invert(self, block: Block, num_inputs: int) -> tuple[Tensor, ...]:
        inputs = self._inputs[block.name].average
        assert inputs is not None
        return (damped_inverse(inputs[:, :num_inputs, :num_inputs], self._damping),)

    def _multiply(self, matrix: Tensor, inverses: tuple[Tensor, ...]) -> Tensor:
        return matrix @ inverses[0]

    def _see_outputs(self, block: Block, outputs: Tensor | None, to_rows: Callable[[Tensor], Tensor]) -> None:
        pass

    def _see_lstm(
        self, lstm: Recurrent, inputs: Tensor | PackedSequence, state: State | None, outputs: Outputs
    ) -> None:
        for seen in met(lstm, given(lstm, inputs, state), packed_rows(lstm, outputs.steps)):
            for weight, rows in ((seen.gates.weight_ih, seen.x), (seen.gates.weight_hh, seen.h)):
                if id(weight) in self._blocks:
                    self._see_inputs(self._blocks[id(weight)], [rows[None]])
