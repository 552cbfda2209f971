"""Unpack an image's layers over one another: what a later one removes, replaces and adds.

Layers are applied from the lowest up with the safety of a plain import. A whiteout hides what *lower* layers have; what its own layer
has stays, wherever in the archive the whiteout lies (OCI image-spec, layer.md). So each layer's own paths are remembered.
"""

from __future__ import annotations

import os
import stat
import tarfile
from typing import Final

from sandbox.errors import ImageError
from sandbox.imaging.unpack import LIMIT_BYTES, LIMIT_MEMBERS, Unpacker, clear

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_AUFS: Final = ".wh..wh."  # its other names are a storage driver's own notes
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LayerUnpacker(Unpacker):
    """Creates the members of one layer after the other below one directory; `begin_layer` comes before each."""

    def __init__(self, root: str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES, limit_members: int = LIMIT_MEMBERS) -> None:
        super().__init__(root, limit_bytes=limit_bytes, limit_members=limit_members)
        self._own: set[tuple[str, ...]] = set()

    def begin_layer(self) -> None:
        """What there is now belongs to lower layers."""
        self._own.clear()

    def _create(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, path: tuple[str, ...]) -> None:
        name = path[-1]
        if name == _OPAQUE:
            self._hide_below(parent, path[:-1])
        elif name.startswith(_AUFS):
            return
        elif name.startswith(_WHITEOUT):
            self._hide(parent, (*path[:-1], _hidden_name(member, name)))
        else:
            self._add_own(archive, member, parent, path)

    def _add_own(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, path: tuple[str, ...]) -> None:
        special = self.counts.special
        super()._create(archive, member, parent, path)
        if self.counts.special > special:
            clear(parent, path[-1])  # a device in the place of a file: neither is there
        self._own.update(path[:depth] for depth in range(1, len(path) + 1))

    def _hide(self, parent: int, path: tuple[str, ...]) -> None:
        """Remove an entry and all below it, but for what this layer has."""
        name = path[-1]
        if path not in self._own:
            clear(parent, name)
            return
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return
        except FileNotFoundError:  # replaced by a later member of this layer
            return
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        try:
            self._hide_below(descriptor, path)
        finally:
            os.close(descriptor)

    def _hide_below(self, folder: int, path: tuple[str, ...]) -> None:
        for name in os.listdir(folder):
            self._hide(folder, (*path, name))


def _hidden_name(member: tarfile.TarInfo, name: str) -> str:
    hidden = name.removeprefix(_WHITEOUT)
    if hidden in ("", ".", ".."):
        raise ImageError(f"whiteout {member.name!r} names no file", hint="get the image from who you trust")
    return hidden
