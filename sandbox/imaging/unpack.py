"""Unpack a root filesystem's members so that none of them ends up outside the target.

Every file is created relative to a directory descriptor that was reached one name at a time with O_NOFOLLOW. A member below a
symbolic link goes where the link leads *inside* the image, if that directory is there; a link that climbs out is no way.
Link targets themselves are data: they are only ever followed by a process whose root is the image.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from sandbox.errors import ImageError
from sandbox.imaging import Progress, silent
from sandbox.imaging.archive import DAMAGED, blamed, opened
from sandbox.imaging.rootfs import directory_mode, file_mode

LIMIT_BYTES: Final = 20 * 10**9
LIMIT_MEMBERS: Final = 2_000_000
_FREE_BYTES: Final = 64 << 20  # what an import leaves free on the disk
_CHUNK: Final = 1 << 20
_MAX_LINKS: Final = 40  # as the kernel, path_resolution(7)
_MAX_DEPTH: Final = 200  # what walks or removes the tree later goes down by recursion, a descriptor each
_LAST_SECOND: Final = float(1 << 33)
_HOSTILE: Final = "no root filesystem needs that; get the archive from who you trust"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Counts:
    """What an import did with the members; `special` were not created, `setuid` lost those bits."""

    members: int = 0
    size_bytes: int = 0
    special: int = 0
    setuid: int = 0


class Unpacker:
    """Creates members below one directory, owned by root. A context manager that owns the directory's descriptor."""

    def __init__(self, root: str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES, limit_members: int = LIMIT_MEMBERS) -> None:
        self._root = os.open(root, _FOLDER)
        self._limit_bytes, self._limit_members = limit_bytes, limit_members
        self._mtimes: dict[tuple[str, ...], float] = {}
        self.counts = Counts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def add_all(self, archive: tarfile.TarFile) -> None:
        """Create every member of an archive. Raises as `add` does, or any of archive.DAMAGED."""
        while (member := archive.next()) is not None:
            self.add(archive, member)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Create one member; a later one of the same name wins. Raises ImageError for what is hostile, too much or no file at all."""
        self._account(member)
        parts = _parts(member.name)
        if not parts:  # "./"
            return
        parent, path = self._open_folder(parts[:-1], create=True)
        try:
            self._create(archive, member, parent, (*path, parts[-1]))
        finally:
            os.close(parent)

    def finish(self) -> None:
        """Set the directories' times, which filling them has changed."""
        for path, mtime in self._mtimes.items():
            try:
                descriptor = self._open_real(path)
            except OSError:  # replaced by a later member
                continue
            os.utime(descriptor, _times(mtime))
            os.close(descriptor)

    def _create(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, path: tuple[str, ...]) -> None:
        name = path[-1]
        if member.isdir():
            self._directory(member, parent, name)
            self._mtimes[path] = member.mtime
        elif member.isreg():  # sparse ones too
            self._file(archive, member, parent, name)
        elif member.issym():
            clear(parent, name)
            os.symlink(member.linkname, name, dir_fd=parent)
            os.utime(name, _times(member.mtime), dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            self._hard_link(member, parent, name)
        else:  # character and block devices, fifos, what tarfile doesn't know
            self.counts.special += 1

    def _directory(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                clear(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent)
        self.counts.setuid += bool(member.mode & (stat.S_ISUID | stat.S_ISGID))
        os.chmod(name, directory_mode(member.mode), dir_fd=parent)  # just made or looked at: no link

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        content = archive.extractfile(member)
        if content is None:
            raise ImageError(f"member {member.name!r} has no content")
        clear(parent, name)
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        with open(descriptor, "wb", buffering=0) as file:
            shutil.copyfileobj(content, file, _CHUNK)
            if os.fstat(descriptor).st_size != member.size:
                raise ImageError(f"archive ends inside {member.name!r}")
            self.counts.setuid += bool(member.mode & (stat.S_ISUID | stat.S_ISGID))
            os.fchmod(descriptor, file_mode(member.mode))
            os.utime(descriptor, _times(member.mtime))

    def _hard_link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        target = _parts(member.linkname)
        if not target:
            raise ImageError(f"hard link {member.name!r} has no target")
        folder, _ = self._open_folder(target[:-1], create=False, of=f"target {member.linkname!r} of hard link {member.name!r}")
        try:
            mode = os.stat(target[-1], dir_fd=folder, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise ImageError(f"hard link {member.name!r} to {member.linkname!r}, which is not a file")
            if os.path.samestat(os.fstat(folder), os.fstat(parent)) and target[-1] == name:
                return  # a link to itself
            clear(parent, name)
            os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise ImageError(f"hard link {member.name!r} to {member.linkname!r}, which is not in the archive before it") from None
        finally:
            os.close(folder)

    def _open_folder(self, parts: tuple[str, ...], *, create: bool, of: str = "") -> tuple[int, tuple[str, ...]]:
        """A descriptor of the directory that `parts` name inside the image, and its path without links.

        Missing directories are made if asked for, but not where a link points: a link to nothing is refused.
        """
        shown = of or f"member below {'/'.join(parts)!r}"
        pending = list(reversed(parts))
        path: list[str] = []
        links = 0
        descriptor = self._open_real(path)
        try:
            while pending:
                name = pending.pop()
                target = None if name == ".." else _step(descriptor, name, create=create and not links, shown=shown)
                if isinstance(target, int):
                    os.close(descriptor)
                    descriptor = target
                    path.append(name)
                    if len(path) > _MAX_DEPTH:
                        raise ImageError(f"{shown[:200]} is more than {_MAX_DEPTH} directories deep", hint=_HOSTILE)
                    continue
                links += 1
                if links > _MAX_LINKS or (target is None and not path):
                    raise ImageError(f"{shown} leads out of the image through a link", hint=_HOSTILE)
                if target is None:
                    path.pop()
                elif target.startswith("/"):
                    path.clear()
                if target is not None:
                    pending += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                os.close(descriptor)
                descriptor = -1
                descriptor = self._open_real(path)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return descriptor, tuple(path)

    def _open_real(self, path: Iterable[str]) -> int:
        """Open a directory by a path that has no link in it."""
        descriptor = os.open(".", _FOLDER, dir_fd=self._root)
        for name in path:
            try:
                child = os.open(name, _FOLDER, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = child
        return descriptor

    def _account(self, member: tarfile.TarInfo) -> None:
        """Count a member against the limits, before anything of it is written."""
        self.counts.members += 1
        if member.isreg():
            self.counts.size_bytes += max(member.size, 0)
        if self.counts.size_bytes > self._limit_bytes or self.counts.members > self._limit_members:
            raise ImageError(
                f"archive unpacks to more than {self._limit_bytes:,} bytes or {self._limit_members:,} files",
                hint="a root filesystem is smaller; this may be a bomb",
            )
        space = os.fstatvfs(self._root)
        if member.isreg() and member.size + _FREE_BYTES > space.f_bavail * space.f_frsize:
            raise ImageError(f"no space for {member.name!r} of {member.size:,} bytes", hint="HEARTH_HOME names a directory on another disk")


def unpack(file: str | os.PathLike[str], root: str, *, progress: Progress = silent, limit_bytes: int = LIMIT_BYTES) -> tuple[str, Counts]:
    """Unpack an archive below `root`. Returns the file's SHA-256 and what was done. Raises ImageError; `root` is half full then."""
    try:
        with opened(file, progress) as (archive, plain, source), Unpacker(root, limit_bytes=limit_bytes) as unpacker:
            unpacker.add_all(archive)
            if not plain.ended():
                raise ImageError(f"{os.fspath(file)} ends early", hint="fetch it again and compare its checksum")
            unpacker.finish()
            return source.finish(), unpacker.counts
    except DAMAGED as error:
        raise blamed(error, os.fspath(file), root) from error


def _step(folder: int, name: str, *, create: bool, shown: str) -> int | str:
    """Open a directory in `folder`, or say where the link of that name points."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise ImageError(f"{shown} leads to a directory that the archive does not have before it", hint=_HOSTILE) from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        try:
            return os.readlink(name, dir_fd=folder)
        except OSError:
            raise ImageError(f"{shown} passes through {name!r}, which is not a directory") from None
    os.mkdir(name, 0o755, dir_fd=folder)
    child = os.open(name, _FOLDER, dir_fd=folder)
    os.fchmod(child, 0o755)  # whatever the umask
    return child


def _parts(name: str) -> tuple[str, ...]:
    """A member's name as components. Raises ImageError for one that is absolute or climbs."""
    if name.startswith("/"):
        raise ImageError(f"member {name!r} has an absolute name", hint=_HOSTILE)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ImageError(f"member {name!r} climbs out of the archive", hint=_HOSTILE)
    return parts


def clear(folder: int, name: str) -> None:
    """Make room for a later member of the same name."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=folder)


def _times(mtime: float) -> tuple[float, float]:
    """Access and modification time for os.utime; a time that a filesystem can't hold becomes the nearest it can."""
    kept = min(max(mtime, 0.0), _LAST_SECOND)
    return kept, kept
