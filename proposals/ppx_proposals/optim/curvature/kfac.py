"""K-FAC: a Kronecker-factored approximation of the Fisher information (Martens and Grosse 2015, arXiv 1503.05671)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils.rnn import PackedSequence

from ppx_proposals.optim.curvature.factors import Moment, damped_inverse, outer_products
from ppx_proposals.optim.curvature.layers import Block
from ppx_proposals.optim.curvature.preconditioner import Preconditioner
from ppx_proposals.optim.curvature.recurrent import (
    Outputs,
    Recurrent,
    State,
    given,
    packed_rows,
    packed_states,
    unroll,
)


class _Use(NamedTuple):
    """One forward pass of a layer.

    Attributes:
        blocks: What it used.
        edges: Where gradients of its outputs are found.
        to_rows: From those to rows `(g, R, O)` of every block.
    """

    blocks: list[Block]
    edges: list[GradientEdge]
    to_rows: Callable[[list[Tensor | None]], list[Tensor]]


@final
class KFAC(Preconditioner):
    """Multiplies gradients of weights by the inverse of a Kronecker-factored Fisher information.

    With a_r the inputs that a weight W met (1 appended for the bias), and g_r the gradients of a sample's log
    probability with respect to z_r = W a_r, the block of W in the Fisher information is approximated by A x G,

        A = E[a a^T] over rows,   G = E[sum_r g_r g_r^T] over samples

    (section 3; with several rows per sample, as of convolutions, Grosse and Martens 2016, arXiv 1602.01573, section
    3: their |T| A and G / |T|), and the gradient dL / dW becomes, with factored damping (section 6.3),

        (G + sqrt(lambda) / pi I)^-1  dL/dW  (A + pi sqrt(lambda) I)^-1,   pi^2 = (tr A / dim A) / (tr G / dim G)

    The g_r are not those of the loss: `fisher` is to be told scores, of targets that the model itself would give.

        >>> import torch
        >>> from ppx_proposals.optim.curvature.scores import sampled_categorical
        >>> model, generator = torch.nn.Linear(3, 2), torch.Generator()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> kfac = KFAC(model, 1e-2)
        >>> kfac.attach(optimizer)
        >>> logits = model(torch.ones(5, 3))
        >>> if kfac.due:
        ...     kfac.fisher(sampled_categorical(logits, generator))
        >>> torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).backward()
        >>> optimizer.step()

    See `Preconditioner` for the arguments. An LSTM is run again, step by step, to find the gradients of its gates.
    Graphs of forward passes that count are kept until `fisher` is told their scores, or the next step.
    """

    def __init__(
        self, model: nn.Module, damping: float, *, decay: float = 0.95, update_every: int = 1
    ) -> None:
        self._outputs: dict[str, Moment] = {}
        self._uses: list[_Use] = []
        super().__init__(model, damping, decay=decay, update_every=update_every)

    def fisher(self, *scores: Tensor) -> None:
        """Takes the factors of outputs from scores s_k whose sum_k E[grad s_k grad s_k^T] is the Fisher information.

        Call it between forward and backward pass; it changes no gradient. `sampled_categorical`, `sampled_normal`
        and their exact variants make scores. The log probabilities of the data themselves make the empirical Fisher
        information, which is something else (Kunstner, Hennig and Balles 2019, arXiv 1905.12558). Does nothing when
        the factors are not `due`.

        Args:
            scores: Each `(N,)`, of N independent samples, part of the graph of the forward passes since the last
                call.

        Raises:
            ValueError: A score has another shape, or is not part of a graph.
            RuntimeError: There was no forward pass to take factors of.
        """
        if not self.due:
            return
        for score in scores:
            if score.dim() != 1 or score.shape != scores[0].shape or not score.requires_grad:
                raise ValueError(
                    f"scores must be of shape (N,) and made of the model's outputs, not {tuple(score.shape)}"
                )
        if not self._uses or not scores:
            raise RuntimeError(
                "no scores, or no forward pass in training mode since the last ones; run the model first"
            )
        uses, self._uses = self._uses, []
        edges = [edge for use in uses for edge in use.edges]
        found: dict[str, list[Tensor]] = {}
        for score in scores:
            gradients = torch.autograd.grad(score.sum(), edges, retain_graph=True, allow_unused=True)
            for use in uses:
                own, gradients = gradients[: len(use.edges)], gradients[len(use.edges) :]
                if any(g is not None for g in own):
                    # Blocks that share their outputs, as an LSTM's do, share the rows.
                    each = use.to_rows(list(own))
                    distinct = {id(rows): rows.detach() for rows in each}
                    outer = {key: outer_products(rows) for key, rows in distinct.items()}
                    for block, rows in zip(use.blocks, each, strict=True):
                        found.setdefault(block.name, []).append(outer[id(rows)])
        for name, parts in found.items():
            moment = self._outputs.setdefault(name, Moment())
            moment.add(torch.stack(parts).sum(0), len(scores[0]))

    def _moments(self) -> dict[str, dict[str, Moment]]:
        return {"inputs": self._inputs, "outputs": self._outputs}

    def _is_known(self, block: Block) -> bool:
        own = [moments.get(block.name) for moments in (self._inputs, self._outputs)]
        return all(moment is not None and moment.average is not None for moment in own)

    def _update(self) -> None:
        super()._update()
        if self._inputs and not self._outputs:
            raise RuntimeError(
                "there are no factors of outputs; call fisher(scores) between forward pass and step"
            )

    def _drop(self) -> None:
        super()._drop()
        self._uses.clear()

    def _invert(self, block: Block, num_inputs: int) -> tuple[Tensor, ...]:
        a, g = self._inputs[block.name].average, self._outputs[block.name].average
        assert a is not None
        assert g is not None
        a = a[:, :num_inputs, :num_inputs]
        # pi^2 = (tr A / dim A) / (tr G / dim G), section 6.3; 1 where a factor is 0.
        means = [m.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True) for m in (a, g)]
        pi = torch.where((means[0] > 0) & (means[1] > 0), (means[0] / means[1]).sqrt(), 1.0)
        root = self._damping**0.5
        return damped_inverse(a, pi * root), damped_inverse(g, root / pi)

    def _multiply(self, matrix: Tensor, inverses: tuple[Tensor, ...]) -> Tensor:
        of_inputs, of_outputs = inverses
        return of_outputs @ matrix @ of_inputs

    def _see_outputs(self, block: Block, outputs: Tensor | None, to_rows: Callable[[Tensor], Tensor]) -> None:
        if outputs is None:
            raise ValueError(f"K-FAC needs the outputs of {block.name}; give outputs, or use FOOF")
        edges = [get_gradient_edge(outputs)]
        self._uses.append(_Use([block], edges, lambda gs: [to_rows(g) for g in gs if g is not None]))

    def _see_lstm(
        self, lstm: Recurrent, inputs: Tensor | PackedSequence, state: State | None, outputs: Outputs
    ) -> None:
        with torch.enable_grad():
            again = unroll(lstm, given(lstm, inputs, state))
        blocks = []
        for seen in again.met:
            for weight, rows in ((seen.gates.weight_ih, seen.x), (seen.gates.weight_hh, seen.h)):
                blocks.append(self._blocks[id(weight)])
                self._see_inputs(blocks[-1], [rows[None]])
        used = [number for number, part in enumerate(outputs) if part is not None]
        edges = [get_gradient_edge(part) for part in outputs if part is not None]
        ends = [(again.output, again.h, again.c)[number] for number in used]

        def to_rows(gradients: list[Tensor | None]) -> list[Tensor]:
            """Gradients of z, twice for every layer: both of its matrices have them."""
            at_ends = []
            for number, end, gradient in zip(used, ends, gradients, strict=True):
                if gradient is None:
                    at_ends.append(torch.zeros_like(end))
                elif number == 0:
                    at_ends.append(packed_rows(lstm, gradient).to(end.dtype))
                else:
                    at_ends.append(packed_states(inputs, gradient.reshape(end.shape)).to(end.dtype))
            of_z = torch.autograd.grad(ends, again.z, at_ends, retain_graph=True, materialize_grads=True)
            return [rows for z in of_z for rows in [z[None]] * 2]

        self._uses.append(_Use(blocks, edges, to_rows))
