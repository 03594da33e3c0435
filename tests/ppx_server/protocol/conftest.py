"""Imports FlatBuffers' own runtime, which these tests use as an independent implementation."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # flatbuffers 2.0, which pyprob demands, imports `imp`
    import flatbuffers  # noqa: F401
