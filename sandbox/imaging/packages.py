"""Python packages that an image brings: the service's SDKs, and an administrator's own requirements.

    requirements ─▶ pip, here, for the image's Python ─▶ staged directory ─▶ site directory in the image, compiled there

pip runs on this machine with the tags of the image's interpreter, so an image needs no pip, no compiler and no network, and this machine
no interpreter of the image's version. Only wheels are installed. Of the SDKs that have none, the source archive is fetched, by pip which
runs its setup.py here for the metadata, once the hash agrees, and unpacked: 2.7 needs other files than would be built here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from sandbox.errors import ImageError
from sandbox.imaging import Progress
from sandbox.imaging.interpreters import run_confined
from sandbox.imaging.recipe import RECIPES, load_recipe
from sandbox.imaging.rootfs import make_directory, sanitise
from sandbox.imaging.tool import BOUND, run_tool
from sandbox.imaging.unpack import unpack

SDKS: Final = RECIPES / "sdks"
_COMPILE_SECONDS: Final = 300
_NOBODY: Final = 65534
_OLDEST_GLIBC: Final = 5  # manylinux_2_5 is what manylinux1 was

_PIP: Final = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check")

# Runs inside the image, on anything from 2.7 on. gnu_get_libc_version(3): a C library without it is musl.
_DESCRIBE: Final = """
import ctypes, json, site, sys
version = getattr(ctypes.CDLL(None), "gnu_get_libc_version", None)
if version is not None:
    version.restype = ctypes.c_char_p
print(json.dumps({
    "site": site.getsitepackages()[0],
    "wide": sys.maxunicode > 65535,
    "glibc": version().decode() if version else "",
}))
"""


@dataclass(frozen=True, slots=True)
class Packages:
    """What to bring: the SDKs, requirements files, and a directory to take every file from instead of the index."""

    sdks: bool = False
    requirements: tuple[str, ...] = ()
    wheels: str = ""

    def __bool__(self) -> bool:
        return self.sdks or bool(self.requirements)

    @property
    def preloads(self) -> list[str]:
        return load_recipe("sdks", folder=SDKS)["preloads"] if self.sdks else []


@dataclass(frozen=True, slots=True)
class Target:
    """An interpreter of the image, for pip: "2.7", "cp27mu", the platforms whose wheels run there, its site directory."""

    runtime: str
    interpreter: str
    version: str
    abi: str
    platforms: tuple[str, ...]
    site: str

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    @property
    def is_ours(self) -> bool:
        """Whether pip, which is run by our own interpreter, tells dependencies for this one right."""
        return self.version == f"{sys.version_info[0]}.{sys.version_info[1]}"

    def options(self) -> list[str]:
        named = [f"--platform={platform}" for platform in self.platforms]
        abis = [f"--abi={abi}" for abi in (self.abi, *(("abi3",) if self.major == "3" else ()), "none")]
        return [f"--python-version={self.version}", "--implementation=cp", *abis, *named]


def install_packages(work: Path, root: str, runtimes: dict[str, str], packages: Packages, progress: Progress) -> dict[str, list[str]]:
    """Install into every interpreter of the image; what it then has, as ["requests==2.32.5", …] by runtime. `work` is ours to fill.

    Raises ImageError with pip's last words: a package or PyPI not to be had, a hash that differs, no wheel for that Python.
    """
    installed: dict[str, list[str]] = {}
    for runtime, interpreter in sorted(runtimes.items()):
        target = describe_target(root, runtime, interpreter)
        staging = work / runtime
        staging.mkdir(parents=True)
        merged = staging / "merged"
        merged.mkdir()
        names = _install_sdks(staging, merged, target, packages.wheels, progress) if packages.sdks else []
        for number, file in enumerate(packages.requirements):
            _install_requirements(staging / f"own{number}", merged, target, file, packages.wheels, progress)
        _copy_in(root, target, merged, progress)
        installed[runtime] = sorted([*names, *(f"{found.name}=={found.version}" for found in _distributions(merged))])
    return installed


def describe_target(root: str, runtime: str, interpreter: str) -> Target:
    """Ask an interpreter of the image where its packages go and which wheels it takes."""
    done = run_confined(root, [interpreter, "-sE", "-c", _DESCRIBE])
    try:
        told = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ImageError(f"{interpreter} does not say where its packages go: {last}") from None
    version = runtime.removeprefix("Python")
    major, minor = (int(part) for part in version.split("."))
    suffix = ("mu" if told["wide"] else "m") if major == 2 else "m" if minor < 8 else ""
    return Target(runtime, interpreter, version, f"cp{major}{minor}{suffix}", _platforms(told["glibc"]), told["site"])


def _platforms(glibc: str) -> tuple[str, ...]:
    """Platform tags, newest first (PEP 600, PEP 656). One with another C library than glibc takes what needs none newer than musl 1.1."""
    machine = platform.machine()
    matched = re.match(r"2\.(\d+)", glibc)
    if not matched:
        return (f"musllinux_1_1_{machine}",)
    minor = int(matched[1])
    legacy = [("manylinux2014", 17), ("manylinux2010", 12), ("manylinux1", 5)]
    named = [f"manylinux_2_{number}_{machine}" for number in range(minor, _OLDEST_GLIBC - 1, -1)]
    return (*named, *(f"{name}_{machine}" for name, needs in legacy if minor >= needs))


def _install_sdks(staging: Path, merged: Path, target: Target, wheels: str, progress: Progress) -> list[str]:
    """Returns what was unpacked, as "crcmod==1.7"; the others left their metadata."""
    recipe = load_recipe("sdks", folder=SDKS)
    unpacked = dict(line.split(" ") for line in recipe[f"unpacked{target.major}"])
    pins = read_pins(SDKS / f"python{target.major}.txt")
    lists = {kind: staging / f"{kind}.txt" for kind in ("wheels", "sources")}
    lists["wheels"].write_text("".join(pin.line for pin in pins if pin.name not in unpacked))
    lists["sources"].write_text("".join(pin.line for pin in pins if pin.name in unpacked))
    options = ["--no-deps", "--require-hashes", f"--requirement={lists['wheels']}"]
    _pip_install(staging / "sdks", target, options, wheels, progress)
    _merge(staging / "sdks", merged)
    sources = Path(wheels) if wheels else staging / "sources"
    if not wheels:
        sources.mkdir()
        options = ["download", "--progress-bar=off", "--no-deps", "--require-hashes", "--no-binary=:all:", f"--dest={sources}"]
        _pip([*options, f"--requirement={lists['sources']}"], target, progress)
    taken = [pin for pin in pins if pin.name in unpacked]
    for pin in taken:
        _unpack_source(staging, merged, sources, pin, unpacked[pin.name])
    return [pin.line.split(" ", 1)[0] for pin in taken]


def _install_requirements(staging: Path, merged: Path, target: Target, file: str, wheels: str, progress: Progress) -> None:
    # pip's markers are those of the Python that runs it: for another it would choose the wrong dependencies, so it chooses none.
    options = [f"--requirement={file}", *([] if target.is_ours else ["--no-deps"])]
    _pip_install(staging, target, options, wheels, progress)
    for found in _distributions(staging):
        _forget(merged, found.name)
    _merge(staging, merged)


def _pip_install(folder: Path, target: Target, options: list[str], wheels: str, progress: Progress) -> None:
    offline = ["--no-index", f"--find-links={os.path.abspath(wheels)}"] if wheels else []
    always = ["install", "--progress-bar=off", f"--target={folder}", "--only-binary=:all:", "--no-compile", "--no-warn-script-location"]
    _pip([*always, "--root-user-action=ignore", *offline, *target.options(), *options], target, progress)
    folder.mkdir(exist_ok=True)  # pip makes none for an empty list
    shutil.rmtree(folder / "bin", ignore_errors=True)  # they would start this machine's Python


def _pip(command: list[str], target: Target, progress: Progress) -> None:
    progress(0, None, f"packages for {target.runtime}")
    status, last = run_tool([*BOUND, *_PIP, *command], progress=progress, told=_told)
    if status:
        errors = [line.removeprefix("ERROR: ") for line in last if line.startswith("ERROR: ")] or last[-2:]
        hint = (
            "PyPI is asked as pip is configured here; --wheels DIR takes the files from a directory. There must be a wheel for that Python"
        )
        raise ImageError(f"pip could not install packages for {target.runtime}: {'; '.join(errors)[:600]}", hint=hint)


def _told(line: str) -> str:
    """What pip says, without what it says of its own configuration."""
    return "" if line.startswith(("WARNING: ", "Looking in ")) else line


@dataclass(frozen=True, slots=True)
class Pin:
    """One requirement by hash: its name, the SHA-256s of the files that may serve it, and the line."""

    name: str
    digests: tuple[str, ...]
    line: str


def read_pins(file: Path) -> list[Pin]:
    """A requirements file in which every line is `name==version --hash=sha256:…`."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Pin(line.partition("==")[0], tuple(re.findall(r"sha256:([0-9a-f]{64})", line)), f"{line}\n") for line in lines]


