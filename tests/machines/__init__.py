"""Virtual machines that prove Hearth on a real init system and kernel. `python -m tests.machines`; `scripts/vm` starts it."""
