"""The single-threaded forking process and its stages. `python -m sandbox.launcher` is the runtime's root process."""
