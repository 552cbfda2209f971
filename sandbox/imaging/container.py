"""What an archive of layers holds for this machine: its layers from the lowest up, and the little of its configuration that we heed.

    OCI layout     oci-layout, index.json ─▶ (index ─▶) manifest ─▶ configuration, layers        everything by digest
    docker save    manifest.json ─▶ configuration, layers                                        layers by the configuration's digests

Sources: OCI image-spec (image-layout.md, image-index.md, manifest.md, config.md); docker's image/spec/v1.2.
"""

from __future__ import annotations

import platform as machine_of
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sandbox.errors import ImageError
from sandbox.imaging.blobs import Archive, Descriptor, blob_name, text_of

#: As Go calls the machines that uname(2) calls so.
_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
_PLAIN_VARIANTS: Final = ("", "v1", "v8")  # what every machine of that architecture runs
_DIFF_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CONFIG_NAME: Final = re.compile(r"(?:.*[/:])?([0-9a-f]{64})(?:\.json)?")
_MAX_INDEXES: Final = 100
_FOREIGN: Final = ("foreign", "nondistributable")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's file, and "sha256:…" of what it holds decompressed."""

    path: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Container:
    """Layers from the lowest up; `digest` is the manifest's (OCI) or the configuration's; the directories of its PATH."""

    digest: str
    layers: tuple[Layer, ...]
    path_folders: tuple[str, ...] = ()


def this_platform() -> str:
    """What images for this machine say: "linux/amd64"."""
    return f"linux/{_MACHINES.get(machine_of.machine(), machine_of.machine())}"


def form_of(archive: Archive) -> str | None:
    """ "oci", "docker", or None for a root filesystem, by what is in it. One that has /usr or /bin is never anything else."""
    if archive.is_folder("usr") or archive.is_folder("bin"):
        return None
    for form, names in (("oci", ("oci-layout", "index.json")), ("docker", ("manifest.json",))):
        if all(archive.find(name) for name in names):
            return form
    return None


def read_oci(archive: Archive) -> Container:
    """The image for this machine in an OCI layout. Raises ImageError: none, several, damaged, encrypted, incomplete."""
    version = archive.mapping(archive.read_json("oci-layout"), "oci-layout")
    if not text_of(version, "imageLayoutVersion").startswith("1."):
        raise archive.broken(f"is an OCI layout of version {version.get('imageLayoutVersion')!r}, not 1.x")
    index = archive.mapping(archive.read_json("index.json"), "index.json")
    found = [entry for entry in _manifests(archive, index) if not entry.attestation]
    chosen = _choose(archive, found)
    manifest = archive.read_blob(chosen)
    config = archive.read_blob(archive.descriptor(manifest.get("config")))
    _check_platform(archive, config)
    layers = [archive.descriptor(entry) for entry in archive.list(manifest.get("layers"), "layers")]
    paths = [_layer_path(archive, entry, number) for number, entry in enumerate(layers, 1)]
    return Container(chosen.digest, _paired(archive, paths, config), _path_folders(config))


def read_docker(archive: Archive) -> Container:
    """The image of a `docker save` archive. Raises ImageError: several, damaged, for another machine."""
    entries = [archive.mapping(entry, "an image") for entry in archive.list(archive.read_json("manifest.json"), "images")]
    if not entries:
        raise archive.broken("holds no image")
    if len({text_of(entry, "Config") for entry in entries}) > 1:
        names = [str(tag) for entry in entries for tag in entry.get("RepoTags") or ["an untagged one"]]
        raise ImageError(f"{archive.shown} holds {len(entries)} images: {', '.join(names)[:300]}", hint="save one at a time")
    name = text_of(entries[0], "Config")
    if matched := _CONFIG_NAME.fullmatch(name):
        digest = f"sha256:{matched[1]}"
        config = archive.read_digest(name, digest)
    else:
        digest, config = "", archive.mapping(archive.read_json(name), name)
    _check_platform(archive, config)
    paths = [archive.path(str(path)) for path in archive.list(entries[0].get("Layers"), "layers")]
    return Container(digest, _paired(archive, paths, config), _path_folders(config))


