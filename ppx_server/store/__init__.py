"""Traces on disk: `TraceStore`."""

from __future__ import annotations

from ppx_server.store.directory import TraceStore
from ppx_server.store.manifest import Shard

__all__ = ["Shard", "TraceStore"]
