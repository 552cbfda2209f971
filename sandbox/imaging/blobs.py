"""Files of an unpacked archive of layers: found inside its directory only, read as bounded JSON, checked against their digests.

Nothing in such an archive is trusted: a name may lead through links, a document may have any shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from sandbox.errors import ImageError
from sandbox.imaging.rootfs import resolve_in_root

_MAX_JSON_BYTES: Final = 16 << 20
_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_AGAIN: Final = "save or fetch the image again"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What an OCI document says of another: "sha256:…", bytes, media type, platform ("linux/amd64", "" if it doesn't say), names."""

    digest: str
    size_bytes: int
    media_type: str = ""
    platform: str = ""
    variant: str = ""
    name: str = ""
    attestation: bool = False


class Archive:
    """A directory with an unpacked archive in it, called `shown` in errors."""

    def __init__(self, folder: str, shown: str) -> None:
        self._folder, self.shown = folder, shown

    def path(self, name: str) -> str:
        """The regular file of that name, links followed inside the directory. Raises ImageError if there is none."""
        if (path := self.find(name)) is None:
            raise self.broken(f"lacks {name!r}")
        return path

    def find(self, name: str) -> str | None:
        path = resolve_in_root(self._folder, name)
        return path if os.path.isfile(path) and not os.path.islink(path) else None

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(resolve_in_root(self._folder, name))

    def read_json(self, name: str) -> Any:
        return self._parsed(self._bytes(self.path(name), name), name)

    def read_blob(self, descriptor: Descriptor) -> dict[str, Any]:
        """A JSON document by its digest."""
        path = self.path(blob_name(descriptor.digest))
        self._compare_size(descriptor, os.stat(path).st_size)
        return self.read_digest(blob_name(descriptor.digest), descriptor.digest)

    def read_digest(self, name: str, digest: str) -> dict[str, Any]:
        """A JSON document of that name, whose content must have that digest."""
        data = self._bytes(self.path(name), name)
        self._compare(digest, hashlib.new(_algorithm(digest), data).hexdigest())
        return self.mapping(self._parsed(data, name), name)

    def checked_path(self, descriptor: Descriptor) -> str:
        """The path of a blob whose size and digest were compared. Raises ImageError."""
        path = self.path(blob_name(descriptor.digest))
        with open(path, "rb") as file:
            self._compare_size(descriptor, os.fstat(file.fileno()).st_size)
            self._compare(descriptor.digest, hashlib.file_digest(file, _algorithm(descriptor.digest)).hexdigest())
        return path

    def descriptor(self, value: Any) -> Descriptor:
        """Read a descriptor. Raises ImageError for one without a digest that we can check."""
        data = self.mapping(value, "a descriptor")
        digest = data.get("digest")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self.broken(f"names a blob by {str(digest)[:100]!r}, which is no sha256 or sha512 digest")
        size = data.get("size")
        if not isinstance(size, int):
            raise self.broken(f"does not say the size of {digest}")
        platform = self.mapping(data.get("platform") or {}, "a platform")
        notes = self.mapping(data.get("annotations") or {}, "annotations")
        system, machine = text_of(platform, "os"), text_of(platform, "architecture")
        return Descriptor(
            digest,
            size,
            media_type=text_of(data, "mediaType"),
            platform=f"{system}/{machine}" if system else "",
            variant=text_of(platform, "variant"),
            name=text_of(notes, "io.containerd.image.name") or text_of(notes, "org.opencontainers.image.ref.name"),
            attestation=text_of(notes, "vnd.docker.reference.type") == "attestation-manifest",
        )

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.broken(f"has no JSON object for {what}")
        return value

    def list(self, value: Any, what: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.broken(f"has no list of {what}")
        return value

    def broken(self, what: str) -> ImageError:
        return ImageError(f"{self.shown} {what}", hint=_AGAIN)

    def _bytes(self, path: str, name: str) -> bytes:
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise self.broken(f"has a document of more than {_MAX_JSON_BYTES:,} bytes: {name!r}")
        return data

    def _parsed(self, data: bytes, name: str) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self.broken(f"has a document that is not JSON: {name!r}") from error

    def _compare_size(self, descriptor: Descriptor, size_bytes: int) -> None:
        if size_bytes != descriptor.size_bytes:
            raise self.broken(f"is damaged: {descriptor.digest} has {size_bytes:,} bytes instead of {descriptor.size_bytes:,}")

    def _compare(self, digest: str, found: str) -> None:
        if found != digest.partition(":")[2]:
            raise self.broken(f"is damaged: the content of {digest} has another digest, {found}")


def blob_name(digest: str) -> str:
    """Where an OCI layout keeps it."""
    return "blobs/" + digest.replace(":", "/", 1)


def text_of(data: dict[str, Any], key: str) -> str:
    """A string, or "" for anything else."""
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _algorithm(digest: str) -> str:
    return digest.partition(":")[0]
