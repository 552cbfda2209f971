"""A Debian image by debootstrap(8): for a genuine Python 2.7 (bullseye and older) or a Debian other than the host's."""

from __future__ import annotations

import re
from typing import Final

from sandbox.errors import ImageError
from sandbox.image import ROOT
from sandbox.imaging import Progress, silent
from sandbox.imaging.manifest import NO_PACKAGES, Manifest, complete
from sandbox.imaging.packages import Packages
from sandbox.imaging.recipe import load_recipe
from sandbox.imaging.rootfs import clear_directory, sanitise
from sandbox.imaging.store import staged
from sandbox.imaging.tool import CONFINED, find_tool, run_tool
from sandbox.settings import Settings

_LAST_LINES: Final = 3


def build_debian(
    settings: Settings,
    *,
    suite: str = "bullseye",
    name: str = "debian",
    mirror: str = "",
    progress: Progress = silent,
    force: bool = False,
    packages: Packages = NO_PACKAGES,
) -> Manifest:
    """Bootstrap a suite and return the image's manifest. Needs the network. Raises ImageError with debootstrap's last words."""
    program = find_tool("debootstrap")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite):
        raise ImageError(f"{suite!r} is not the name of a suite", hint="bullseye, bookworm, trixie …")
    recipe = load_recipe("debian")
    with staged(settings.images_dir, name, force=force) as stage:
        root = str(stage / ROOT)
        _bootstrap(_command(program, suite, root, mirror, _debs(recipe, suite)), suite, progress)
        progress(0, None, "removing caches")
        for folder in recipe["caches"]:
            clear_directory(root, folder)
        sanitise(root)
        return complete(stage, name, source=f"debian:{suite}", progress=progress, packages=packages, preloads=recipe.get("preloads", ()))


def _debs(recipe: dict[str, list[str]], suite: str) -> list[str]:
    return [*(recipe["python2_packages"] if suite in recipe["python2_suites"] else []), *recipe["packages"]]


def _command(program: str, suite: str, root: str, mirror: str, packages: list[str]) -> list[str]:
    arguments = ["--variant=minbase", f"--include={','.join(packages)}", suite, root]
    return [*CONFINED, program, *arguments, *([mirror] if mirror else [])]


def _bootstrap(command: list[str], suite: str, progress: Progress) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    status, last = run_tool(command, progress=progress, environment=environment, told=lambda line: line.removeprefix("I: "))
    if status:
        said = "; ".join(last[-_LAST_LINES:])
        raise ImageError(f"debootstrap of {suite} failed: {said}", hint="is the archive reachable, and does it have the suite?")
