"""Writing a scanned zip into a directory of ours: bounded while inflating, readable by anybody, on disk when it returns.

Regular files and directories come first, when no symbolic link exists that could lead one of them elsewhere; links come
last and are then resolved by the file system itself: one that leaves the directory refuses the whole package.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from server.functions.zipscan import ZIP_ERRORS, Limits, Member, refuse, too_large

CHUNK_BYTES: Final = 256 * 1024
#: Above this many files one sync of everything is cheaper than one for each.
FSYNC_EACH_LIMIT: Final = 512


def unpack(archive: zipfile.ZipFile, members: list[Member], root: Path, limits: Limits) -> None:
    """Make `members` below the empty directory `root`. Raises BadRequest or PayloadTooLarge; the caller removes what is there."""
    budget = limits.unpacked_bytes
    for member in members:
        if member.kind == "directory":
            _directories(root, member.path)
        elif member.kind == "file":
            _directories(root, member.path.rpartition("/")[0])
            budget -= _file(archive, member, root, budget, limits)
    links = [member for member in members if member.kind == "symlink"]
    for member in links:
        _directories(root, member.path.rpartition("/")[0])
        os.symlink(_link_target(archive, member), root / member.path)
    for member in links:
        _check_inside(root, member)
    _sync(root)


def _directories(root: Path, path: str) -> None:
    """Every missing part of `path`; mode 0755 whatever the umask."""
    missing = []
    while path and not os.path.isdir(root / path):
        missing.append(path)
        path = path.rpartition("/")[0]
    for part in reversed(missing):
        os.mkdir(root / part)
        os.chmod(root / part, 0o755)


def _file(archive: zipfile.ZipFile, member: Member, root: Path, budget: int, limits: Limits) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(root / member.path, flags, 0o600)
    except FileExistsError:
        # Only a directory that ignores case gets here: the scan has refused true duplicates.
        raise refuse(member.path, "is in the zip more than once") from None
    written = 0
    with os.fdopen(descriptor, "wb", buffering=0) as out:
        for chunk in _chunks(archive, member):
            written += len(chunk)
            if written > budget:
                raise too_large(limits)
            out.write(chunk)
        os.fchmod(descriptor, 0o755 if member.executable else 0o644)
    return written


def _chunks(archive: zipfile.ZipFile, member: Member) -> Iterator[bytes]:
    """The member's bytes, never more than a chunk of them in memory; its checksum is verified with the last."""
    try:
        with archive.open(member.info) as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except (*ZIP_ERRORS, zlib.error) as error:
        raise refuse(member.path, f"is damaged: {str(error) or type(error).__name__}"[:200]) from error


def _link_target(archive: zipfile.ZipFile, member: Member) -> str:
    try:
        target = b"".join(_chunks(archive, member)).decode()
    except UnicodeDecodeError:
        raise refuse(member.path, "link target is not UTF-8") from None
    if not target or "\0" in target:
        raise refuse(member.path, "link without a usable target")
    if target.startswith("/"):
        raise refuse(member.path, f"links to {target!r}, an absolute path", hint="links inside a package must be relative")
    return target


def _check_inside(root: Path, member: Member) -> None:
    base = os.path.realpath(root)
    try:
        real = os.path.realpath(root / member.path)
    except (RecursionError, OSError) as error:
        raise refuse(member.path, f"link cannot be followed: {type(error).__name__}") from error
    if real != base and not real.startswith(base + "/"):
        raise refuse(member.path, "links out of the package")


def _sync(root: Path) -> None:
    """Put the tree on disk before it gets its name."""
    found = [os.path.join(place, name) for place, _, names in os.walk(root) for name in names]
    if len(found) > FSYNC_EACH_LIMIT:
        os.sync()
        return
    directories = [place for place, _, _ in os.walk(root)]
    for path in [*found, *directories]:
        if not os.path.islink(path):
            fsync(path)


def fsync(path: str | Path) -> None:
    """fsync a file or directory by name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
