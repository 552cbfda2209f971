"""Archives of layers made by hand: `docker save` and OCI layouts, right or wrong as a test wants them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.imaging.container import this_platform

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes, *, data: bytes = b"", link: str = "", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(data), 1000
    return info, data


def file(name: str, data: bytes = b"x", *, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.REGTYPE, data=data, mode=mode)


def folder(name: str, *, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, link=target)


def device(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.CHRTYPE)


def packed(files: Mapping[str, bytes]) -> bytes:
    return tar_of(*(file(name, data) for name, data in files.items()))


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config_of(layers: Iterable[bytes], platform: str, environment: list[str]) -> bytes:
    system, machine = platform.split("/")
    diff_ids = [digest_of(layer) for layer in layers]
    return json.dumps(
        {
            "architecture": machine,
            "os": system,
            "config": {"Env": environment, "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()


def docker_files(*layers: bytes, compress: Callable[[bytes], bytes] = bytes, platform: str = "") -> dict[str, bytes]:
    """What is in a `docker save` archive."""
    config = config_of(layers, platform or this_platform(), [])
    name = hashlib.sha256(config).hexdigest()
    names = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    entry = {"Config": f"{name}.json", "RepoTags": ["test:1"], "Layers": names}
    # the manifest last, as docker writes it
    return {
        **{path: compress(layer) for path, layer in zip(names, layers, strict=True)},
        f"{name}.json": config,
        "manifest.json": json.dumps([entry]).encode(),
    }


@dataclass
class Layout:
    """An OCI layout that images are added to."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def image(
        self,
        *layers: bytes,
        compress: Callable[[bytes], bytes] = bytes,
        suffix: str = "",
        platform: str = "",
        told: bool = True,
        name: str = "",
        environment: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Add an image; its descriptor, not yet in any index. `told`: the descriptor says its platform."""
        platform = platform or this_platform()
        config = self.blob(config_of(layers, platform, list(environment)), "application/vnd.oci.image.config.v1+json")
        layer_entries = [self.blob(compress(layer), LAYER + suffix) for layer in layers]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layer_entries}
        system, machine = platform.split("/")
        more: dict[str, Any] = {"platform": {"os": system, "architecture": machine}} if told else {}
        if name:
            more["annotations"] = {"org.opencontainers.image.ref.name": name}
        return self.blob(json.dumps(manifest).encode(), MANIFEST, **more)

    def index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        return self.blob(json.dumps({"schemaVersion": 2, "manifests": list(entries)}).encode(), INDEX)

    def files(self, *entries: dict[str, Any]) -> dict[str, bytes]:
        return {
            **{"blobs/" + digest.replace(":", "/"): data for digest, data in self.blobs.items()},
            "index.json": json.dumps({"schemaVersion": 2, "manifests": list(entries)}).encode(),
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        }


def oci_files(*layers: bytes, **options: Any) -> dict[str, bytes]:
    """What is in an OCI archive of one image."""
    layout = Layout()
    return layout.files(layout.image(*layers, **options))
