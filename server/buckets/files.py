"""Data files: written once, named by chance, never changed. The database says what is in them.

    buckets_dir/data/ab/abcdef…      complete once a row names it; anything else is an orphan

Who writes a file holds a shared lock on it until its row is committed; the sweep takes what it can lock alone and no row names.
A file without a name stays readable for those who have it open. While a backup holds the directory nothing is removed: its database may
be a moment older than the deletion.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.buckets.errors import BucketError
from server.store.hold import may_remove

COPY_BYTES: Final = 1024 * 1024
KERNEL_COPY_BYTES: Final = 64 * 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def room(error: OSError) -> BucketError | OSError:
    """A full disk as the refusal it is."""
    return BucketError("InsufficientStorage") if error.errno in _NO_ROOM else error


def check_room(where: int | Path, reserve_percent: float) -> None:
    """Raises BucketError (InsufficientStorage) where less than that is free of the file system's blocks or inodes: whoever fills it with
    objects, a hostile function too, leaves the database and the journals some."""
    if reserve_percent:
        found = os.statvfs(where)
        # f_files is 0 where inodes are made as they are needed (btrfs)
        for free, total in ((found.f_bavail, found.f_blocks), (found.f_favail, found.f_files)):
            if total and free * 100 < total * reserve_percent:
                raise BucketError("InsufficientStorage")


class NewFile:
    """A file in the making. `keep` once a row names it; closed without that it goes."""

    def __init__(self, path: Path, descriptor: int, reserve_percent: float = 0.0) -> None:
        self.name = path.name
        self.size_bytes = 0
        self._path, self._descriptor, self._kept = path, descriptor, False
        self._reserve_percent = reserve_percent

    def write(self, data: bytes) -> None:
        """Raises BucketError (InsufficientStorage), OSError."""
        check_room(self._descriptor, self._reserve_percent)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise room(error) from error
        self.size_bytes += len(data)

    def copy_from(self, source: int, offset: int, size_bytes: int, seen: Callable[[bytes], None] | None = None) -> None:
        """Append a piece of another file; `seen` is shown the bytes. In the kernel where nobody wants to see them."""
        end = offset + size_bytes
        try:
            while offset < end:
                count = self._copy_some(source, offset, end - offset, seen)
                if count == 0:
                    raise OSError(errno.EIO, "a data file is shorter than its row says")
                offset += count
        except OSError as error:
            raise room(error) from error
        self.size_bytes += size_bytes

    def _copy_some(self, source: int, offset: int, left: int, seen: Callable[[bytes], None] | None) -> int:
        check_room(self._descriptor, self._reserve_percent)
        if seen is None:
            try:
                return os.copy_file_range(source, self._descriptor, min(left, KERNEL_COPY_BYTES), offset)
            except OSError as error:
                # copy_file_range(2): not on every file system, nor between two of them.
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
        data = os.pread(source, min(left, COPY_BYTES), offset)
        if seen is not None:
            seen(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        return len(data)

    def sync(self) -> None:
        """Data and name are on disk when this returns."""
        try:
            os.fsync(self._descriptor)
            _sync_directory(self._path.parent)
        except OSError as error:
            raise room(error) from error

    def keep(self) -> None:
        self._kept = True

    def close(self) -> None:
        if self._descriptor >= 0:
            if not self._kept:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


class Files:
    """The data directory. Any number of processes may use it. `reserve_percent` of its file system stay free."""

    def __init__(self, root: Path, reserve_percent: float = 0.0) -> None:
        self._root, self._reserve_percent = root / "data", reserve_percent
        self._waiting: deque[str] = deque()

    def prepare(self) -> None:
        """Make what is missing."""
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(parents=True, exist_ok=True, mode=0o750)

    def create(self) -> NewFile:
        """Raises BucketError (InsufficientStorage), OSError."""
        return self._new(lambda path: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def link(self, name: str, size_bytes: int) -> NewFile:
        """The same bytes under another name, without copying: files never change. Raises FileNotFoundError when it is gone."""

        def make(path: Path) -> int:
            os.link(self._path(name), path)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

        new = self._new(make)
        new.size_bytes = size_bytes
        return new

    def _new(self, make: Callable[[Path], int]) -> NewFile:
        check_room(self._root, self._reserve_percent)
        while True:
            path = self._path(secrets.token_hex(16))
            try:
                descriptor = make(path)
            except OSError as error:
                raise room(error) from error
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if path.exists():
                return NewFile(path, descriptor, self._reserve_percent)
            os.close(descriptor)  # the sweep was quicker

    def open(self, name: str) -> int:
        """A descriptor to read from. Raises FileNotFoundError when it was replaced or deleted meanwhile."""
        return os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def remove(self, names: Iterable[str]) -> None:
        """After the commit that stopped naming them. Those of which a backup is being made go with the next ones, or by a sweep."""
        self._waiting.extend(names)
        with may_remove(self._root) as free, suppress(IndexError):  # another thread was quicker, or there are no more
            while free:
                self._path(self._waiting.popleft()).unlink(missing_ok=True)

    def sweep(self, named: Callable[[list[str]], set[str]]) -> int:
        """Remove what no row names and nobody is writing; how many that were. `named`: those of these that a row names."""
        removed = 0
        for folder in sorted(self._root.iterdir()):
            names = os.listdir(folder)
            known = named(names)
            removed += sum(self._remove_orphan(folder / name, named) for name in names if name not in known)
        return removed

    def _remove_orphan(self, path: Path, named: Callable[[list[str]], set[str]]) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with may_remove(self._root) as free:
                # Asked again behind the lock: who let go of it has committed, or given up.
                if not free or named([path.name]):
                    return False
                path.unlink(missing_ok=True)
                return True
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
