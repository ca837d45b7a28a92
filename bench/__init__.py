"""Benchmarks: ratios of pairs that run alternately on one machine; see `python -m bench --help`."""
