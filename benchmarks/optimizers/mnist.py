"""Training of classifiers on MNIST, in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.optimizers.runs import Outcome

NUM_PIXELS, NUM_CLASSES = 784, 10
_MEAN, _SCALE = 0.1307, 0.3081
"""Of the pixels of MNIST, between 0 and 1; the reference code subtracts and divides by these."""
_CURVE_POINTS = 200
"""Most points of a curve, closer together at the beginning."""
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
HIDDEN = 128


class Split(NamedTuple):
    """Images to learn from, and images held out.

    Attributes:
        images: `(N, 784)` float32.
        labels: `(N,)` int64.
        held_out_images: `(M, 784)`.
        held_out_labels: `(M,)`.
    """

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


def check(path: Path) -> None:
    """Looks whether a file holds the images.

    Raises:
        ValueError: It does not; the message says what it should hold.
    """
    try:
        arrays = _read(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, BadZipFile) as error:
        raise ValueError(f"{path} must be an .npz file of the arrays {', '.join(_ARRAYS)}") from error
    for images, labels in (arrays[:2], arrays[2:]):
        if images.shape != (len(labels), 28, 28) or not len(labels):
            raise ValueError(
                f"{path} must hold images of 28 x 28 pixels, with a label each, not {images.shape}"
            )


@cache
def standardised(path: Path) -> Split:
    """Training images to learn from and test images held out (60,000 and 10,000), standardised.

    This is what the code of the hypergradient paper does: its logs have 469 iterations of 128 images per epoch, and its
    "validation" images are the test images.
    """
    images, labels, held_out_images, held_out_labels = raw(path)
    return Split((images - _MEAN) / _SCALE, labels, (held_out_images - _MEAN) / _SCALE, held_out_labels)


@cache
def raw(path: Path) -> Split:
    """The same images as they are, between 0 and 1."""
    images, labels, test_images, test_labels = _read(path)
    y, test_y = (torch.from_numpy(a.astype(np.int64)) for a in (labels, test_labels))
    return Split(_pixels(images), y, _pixels(test_images), test_y)


def logistic(seed: int) -> nn.Module:
    """Logistic regression."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(NUM_PIXELS, NUM_CLASSES)


def mlp(seed: int) -> nn.Module:
    """One hidden layer of rectifiers. The paper has two of 1000: the same picture at thirty times the cost."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(NUM_PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, NUM_CLASSES))


MODELS = {"logistic": logistic, "mlp": mlp}
TITLES = {"logistic": "logistic regression, MNIST", "mlp": f"MLP 784-{HIDDEN}-10, MNIST"}


def learn(
    model: nn.Module, optimizer: Optimizer, split: Split, *, epochs: int, batch_size: int, seed: int
) -> Outcome:
    """Trains a classifier.

    Args:
        model: From `(B, 784)` to logits `(B, 10)`.
        optimizer: Of its parameters.
        split: The images.
        epochs: How often each image is seen.
        batch_size: Images per minibatch.
        seed: Of the order of the images.

    Returns:
        `train` and `held_out`, mean losses per epoch, of the minibatches as they were learnt and of the images held
        out; `error`, percent of those that are misclassified at the end; `curve`; `diverged`, whether it ended early
        because the loss was not finite; `seconds`.
    """
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    losses: list[float] = []
    lrs: list[float] = []
    train: list[float] = []
    held_out: list[float] = []
    diverged = False
    for _ in range(epochs):
        first = len(losses)
        for rows in torch.randperm(len(split.labels), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(split.images[rows]), split.labels[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
            lrs.append(float(optimizer.param_groups[0]["lr"]))
        judged, error = _judge(model, split)
        diverged = not math.isfinite(losses[-1] + judged)
        if diverged:
            break
        train.append(float(np.mean(losses[first:])))
        held_out.append(judged)
    return {
        "train": train,
        "held_out": held_out,
        "error": error,
        "curve": curve(losses, lrs),
        "diverged": diverged,
        "seconds": time.perf_counter() - started,
    }


def curve(losses: Sequence[float], lrs: Sequence[float]) -> dict[str, list[float]]:
    """A curve thinned to points that are evenly spaced in the logarithm of the iteration.

    Args:
        losses: Per iteration; each point has the mean of those since the point before.
        lrs: Per iteration.
    """
    ends = np.unique(np.geomspace(1, max(len(losses), 1), _CURVE_POINTS).round().astype(int))
    finite = [end for end in ends.tolist() if end <= len(losses) and np.isfinite(losses[:end]).all()]
    starts = [0, *finite[:-1]]
    return {
        "iteration": finite,
        "loss": [float(np.mean(losses[a:b])) for a, b in zip(starts, finite, strict=False)],
        "lr": [lrs[end - 1] for end in finite],
    }


@torch.no_grad()
def _judge(model: nn.Module, split: Split) -> tuple[float, float]:
    """Mean loss of the images held out, and how many percent of them are misclassified."""
    logits = model(split.held_out_images)
    loss = float(nn.functional.cross_entropy(logits, split.held_out_labels))
    wrong = (logits.argmax(dim=1) != split.held_out_labels).double().mean()
    return loss, 100.0 * float(wrong)


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.reshape(-1, NUM_PIXELS).astype(np.float32) / np.float32(255.0))


def _read(path: Path) -> list[NDArray[np.uint8]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[name] for name in _ARRAYS]
