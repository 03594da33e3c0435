"""A stand-in for `numpy.random.Generator` whose every number is a PPX draw.

A NumPy simulator that takes a generator is controlled by giving it this one; its code stays as it is:

    from ppx_client.random import Generator

    def forward():
        return simulate(rng=Generator())

Methods, parameters, shapes and types are NumPy's. `normal`, `standard_normal`, `uniform`, `random`, `exponential`,
`standard_exponential`, `gamma`, `standard_gamma`, `chisquare`, `beta`, `power`, `lognormal`, `weibull`, `rayleigh`,
`poisson` and `binomial` are one draw of a PPX family, whose value is the number. The other methods compute it exactly
from PPX draws, which their docstrings name; what is drawn has an address below that of the call, and the number itself
is found in results as a tag, if it is assigned to a variable.

Draws have the address of their place in the model's code and the name of the variable they are assigned to:
`mu = rng.normal(0, 1)` is found as `posterior["mu"]`. An array is one draw of independent elements.

Without a controller the numbers are those of `ppx_client.seed`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ppx_client import random_indices, random_transforms, random_vectors
from ppx_client.errors import PPXError, UncontrolledError
from ppx_client.random_bits import ControlledBits
from ppx_client.random_draws import (
    BELOW_ONE,
    BETA,
    BINOMIAL,
    CHI_SQUARE,
    EXPONENTIAL,
    GAMMA,
    LOG_NORMAL,
    NORMAL,
    POISSON,
    POWER,
    RAYLEIGH,
    UNIFORM,
    WEIBULL,
    Draws,
    Size,
    cast,
    size_of,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = ["Generator", "default_rng"]

_caller = sys._getframe
_idle = np.random.PCG64(0)
"""What the base class wants to have, and no method uses."""


class Generator(np.random.Generator):
    """A random number generator in the controller's hands.

    Example:
        >>> import numpy as np
        >>> from ppx_client.random import Generator
        >>> rng = Generator()
        >>> isinstance(rng, np.random.Generator) and np.random.default_rng(rng) is rng
        True
        >>> rng.normal(np.zeros(3), 1.0).shape
        (3,)

    Args:
        control: Whether inference may choose the numbers; False for randomness that it should leave to the prior.
    """

    def __init__(self, *, control: bool = True) -> None:
        super().__init__(_idle)
        self._draws = Draws(control)
        self._named: dict[str, Generator] = {}

    def named(self, name: str) -> Generator:
        """A generator all of whose draws have this name, which is their address: `rng.named("mu").normal(0, 1)`.

        Addresses without names change when the code is edited, and so does what a trained network knows of them.

        Raises:
            PPXError: The name is empty or no string.
        """
        found = self._named.get(name)
        if found is None:
            if not isinstance(name, str) or not name:
                raise PPXError(f"named({name!r}): the name must be a string that is not empty")
            found = self._named[name] = type(self)(control=self._draws.control)
            found._draws = Draws(self._draws.control, name)
        return found

    # Numbers that are one draw of a PPX family.

    def normal(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Normal; `loc` where `scale` is 0."""
        return self._draws.native(NORMAL, (loc, scale), size, _caller(1))

    def uniform(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, size: Size = None) -> Any:
        """Uniform; `low` where it equals `high`."""
        return self._draws.native(UNIFORM, (low, high), size, _caller(1))

    def exponential(self, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Exponential; 0 where `scale` is 0."""
        return self._draws.native(EXPONENTIAL, (scale,), size, _caller(1))

    def gamma(self, shape: ArrayLike, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Gamma; 0 where `shape` or `scale` is 0."""
        return self._draws.native(GAMMA, (shape, scale), size, _caller(1))

    def beta(self, a: ArrayLike, b: ArrayLike, size: Size = None) -> Any:
        """Beta."""
        return self._draws.native(BETA, (a, b), size, _caller(1))

    def lognormal(self, mean: ArrayLike = 0.0, sigma: ArrayLike = 1.0, size: Size = None) -> Any:
        """LogNormal; exp(`mean`) where `sigma` is 0."""
        return self._draws.native(LOG_NORMAL, (mean, sigma), size, _caller(1))

    def poisson(self, lam: ArrayLike = 1.0, size: Size = None) -> Any:
        """Poisson."""
        return self._draws.native(POISSON, (lam,), size, _caller(1))

    def binomial(self, n: ArrayLike, p: ArrayLike, size: Size = None) -> Any:
        """Binomial."""
        return self._draws.native(BINOMIAL, (n, p), size, _caller(1))

    def weibull(self, a: ArrayLike, size: Size = None) -> Any:
        """Weibull of scale 1; 0 where `a` is 0."""
        return self._draws.native(WEIBULL, (a,), size, _caller(1))

    def rayleigh(self, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Weibull(sqrt(2) `scale`, 2); 0 where `scale` is 0."""
        return self._draws.native(RAYLEIGH, (scale,), size, _caller(1))

    def power(self, a: ArrayLike, size: Size = None) -> Any:
        """Beta(`a`, 1)."""
        return self._draws.native(POWER, (a,), size, _caller(1))

    def chisquare(self, df: ArrayLike, size: Size = None) -> Any:
        """Gamma(`df` / 2, 1/2)."""
        return self._draws.native(CHI_SQUARE, (df,), size, _caller(1))

    def random(self, size: Size = None, dtype: DTypeLike = np.float64, out: Any = None) -> Any:
        """Uniform(0, 1), kept below 1."""
        value = self._draws.native(UNIFORM, (0.0, 1.0), size_of(size, out), _caller(1))
        if size is None and out is None and dtype is np.float64:
            return min(value, BELOW_ONE)
        return cast(value, size, dtype, out, below_one=True)

    def standard_normal(self, size: Size = None, dtype: DTypeLike = np.float64, out: Any = None) -> Any:
        """Normal(0, 1)."""
        value = self._draws.native(NORMAL, (0.0, 1.0), size_of(size, out), _caller(1))
        return cast(value, size, dtype, out)

    def standard_exponential(
        self, size: Size = None, dtype: DTypeLike = np.float64, method: str = "zig", out: Any = None
    ) -> Any:
        """Exponential(1); there is only one method."""
        if method not in ("zig", "inv"):
            raise ValueError(f"standard_exponential: method {method!r} is neither zig nor inv")
        value = self._draws.native(EXPONENTIAL, (1.0,), size_of(size, out), _caller(1))
        return cast(value, size, dtype, out)

    def standard_gamma(
        self, shape: ArrayLike, size: Size = None, dtype: DTypeLike = np.float64, out: Any = None
    ) -> Any:
        """Gamma(`shape`, 1); 0 where `shape` is 0."""
        value = self._draws.native(GAMMA, (shape, 1.0), size_of(size, out), _caller(1))
        return cast(value, size, dtype, out)

    # Whole numbers, choices and orders.

    def integers(  # type: ignore[override]  # its type depends on the value of dtype
        self,
        low: ArrayLike,
        high: ArrayLike | None = None,
        size: Size = None,
        dtype: DTypeLike = np.int64,
        endpoint: bool = False,
    ) -> Any:
        """Categorical if there are at most 64 outcomes, else floor(n u) of a Uniform u (several beyond 2^32)."""
        call = self._draws.call(_caller(1))
        return call.deliver(random_indices.integers(call, low, high, size, dtype, endpoint))

    def choice(
        self,
        a: ArrayLike,
        size: Size = None,
        replace: bool = True,
        p: ArrayLike | None = None,
        axis: int = 0,
        shuffle: bool = True,
    ) -> Any:
        """Indices as by `integers`, with `p` likewise; without replacement one Uniform for each element that is drawn.

        The order is random whether `shuffle` demands it or not.
        """
        call = self._draws.call(_caller(1))
        return call.deliver(random_indices.choice(call, a, size, replace, p, axis))

    def permutation(self, x: Any, axis: int = 0) -> Any:
        """One array of Uniforms (Fisher and Yates)."""
        call = self._draws.call(_caller(1))
        return call.deliver(random_indices.permutation(call, x, axis))

    def permuted(self, x: ArrayLike, *, axis: int | None = None, out: Any = None) -> Any:
        """One array of Uniforms (Fisher and Yates)."""
        call = self._draws.call(_caller(1))
        return call.deliver(random_indices.permuted(call, x, axis, out))

    def shuffle(self, x: Any, axis: int = 0) -> None:
        """One array of Uniforms (Fisher and Yates)."""
        random_indices.shuffle(self._draws.call(_caller(1)), x, axis)

    def bytes(self, length: int) -> Any:
        """One array of Uniforms."""
        call = self._draws.call(_caller(1))
        return random_indices.integers(call, 0, 256, int(length), np.uint8, False).tobytes()

    # Numbers that are computed from draws.

    def laplace(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        return self._draws.transformed(random_transforms.laplace, (loc, scale), size, _caller(1))

    def logistic(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        return self._draws.transformed(random_transforms.logistic, (loc, scale), size, _caller(1))

    def gumbel(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, size: Size = None) -> Any:
        """Minus the logarithm of an Exponential."""
        return self._draws.transformed(random_transforms.gumbel, (loc, scale), size, _caller(1))

    def pareto(self, a: ArrayLike, size: Size = None) -> Any:
        """Exponential of an Exponential, minus 1."""
        return self._draws.transformed(random_transforms.pareto, (a,), size, _caller(1))

    def standard_cauchy(self, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        return self._draws.transformed(random_transforms.standard_cauchy, (), size, _caller(1))

    def standard_t(self, df: ArrayLike, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        return self._draws.transformed(random_transforms.standard_t, (df,), size, _caller(1))

    def f(self, dfnum: ArrayLike, dfden: ArrayLike, size: Size = None) -> Any:
        """The odds of a Beta."""
        return self._draws.transformed(random_transforms.f, (dfnum, dfden), size, _caller(1))

    def noncentral_chisquare(self, df: ArrayLike, nonc: ArrayLike, size: Size = None) -> Any:
        """A Gamma with a shape from a Poisson."""
        return self._draws.transformed(random_transforms.noncentral_chisquare, (df, nonc), size, _caller(1))

    def noncentral_f(self, dfnum: ArrayLike, dfden: ArrayLike, nonc: ArrayLike, size: Size = None) -> Any:
        """A noncentral chi-square number, and a Gamma."""
        params = dfnum, dfden, nonc
        return self._draws.transformed(random_transforms.noncentral_f, params, size, _caller(1))

    def triangular(self, left: ArrayLike, mode: ArrayLike, right: ArrayLike, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        return self._draws.transformed(random_transforms.triangular, (left, mode, right), size, _caller(1))

    def wald(self, mean: ArrayLike, scale: ArrayLike, size: Size = None) -> Any:
        """A Normal, and a Uniform that chooses one of two roots."""
        return self._draws.transformed(random_transforms.wald, (mean, scale), size, _caller(1))

    def vonmises(self, mu: ArrayLike, kappa: ArrayLike, size: Size = None) -> Any:
        """A marked rejection loop of Uniforms for each number."""
        return self._draws.transformed(random_transforms.vonmises, (mu, kappa), size, _caller(1))

    def geometric(self, p: ArrayLike, size: Size = None) -> Any:
        """An Exponential, rounded up."""
        return self._draws.transformed(random_transforms.geometric, (p,), size, _caller(1))

    def negative_binomial(self, n: ArrayLike, p: ArrayLike, size: Size = None) -> Any:
        """A Poisson with a rate from a Gamma."""
        return self._draws.transformed(random_transforms.negative_binomial, (n, p), size, _caller(1))

    def logseries(self, p: ArrayLike, size: Size = None) -> Any:
        """Two Uniforms."""
        return self._draws.transformed(random_transforms.logseries, (p,), size, _caller(1))

    def zipf(self, a: ArrayLike, size: Size = None) -> Any:
        """A marked rejection loop of Uniforms for each number."""
        return self._draws.transformed(random_transforms.zipf, (a,), size, _caller(1))

    def hypergeometric(self, ngood: ArrayLike, nbad: ArrayLike, nsample: ArrayLike, size: Size = None) -> Any:
        """Quantile function of a Uniform."""
        params = ngood, nbad, nsample
        return self._draws.transformed(random_transforms.hypergeometric, params, size, _caller(1))

    # Vectors.

    def multinomial(self, n: ArrayLike, pvals: ArrayLike, size: Size = None) -> Any:
        """A Binomial for each category but the last."""
        call = self._draws.call(_caller(1))
        return call.deliver(random_vectors.multinomial(call, n, pvals, size))

    def dirichlet(self, alpha: ArrayLike, size: Size = None) -> Any:
        """An array of a Beta for each component but the last."""
        call = self._draws.call(_caller(1))
        return call.deliver(random_vectors.dirichlet(call, alpha, size))

    def multivariate_normal(
        self,
        mean: ArrayLike,
        cov: ArrayLike,
        size: Size = None,
        check_valid: str = "warn",
        tol: float = 1e-8,
        *,
        method: str = "svd",
    ) -> Any:
        """An array of standard Normals."""
        call = self._draws.call(_caller(1))
        values = random_vectors.multivariate_normal(call, mean, cov, size, check_valid, tol, method)
        return call.deliver(values)

    def multivariate_hypergeometric(
        self, colors: ArrayLike, nsample: int, size: Size = None, method: str = "marginals"
    ) -> Any:
        """A Uniform for each color but the last; there is only one method."""
        if method not in ("marginals", "count"):
            raise ValueError(f"multivariate_hypergeometric: method {method!r} is neither marginals nor count")
        call = self._draws.call(_caller(1))
        return call.deliver(random_vectors.multivariate_hypergeometric(call, colors, nsample, size))

    # The generator itself.

    def spawn(self, n_children: int) -> Any:
        """Generators like this one; their draws are independent anyway, whatever generator they are asked of."""
        return [type(self)(control=self._draws.control) for _ in range(n_children)]

    @property
    def bit_generator(self) -> Any:
        """Stands for the one that there is not: it has a `state` to be kept and set back, but no bits.

        The controller draws, so numbers are not repeated where a state is set back; a notice says so.
        """
        return ControlledBits(self._draws)

    def __repr__(self) -> str:
        return f"ppx_client.random.Generator(control={self._draws.control})"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._draws.control, self._draws.name)


def _rebuild(kind: type[Generator], control: bool, name: str) -> Generator:
    generator = kind(control=control)
    return generator.named(name) if name else generator


def default_rng(seed: Any = None) -> np.random.Generator:
    """A `Generator`, for code that makes its own by `numpy.random.default_rng`.

    Args:
        seed: A generator, which is returned as it is; anything else is ignored: the controller draws, or without one
            `ppx_client.seed` says what is drawn.
    """
    return seed if isinstance(seed, np.random.Generator) else Generator()


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Generator, *args: Any, **kwargs: Any) -> NoReturn:
        raise UncontrolledError(
            f"Generator.{name} is not controlled by PPX; express it by other methods, or use numpy.random.default_rng "
            "for what inference need not know"
        )

    refuse.__name__ = name
    return refuse


# What other versions of NumPy add must not draw behind the controller's back.
for _name in dir(np.random.Generator):
    if not _name.startswith("_") and _name not in vars(Generator):
        setattr(Generator, _name, _refusal(_name))
