"""What FOOF and K-FAC share: seeing what weights are multiplied by, and standing between gradients and an optimizer."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ppx_proposals.optim.curvature.factors import Moment, outer_products
from ppx_proposals.optim.curvature.layers import Block, conv_input_rows, conv_output_rows, linear_rows
from ppx_proposals.optim.curvature.recurrent import Outputs, Recurrent, State, matrices_of
from ppx_proposals.optim.curvature.watching import watched_layers, weights_of
from ppx_proposals.optim.hypergradient import HypergradientOptimizer


class Preconditioner(ABC):
    """Base of preconditioners for the weights of Linear, Conv and LSTM layers.

    Layers of the model are watched through hooks. What they are multiplied by counts in forward passes that can be
    followed by a step: the layer is in training mode, gradients are enabled and the weight is not frozen (of an LSTM,
    some weight). All passes and all uses of a layer between two steps add up. Other parameters, and layers that did not
    run yet, are left as they are; so is a bias without a gradient, or one whose weight has none. Transposed
    convolutions, embeddings, other recurrent layers and layers whose weights are made of other parameters, as by
    `weight_norm` or pruning, are not watched.

    Of a weight that is used outside the forward method of a watched layer, the preconditioner knows what `observe` and
    `observe_lstm` tell it.

    Args:
        model: Holds all the weights.
        damping: lambda, added to the factors as the subclass says. With 0 the inverse is 0 on directions without
            data.
        decay: Share of the old average in the new one, at every update of the factors; 0.95 is where Martens and
            Grosse end (arXiv 1503.05671, section 5).
        update_every: Factors are updated at every so many steps, and used at all of them.

    Raises:
        ValueError: A setting is outside its domain, or a layer cannot be preconditioned.
    """

    def __init__(
        self, model: nn.Module, damping: float, *, decay: float = 0.95, update_every: int = 1
    ) -> None:
        if not 0.0 <= damping < float("inf"):
            raise ValueError(f"damping must be finite and >= 0, not {damping}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), not {decay}")
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, not {update_every}")
        self._model, self._damping, self._decay, self._update_every = model, damping, decay, update_every
        self._num_steps = 0
        self._blocks: dict[int, Block] = {}
        self._inputs: dict[str, Moment] = {}
        self._inverses: dict[tuple[str, bool], tuple[Tensor, ...]] = {}
        self._watched: dict[nn.Module, RemovableHandle] = {}
        self._attached: list[RemovableHandle] = []
        self._raw: list[tuple[Tensor, Tensor]] = []
        self.extend()

    @property
    def due(self) -> bool:
        """Whether the factors are updated at the next step, so that the forward passes before it count."""
        return self._num_steps % self._update_every == 0

    def extend(self) -> None:
        """Watches layers that were added to the model, and weights that took the place of others.

        Raises:
            ValueError: A layer cannot be preconditioned; nothing has changed then.
        """
        names = {id(p): name for name, p in self._model.named_parameters()}
        blocks: dict[int, Block] = {}
        layers = watched_layers(self._model)
        for layer in layers:
            for weight, bias, groups in weights_of(layer):
                block = Block(names[id(weight)], weight, bias, groups)
                known = blocks.get(id(weight), self._blocks.get(id(weight), block))
                blocks[id(weight)] = known.same_as(block)
        # Weights that are no longer the model's, such as those a larger one has replaced, take their factors along.
        for key in self._blocks.keys() - names.keys():
            name = self._blocks.pop(key).name
            for moments in self._moments().values():
                moments.pop(name, None)
            self._inverses.clear()
        self._blocks.update(blocks)
        for layer in layers:
            if layer not in self._watched:
                hook = _hook_of(weakref.ref(self))
                self._watched[layer] = layer.register_forward_hook(hook, with_kwargs=True)

    def observe(
        self,
        weight: nn.Parameter,
        inputs: Tensor,
        bias: Tensor | None = None,
        *,
        outputs: Tensor | None = None,
    ) -> None:
        """Tells what a weight was multiplied by where no watched layer does the product; call it in the forward pass.

        Args:
            weight: `(O, I)`, a parameter of the model.
            inputs: `(..., I)`.
            bias: What was added to the product, the same at all uses.
            outputs: `(..., O)`, the product and the bias, part of the graph. K-FAC needs it, FOOF does not.

        Raises:
            ValueError: The weight is not the model's, shapes do not fit, or it came with another bias before.
        """
        if inputs.shape[-1:] != weight.shape[1:] or (
            outputs is not None and outputs.shape[-1:] != weight.shape[:1]
        ):
            of_outputs = "" if outputs is None else f" and outputs {tuple(outputs.shape)}"
            raise ValueError(
                f"inputs {tuple(inputs.shape)}{of_outputs} do not fit a weight {tuple(weight.shape)}; give (..., I) "
                "and (..., O) for (O, I)"
            )
        block = self._blocks.get(id(weight))
        if block is None:
            names = {id(p): name for name, p in self._model.named_parameters()}
            if id(weight) not in names:
                raise ValueError(
                    f"a weight {tuple(weight.shape)} is no parameter of the model; add it to the model"
                )
            block = Block(names[id(weight)], weight, bias, 1)
        self._blocks[id(weight)] = block.same_as(Block(block.name, weight, bias, 1))
        if self._counts(self._model, [weight]):
            self._see_inputs(block, [linear_rows(inputs)])
            self._see_outputs(block, outputs, linear_rows)

    def observe_lstm(
        self, lstm: nn.LSTM, inputs: Tensor | PackedSequence, outputs: Tensor, *, state: State | None = None
    ) -> None:
        """Tells what an LSTM of the model was given and returned where its own forward method was not used.

        Args:
            lstm: The layer whose weights were used.
            inputs: As the layer's forward method takes them.
            outputs: As it returns them, for a packed sequence the `data`; part of the graph. All that depends on the
                final state must do so through them.
            state: As it takes it.

        Raises:
            ValueError: The layer is not the model's.
        """
        if id(lstm.weight_ih_l0) not in self._blocks:
            raise ValueError("this LSTM is no layer of the model; add it to the model, then call extend()")
        rows = inputs.data if isinstance(inputs, PackedSequence) else inputs
        if rows.numel() and self._counts(lstm, matrices_of(lstm)):
            self._see_lstm(lstm, inputs, state, Outputs(outputs, None, None))

    def attach(self, optimizer: Optimizer) -> None:
        """Has an optimizer move by preconditioned gradients until `close`; `p.grad` is the raw one before and after.

        A `HypergradientOptimizer` adapts its learning rate by the raw gradient, so that h_t stays the derivative, and
        makes its direction of the preconditioned one, with the L2 penalty in both. There, other optimizers add theirs
        after preconditioning.

        Args:
            optimizer: Any. One that is no hypergradient optimizer must be stepped without a closure.

        Raises:
            RuntimeError: The preconditioner has an optimizer already, or there are several processes: each has
                factors of its own, and parameters would drift apart.
        """
        if self._attached:
            raise RuntimeError("the preconditioner has an optimizer already; make one per optimizer")
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise RuntimeError("factors are those of one process; precondition only where one process trains")
        if isinstance(optimizer, HypergradientOptimizer):
            self._attached.append(optimizer.register_gradient_transform(self.precondition))
        else:
            self._attached.append(optimizer.register_step_pre_hook(self._before_step))
        self._attached.append(optimizer.register_step_post_hook(self._after_step))

    def close(self) -> None:
        """Takes all hooks off the model and the optimizer."""
        for handle in (*self._attached, *self._watched.values()):
            handle.remove()
        self._attached.clear()
        self._watched.clear()
        self._drop()

    @torch.no_grad()
    def precondition(self, params: list[Tensor], gradients: list[Tensor]) -> None:
        """Preconditions gradients in place, by all that was seen; `attach` has optimizers call it.

        Args:
            params: Parameters; those that are no weights or biases of the model's layers are passed over.
            gradients: Of the parameters, in their order and shapes.
        """
        self._update()
        own = {id(p): g for p, g in zip(params, gradients, strict=True)}
        for block in self._blocks.values():
            weight = own.get(id(block.weight))
            if weight is None or not self._is_known(block):
                continue
            bias = None if block.bias is None else own.get(id(block.bias))
            key = (block.name, bias is not None)
            if key not in self._inverses:
                self._inverses[key] = self._invert(block, block.num_inputs(bias))
            inverses = self._inverses[key]
            matrix = block.matrix(weight, bias)
            moved = self._multiply(matrix.to(inverses[0].dtype), inverses)
            weight.copy_(moved[..., : block.num_inputs(None)].reshape(weight.shape))
            if bias is not None:
                bias.copy_(moved[..., -1].reshape(bias.shape))

    def state_dict(self) -> dict[str, Any]:
        """Factors by the name of their weight, and the number of steps; take it between steps."""
        return {
            "num_steps": self._num_steps,
            **{kind: {n: m.state_dict() for n, m in own.items()} for kind, own in self._moments().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on the state of `state_dict`, of a preconditioner of the same kind for the same architecture.

        Raises:
            ValueError: It does not fit the model; nothing has changed then.
        """
        params, kinds = dict(self._model.named_parameters()), self._moments()
        if set(state) != {"num_steps", *kinds}:
            raise ValueError(f"this is no state of {type(self).__name__}; load that of the same kind")
        unknown = {name for kind in kinds for name in state[kind]} - set(params)
        if unknown:
            raise ValueError(
                f"the model has no {', '.join(sorted(unknown))}; load the state of the same architecture"
            )
        for kind in kinds:
            for name, saved in state[kind].items():
                _check_factor(kind, name, params[name], saved)
        for kind, moments in kinds.items():
            moments.clear()
            moments.update(
                {name: Moment.of_state(saved, params[name]) for name, saved in state[kind].items()}
            )
        self._num_steps = int(state["num_steps"])
        self._inverses.clear()
        self._drop()

    @abstractmethod
    def _moments(self) -> dict[str, dict[str, Moment]]:
        """Kinds of factors, and those of each kind by name."""

    @abstractmethod
    def _is_known(self, block: Block) -> bool:
        """Whether all factors of a block are there."""

    @abstractmethod
    def _invert(self, block: Block, num_inputs: int) -> tuple[Tensor, ...]:
        """Damped inverses of a block's factors, that of the inputs restricted to the first `num_inputs`."""

    @abstractmethod
    def _multiply(self, matrix: Tensor, inverses: tuple[Tensor, ...]) -> Tensor:
        """A gradient `(g, O, I)` times the inverses."""

    @abstractmethod
    def _see_outputs(self, block: Block, outputs: Tensor | None, to_rows: Callable[[Tensor], Tensor]) -> None:
        """Takes notice of outputs, and how gradients of them become rows `(g, R, O)`."""

    @abstractmethod
    def _see_lstm(
        self, lstm: Recurrent, inputs: Tensor | PackedSequence, state: State | None, outputs: Outputs
    ) -> None:
        """Takes notice of what an LSTM was given and returned."""

    def _see_inputs(self, block: Block, parts: Iterable[Tensor]) -> None:
        """Takes notice of inputs, rows `(g, R, I)` in parts."""
        moment = self._inputs.setdefault(block.name, Moment())
        for rows in parts:
            moment.add(outer_products(block.with_bias(rows.detach())), rows.shape[1])

    def _counts(self, layer: nn.Module, weights: list[Tensor]) -> bool:
        known = all(id(weight) in self._blocks for weight in weights)
        learns = any(weight.requires_grad for weight in weights)
        return known and learns and self.due and layer.training and torch.is_grad_enabled()

    def _see(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Takes notice of a forward pass of a watched layer; returns outputs to go on with, or None."""
        inputs = args[0] if args else kwargs["input"]
        if isinstance(layer, nn.LSTM | nn.LSTMCell):
            state = args[1] if len(args) > 1 else kwargs.get("hx")
            return self._see_recurrent(layer, inputs, state, output)
        assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not self._counts(layer, [layer.weight]):
            return None
        block = self._blocks[id(layer.weight)]
        if isinstance(layer, nn.Linear):
            self._see_inputs(block, [linear_rows(inputs)])
            self._see_outputs(block, output, linear_rows)
        else:
            self._see_inputs(block, conv_input_rows(layer, inputs.detach()))
            self._see_outputs(block, output, lambda g: conv_output_rows(layer, g))
        return None

    def _see_recurrent(
        self, lstm: Recurrent, inputs: Tensor | PackedSequence, state: State | None, output: Any
    ) -> Any:
        if not self._counts(lstm, matrices_of(lstm)):
            return None
        # Views, so that a gradient that comes to one of them comes from outside: inside, h_t depends on c_t.
        if isinstance(lstm, nn.LSTMCell):
            h, c = (part.view_as(part) for part in output)
            self._see_lstm(lstm, inputs, state, Outputs(h, None, c))
            return h, c
        sequence, states = output
        packed = isinstance(sequence, PackedSequence)
        steps = sequence.data if packed else sequence
        steps, h, c = (part.view_as(part) for part in (steps, *states))
        self._see_lstm(lstm, inputs, state, Outputs(steps, h, c))
        return (sequence._replace(data=steps) if packed else steps), (h, c)

    def _update(self) -> None:
        """Takes what was seen since the last step into the factors."""
        for moments in self._moments().values():
            new = [moment for moment in moments.values() if moment.sum is not None]
            if new:
                sums = [
                    moment.sum.diagonal(dim1=-2, dim2=-1).sum() for moment in new if moment.sum is not None
                ]
                finite = torch.stack([torch.isfinite(s).to(sums[0].device) for s in sums]).tolist()
                # A minibatch that is not finite must not spoil the average for good.
                for moment, sound in zip(new, finite, strict=True):
                    if sound:
                        moment.fold(self._decay)
                    else:
                        moment.drop()
                self._inverses.clear()

    def _drop(self) -> None:
        """Forgets what was seen since the last step."""
        for moments in self._moments().values():
            for moment in moments.values():
                moment.drop()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Puts preconditioned gradients in the place of raw ones."""
        if args[1:] or kwargs.get("closure") is not None:
            raise RuntimeError(
                "a closure's gradients come too late to be preconditioned; call backward() before step(), or use a "
                "hypergradient optimizer"
            )
        own = {id(p) for block in self._blocks.values() for p in (block.weight, block.bias) if p is not None}
        params = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
        self._raw = [(p, p.grad) for p in params if p.grad is not None]
        gradients = [raw.clone() for _, raw in self._raw]
        self.precondition([p for p, _ in self._raw], gradients)
        for (p, _), gradient in zip(self._raw, gradients, strict=True):
            p.grad = gradient

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for p, raw in self._raw:
            p.grad = raw
        self._raw = []
        self._num_steps += 1
        self._drop()


def _hook_of(owner: weakref.ref[Preconditioner]) -> Callable[..., Any]:
    """A forward hook that keeps nothing alive and that copies of the layer may have: they are not looked at."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        preconditioner = owner()
        return None if preconditioner is None else preconditioner._see(layer, args, kwargs, output)

    return hook


def _check_factor(kind: str, name: str, weight: Tensor, saved: dict[str, Any]) -> None:
    """Checks that a saved factor, `(g, n, n)`, is one of a weight."""
    if saved:
        groups, size, _ = saved["memory"].shape
        num_inputs = weight.numel() // len(weight)
        fits = size in (num_inputs, num_inputs + 1) if kind == "inputs" else groups * size == len(weight)
        if not fits:
            raise ValueError(
                f"the factor of {kind} of {name} is of {size} numbers, which does not fit its shape "
                f"{tuple(weight.shape)}; load the state of the same architecture"
            )
