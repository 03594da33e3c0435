"""Stand-ins for the generators behind the functions of the module `random` and of the module `numpy.random`."""

from __future__ import annotations

import random
import sys
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ppx_client import random_indices
from ppx_client.distributions import Categorical
from ppx_client.errors import UncontrolledError
from ppx_client.random import Generator
from ppx_client.random_bits import check_position
from ppx_client.random_draws import (
    BELOW_ONE,
    BETA,
    BINOMIAL,
    EXPONENTIAL,
    GAMMA,
    LOG_NORMAL,
    NORMAL,
    SCALED_WEIBULL,
    UNIFORM,
    Draws,
    Size,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

_caller = sys._getframe
_RandomState = np.random.RandomState
_VERSION = 3
"""Of the states of `random.Random`."""


class StandardRandom(random.Random):
    """What the functions of the module `random` call: `random.Random` with draws from PPX.

    Families that PPX knows are one draw. What is not defined here (`triangular`, `paretovariate`, `vonmisesvariate`,
    `randbytes`) Python computes from `random` and `getrandbits`.
    """

    def __init__(self, control: bool) -> None:
        self._draws = Draws(control)
        super().__init__()

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """Has no effect: the controller draws."""

    def getstate(self) -> Any:
        """Something to set back."""
        return _VERSION, (self._draws.num_calls,), None

    def setstate(self, state: Any) -> None:
        """Says that numbers are not repeated."""
        check_position(self._draws, state[1][0] if len(state) == 3 and len(state[1]) == 1 else None)

    def __reduce__(self) -> Any:
        return copy, (self._draws.control,)

    def random(self) -> Any:
        """Uniform(0, 1), kept below 1."""
        return min(self._draws.native(UNIFORM, (0.0, 1.0), None, _caller(1)), BELOW_ONE)

    def getrandbits(self, k: int) -> int:
        """Integers of 32 bits."""
        if k < 0:
            raise ValueError(f"getrandbits: {k} bits; give a number >= 0")
        call = self._draws.call(_caller(1))
        words = random_indices.integers(call, 0, 1 << 32, (k + 31) // 32, np.uint64, False)
        return int.from_bytes(words.astype("<u4").tobytes(), "little") >> (-k % 32)

    def _randbelow(self, n: int) -> int:
        """What Python's own methods make whole numbers of."""
        return int(random_indices.index(self._draws.call(_caller(1)), n, (), whole=True))

    def randint(self, a: int, b: int) -> int:
        """A whole number from `a` to `b`, as by `Generator.integers`."""
        first, outcomes = index(a), index(b) - index(a) + 1
        if outcomes < 1:
            raise ValueError(f"randint({a}, {b}): there is no whole number from {a} to {b}")
        call = self._draws.call(_caller(1))
        offset = int(random_indices.index(call, outcomes, (), whole=first == 0))
        return int(call.deliver(first + offset))

    def choice(self, seq: Any) -> Any:
        """An element, its index as by `Generator.integers`."""
        if not len(seq):
            raise IndexError("Cannot choose from an empty sequence")
        call = self._draws.call(_caller(1))
        return call.deliver(seq[int(random_indices.index(call, len(seq), (), whole=False))])

    def choices(
        self,
        population: Any,
        weights: Any = None,
        *,
        cum_weights: Any = None,
        k: int = 1,
    ) -> list[Any]:
        """Elements with replacement, their indices as by `Generator.choice`."""
        if weights is not None and cum_weights is not None:
            raise TypeError("Cannot specify both weights and cumulative weights")
        count = len(population)
        if not count and k > 0:
            raise IndexError("Cannot choose from an empty population")
        call = self._draws.call(_caller(1))
        if weights is None and cum_weights is None:
            return [
                population[i]
                for i in np.atleast_1d(random_indices.index(call, count, (k,), whole=False)).tolist()
            ]
        below = list(accumulate(weights) if weights is not None else cum_weights or ())
        if len(below) != count or not below or not 0.0 < below[-1] < float("inf"):
            raise ValueError(
                "The number of weights must match the population, and their sum must be finite and > 0"
            )
        if count <= random_indices.FEW:
            probs = np.diff(np.array(below, np.float64), prepend=0.0)
            rows = call.part(Categorical(np.broadcast_to(probs, (k, count))), "index").tolist()
        else:
            rows = [bisect(below, u * below[-1], 0, count - 1) for u in call.uniform((k,)).tolist()]
        return [population[i] for i in rows]

    def shuffle(self, x: Any) -> None:
        """Random order by one array of Uniforms."""
        random_indices.shuffle(self._draws.call(_caller(1)), x, 0)

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        """Different elements, by one array of Uniforms."""
        if not isinstance(population, Sequence):
            # The order of a set may be another one in every process.
            raise TypeError("Population must be a sequence.  For dicts or sets, use sorted(d).")
        below = None if counts is None else list(accumulate(counts))
        if below is not None and len(below) != len(population):
            raise ValueError("The number of counts does not match the population")
        size = len(population) if below is None else (below or [0])[-1]
        if not 0 <= k <= size:
            raise ValueError("Sample larger than population or is negative")
        rows = random_indices.order(self._draws.call(_caller(1)), size, k).tolist()
        return [population[i if below is None else bisect(below, i)] for i in rows]

    def uniform(self, a: float, b: float) -> Any:
        """Uniform."""
        return self._draws.native(UNIFORM, (min(a, b), max(a, b)), None, _caller(1))

    def normalvariate(self, mu: float = 0.0, sigma: float = 1.0) -> Any:
        """Normal."""
        return self._draws.native(NORMAL, (mu, sigma), None, _caller(1))

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> Any:
        """Normal."""
        return self._draws.native(NORMAL, (mu, sigma), None, _caller(1))

    def lognormvariate(self, mu: float, sigma: float) -> Any:
        """LogNormal."""
        return self._draws.native(LOG_NORMAL, (mu, sigma), None, _caller(1))

    def expovariate(self, lambd: float = 1.0) -> Any:
        """Exponential."""
        return self._draws.native(EXPONENTIAL, (1.0 / lambd,), None, _caller(1))

    def gammavariate(self, alpha: float, beta: float) -> Any:
        """Gamma."""
        return self._draws.native(GAMMA, (alpha, beta), None, _caller(1))

    def betavariate(self, alpha: float, beta: float) -> Any:
        """Beta."""
        return self._draws.native(BETA, (alpha, beta), None, _caller(1))

    def weibullvariate(self, alpha: float, beta: float) -> Any:
        """Weibull."""
        return self._draws.native(SCALED_WEIBULL, (alpha, beta), None, _caller(1))

    def binomialvariate(self, n: int = 1, p: float = 0.5) -> Any:
        """Binomial."""
        return self._draws.native(BINOMIAL, (n, p), None, _caller(1))


def copy(control: bool) -> StandardRandom:
    """A copy of a `StandardRandom`: it draws as the other does."""
    return StandardRandom(control)


class GlobalGenerator(Generator):
    """What the functions of the module `numpy.random` call: `Generator` with the names they had before it.

    It is an instance of `numpy.random.RandomState`, too, for libraries that ask (scikit-learn's `check_random_state`).
    """

    @property  # type: ignore[misc]  # in the base class it can be assigned to
    def __class__(self) -> Any:
        """What `isinstance` sees besides the type."""
        return _RandomState

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """Has no effect: the controller draws."""

    def get_state(self, legacy: bool = True) -> Any:
        """Something to set back."""
        return self.bit_generator.state

    def set_state(self, state: Any) -> None:
        """Says that numbers are not repeated."""
        self.bit_generator.state = state if isinstance(state, dict) else {}

    def get_bit_generator(self) -> Any:
        """What `Generator.bit_generator` is."""
        return self.bit_generator

    def set_bit_generator(self, bitgen: Any) -> NoReturn:
        """Is refused."""
        raise UncontrolledError(
            "numpy.random.set_bit_generator: there are no random bits, as the controller draws; use a function"
        )

    def random_sample(self, size: Size = None) -> Any:
        """Uniform(0, 1), kept below 1."""
        return self.random(size)

    ranf = sample = random_sample

    def rand(self, *args: int) -> Any:
        """Uniform(0, 1), of the shape `args`."""
        return self.random(args or None)

    def randn(self, *args: int) -> Any:
        """Normal(0, 1), of the shape `args`."""
        return self.standard_normal(args or None)

    def randint(
        self, low: ArrayLike, high: ArrayLike | None = None, size: Size = None, dtype: DTypeLike = int
    ) -> Any:
        """As `integers`."""
        return self.integers(low, high, size, dtype)

    def random_integers(self, low: ArrayLike, high: ArrayLike | None = None, size: Size = None) -> Any:
        """As `integers`, from 1 or `low` to `low` or `high`, both included."""
        first, last = (1, low) if high is None else (low, high)
        return self.integers(first, last, size, endpoint=True)
