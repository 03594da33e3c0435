"""The command line, `ppx`."""

from __future__ import annotations

from ppx_inference.cli.application import main

__all__ = ["main"]
