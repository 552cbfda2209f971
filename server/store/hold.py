"""Between a backup and those who remove data files: what the backup's database names stays until the backup has it.

A flock(2) on the directory itself. Removing is never waited for: who may not leaves the file for later, a backup takes as long as it takes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Nothing is removed from `folder` while the block runs. Waits for who is removing right now. Raises OSError."""
    with _opened(folder) as descriptor:
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def may_remove(folder: Path) -> Iterator[bool]:
    """Whether files may be removed from `folder` while the block runs: not while somebody holds it. Raises OSError."""
    with _opened(folder) as descriptor:
        try:
            if descriptor >= 0:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of its own each time, since a lock belongs to that; -1 where there is no such directory, and so nothing in it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
