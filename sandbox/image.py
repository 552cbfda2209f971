"""Images as sandboxd reads them: which exist, and which of them serves a runtime.

An image is `<images_dir>/<name>/` with `manifest.json` and `root/`; `sandbox.imaging` makes them, this module only reads.
It imports nothing but the standard library and `sandbox.errors`, and never opens a file inside an image's root.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sandbox.errors import RuntimeNotFound
from sandbox.log import pairs

MANIFEST: Final = "manifest.json"
ROOT: Final = "root"

#: What an image may be called; no name of ours starts with a dot, so half-made ones (`.tmp-…`) are never seen.
IMAGE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_RUNTIME: Final = re.compile(r"python(\d+)(?:\.(\d+))?", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """One image and its manifest. `root` is the absolute host path of the unpacked tree; interpreters are paths inside it."""

    name: str
    root: str
    source: str = ""
    sha256: str = ""
    release: str = ""
    created_at: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    preloads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Resolved:
    """What serves a runtime: `runtime` is the one really used ("Python3.11"), `interpreter` its path inside the image."""

    image: Image
    runtime: str
    interpreter: str


def load_images(images_dir: str | os.PathLike[str]) -> dict[str, Image]:
    """All images by name, sorted. A directory that doesn't exist holds none; a broken image is skipped with a warning."""
    found: dict[str, Image] = {}
    try:
        entries = sorted(os.listdir(images_dir))
    except FileNotFoundError:
        return found
    for name in entries:
        path = Path(images_dir, name)
        if name.startswith(".") or not path.is_dir():
            continue
        try:
            found[name] = load_image(path)
        except (OSError, ValueError) as error:
            _log.warning(pairs("image skipped", name=name, reason=str(error)))
    return found


def load_image(path: Path) -> Image:
    """Read one image's directory. Raises OSError, or ValueError that says what is wrong with the manifest."""
    if not IMAGE_NAME.fullmatch(path.name):
        raise ValueError("not a name for an image")
    facts = path.lstat()
    # What is in an image runs with a zygote's privileges: a directory that others can write is not ours to trust.
    if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("directory is not root's alone to write")
    root = path / ROOT
    if root.is_symlink() or not root.is_dir():
        raise ValueError("root/ is missing")
    return _from_manifest(json.loads((path / MANIFEST).read_bytes()), path.name, os.path.abspath(root))


def resolve(images: Mapping[str, Image], runtime: str, *, default_image: str, strict: bool) -> Resolved:
    """The image and interpreter for a runtime as SCF spells it, in any case: "Python2.7", "python3".

    `PythonX` is the default image's newest X. `PythonX.Y` that no image has is served by the nearest newer minor of the same
    major unless `strict`; the default image comes first on ties, then by name. Raises RuntimeNotFound.
    """
    match = _RUNTIME.fullmatch(runtime.strip())
    if match is None:
        raise _not_found(images, runtime)
    major, minor = int(match[1]), match[2]
    ordered = sorted(images.values(), key=lambda image: (image.name != default_image, image.name))
    offers = [offer for image in ordered for offer in _offers(image) if offer[0] == major]
    if minor is None:
        chosen = _newest(offers, default_image)
    else:
        wanted = int(minor)
        fitting = [offer for offer in offers if offer[1] == wanted or (offer[1] > wanted and not strict)]
        chosen = min(fitting, key=lambda offer: offer[1]) if fitting else None
    if chosen is None:
        raise _not_found(images, runtime)
    _, _, key, image = chosen
    return Resolved(image, key, image.runtimes[key])


_Offer = tuple[int, int, str, Image]


def _newest(offers: list[_Offer], default_image: str) -> _Offer | None:
    own = [offer for offer in offers if offer[3].name == default_image]
    return max(own or offers, key=lambda offer: offer[1]) if offers else None


def _offers(image: Image) -> Iterator[_Offer]:
    for key in image.runtimes:
        match = _RUNTIME.fullmatch(key)
        if match and match[2]:
            yield int(match[1]), int(match[2]), key, image


def _not_found(images: Mapping[str, Image], runtime: str) -> RuntimeNotFound:
    have = sorted({key for image in images.values() for key in image.runtimes}, key=_by_version)
    if not images:
        hint = "there is no image yet: `hearth image build host` makes one"
    elif not have:
        hint = "no image has an interpreter: `hearth image build host` makes one that has"
    else:
        hint = f"there is {', '.join(have)}; `hearth image import` and `hearth image build` add others"
    return RuntimeNotFound(f"no image has the runtime {runtime!r}", hint=hint)


def _by_version(key: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", key)]


def _from_manifest(data: Any, name: str, root: str) -> Image:
    if not isinstance(data, dict):
        raise ValueError("manifest is not a JSON object")
    if data.get("name") != name:
        raise ValueError(f"manifest is of {data.get('name')!r}")
    runtimes = _strings(data, "runtimes")
    for key, interpreter in runtimes.items():
        if not (match := _RUNTIME.fullmatch(key)) or match[2] is None or not interpreter.startswith("/"):
            raise ValueError(f"manifest has a bad runtime {key!r}: {interpreter!r}")
    size = data.get("size_bytes", 0)
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValueError("manifest has a bad size_bytes")
    texts = {key: data.get(key, "") for key in ("source", "sha256", "release", "created_at")}
    if bad := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise ValueError(f"manifest has a bad {bad[0]}")
    return Image(name, root, **texts, runtimes=runtimes, versions=_strings(data, "versions"), preloads=_preloads(data), size_bytes=size)


def _strings(data: dict[str, Any], key: str) -> dict[str, str]:
    value = data.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"manifest has a bad {key}")
    return value


def _preloads(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    value = data.get("preloads", {})
    if not isinstance(value, dict):
        raise ValueError("manifest has bad preloads")
    for names in value.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("manifest has bad preloads")
    return {key: tuple(names) for key, names in value.items()}
