"""Half-made packages in the code store. The store is the unprivileged API's, so root goes into it without following a link.

<code_dir>/.lock      held while somebody makes or removes such a directory
<code_dir>/.tmp-…     one package being unpacked; its maker holds flock(2) on it, so a dead maker's is known for certain
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from typing import Final

from sandbox.kernel import filesystem
from sandbox.settings import Settings

_TEMPORARY: Final = ".tmp-"
_PATIENCE_SECONDS: Final = 5.0


def leftovers(conf: Settings) -> list[str]:
    """Names of what dead makers left. A store that can't be entered safely is told in their place."""
    try:
        with _opened(conf) as store:
            return _stale(store) if store is not None else []
    except OSError as error:
        return [f"{conf.code_dir}: {error.strerror}"]


def sweep(conf: Settings) -> int:
    """Remove them; how many went. OSError where one can't be removed."""
    with _opened(conf) as store:
        names = _stale(store) if store is not None else []
        for name in names:
            shutil.rmtree(name, dir_fd=store)
        return len(names)


@contextlib.contextmanager
def _opened(conf: Settings) -> Iterator[int | None]:
    """The store with its lock held. None where there is no store, or it stays busy: then nobody dead is at work in it."""
    with contextlib.ExitStack() as stack:
        try:
            home = os.open(conf.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, home)
            store = filesystem.open_beneath(home, str(conf.code_dir.relative_to(conf.home)), os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, store)
            lock = filesystem.open_beneath(store, ".lock", os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, lock)
        except FileNotFoundError:
            yield None
            return
        yield store if _locked(lock) else None


def _locked(fd: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False


def _stale(store: int) -> list[str]:
    return sorted(name for name in os.listdir(store) if name.startswith(_TEMPORARY) and _is_makerless(store, name))


def _is_makerless(store: int, name: str) -> bool:
    try:
        fd = filesystem.open_beneath(store, name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # renamed meanwhile, or not a directory of the store's making
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
