"""Makes the zip that `hearth deploy` sends: from a directory, a zip file or a single source file."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from server.cli.failure import WrongRequest

SKIPPED: Final = frozenset({"__pycache__", ".git", ".hg", ".svn", ".DS_Store"})
EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The same code gives the same bytes, and so the same digest, whenever it's packed."""


def pack(path: Path) -> bytes:
    """Return zipped code. Raises WrongRequest naming what can't be packed."""
    try:
        if path.is_dir():
            return _pack_members(_walk(path))
        if zipfile.is_zipfile(path):
            return path.read_bytes()
        if path.suffix == ".zip":
            raise WrongRequest(f"{path} is not a zip archive")
        return _pack_members([(path.name, path.resolve())])
    except OSError as error:
        raise WrongRequest(f"cannot read {error.filename or path}: {error.strerror}") from error


def default_handler(path: Path) -> str:
    """`file.main_handler` for a single file, SCF's own default otherwise."""
    return f"{path.stem}.main_handler" if path.suffix == ".py" and path.is_file() else "index.main_handler"


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*links, *(name for name in files if name not in SKIPPED)]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _pack_members(members: list[tuple[str, Path]] | Iterator[tuple[str, Path]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in members:
            archive.writestr(*_member(name, path))
        if not archive.filelist:
            raise WrongRequest("there is no file to deploy in it")
    return buffer.getvalue()


def _member(name: str, path: Path) -> tuple[zipfile.ZipInfo, bytes | str]:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3  # Unix: the upper half of external_attr holds the mode
    info.compress_type = zipfile.ZIP_DEFLATED
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return info, os.readlink(path)
    if not stat.S_ISREG(mode):
        raise WrongRequest(f"{path} is neither a file, a directory nor a link")
    info.external_attr = (stat.S_IFREG | (0o755 if mode & stat.S_IXUSR else 0o644)) << 16
    return info, path.read_bytes()
