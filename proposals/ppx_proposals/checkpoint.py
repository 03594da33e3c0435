"""Checkpoints: a folder with `proposal.json` and the weights in safetensors.

`proposal.json` names the weights' file and its SHA-256, and is replaced in one atomic rename after the weights are on
disk, so that whatever interrupts a save, the folder holds the old checkpoint or the new one. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ppx_proposals.config import NetworkConfig
from ppx_proposals.forecast import TableForecast
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.optim import AdamHD
from ppx_proposals.proposal import Proposal, TrainingState, TrainingStep
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.address import AddressTable
from ppx_server.errors import CheckpointError

FORMAT = "ppx proposal"
VERSION = 1
_JSON = "proposal.json"
_LEFTOVERS = (".weights-*", f".{_JSON}.*")
"""Files that a process left which was killed while it wrote them."""


def save(proposal: Proposal, path: Path) -> None:
    """Writes a checkpoint.

    Args:
        proposal: What to write, training state and optimizer included.
        path: The folder; made if missing, its checkpoint replaced if there is one.

    Raises:
        CheckpointError: The folder cannot be written to.
    """
    weights = save_tensors({name: t.detach().cpu().contiguous() for name, t in _tensors(proposal).items()})
    digest = hashlib.sha256(weights).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    description: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "weights": {"file": name, "sha256": digest},
        "network": asdict(proposal.config),
        "addresses": proposal.vocabulary.to_json(),
        "observations": proposal.layout.to_json(),
        "training": asdict(proposal.training),
        "optimizer": _optimizer_settings(proposal),
        "history": [list(step) for step in proposal.history],
        "forecast": proposal.forecast.addresses.to_json(),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write(path / name, weights)
        _write(path / _JSON, _one_line_each(description).encode())
        for pattern in ("weights-*.safetensors", *_LEFTOVERS):
            for old in path.glob(pattern):
                if old.name != name:
                    old.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error}; choose another folder") from error


def load(path: Path, *, device: torch.device) -> Proposal:
    """Reads a checkpoint.

    Args:
        path: The folder.
        device: Where the network goes.

    Raises:
        CheckpointError: It does not exist, is corrupt or of another version.
    """
    try:
        description = json.loads((path / _JSON).read_bytes())
        weights_path = path / Path(str(description["weights"]["file"])).name
        weights = weights_path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if (path / "manifest.json").exists():
            raise CheckpointError(
                f"{path} holds traces, not a proposal; give the folder that ppx train wrote (its --output)"
            ) from error
        raise CheckpointError(
            f"no checkpoint at {path}: {error.filename} is missing; check the path"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}; check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(path / _JSON, error) from error
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        raise CheckpointError(
            f"{path / _JSON} is {description.get('format')!r} version {description.get('version')!r}, and this program "
            f"reads {FORMAT!r} version {VERSION}; use the program that wrote it, or train again"
        )
    if hashlib.sha256(weights).hexdigest() != description["weights"].get("sha256"):
        raise _corrupt(weights_path, "its SHA-256 is not the one it was written with")
    try:
        return _assemble(description, load_tensors(weights), device)
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"checkpoint file {path} is corrupt: {why}; restore it from a copy, or train again"
    )


def _tensors(proposal: Proposal) -> dict[str, Tensor]:
    tensors = {f"network.{name}": t for name, t in proposal.network.state_dict().items()}
    for number, (mean, scale) in enumerate(zip(proposal.layout.means, proposal.layout.scales, strict=True)):
        tensors[f"observations.{number}.mean"] = torch.from_numpy(np.asarray(mean))
        tensors[f"observations.{number}.scale"] = torch.from_numpy(np.asarray(scale))
    tensors["forecast.counts"] = torch.from_numpy(proposal.forecast.counts)
    if proposal.optimizer is not None:
        for name, p in proposal.network.named_parameters():
            for key, value in proposal.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{name}:{key}"] = value
    return tensors


def _optimizer_settings(proposal: Proposal) -> dict[str, Any] | None:
    """Settings of the only group, the order of its parameters, and what is kept for each besides tensors."""
    optimizer = proposal.optimizer
    if optimizer is None:
        return None
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    numbers = {
        name: {k: v for k, v in optimizer.state[p].items() if not isinstance(v, Tensor)}
        for name, p in proposal.network.named_parameters()
        if p in optimizer.state
    }
    names = {id(p): name for name, p in proposal.network.named_parameters()}
    order = [names[id(p)] for p in optimizer.param_groups[0]["params"]]
    return {"name": type(optimizer).__name__, "group": group, "params": order, "state": numbers}


def _assemble(description: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Proposal:
    config = dict(description["network"])
    config["grid_channels"] = tuple(config["grid_channels"])
    slots = description["observations"]
    layout = ObservationLayout.from_json(
        slots,
        [tensors[f"observations.{n}.mean"].numpy() for n in range(len(slots))],
        [tensors[f"observations.{n}.scale"].numpy() for n in range(len(slots))],
    )
    network = ProposalNetwork(layout.flat_size, layout.grid_shapes, NetworkConfig(**config))
    proposal = Proposal(network, Vocabulary.from_json(description["addresses"]), layout, device=device)
    prefix = "network."
    state = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    network.load_state_dict(state)
    proposal.training = TrainingState(**description["training"])
    proposal.history = [TrainingStep(*step) for step in description["history"]]
    if "forecast" in description:  # older checkpoints have none
        counts = tensors["forecast.counts"].numpy()
        proposal.forecast = TableForecast(AddressTable.from_json(description["forecast"]), counts)
    if description["optimizer"] is not None:
        proposal.optimizer = _optimizer(description["optimizer"], tensors, proposal)
    return proposal


def _optimizer(settings: dict[str, Any], tensors: dict[str, Tensor], proposal: Proposal) -> AdamHD:
    if settings["name"] != AdamHD.__name__:
        raise ValueError(f"unknown optimizer {settings['name']!r}")
    params = dict(proposal.network.named_parameters())
    # Sums over all parameters are rounded as before only in the order in which they joined.
    order = settings.get("params", params)  # older checkpoints have none
    if set(order) != set(params):
        raise ValueError("the optimizer has other parameters than the network")
    optimizer = AdamHD([params[name] for name in order])
    group = dict(settings["group"])
    for key in ("betas", "lr_bounds"):
        group[key] = tuple(group[key])
    optimizer.param_groups[0].update(group)
    for name, p in params.items():
        if name in settings["state"]:
            optimizer.state[p] = dict(settings["state"][name])
            for key in ("exp_avg", "exp_avg_sq", "direction"):
                tensor = tensors.get(f"optimizer.{name}:{key}")
                if tensor is not None:
                    optimizer.state[p][key] = tensor.to(device=p.device, dtype=p.dtype)
    return optimizer


def _one_line_each(entries: dict[str, Any]) -> str:
    """JSON with one line per entry: readable, and short however long the history."""
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()) + "\n}\n"


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is either complete or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
