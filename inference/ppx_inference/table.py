"""A posterior as a table: long, one row per number, the only faithful form of traces of variable length; or wide, one
row per trace, for pandas, CSV and what reads them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppx_inference import quantities
from ppx_inference.quantities import Quantity, element_in_draw
from ppx_server.errors import StoreError
from ppx_server.text import cell, counted
from ppx_server.trace import Status, TensorTable, TraceBatch

if TYPE_CHECKING:
    import pandas as pd

    from ppx_inference.posterior import Posterior

_MOST_COLUMNS = 1000


def long_table(posterior: Posterior) -> pa.Table:
    """All draws of all traces that did not fail, then their tags, drawn observations and results.

    Returns:
        Columns `kind` ("draw", "tag", "observation", "result"), `trace` (position in the posterior), `index` (trace
        index of the run), `ordinal` (position in the trace, of draws), `address`, `name`, `family`, `instance`,
        `element` (in an array, C order), `value`, `z`, `log_prob`, `log_q`, `controlled` (these of draws only), and the
        trace's `log_weight`.
    """
    finished = np.flatnonzero(posterior.traces.status == Status.OK)
    traces = posterior.traces
    if len(finished) < len(traces):
        traces = traces.select(finished)
    tables = {"tag": traces.tags, "observation": traces.observations, "result": traces.results}
    parts = [_draws(traces), *(_values(kind, table) for kind, table in tables.items())]
    texts = list(traces.addresses)
    joined = pa.concat_tables(parts, promote_options="default")
    trace = finished[joined["trace"].to_numpy()]
    ids = joined["address_id"].combine_chunks()
    columns = {
        "kind": joined["kind"].combine_chunks().dictionary_encode(),
        "trace": trace,
        "index": posterior.traces.index[trace],
        "ordinal": joined["ordinal"],
        "address": _dictionary(ids, [a.address for a in texts]),
        "name": _dictionary(ids, [a.name for a in texts]),
        "family": _dictionary(ids, [a.family for a in texts]),
    }
    rest = ("instance", "element", "value", "z", "log_prob", "log_q", "controlled")
    return pa.table({**columns, **{n: joined[n] for n in rest}, "log_weight": posterior.log_weight[trace]})


def _draws(traces: TraceBatch) -> pa.Table:
    rows = np.arange(len(traces.value))
    trace = np.repeat(np.arange(len(traces)), traces.length)
    columns = ("address_id", "instance", "value", "z", "log_prob", "log_q", "controlled")
    return pa.table(
        {
            "kind": pa.repeat("draw", len(rows)),
            "trace": trace,
            "ordinal": rows - traces.offsets[trace],
            "element": element_in_draw(trace, traces.address_id, traces.instance),
            **{name: getattr(traces, name) for name in columns},
        }
    )


def _values(kind: str, table: TensorTable) -> pa.Table:
    sizes = np.diff(table.data_offsets)
    row = np.repeat(np.arange(len(sizes)), sizes)
    trace = np.repeat(np.arange(len(table.offsets) - 1), np.diff(table.offsets))
    return pa.table(
        {
            "kind": pa.repeat(kind, len(row)),
            "trace": trace[row],
            "element": np.arange(len(row)) - table.data_offsets[row],
            "address_id": table.address_id[row],
            "instance": table.instance[row],
            "value": table.data,
        }
    )


def _dictionary(ids: pa.Array, texts: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(ids, pa.array(texts, pa.string()))


class _Wide(NamedTuple):
    """Columns of `(K,)` by label, and how many were left out because there are too many."""

    columns: dict[str, NDArray[Any]]
    num_left_out: int


def data_frame(posterior: Posterior, names: Sequence[str]) -> pd.DataFrame:
    """See `Posterior.to_pandas`."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "to_pandas needs pandas, which is not installed: pip install 'ppx[pandas]', or write a CSV file with "
            "ppx show --csv"
        ) from error
    wide = _wide(posterior, names)
    if wide.num_left_out:
        warnings.warn(f"the table leaves out {_left_out(wide)}: name those that you want", stacklevel=3)
    return pd.DataFrame(wide.columns)


def write_csv(posterior: Posterior, path: Path, names: Sequence[str] = ()) -> str:
    """Writes one row per trace to a CSV file, as `Posterior.to_pandas` has them; what a trace does not have is empty.

    Returns:
        What was left out, in words; empty if nothing was.

    Raises:
        AddressError: No trace has one of the names.
        StoreError: The file cannot be written.
    """
    from pyarrow import csv

    wide = _wide(posterior, names)
    columns = [pa.array(values, from_pandas=True) for values in wide.columns.values()]
    table = pa.Table.from_arrays(columns, [cell(label) for label in wide.columns])
    partial = path.with_name(f".{path.name}.partial")
    try:
        csv.write_csv(table, partial)
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; check the folder") from error
    finally:
        partial.unlink(missing_ok=True)
    return _left_out(wide) if wide.num_left_out else ""


def _left_out(wide: _Wide) -> str:
    return f"{counted(wide.num_left_out, 'column')} of the {len(wide.columns) + wide.num_left_out:,} there would be"


def _wide(posterior: Posterior, names: Sequence[str]) -> _Wide:
    chains = max(posterior.provenance.num_chains, 1)
    columns: dict[str, NDArray[Any]] = {
        "index": posterior.traces.index,
        "weight": posterior.weights,
        "log_weight": posterior.log_weight,
        "chain": np.repeat(np.arange(chains), len(posterior) // chains),
    }
    total = posterior.num_quantities
    if names:
        found = [element for name in names for element in posterior.quantity(name).elements()]
        total = len(found)
    else:
        listed = quantities.listing(posterior.traces)
        every = (e for q in listed for e in quantities.read(posterior.traces, q).elements())
        found = list(islice(every, _MOST_COLUMNS))
    for quantity in found:
        label = quantity.name
        while label in columns:
            label += "'"
        columns[label] = _column(quantity, len(posterior))
    return _Wide(columns, total - len(found))


def _column(quantity: Quantity, num_traces: int) -> NDArray[Any]:
    """Its value in each trace, NaN where there is none; whole numbers where it is always one."""
    values = quantity.values
    if len(values) == num_traces and quantity.discrete and (values == np.rint(values)).all():
        return values.astype(np.int64)
    column = np.full(num_traces, np.nan)
    column[quantity.trace] = values
    return column
