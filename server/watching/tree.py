"""inotify on a directory and everything below it, see inotify(7). It tells what to look at; what there is, `look` says.

Each directory is watched before it is read, so that a file that comes meanwhile is told or found, perhaps both. Names are bytes, relative
to the directory. No symbolic link is followed, and no other file system below entered: its files would come and go with a mount.
No descriptor of the directory is kept, it would hold its file system: each use opens it anew and sees whether it is still the same.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from inotify_simple import INotify, flags

from sandbox.log import pairs
from server.watching.paths import GONE, below

_CHANGES: Final = flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.CREATE
_SELF: Final = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT
_MASK: Final = _CHANGES | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR

_log = logging.getLogger(__name__)


class Overflow(Exception):
    """The kernel has dropped events: everything has to be looked at."""


class RootGone(Exception):
    """The directory is not there, or is another one than the one that was watched."""


@dataclass(slots=True)
class Hints:
    """What to look at. `closed`: a writer has closed it or it was moved here whole. `found` may still be written. `vanished` may be gone,
    as may everything in `vanished_trees`."""

    closed: set[bytes] = field(default_factory=set)
    found: set[bytes] = field(default_factory=set)
    vanished: set[bytes] = field(default_factory=set)
    vanished_trees: set[bytes] = field(default_factory=set)


class Tree:
    """One directory's. `opening()` gives a descriptor of it. Owns an inotify instance from `start` to `close`."""

    def __init__(self, opening: Callable[[], AbstractContextManager[int]]) -> None:
        self._opening = opening
        self._inotify: INotify | None = None
        self._paths: dict[int, bytes] = {}
        self._root = (0, 0)
        self._refused: set[bytes] = set()

    def start(self, inode: str) -> tuple[str, dict[bytes, os.stat_result]]:
        """Watch it all; its inode and every file there is. `inode`: the one it must have, empty for any. Raises OSError, RootGone."""
        with self._opening() as top:
            facts = os.fstat(top)
            if inode and str(facts.st_ino) != inode:
                raise RootGone("another directory is there now: not mounted, renamed or replaced")
            self._root = (facts.st_dev, facts.st_ino)
            self._inotify = INotify()
            return str(facts.st_ino), dict(self._scan(top, b""))

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._paths.clear()

    def fileno(self) -> int:
        assert self._inotify is not None
        return int(self._inotify.fileno())

    def read(self) -> Hints:
        """What was told since; doesn't wait. Raises OSError, Overflow, RootGone."""
        assert self._inotify is not None
        hints = Hints()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                raise Overflow
            folder = self._paths.get(event.wd)
            if folder == b"" and event.mask & (_SELF | flags.IGNORED):
                raise RootGone("it was renamed, removed or unmounted")
            if event.mask & flags.IGNORED:
                self._paths.pop(event.wd, None)
            elif folder is not None and event.mask & _CHANGES:
                name = os.fsencode(event.name)
                self._read_one(hints, event.mask, folder + b"/" + name if folder else name)
        return hints

    def _read_one(self, hints: Hints, mask: int, path: bytes) -> None:
        gone = mask & (flags.DELETE | flags.MOVED_FROM)
        if mask & flags.ISDIR:
            if gone:
                self._forget(path)
                hints.vanished_trees.add(path)
            elif mask & (flags.CREATE | flags.MOVED_TO):
                with self.root() as top:
                    hints.found.update(found for found, _ in self._scan(top, path))
        elif gone:
            hints.vanished.add(path)
        elif mask & flags.CREATE:
            # A link to a file that is there already is never closed; anything else that was created will be.
            with self.root() as top:
                facts = self.look(top, path)
            if facts is not None and facts.st_nlink > 1:
                hints.found.add(path)
        else:
            hints.closed.add(path)

    @contextmanager
    def root(self) -> Iterator[int]:
        """A descriptor of the directory, for `look`. Raises RootGone."""
        try:
            opening = self._opening()
            top = opening.__enter__()
        except OSError as error:
            raise RootGone(os.strerror(error.errno or 0)) from error
        try:
            facts = os.fstat(top)
            if (facts.st_dev, facts.st_ino) != self._root:
                raise RootGone("another directory is there now: not mounted, renamed or replaced")
            yield top
        finally:
            opening.__exit__(None, None, None)

    def look(self, top: int, path: bytes) -> os.stat_result | None:
        """The regular file of that name now; None where there is none. Raises OSError where nobody can tell."""
        folder, _, name = path.rpartition(b"/")
        try:
            with below(top, folder) as fd:
                facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        return facts if stat.S_ISREG(facts.st_mode) and facts.st_dev == self._root[0] else None

    def _scan(self, top: int, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Watch a directory and those below it; the regular files in them."""
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            try:
                with below(top, folder) as fd:
                    if os.fstat(fd).st_dev != self._root[0]:
                        _log.warning(pairs("another file system is not watched", below=os.fsdecode(folder)))
                        continue
                    files, folders = self._watch(fd, folder)
            except OSError as error:
                if not folder or error.errno not in (*GONE, errno.EACCES):
                    raise
                self._refuse(folder, error)
                continue
            waiting += folders
            yield from files

    def _watch(self, fd: int, folder: bytes) -> tuple[list[tuple[bytes, os.stat_result]], list[bytes]]:
        assert self._inotify is not None
        # By the descriptor: a path could lead elsewhere by now.
        self._paths[self._inotify.add_watch(f"/proc/self/fd/{fd}", _MASK)] = folder
        files, folders = [], []
        prefix = folder + b"/" if folder else b""
        for entry in os.listdir(fd):
            name = os.fsencode(entry)
            try:
                facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(facts.st_mode):
                folders.append(prefix + name)
            elif stat.S_ISREG(facts.st_mode):
                files.append((prefix + name, facts))
        return files, folders

    def _refuse(self, folder: bytes, error: OSError) -> None:
        if error.errno == errno.EACCES and folder not in self._refused:
            self._refused.add(folder)
            _log.warning(pairs("a directory below a watched one can't be read", below=os.fsdecode(folder)))

    def _forget(self, path: bytes) -> None:
        """A watch stays with its directory wherever that is moved: it is taken away."""
        assert self._inotify is not None
        for wd in [wd for wd, known in self._paths.items() if known == path or known.startswith(path + b"/")]:
            del self._paths[wd]
            try:
                self._inotify.rm_watch(wd)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel had taken it away already
                    raise
