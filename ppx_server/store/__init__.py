"""The trace store: traces on disk, appended in shards, read back by mapping them into memory.

A store is a directory:

    manifest.json            what the store holds: format version, model, fingerprint, seed, address table, shards
    shard-000000.arrow       traces, as Arrow IPC files (see `ppx_server.store.shard`), never changed once written
    tail-000001-1234.arrow   the first 1234 traces of a shard that is not full yet; the next flush replaces it
    .lock                    held by the process that appends

A file is written under a temporary name, flushed to disk and renamed, and only then does a new manifest, written in
the same way, mention it. Whenever the writer is killed, the store is that of the last complete shard or `flush`. What
it left over is ignored, and removed by the next writer. Nothing here is ever unpickled.

A store whose number of traces is known when it is made says so in its manifest (`total`). Until it holds them it is a
part: it counts as one, and gives way to the next store that is made there.

The bytes of a store depend on the traces, their order and the metadata only: not on the batches in which they came,
on the simulators that made them, nor on interruptions. Shards end at certain traces (`ppx_server.store.buffer`),
addresses are numbered by first visit, and parameters are shared by a rule (`ppx_server.store.canonical`).

Room for what comes later: unknown keys of the manifest are kept, and the version changes only if old readers would
misread.
"""

from __future__ import annotations

from ppx_server.store.directory import TraceStore
from ppx_server.store.manifest import Shard, being_written, missing, vacant

__all__ = ["Shard", "TraceStore", "being_written", "missing", "vacant"]
