"""Settings of the proposal network and of its training."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a proposal network.

    Attributes:
        lstm_size: H, size of the LSTM's state.
        head_size: Hidden units of the mixture head.
        mixture_components: Normals per mixture, besides the defensive one.
        address_size: A, size of address embeddings and of the embedding of the draw before.
        observation_size: E, size of the embedding of the flat observations and of each grid.
        key_size: Size of the keys of categories.
        grid_channels: Channels of the convolutions that embed observations of three dimensions.
        defensive: Weight of the prior in every proposal, so that one draw can weigh at most `1 / defensive`.
        min_scale: Smallest standard deviation of a component, in standard coordinates.
        seed: Seed of the initial weights.
    """

    lstm_size: int = 128
    head_size: int = 128
    mixture_components: int = 10
    address_size: int = 32
    observation_size: int = 64
    key_size: int = 32
    grid_channels: tuple[int, ...] = (16, 32, 64)
    defensive: float = 0.05
    min_scale: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.lstm_size, self.head_size, self.mixture_components, self.address_size)
        if min(*sizes, self.observation_size, self.key_size, *self.grid_channels, 1) < 1:
            raise ValueError(f"all sizes of a network must be at least 1: {self}")
        if not self.grid_channels:
            raise ValueError("grid_channels needs at least one convolution")
        if not 0.0 <= self.defensive < 1.0:
            raise ValueError(f"defensive must lie in [0, 1), not {self.defensive}")
        if not self.min_scale > 0.0:
            raise ValueError(f"min_scale must be > 0, not {self.min_scale}")


@dataclass(frozen=True)
class TrainingConfig:
    """How a proposal is trained.

    Attributes:
        network: Sizes of the network; a proposal that is continued keeps its own.
        batch_size: Traces per minibatch.
        lr: Initial learning rate of Adam-HD. It may be high, for Adam-HD comes down from there: on tau decay, after 600
            minibatches and over four seeds, the held-out loss is lower by 0.10 to 0.26 nats than with Adam at its best
            constant rate (`docs/optimizers.md`).
        hypergrad_lr: Learning rate of the learning rate; 0 is plain Adam.
        rule: Rule of the learning rate, `"additive"` or `"multiplicative"`.
        lr_bounds: The learning rate is kept within these.
        weight_decay: L2 penalty.
        max_grad_norm: Gradients are scaled down to this norm.
        max_chunk: Most traces executed at once; fewer if the simulator is slow.
        num_validation: Traces that are held out to measure the loss; they are executed in addition.
        validation_interval: Seconds between measurements on them.
        max_seconds: Training stops at this wall-clock time; None for no limit.
        num_threads: Threads for arithmetic on the CPU while training. None takes at most half of the cores: the
            simulators need the others, and threads that wait for each other cost more than they give.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    batch_size: int = 128
    lr: float = 1e-2
    hypergrad_lr: float = 0.05
    rule: str = "multiplicative"
    lr_bounds: tuple[float, float] = (1e-5, 3e-2)
    weight_decay: float = 0.0
    max_grad_norm: float = 10.0
    max_chunk: int = 4096
    num_validation: int = 512
    validation_interval: float = 2.0
    max_seconds: float | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if min(self.batch_size, self.max_chunk, self.num_validation, self.num_threads or 1) < 1:
            raise ValueError(
                f"batch_size, max_chunk, num_validation and num_threads must be at least 1: {self}"
            )
        if not self.max_grad_norm > 0.0:
            raise ValueError(f"max_grad_norm must be > 0, not {self.max_grad_norm}")
        if self.max_seconds is not None and not self.max_seconds > 0.0:
            raise ValueError(f"max_seconds must be > 0, not {self.max_seconds}")
