"""The last steps of every image, however its root was filled: mount points, interpreters, measure, manifest.json."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.errors import ImageError
from sandbox.image import MANIFEST, ROOT
from sandbox.imaging import Progress
from sandbox.imaging.interpreters import Interpreters, find_interpreters
from sandbox.imaging.packages import Packages, install_packages
from sandbox.imaging.rootfs import prepare_root, resolve_in_root

_log = logging.getLogger(__name__)

_RELEASE_FILES: Final = ("etc/centos-release", "etc/redhat-release", "etc/system-release")
_CHUNK: Final = 1 << 20
_PACKAGES: Final = "packages"

#: An image as its recipe or archive has it.
NO_PACKAGES: Final = Packages()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds. `warnings` are not written: they are for whoever makes the image."""

    name: str
    source: str
    sha256: str
    release: str
    created_at: str
    runtimes: dict[str, str]
    versions: dict[str, str]
    preloads: dict[str, list[str]]
    packages: dict[str, list[str]]
    size_bytes: int
    warnings: tuple[str, ...] = ()


def complete(
    stage: Path,
    name: str,
    *,
    source: str,
    progress: Progress,
    sha256: str = "",
    extra: Iterable[str] = (),
    folders: Iterable[str] = (),
    packages: Packages = NO_PACKAGES,
    preloads: Iterable[str] = (),
    allow_empty: bool = False,
) -> Manifest:
    """Finish a staged image whose `root/` is filled, and write its manifest.

    `sha256` is an archive's; without one it is made from the tree. `extra` are interpreters, `folders` directories that may hold some,
    both beside the usual ones; `packages` are installed for each interpreter found, `preloads` tried beside the standard library's
    modules. Raises ImageError when nothing in it runs, unless `allow_empty`.
    """
    root = str(stage / ROOT)
    prepare_root(root)
    progress(0, None, "looking for interpreters")
    found = find_interpreters(root, extra=extra, folders=folders, preloads=preloads)
    installed: dict[str, list[str]] = {}
    if packages and found.runtimes:
        installed = install_packages(stage / _PACKAGES, root, found.runtimes, packages, progress)
        shutil.rmtree(stage / _PACKAGES)
        progress(0, None, "looking for interpreters")
        found = find_interpreters(root, extra=extra, folders=folders, preloads=[*preloads, *packages.preloads])
    for warning in found.warnings:
        _log.warning("%s", warning)
    if not found.runtimes and not allow_empty:
        raise ImageError(f"no Python interpreter runs in {source}", hint=_why_empty(root, found))
    progress(0, None, "measuring")
    size, digest = measure(root, with_digest=not sha256)
    manifest = Manifest(
        name=name,
        source=source,
        sha256=sha256 or digest,
        release=read_release(root),
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        runtimes=found.runtimes,
        versions=found.versions,
        preloads=found.preloads,
        packages=installed,
        size_bytes=size,
        warnings=tuple(found.warnings),
    )
    _write(stage / MANIFEST, manifest)
    return manifest


def read_release(root: str) -> str:
    """What the system in `root` calls itself: "CentOS Linux release 7.2.1511 (Core)", else PRETTY_NAME of os-release."""
    for name in _RELEASE_FILES:
        if text := _read(root, name).strip():
            return text.splitlines()[0]
    for name in ("etc/os-release", "usr/lib/os-release"):
        for line in _read(root, name).splitlines():
            key, _, value = line.partition("=")
            if key == "PRETTY_NAME":
                return value.strip().strip("\"'")
    return ""


def measure(root: str, *, with_digest: bool) -> tuple[int, str]:
    """Bytes of all files (a hard-linked one once) and, if asked for, a SHA-256 of names, modes, link targets and contents."""
    total = 0
    seen: set[int] = set()
    digest = hashlib.sha256()
    for folder, directories, files in os.walk(root):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            if stat.S_ISREG(facts.st_mode) and facts.st_ino not in seen:
                seen.add(facts.st_ino)
                total += facts.st_size
            if with_digest:
                _add(digest, path, os.path.relpath(path, root), facts)
    return total, digest.hexdigest() if with_digest else ""


def _add(digest: hashlib._Hash, path: str, name: str, facts: os.stat_result) -> None:
    digest.update(f"{name}\0{facts.st_mode:o}\0".encode(errors="surrogateescape"))
    if stat.S_ISLNK(facts.st_mode):
        digest.update(os.fsencode(os.readlink(path)) + b"\0")
    elif stat.S_ISREG(facts.st_mode):
        digest.update(f"{facts.st_size}\0".encode())
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)


def _read(root: str, name: str) -> str:
    path = resolve_in_root(root, name)
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_CHUNK)


def _why_empty(root: str, found: Interpreters) -> str:
    if found.warnings:
        return "; ".join(found.warnings)
    return "install one in it first, or --allow-empty keeps it without a runtime"


def _write(path: Path, manifest: Manifest) -> None:
    data = asdict(manifest)
    del data["warnings"]
    with open(path, "x", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o644)
