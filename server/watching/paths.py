"""Which directories may be watched, and how they are opened. A link that somebody lays below what the administrator named leads nowhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
#: open(2): what it says of a name that is no directory any more. ELOOP: a symbolic link, with O_NOFOLLOW.
GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def allowed_above(allowed: Sequence[str], path: str) -> str | None:
    """The allowed directory that `path` is or lies below; the longest of them."""
    found = [one for one in allowed if path == one or path.startswith(one.rstrip("/") + "/")]
    return max(found, key=len, default=None)


@contextmanager
def opened(allowed: Sequence[str], path: str) -> Iterator[int]:
    """A descriptor of the directory `path`. Raises OSError; PermissionError for one that is not allowed."""
    above = allowed_above(allowed, path)
    if above is None:
        raise PermissionError(errno.EPERM, "not among the setting watch_dirs", path)
    top = os.open(above, _FLAGS)
    try:
        with below(top, os.fsencode(path)[len(os.fsencode(above)) :].strip(b"/")) as fd:
            os.listdir(fd)  # readable, not only open to passing through
            yield fd
    finally:
        os.close(top)


@contextmanager
def below(top: int, path: bytes) -> Iterator[int]:
    """A descriptor of the directory `path` below the directory `top`; empty: that one. Follows no symbolic link. Raises OSError."""
    fd = os.dup(top)
    try:
        for name in path.split(b"/") if path else ():
            inner = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)
