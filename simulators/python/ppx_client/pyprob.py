"""Serves an existing pyprob `Model` as it is: what it samples, observes and tags goes to PPX, batches included.

    python -m ppx_client.pyprob my_package.my_module:MyModel

or, from Python, `ppx_client.pyprob.serve(MyModel())`. The model keeps importing pyprob and getting torch tensors. Needs
pyprob (extra `pyprob`).

The address of a statement is the one that the model gives, else its name, else its place in the source. Values arrive
in the precision of pyprob's tensors, 32 bits. `pyprob.observe` returns what is observed, in prior runs a draw.

A factor is an observation whose density is that factor (see `_factor`). Mixture, VonMises and Empirical are refused, as
PPX does not know them, and so are factors that are functions of a value.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyprob
import pyprob.distributions as theirs
import torch
from pyprob.util import to_tensor

from ppx_client import distributions as ours
from ppx_client import local, serving
from ppx_client.attribution import current, scopes
from ppx_client.errors import PPXError, ServeError, TensorError, UncontrolledError
from ppx_client.patching import Replacement
from ppx_client.random_sites import place
from ppx_client.values import to_tensor as to_float_or_array

__all__ = ["main", "serve"]

_logger = logging.getLogger("ppx_client")


def serve(
    model: Any, name: str | None = None, *, address: str | None = None, fingerprint: str | None = None
) -> None:
    """Serves a pyprob model until the process gets SIGTERM or SIGINT (Ctrl-C), then returns.

    Args:
        model: An instance of `pyprob.Model`.
        name: Name shown to controllers; by default that of the model.
        address: As for `ppx_client.serve`.
        fingerprint: As for `ppx_client.serve`; by default a hash of the source file of `model.forward`.

    Raises:
        ServeError: The endpoint cannot be bound, or `model.forward` needs arguments.
    """
    serving.serve(controlled(model), name or model.name, address=address, fingerprint=fingerprint)


def controlled(model: Any) -> Callable[[], Any]:
    """The model as a function for `ppx_client.serve`; called without a controller it draws for itself.

    Its result is that of `model.forward`, if that makes a number or an array of numbers; the entries of a dictionary of
    such are tagged. Anything else is left out, and a message says so once.
    """

    def forward() -> Any:
        with _REPLACEMENT:
            return _result(model.forward())

    forward.__wrapped__ = model.forward  # type: ignore[attr-defined]
    return forward


def _sample(
    distribution: Any, name: str | None = None, address: str | None = None, control: bool = True
) -> Any:
    """What `pyprob.sample` does in a model that is served."""
    place_of, label = _place(name, address, sys._getframe(1))
    scaled = _range(distribution)
    trace = current()
    family = _distribution(distribution, place_of)
    if trace is None:
        value = local.draw(family)
        return _tensor(distribution, value if scaled is None else scaled[0] + scaled[1] * value)
    if scaled is None:
        return _tensor(distribution, trace.sample(family, place_of, label, control))
    value = scaled[0] + scaled[1] * trace.sample(family, f"{place_of}/beta", "", control)
    if label:
        trace.tag(value, place_of, label)
    return _tensor(distribution, value)


def _observe(
    distribution: Any, value: Any = None, name: str | None = None, address: str | None = None
) -> Any:
    """What `pyprob.observe` does in a model that is served."""
    place_of, label = _place(name, address, sys._getframe(1))
    if isinstance(distribution, theirs.Factor):
        return _factor(distribution, place_of, label)
    if _range(distribution) is not None:
        raise UncontrolledError(
            f"the observed Beta at {place_of} has bounds other than 0 and 1, which PPX does not know; "
            "observe (value - low) / (high - low) with bounds 0 and 1"
        )
    family = _distribution(distribution, place_of)
    given = None
    if value is not None:
        given = to_float_or_array(_plain(value), f"the observed value at {place_of}", "pass one")
        family, given = _broadcast(family, given, place_of)
    trace = current()
    if trace is not None:
        given = trace.observe(family, given, place_of, label)
    return _tensor(distribution, local.draw(family) if given is None else given)


def _tag(value: Any, name: str | None = None, address: str | None = None) -> None:
    """What `pyprob.tag` does in a model that is served."""
    place_of, label = _place(name, address, sys._getframe(1))
    trace = current()
    if trace is not None:
        number = to_float_or_array(
            _plain(value), f"the tag {place_of}", "tag every part under a name of its own"
        )
        trace.tag(number, place_of, label)


def _state_factor(
    log_prob: Any = None, log_prob_func: Any = None, name: str | None = None, address: str | None = None
) -> None:
    """What `pyprob.factor` does in a model that is served."""
    place_of, label = _place(name, address, sys._getframe(1))
    _factor(theirs.Factor(log_prob=log_prob, log_prob_func=log_prob_func), place_of, label)


_REPLACEMENT = Replacement(
    [
        (pyprob.sample, _sample),
        (pyprob.observe, _observe),
        (pyprob.tag, _tag),
        (pyprob.factor, _state_factor),
    ]
)


_MOST = 500.0
"""Largest logarithm of a rate; exp(709) is the largest double."""


def _factor(factor: Any, place_of: str, label: str) -> None:
    """Multiplies the weight of the trace by exp(c), by an observation whose density is that.

    For c <= 0 it is a count of 0 with Poisson rate -c, for c > 0 k times 0 with Exponential rate exp(c / k), and for
    c = -inf a 1 that has probability 0.
    """
    if factor._log_prob is None:
        raise UncontrolledError(
            f"the factor at {place_of} is a function of a value (log_prob_func), which PPX cannot pass to the model; "
            "compute it in the model and give log_prob"
        )
    c = float(factor._log_prob)
    if math.isnan(c) or c == math.inf:
        raise PPXError(f"the log_prob of the factor at {place_of} is {c}; it must be a number below infinity")
    trace = current()
    if trace is None:
        return
    if c == -math.inf:
        trace.observe(ours.Bernoulli(0.0), 1.0, place_of, label)
    elif c <= 0.0:
        trace.observe(ours.Poisson(-c), 0.0, place_of, label)
    else:
        parts = math.ceil(c / _MOST)
        trace.observe(ours.Exponential(np.full(parts, math.exp(c / parts))), np.zeros(parts), place_of, label)


def _place(name: str | None, address: str | None, frame: FrameType) -> tuple[str, str]:
    """Address and name of a statement."""
    if address is not None or name is not None:
        return scopes() + (address or name or ""), name or ""
    return scopes() + place(frame).site, ""


def _plain(value: Any) -> Any:
    """Numbers and arrays of tensors."""
    if torch.is_tensor(value):
        return value.item() if value.dim() == 0 else value.detach().cpu().numpy().astype(np.float64)
    if isinstance(value, list | tuple) and any(map(torch.is_tensor, value)):
        return [_plain(one) for one in value]
    return value


_FAMILIES: dict[type, tuple[type[ours.Distribution], Callable[[Any], tuple[Any, ...]]]] = {
    # Some parameters are those of the torch distribution, as pyprob's own property returns the mean of an Exponential.
    theirs.Normal: (ours.Normal, lambda d: (d._torch_dist.loc, d._torch_dist.scale)),
    theirs.Uniform: (ours.Uniform, lambda d: (d._torch_dist.low, d._torch_dist.high)),
    theirs.Categorical: (ours.Categorical, lambda d: (d.probs,)),
    theirs.Poisson: (ours.Poisson, lambda d: (d._torch_dist.rate,)),
    theirs.Bernoulli: (ours.Bernoulli, lambda d: (d.probs,)),
    theirs.Beta: (ours.Beta, lambda d: (d.concentration1, d.concentration0)),
    theirs.Exponential: (ours.Exponential, lambda d: (d._torch_dist.rate,)),
    theirs.Gamma: (ours.Gamma, lambda d: (d._torch_dist.concentration, d._torch_dist.rate)),
    theirs.LogNormal: (ours.LogNormal, lambda d: (d.loc, d.scale)),
    theirs.Binomial: (ours.Binomial, lambda d: (d.total_count, d.probs)),
    theirs.Weibull: (ours.Weibull, lambda d: (d.scale, d.concentration)),
    theirs.TruncatedNormal: (ours.TruncatedNormal, lambda d: _truncated(d)),
}


def _truncated(distribution: Any) -> tuple[Any, ...]:
    d = distribution
    params = d.mean_non_truncated, d.stddev_non_truncated, d.low, d.high
    # pyprob takes away an axis of length 1.
    return tuple(p.squeeze(0) if p.dim() else p for p in params) if d._batch_length == 1 else params


def _distribution(distribution: Any, place_of: str) -> ours.Distribution:
    """A distribution of pyprob as one of ours."""
    found = _FAMILIES.get(type(distribution))
    if found is None:
        remedy = _REMEDIES.get(type(distribution), "use one of " + ", ".join(f.__name__ for f in _FAMILIES))
        raise UncontrolledError(f"{type(distribution).__name__} at {place_of} is not known to PPX; {remedy}")
    family, parameters = found
    return family(*map(_plain, parameters(distribution)))


_REMEDIES = {
    theirs.Mixture: "sample a Categorical, then from the component it picks",
    theirs.VonMises: "sample a Uniform or Normal angle that implies it",
    theirs.Empirical: "sample a Categorical index of its values",
}


def _range(distribution: Any) -> tuple[Any, Any] | None:
    """Lower bound and width of a Beta that is not on (0, 1)."""
    if type(distribution) is not theirs.Beta:
        return None
    low, width = _plain(distribution._low), _plain(distribution._range)
    return None if np.all(low == 0.0) and np.all(width == 1.0) else (low, width)


def _broadcast(family: ours.Distribution, value: Any, place_of: str) -> tuple[ours.Distribution, Any]:
    """Distribution and value in their common shape, as torch does it."""
    shape = np.shape(value)
    if shape == family.shape:
        return family, value
    try:
        common = np.broadcast_shapes(shape, family.shape)
    except ValueError:
        raise TensorError(
            f"the observed value at {place_of} has shape {shape}, its distribution {family.shape}; make them equal"
        ) from None
    if family.shape != common:
        trailing = [np.shape(param)[len(family.shape) :] for param in family.params]
        params = zip(family.params, trailing, strict=True)
        family = type(family)(*(np.broadcast_to(param, common + rest) for param, rest in params))
    return family, np.array(np.broadcast_to(value, common), np.float64)


_SMALLEST, _LARGEST = 2.0**-126, 3.4e38
_BELOW_ONE = 1.0 - 2.0**-24
_LIMITS: dict[type, tuple[float, float]] = {
    theirs.Beta: (_SMALLEST, _BELOW_ONE),
    **dict.fromkeys(
        (theirs.Exponential, theirs.Gamma, theirs.LogNormal, theirs.Weibull), (_SMALLEST, _LARGEST)
    ),
}
"""What 32 bits can hold inside the supports that have an edge."""


def _tensor(distribution: Any, value: Any) -> Any:
    """A value as the tensor that pyprob would return."""
    kind = type(distribution)
    # An observation that a PPX 1.0 controller keeps for itself is NaN.
    if kind is theirs.Categorical and np.isfinite(value).all():
        return torch.as_tensor(value, dtype=torch.int64)
    if kind in _LIMITS and (kind is not theirs.Beta or _range(distribution) is None):
        value = np.clip(value, *_LIMITS[kind])
    tensor = to_tensor(value)
    if kind is theirs.Uniform and bool((tensor >= distribution.high).any()):
        tensor = torch.minimum(tensor, torch.nextafter(distribution.high, distribution.low))
    return tensor


_left_out: set[type] = set()


def _result(result: Any) -> Any:
    """The result of a model as a number, an array or None."""
    if not isinstance(result, dict):
        return None if result is None else _numbers(result)
    trace = current()
    for key, value in result.items():
        entry = _numbers(value)
        if trace is not None and entry is not None:
            trace.tag(entry, str(key), str(key))
    return None


def _numbers(value: Any) -> Any:
    plain = _plain(value)
    try:
        return to_float_or_array(
            list(plain) if isinstance(plain, tuple) else plain, "the result", "return numbers"
        )
    except TensorError:
        if type(value) not in _left_out:
            _left_out.add(type(value))
            _logger.warning(
                "the model returns a %s, which is no array of numbers; left out", type(value).__name__
            )
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: serves the model that is named."""
    parser = argparse.ArgumentParser(
        prog="python -m ppx_client.pyprob", description="Serves a pyprob Model, unchanged, through PPX."
    )
    parser.add_argument("model", help="module:Model, or path/to/file.py:Model; a class or an instance")
    parser.add_argument("--name", help="name shown to controllers; by default that of the model")
    options = parser.parse_args(arguments)
    serve(_load(options.model), options.name)


def _load(text: str) -> Any:
    """The model that a command line names."""
    module, _, attribute = text.rpartition(":")
    if not module or not attribute:
        raise ServeError(f"{text!r} names no model; write module:Model or path/to/file.py:Model")
    if module.endswith(".py"):
        path = Path(module).resolve()
        sys.path.insert(0, str(path.parent))
        module = path.stem
    found = getattr(importlib.import_module(module), attribute, None)
    model = found() if isinstance(found, type) else found
    if not isinstance(model, pyprob.Model):
        raise ServeError(
            f"{text!r} is no pyprob.Model but {found!r}; name a class derived from it, or an instance"
        )
    return model


if __name__ == "__main__":
    from ppx_client.pyprob import main as run  # as a module of the package, whose frames are known as such

    run()