def _unpack_source(staging: Path, merged: Path, sources: Path, pin: Pin, inside: str) -> None:
    """Take one directory out of a source archive, which is told by its digest."""
    archive = next((path for path in sorted(sources.glob("*.tar.gz")) if _sha256(path) in pin.digests), None)
    if archive is None:
        raise ImageError(f"{sources} has no source archive of {pin.name} with the digest that is expected", hint=f"pinned in {SDKS}")
    folder = staging / f"source-{pin.name}"
    folder.mkdir()
    unpack(archive, str(folder))
    (top,) = folder.iterdir()
    shutil.copytree(top / inside, merged / Path(inside).name, symlinks=True, ignore=shutil.ignore_patterns("*.pyc", "__pycache__"))


def _merge(source: Path, merged: Path) -> None:
    """Over what is there: packages that share a directory (`tencentcloud`) come in several parts."""
    shutil.copytree(source, merged, symlinks=True, dirs_exist_ok=True)


def _distributions(folder: Path) -> Iterable[Distribution]:
    return distributions(path=[str(folder)])


def _forget(merged: Path, name: str) -> None:
    """Remove the files of a distribution that another one of that name will replace."""
    for found in _distributions(merged):
        if _normal(found.name) == _normal(name):
            for file in found.files or ():
                if ".." not in file.parts:
                    (merged / file).unlink(missing_ok=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _copy_in(root: str, target: Target, merged: Path, progress: Progress) -> None:
    """Into the image, compiled by its own interpreter: as nobody, so that what a package makes run there is nobody too."""
    progress(0, None, f"compiling packages for {target.runtime}")
    folder = make_directory(root, target.site)
    shutil.copytree(merged, folder, symlinks=True, dirs_exist_ok=True)
    for path, names, _ in os.walk(folder):
        for place in (path, *(os.path.join(path, name) for name in names)):
            os.chown(place, _NOBODY, _NOBODY, follow_symlinks=False)
    try:
        run_confined(root, [target.interpreter, "-sE", "-m", "compileall", "-q", target.site], timeout_seconds=_COMPILE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"compiling the packages for {target.runtime} took more than {_COMPILE_SECONDS} seconds") from error
    sanitise(folder)
    os.chown(folder, 0, 0)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
