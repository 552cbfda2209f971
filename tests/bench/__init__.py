"""Benchmarks of DESIGN section 11: `scripts/bench` runs them as `python -m tests.bench`."""
