"""What this machine has: memory, processes, threads. psutil and proc(5)."""

from __future__ import annotations

import psutil


def memory_total_bytes() -> int:
    return int(psutil.virtual_memory().total)


def memory_available_percent() -> float:
    """Memory that can be had without swapping, of the whole."""
    memory = psutil.virtual_memory()
    return 100.0 * float(memory.available) / float(memory.total)


def thread_count(pid: int) -> int:
    return int(psutil.Process(pid).num_threads())


def descriptor_count() -> int:
    return int(psutil.Process().num_fds())


def raise_own_descriptor_limit() -> int:
    """Soft RLIMIT_NOFILE up to the hard one; the value in force."""
    process = psutil.Process()
    _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
    return int(hard)
