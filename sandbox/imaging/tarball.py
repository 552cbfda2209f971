"""Import a root filesystem from a tarball: any compression, also what `docker export` writes."""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

from sandbox import log
from sandbox.errors import ImageError
from sandbox.image import ROOT
from sandbox.imaging import Progress, silent
from sandbox.imaging.archive import DAMAGED, opened
from sandbox.imaging.manifest import Manifest, complete
from sandbox.imaging.store import staged
from sandbox.imaging.unpack import LIMIT_BYTES, Counts, Unpacker
from sandbox.settings import Settings

_log = logging.getLogger(__name__)

#: What a file of ours may fail with that says nothing about the archive.
_OURS: Final = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}


def import_tarball(
    settings: Settings,
    file: str | os.PathLike[str],
    name: str,
    *,
    progress: Progress = silent,
    force: bool = False,
    allow_empty: bool = False,
    limit_bytes: int = LIMIT_BYTES,
) -> Manifest:
    """Unpack `file` as image `name` and return its manifest; its `sha256` is the file's.

    Raises ImageError, and leaves nothing, if the archive is damaged, hostile, too large, or holds no interpreter that runs.
    """
    with staged(settings.images_dir, name, force=force) as stage:
        digest, counts = unpack(file, str(stage / ROOT), progress=progress, limit_bytes=limit_bytes)
        if counts.special or counts.setuid:
            _log.info(log.pairs("left out of the image", devices=counts.special, setuid_bits=counts.setuid))
        source = f"tarball:{os.path.basename(os.fspath(file))}"
        return complete(stage, name, source=source, sha256=digest, progress=progress, allow_empty=allow_empty)


def unpack(file: str | os.PathLike[str], root: str, *, progress: Progress = silent, limit_bytes: int = LIMIT_BYTES) -> tuple[str, Counts]:
    """Unpack an archive below `root`. Returns the file's SHA-256 and what was done. Raises ImageError; `root` is half full then."""
    try:
        with opened(file, progress) as (archive, plain, source), Unpacker(root, limit_bytes=limit_bytes) as unpacker:
            while (member := archive.next()) is not None:
                unpacker.add(archive, member)
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            if not plain.ended():
                raise ImageError(f"{os.fspath(file)} ends early", hint="fetch it again and compare its checksum")
            unpacker.finish()
            return source.finish(), unpacker.counts
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno in _OURS:
            raise ImageError(f"{root}: {_OURS[error.errno]}", hint="HEARTH_HOME names a directory on another disk") from error
        raise ImageError(f"{os.fspath(file)} is damaged: {error}", hint="fetch it again and compare its checksum") from error
