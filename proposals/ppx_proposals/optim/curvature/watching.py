"""Which layers of a model are watched, and their weights."""

from __future__ import annotations

from torch import Tensor, nn

from ppx_proposals.optim.curvature.recurrent import check_lstm, layers_of, names_of

Watched = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.LSTM | nn.LSTMCell


def watched_layers(model: nn.Module) -> list[Watched]:
    """Layers whose weights can be preconditioned.

    Not lazy ones, which have no weights yet, nor those whose weights are made of other parameters, as by
    `torch.nn.utils.parametrizations.weight_norm` or pruning: what moves there is no weight.

    Raises:
        ValueError: An LSTM cannot be preconditioned.
    """
    found = []
    for name, layer in model.named_modules():
        if not isinstance(layer, Watched) or any(map(nn.parameter.is_lazy, layer.parameters(recurse=False))):
            continue
        if isinstance(layer, nn.LSTM):
            check_lstm(layer, name or "the model")
        if _has_own_weights(layer):
            found.append(layer)
    return found


def _has_own_weights(layer: Watched) -> bool:
    """Whether all that the layer multiplies by or adds are parameters of its own."""
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return own.issuperset(names_of(layer))
    return "weight" in own and (layer.bias is None or "bias" in own)


def weights_of(layer: Watched) -> list[tuple[Tensor, Tensor | None, int]]:
    """Weights, their biases and the groups they are made of."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        gates = [g for directions in layers_of(layer) for g in directions]
        return [pair for g in gates for pair in ((g.weight_ih, g.bias_ih, 1), (g.weight_hh, g.bias_hh, 1))]
    return [(layer.weight, layer.bias, getattr(layer, "groups", 1))]
