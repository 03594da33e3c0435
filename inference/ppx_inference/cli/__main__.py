"""`python -m ppx_inference.cli`, for where the `ppx` script is not on PATH."""

from __future__ import annotations

from ppx_inference.cli.application import main

if __name__ == "__main__":
    main()
