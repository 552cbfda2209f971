"""Tests of the installed service, run inside a machine of `scripts/vm` and nowhere else."""
