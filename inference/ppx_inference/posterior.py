"""`Posterior`: weighted traces, what they say about every quantity, and how far they can be trusted.

Letters: K traces, S the shape of a quantity.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_inference import diagnostics, quantities, ruled_out
from ppx_inference.marginal import Marginal
from ppx_inference.progress import Progress, reporting
from ppx_inference.provenance import Provenance, first_failures
from ppx_server.errors import AddressError, RuledOutError, StoreError
from ppx_server.interrupts import finishing
from ppx_server.script import ScriptBatch
from ppx_server.text import counted, plain
from ppx_server.trace import Status, TraceBatch

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ppx_server.executor import Executes

Floats = NDArray[np.float64]

_QUANTILES = (0.05, 0.5, 0.95)
_PREDICTIVE_CHUNK = 1024
_SAVE_CHUNK = 1 << 16
_MOST_ROWS = 40
"""Rows of a summary that are filled up with what has no clear name."""


class SummaryRow(NamedTuple):
    """One scalar quantity: its mean, spread and 5, 50, 95 % quantiles among the traces that have it.

    Attributes:
        present: Weight of the traces that have it, out of 1.
        ess: Effective sample size of the mean.
        r_hat: NaN for independent traces.
        probabilities: Of the values of a categorical draw, whose mean, spread and quantiles are NaN: its numbers only
            name categories.
    """

    name: str
    mean: float
    std: float
    q05: float
    q50: float
    q95: float
    present: float
    ess: float
    r_hat: float
    probabilities: Mapping[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weighted traces of a simulator, given observations; read only.

    `posterior["mu"]` is the weighted `Marginal` of a draw or tag, by name or full address, `posterior["x", 3]` of the
    fourth visit to x, `posterior.result` of what the simulator returned.

    Attributes:
        traces: K traces.
        log_weight: `(K,)`, unnormalised; zeros for Markov chains. -inf is a trace that the observations rule out, or
            that failed: what is inferred is inferred given that the simulator finishes.
        provenance: Where they come from.

    Raises:
        SimulatorFailedError: The log weight of a trace that did not fail is NaN or +inf.
    """

    traces: TraceBatch
    log_weight: Floats
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.log_weight.shape != (len(self.traces),):
            raise ValueError(
                f"{len(self.traces)} traces need as many log weights, not {self.log_weight.shape}"
            )
        diagnostics.refuse_undefined(self.log_weight, self.traces)
        if self.provenance.num_chains and len(self) % self.provenance.num_chains:
            raise ValueError(
                f"{len(self)} traces cannot be {self.provenance.num_chains} chains of equal length"
            )

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, key: str | tuple[str, int]) -> Marginal:
        """The marginal of a draw or tag, or of an observation where it was drawn.

        Args:
            key: Name or full address, alone for the first visit or with the number of the visit (from 0). A name that
                several addresses share is one quantity as long as no trace visits two of them. Or what a summary calls
                it, such as `x[3]`.

        Raises:
            AddressError: No trace has it (the message lists near matches), or it is ambiguous.
        """
        if not isinstance(key, str | tuple):
            raise TypeError(f"a quantity is asked for by its name, or by (name, visit), not by {key!r}")
        return self._marginal(self.quantity(*((key,) if isinstance(key, str) else key)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalar draws and tags."""
        return quantities.scalar_names(self.traces)

    @property
    def result(self) -> Marginal:
        """The marginal of the simulator's return value.

        Raises:
            AddressError: The simulator returns nothing.
        """
        return self._marginal(quantities.result(self.traces))

    @property
    def num_failed(self) -> int:
        """How many executions failed."""
        return self.provenance.num_failed

    @property
    def failures(self) -> Mapping[int, str]:
        """Why executions failed, by trace index; the first 100. `traces.failures` has all of independent traces."""
        return self.provenance.failures

    @cached_property
    def weights(self) -> Floats:
        """`(K,)` weights that sum to 1 (all zero if the observations rule out every trace)."""
        return diagnostics.normalised(self.log_weight)

    @cached_property
    def ess(self) -> float:
        """Effective sample size.

        For independent traces `1 / sum w^2`; for Markov chains the smallest bulk ESS over the log likelihood and the
        controlled scalar draws that every trace has.
        """
        if "ess" in self.provenance.inherited:
            return min(float(len(self)), self.provenance.inherited["ess"] or 0.0)
        if not self.provenance.num_chains:
            return diagnostics.weighted_ess(self.weights)
        each = self._chain_diagnostic(diagnostics.bulk_ess)
        # Nothing moved at all: as good as one sample, unless there was nothing to move.
        return min(each.values()) if each else (1.0 if self.traces.controlled.any() else float(len(self)))

    @cached_property
    def r_hat(self) -> float | None:
        """Largest split R-hat over the quantities that `ess` looks at; None for independent traces."""
        if not self.provenance.num_chains:
            return None
        return max(self._chain_r_hat.values(), default=math.nan)

    @cached_property
    def pareto_k(self) -> float | None:
        """k-hat of the largest weights (PSIS), above 0.7 not to be trusted; None for Markov chains."""
        if "pareto_k" in self.provenance.inherited:
            return self.provenance.inherited["pareto_k"]
        return None if self.provenance.num_chains else diagnostics.pareto_k(self.log_weight)

    @cached_property
    def log_evidence(self) -> float | None:
        """log of the estimated probability (density) that the simulator finishes with the observations.

        None for Markov chains.
        """
        if "log_evidence" in self.provenance.inherited:
            return self.provenance.inherited["log_evidence"]
        return None if self.provenance.num_chains else diagnostics.log_mean_exp(self.log_weight)

    @property
    def log_evidence_std(self) -> float | None:
        """Standard error of `log_evidence`, `sqrt(1 / ess - 1 / K)` (delta method); None for Markov chains."""
        if self.log_evidence is None or "ess" in self.provenance.inherited:
            return None
        return math.sqrt(max(1 / self.ess - 1 / len(self), 0.0)) if self.ess > 0 else math.inf

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to trust this result, each with its remedy; empty if there is none."""
        if self.provenance.num_chains and not self.provenance.inherited:
            each = self._chain_diagnostic(diagnostics.quick_ess) or {"every draw": self.ess}
            found = diagnostics.chain_doubts(each, self._chain_r_hat)
        elif len(self) and not self.weights.any():
            found = [
                ruled_out.explain(self.traces) or "every trace has weight zero, so there is no posterior"
            ]
        else:
            found = diagnostics.weight_doubts(self.ess, self.pareto_k)
        if self.num_failed:
            p = self.provenance
            found.append(diagnostics.failure_doubt(p.num_failed, p.num_executions, p.failures, seed=p.seed))
        if self.provenance.interrupted:
            found.append(f"the run was interrupted: these are the {len(self)} traces it had finished")
        return tuple(map(plain, found))

    def warn_if_doubtful(self) -> None:
        """Issues one `TrustWarning` with all `doubts`, if there are any; for engines, at the line that called them."""
        with finishing("looking how far the finished traces can be trusted"):
            text = "; ".join(self.doubts)
        if text:
            warnings.warn(f"{self.provenance.engine}: {text}", diagnostics.TrustWarning, stacklevel=4)

    def expectation(self, f: Callable[[TraceBatch], ArrayLike]) -> float | Floats:
        """Posterior mean of a function of the traces, such as `lambda traces: traces.length`.

        Args:
            f: Called once with all K traces; returns `(K, *S)`, of which those of traces without weight do not matter.

        Returns:
            A float, or an array of shape S; NaN if no trace has any weight.

        Raises:
            ValueError: f does not return one value per trace.
        """
        values = np.asarray(f(self.traces), np.float64)
        if values.shape[:1] != (len(self),):
            raise ValueError(
                f"f must return one value for each of {len(self)} traces, not shape {values.shape}"
            )
        possible = self.weights > 0
        if not possible.any():
            mean = np.full(values.shape[1:], np.nan)
        else:
            mean = np.asarray(np.tensordot(self.weights[possible], values[possible], 1))
        return float(mean) if mean.ndim == 0 else np.asarray(mean)

    def resample(self, num_traces: int, seed: int) -> Posterior:
        """Equally weighted traces, drawn in proportion to the weights (systematic resampling).

        Its `ess` is at most that of this posterior, whose k-hat and log evidence it keeps.

        Args:
            num_traces: How many.
            seed: Fixes which.

        Raises:
            ValueError: num_traces is not positive.
            RuledOutError: No trace has any weight.
        """
        if num_traces < 1:
            raise ValueError(f"num_traces must be at least 1, not {num_traces}")
        if not self.weights.any():
            why = ruled_out.explain(self.traces)
            raise RuledOutError(
                f"every trace is ruled out (has weight zero), so there is nothing to resample{why and ': '}{why}"
            )
        points = (np.arange(num_traces) + np.random.default_rng(seed).random()) / num_traces
        chosen = np.searchsorted(np.cumsum(self.weights), points * self.weights.sum(), side="right")
        chosen = np.minimum(chosen, np.flatnonzero(self.weights)[-1])
        inherited = {"ess": self.ess, "pareto_k": self.pareto_k, "log_evidence": self.log_evidence}
        return Posterior(
            self.traces.select(chosen),
            np.zeros(num_traces),
            replace(self.provenance, num_chains=0, inherited=inherited),
        )

    def predictive(self, simulator: Executes, num_traces: int, seed: int) -> TraceBatch:
        """Executions with draws from the posterior and new observations (the posterior predictive).

        Args:
            simulator: The simulator that the traces come from.
            num_traces: How many.
            seed: Seed of the resampling and of the new observations.

        Returns:
            Traces whose `observations` hold the drawn values. To read them by name:
            `Posterior.of_traces(traces)["y"]`.
        """
        drawn = self.resample(num_traces, seed).traces
        batches = []
        for start in range(0, num_traces, _PREDICTIVE_CHUNK):
            index = np.arange(start, min(start + _PREDICTIVE_CHUNK, num_traces))
            script = replace(ScriptBatch.replay(drawn.select(index)), seed=seed, index=index)
            batches.append(simulator.execute(script, None))
        return TraceBatch.concatenate(batches)

    @classmethod
    def of_traces(cls, traces: TraceBatch, *, engine: str = "prior") -> Posterior:
        """Equally weighted traces, such as a prior or predictive run, to look at with the same tools."""
        finished = traces.status == Status.OK
        provenance = Provenance(
            engine,
            traces.seed,
            num_executions=len(traces),
            num_failed=int(np.count_nonzero(~finished)),
            failures=first_failures(traces.failures),
        )
        return cls(traces, np.where(finished, 0.0, -np.inf), provenance)

    @property
    def num_quantities(self) -> int:
        """How many scalars the traces hold, the elements of arrays and every visit counted."""
        return sum(listed.size for listed in self._listing)

    def summary(self, *names: str, most: int | None = None) -> list[SummaryRow]:
        """Rows for quantities, the elements of an array in a row each.

        Args:
            names: Which; by default all scalars with a clear name (draws, tags, drawn observations, the result), and as
                many of the others as make 40 rows: draws without a name, elements of arrays, repeated visits. See
                `num_quantities` for how many there are.
            most: Rows at most; None for no other limit.

        Raises:
            AddressError: No trace has one of the names.
        """
        if names:
            found = (element for name in names for element in self.quantity(name).elements())
        else:
            found = (e for q in self._listing for e in quantities.read(self.traces, q).elements())
            most = most if most is not None else max(_MOST_ROWS, sum(q.first for q in self._listing))
        return [_row(self._marginal(quantity)) for quantity in islice(found, most)]

    def table(self) -> pa.Table:
        """Everything in long form, one row per number; see `ppx_inference.table`."""
        from ppx_inference.table import long_table

        return long_table(self)

    def to_pandas(self, *names: str) -> pd.DataFrame:
        """One row per trace: `index`, `weight`, `log_weight`, `chain` and a column per quantity, as in a `summary`.

        A quantity that a trace does not have is NaN. Estimates need the weights; `resample` gives traces that do not.

        Args:
            names: Which quantities; by default all, a thousand columns at most (a warning says how many are left out).

        Raises:
            AddressError: No trace has one of the names.
            ImportError: pandas is not installed.
        """
        from ppx_inference.table import data_frame

        return data_frame(self, names)

    def save(self, path: str | Path, *, progress: Progress | None = None) -> None:
        """Writes traces, weights and provenance to `path`, a `ppx_server.store.TraceStore`: all of them or nothing.

        A Ctrl-C meanwhile takes effect when everything is saved; a second one gives it up and removes what was written.
        A process that is killed leaves a part, which is known as one, and which the next `save` replaces.

        Args:
            path: The directory.
            progress: Who is told how far it is; None for a bar if stderr is a terminal.

        Raises:
            StoreError: There is something at the path already, or it cannot be written.
        """
        from ppx_server.store import TraceStore

        store = TraceStore.create(
            path,
            model_name=self.provenance.model_name,
            metadata={"kind": _KIND, "provenance": asdict(self.provenance)},
            total=len(self),
        )
        what = f"saving {counted(len(self), 'trace')} to {path}"
        try:
            with finishing(what) as came, reporting(progress, len(self), f"saving to {path}") as reporter:
                for start in range(0, len(self), _SAVE_CHUNK):
                    rows = np.arange(start, min(start + _SAVE_CHUNK, len(self)))
                    extra = {"log_weight": self.log_weight[rows]}
                    store.append(self.traces.select(rows), extra=extra)
                    reporter.advance(len(rows))
                store.close()
        except BaseException:
            store.discard()
            raise
        if came:
            signal.raise_signal(came[0])

    @classmethod
    def open(cls, path: str | Path) -> Posterior:
        """Reads what `save` wrote.

        Raises:
            StoreError: There is no posterior at `path`, it is a part of one, or it is damaged.
        """
        from ppx_server.store import TraceStore, being_written

        store = TraceStore.open(path)
        if store.metadata.get("kind") != _KIND:
            raise StoreError(
                f"{path} holds traces but no posterior; read it with ppx_server.store.TraceStore.open"
            )
        if store.num_missing:
            there = f"{len(store):,} of {counted(len(store) + store.num_missing, 'trace')}"
            raise StoreError(
                f"{path} is being written: {there} so far; wait until it is whole"
                if being_written(Path(path))
                else f"{path} is a part of a posterior: {there} were written when saving was stopped, which say "
                "nothing of the whole; infer it again (to the same path: the part gives way)"
            )
        try:
            provenance = Provenance.from_json(store.metadata["provenance"])
            return cls(store.read(), store.read_extra()["log_weight"], provenance)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"the posterior at {path} is damaged ({error!r}); infer it again") from error

    @cached_property
    def _chains(self) -> tuple[int, int]:
        num_chains = self.provenance.num_chains
        return (num_chains, len(self) // num_chains) if num_chains else (0, 0)

    def _chain_columns(self) -> Iterator[tuple[str, Floats]]:
        """The quantities that decide whether chains have mixed, each `(C, T)`, by name."""
        traces, log_likelihood = self.traces, self.traces.log_likelihood
        yield "log likelihood", log_likelihood.reshape(self._chains)
        visits = np.bincount(traces.address_id[traces.controlled & (traces.instance == 0)])
        for i in np.flatnonzero(visits == len(self)).tolist():
            if not traces.addresses[i].shape:
                yield traces.addresses[i].address, traces.value[traces.rows([i])].reshape(self._chains)

    def _chain_diagnostic(self, diagnostic: Callable[[Floats], float]) -> dict[str, float]:
        each = {name: diagnostic(column) for name, column in self._chain_columns()}
        return {name: value for name, value in each.items() if not math.isnan(value)}

    @cached_property
    def _chain_r_hat(self) -> dict[str, float]:
        return self._chain_diagnostic(diagnostics.r_hat)

    @cached_property
    def _listing(self) -> list[quantities.Listed]:
        return quantities.listing(self.traces)

    def quantity(self, name: str, instance: int = 0) -> quantities.Quantity:
        """The values of what is called by a name or address, or else by a label of a summary, without weights.

        Raises:
            AddressError: No trace has it, or it is ambiguous.
        """
        try:
            return quantities.find(self.traces, name, instance)
        except AddressError:
            listed = next((q for q in self._listing if not instance and q.holds(name)), None)
            if listed is None:
                raise
        found = quantities.read(self.traces, listed)
        return found if name == listed.label else next(e for e in found.elements() if e.name == name)

    def _marginal(self, quantity: quantities.Quantity) -> Marginal:
        max_ess = self.ess if "ess" in self.provenance.inherited else math.inf
        return Marginal.of(quantity, self.weights, self._chains, max_ess)

    def __repr__(self) -> str:
        p = self.provenance
        of = plain(p.model_name) or "a simulator"
        parts = [f"{p.engine} of {of}: {counted(len(self), 'trace')}", f"ess {self.ess:.0f}"]
        if p.inherited:
            parts.append("resampled")
        elif p.num_chains:
            parts += [
                f"{p.num_chains} chains",
                f"r_hat {self.r_hat:.3f}",
                f"accepted {p.acceptance_rate:.0%}",
            ]
        else:
            parts += [f"k-hat {self.pareto_k:.2f}", f"log evidence {self.log_evidence:.3f}"]
        return f"<Posterior by {', '.join(parts)}>" + "".join(f"\n  doubt: {d}" for d in self.doubts)


_KIND = "ppx posterior"


def _row(marginal: Marginal) -> SummaryRow:
    name, present, ess, r_hat = marginal.name, marginal.present, marginal.ess, marginal.r_hat
    if marginal.categorical:
        probabilities = marginal.probabilities() if present else {}
        no = math.nan
        return SummaryRow(name, no, no, no, no, no, present, ess, r_hat, probabilities)
    q05, q50, q95 = np.asarray(marginal.quantile(_QUANTILES)).tolist()
    return SummaryRow(name, float(marginal.mean()), float(marginal.std()), q05, q50, q95, present, ess, r_hat)
