"""Speed of this project against pyprob driving the same simulators: `python -m benchmarks` (or `make bench`).

Absolute figures depend on the machine; the ratios, measured interleaved in one run, are what counts.
"""
