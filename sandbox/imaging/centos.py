"""A CentOS image by dnf(8) into an empty root: the release that the original service's functions ran on, every signature checked.

    rootfs/centos7/  centos7.toml   packages, macros, what is removed       dnf.conf   repositories       RPM-GPG-KEY-CentOS-7

dnf and rpm are the host's. They run in a mount and a pid namespace of their own; the packages' scripts run chrooted, as they do in
any installation.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from string import Template
from typing import Final
from urllib.request import pathname2url

from sandbox.errors import ImageError
from sandbox.image import ROOT
from sandbox.imaging import Progress, silent
from sandbox.imaging.manifest import NO_PACKAGES, Manifest, complete
from sandbox.imaging.packages import Packages
from sandbox.imaging.recipe import RECIPES, load_recipe
from sandbox.imaging.rootfs import clear_directory, sanitise
from sandbox.imaging.store import staged
from sandbox.imaging.tool import CONFINED, find_tool, run_tool
from sandbox.settings import Settings

_KEY: Final = "RPM-GPG-KEY-CentOS-7"
_LAST_LINES: Final = 4
_MIRROR: Final = re.compile(r"(https?|file)://[^\s,$]+")


def build_centos(
    settings: Settings,
    *,
    name: str = "centos7",
    mirror: str = "",
    progress: Progress = silent,
    force: bool = False,
    packages: Packages = NO_PACKAGES,
    recipe_folder: Path = RECIPES / "centos7",
) -> Manifest:
    """Install the recipe's packages and return the image's manifest. Needs the network, or a `mirror` on this machine.

    Raises ImageError with dnf's last words: a package unsigned, signed with another key, or not to be had. Nothing is left then.
    """
    program = find_tool("dnf")
    find_tool("rpm")
    recipe = load_recipe("centos7", folder=recipe_folder)
    mirror = (mirror or recipe["mirror"][0]).rstrip("/")
    if not _MIRROR.fullmatch(mirror):
        raise ImageError(f"{mirror!r} is not the URL of a mirror", hint="https://…, http://… or file:///…")
    with staged(settings.images_dir, name, force=force) as stage:
        root, work = str(stage / ROOT), stage / "work"
        _configure(work, recipe_folder, recipe, mirror)
        options = [f"--config={work / 'dnf.conf'}", f"--installroot={root}", f"--releasever={recipe['releasever'][0]}"]
        _install([*CONFINED, program, *options, "install", *recipe["packages"]], work, mirror, progress)
        progress(0, None, "removing caches")
        for folder in recipe["caches"]:
            clear_directory(root, folder)
        shutil.rmtree(work)
        sanitise(root)
        source = f"centos:{recipe['releasever'][0]}"
        return complete(stage, name, source=source, progress=progress, packages=packages, preloads=recipe.get("preloads", ()))


def _configure(work: Path, folder: Path, recipe: dict[str, list[str]], mirror: str) -> None:
    """A home for dnf and rpm: their configuration and the key. Paths of ours may hold what a list in dnf.conf would be split at."""
    work.mkdir()
    shutil.copyfile(folder / _KEY, work / _KEY)
    values = {"mirror": mirror, "key": f"file://{pathname2url(str(work / _KEY))}"}
    (work / "dnf.conf").write_text(Template((folder / "dnf.conf").read_text()).safe_substitute(values))
    (work / ".rpmmacros").write_text("".join(f"{line}\n" for line in recipe["macros"]))


def _install(command: list[str], work: Path, mirror: str, progress: Progress) -> None:
    # rpm has no other way to be told where its database is when dnf calls it: $HOME/.rpmmacros.
    status, last = run_tool(command, progress=progress, environment={"HOME": str(work)})
    if status:
        said = "; ".join([line for line in last if " B/s " not in line][-_LAST_LINES:])  # without dnf's meter
        hint = f"it comes from {mirror}: where that can't be reached, --mirror URL names a copy of the vault, and `hearth image import`"
        raise ImageError(f"dnf could not install CentOS: {said}", hint=f"{hint} takes a root filesystem as a tarball")
