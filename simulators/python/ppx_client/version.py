"""Version of the client, as it announces itself to controllers."""

from __future__ import annotations

__version__ = "0.1.0"
