"""Import an archive: a root filesystem, as `docker export` writes it, or an image of layers, as `docker save` and OCI tools do.

What an archive is shows once it is unpacked: only then is every name in it known, and every path checked. One of layers is then
set aside as `archive/` and its layers make the root.
"""

from __future__ import annotations

import logging
import os

from sandbox import log
from sandbox.image import ROOT
from sandbox.imaging import Progress, silent
from sandbox.imaging.layered import ARCHIVE, apply_archive, form_in
from sandbox.imaging.manifest import NO_PACKAGES, Manifest, complete
from sandbox.imaging.packages import Packages
from sandbox.imaging.store import staged
from sandbox.imaging.unpack import LIMIT_BYTES, unpack
from sandbox.settings import Settings

_log = logging.getLogger(__name__)


def import_tarball(
    settings: Settings,
    file: str | os.PathLike[str],
    name: str,
    *,
    progress: Progress = silent,
    force: bool = False,
    allow_empty: bool = False,
    packages: Packages = NO_PACKAGES,
    limit_bytes: int = LIMIT_BYTES,
) -> Manifest:
    """Unpack `file` as image `name` and return its manifest; its `sha256` is the file's.

    Raises ImageError, and leaves nothing, if the archive is damaged, hostile, too large, for another machine, or holds no interpreter
    that runs.
    """
    shown = os.path.basename(os.fspath(file))
    with staged(settings.images_dir, name, force=force) as stage:
        digest, counts = unpack(file, str(stage / ROOT), progress=progress, limit_bytes=limit_bytes)
        kind = "tarball"
        folders: tuple[str, ...] = ()
        if (form := form_in(stage / ROOT, shown)) is not None:
            os.rename(stage / ROOT, stage / ARCHIVE)
            (stage / ROOT).mkdir(0o755)
            container, counts = apply_archive(stage, form, shown=shown, progress=progress, limit_bytes=limit_bytes)
            kind, folders = f"{form}-archive", container.path_folders
        if counts.special or counts.setuid:
            _log.info(log.pairs("left out of the image", devices=counts.special, setuid_bits=counts.setuid))
        return complete(
            stage,
            name,
            source=f"{kind}:{shown}",
            sha256=digest,
            progress=progress,
            folders=folders,
            packages=packages,
            allow_empty=allow_empty,
        )
