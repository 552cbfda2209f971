"""Make a root of an archive's layers: each over the ones below it, each compared with the digest of its content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sandbox.errors import ImageError
from sandbox.image import ROOT
from sandbox.imaging import Progress
from sandbox.imaging.archive import DAMAGED, blamed, opened
from sandbox.imaging.blobs import Archive
from sandbox.imaging.container import Container, Layer, form_of, read_docker, read_oci
from sandbox.imaging.unpack import LIMIT_BYTES, Counts
from sandbox.imaging.whiteout import LayerUnpacker

#: Where a staged image has the archive that its root is made from.
ARCHIVE: Final = "archive"

_READERS: Final[dict[str, Callable[[Archive], Container]]] = {"oci": read_oci, "docker": read_docker}


def form_in(folder: Path, shown: str) -> str | None:
    """Which form of archive was unpacked there: "oci", "docker", or None for a root filesystem."""
    return form_of(Archive(str(folder), shown))


def apply_archive(stage: Path, form: str, *, shown: str, progress: Progress, limit_bytes: int = LIMIT_BYTES) -> tuple[Container, Counts]:
    """Fill `root/` of a staged image from its `archive/`, which is gone afterwards. Raises ImageError."""
    container = _READERS[form](Archive(str(stage / ARCHIVE), shown))
    root = str(stage / ROOT)
    try:
        with LayerUnpacker(root, limit_bytes=limit_bytes) as unpacker:
            for number, layer in enumerate(container.layers, 1):
                _apply(unpacker, layer, f"layer {number} of {len(container.layers)}", shown, progress)
            unpacker.finish()
            counts = unpacker.counts
    except DAMAGED as error:
        raise blamed(error, shown, root) from error
    shutil.rmtree(stage / ARCHIVE)
    return container, counts


def _apply(unpacker: LayerUnpacker, layer: Layer, text: str, shown: str, progress: Progress) -> None:
    unpacker.begin_layer()

    def told(done: int, total: int | None, _: str) -> None:
        progress(done, total, text)

    with opened(layer.path, told, shown=f"{text} of {shown}", hashed=True) as (archive, plain, _):
        unpacker.add_all(archive)
        found = plain.sha256()
    if f"sha256:{found}" != layer.diff_id:
        raise ImageError(
            f"{shown} is damaged: {text} holds {found or 'too much'} instead of {layer.diff_id}", hint="save or fetch it again"
        )