def _manifests(archive: Archive, index: dict[str, Any]) -> Iterator[Descriptor]:
    """The image manifests that an index names, through the indexes it names; what is not in the archive is a leaf."""
    pending = [index]
    seen: set[str] = set()
    while pending:
        for entry in archive.list(pending.pop().get("manifests"), "manifests"):
            found = archive.descriptor(entry)
            if found.digest in seen:
                continue
            seen.add(found.digest)
            if len(seen) > _MAX_INDEXES:
                raise archive.broken(f"names more than {_MAX_INDEXES} manifests")
            if not _is_index(found):
                yield found
            elif archive.find(blob_name(found.digest)):
                pending.append(archive.read_blob(found))


def _is_index(entry: Descriptor) -> bool:
    return entry.media_type.endswith((".image.index.v1+json", ".manifest.list.v2+json"))


def _choose(archive: Archive, found: list[Descriptor]) -> Descriptor:
    """The one manifest for this machine. A descriptor that does not say whom it is for has that in its configuration."""
    wanted = this_platform()
    platforms = {entry.digest: entry.platform or _platform_in(archive, entry) for entry in found}
    fitting = [entry for entry in found if platforms[entry.digest] == wanted]
    if not fitting:
        raise _other_platform(archive, sorted(set(platforms.values())))
    plain = [entry for entry in fitting if entry.variant in _PLAIN_VARIANTS] or fitting
    if len(plain) > 1:
        names = ", ".join(entry.name or entry.digest[:19] for entry in plain)
        raise ImageError(f"{archive.shown} holds {len(plain)} images for {wanted}: {names[:300]}", hint="save one at a time")
    return plain[0]


def _platform_in(archive: Archive, entry: Descriptor) -> str:
    manifest = archive.read_blob(entry)
    if manifest.get("schemaVersion") == 1:
        raise archive.broken("has a manifest of docker's schema 1, which has no digests of layers")
    return _platform_of(archive.read_blob(archive.descriptor(manifest.get("config"))))


def _platform_of(config: dict[str, Any]) -> str:
    return f"{text_of(config, 'os') or 'linux'}/{text_of(config, 'architecture') or 'unknown'}"


def _check_platform(archive: Archive, config: dict[str, Any]) -> None:
    """The configuration has the last word: it is by it that the image was built."""
    if (found := _platform_of(config)) != this_platform():
        raise _other_platform(archive, [found])


def _other_platform(archive: Archive, found: list[str]) -> ImageError:
    has = f"is for {', '.join(found)}" if found else "holds no image"
    return ImageError(f"{archive.shown} {has}; this machine is {this_platform()}", hint="get the image for this platform")


def _layer_path(archive: Archive, entry: Descriptor, number: int) -> str:
    if "encrypted" in entry.media_type:
        hint = "decrypt it first: `skopeo copy --decryption-key KEY …`"
        raise ImageError(f"layer {number} of {archive.shown} is encrypted ({entry.media_type})", hint=hint)
    if not archive.find(blob_name(entry.digest)) and any(word in entry.media_type for word in _FOREIGN):
        hint = "an image whose layers may not be redistributed can't be imported without them"
        raise ImageError(f"layer {number} of {archive.shown} is foreign and not in it ({entry.media_type})", hint=hint)
    return archive.checked_path(entry)


def _paired(archive: Archive, paths: list[str], config: dict[str, Any]) -> tuple[Layer, ...]:
    """Each layer with what the configuration says of its content."""
    rootfs = archive.mapping(config.get("rootfs"), "rootfs")
    digests = archive.list(rootfs.get("diff_ids"), "diff_ids")
    if bad := [digest for digest in digests if not isinstance(digest, str) or not _DIFF_ID.fullmatch(digest)]:
        raise archive.broken(f"has a layer whose content is called {str(bad[0])[:100]!r}, which is no sha256 digest")
    if len(digests) != len(paths):
        raise archive.broken(f"has {len(paths)} layers, and its configuration {len(digests)}")
    return tuple(Layer(path, digest) for path, digest in zip(paths, digests, strict=True))


def _path_folders(config: dict[str, Any]) -> tuple[str, ...]:
    """The directories of the image's own PATH: it may have its interpreter where nobody else has one."""
    details = config.get("config")
    environment = details.get("Env") if isinstance(details, dict) else None
    for entry in environment if isinstance(environment, list) else ():
        if isinstance(entry, str) and entry.startswith("PATH="):
            return tuple(folder for folder in entry.removeprefix("PATH=").split(":") if folder.startswith("/"))
    return ()
