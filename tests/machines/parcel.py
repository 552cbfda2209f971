"""What a machine gets: one disk with the source tree, a bundle of wheels, what the tests import, and the list of tests.

tree/            as git has it, with what is not committed yet; /srv/parcel/tree inside
wheels/          for scripts/install --wheels: the machine has no network
packages/        pytest and its kin, unpacked: installing them there would take an emulated processor minutes
start, tests     the script that the disk's hearth-trial.service runs, and its arguments: one line of pytest arguments for each boot
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TEST_PACKAGES: Final = ("pytest>=8.2", "pytest-asyncio>=0.24", "pytest-randomly>=3.15", "hypothesis>=6.100")
SIZE: Final = "1G"

Say = Callable[[str], None]


def wheels(cache: Path, say: Say) -> Path:
    """The bundle that scripts/package makes; Hearth's own wheel in it may be an older one."""
    return _cached(cache, "wheels", (ROOT / "setup.py").read_text(), say, _make_wheels)


def packages(cache: Path, say: Say) -> Path:
    return _cached(cache, "packages", repr(TEST_PACKAGES), say, _make_packages)


def _cached(cache: Path, kind: str, inputs: str, say: Say, make: Callable[[Path], None]) -> Path:
    folder = cache / f"{kind}-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if not folder.exists():
        say(f"making {kind} (kept in {folder})")
        work = folder.with_name(f"building-{folder.name}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        make(work)
        for other in cache.glob(f"{kind}-*"):
            shutil.rmtree(other)
        work.rename(folder)
    return folder


def _make_wheels(folder: Path) -> None:
    _run([str(ROOT / "scripts" / "package"), "--wheels", str(folder)])


def _make_packages(folder: Path) -> None:
    _run(["/usr/bin/python3", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--target", str(folder), *TEST_PACKAGES])


def write(image: Path, work: Path, cache: Path, boots: Sequence[Sequence[str]], say: Say) -> None:
    """An ext4 image labelled `parcel`. `boots` has the arguments of pytest for the first boot, for the second, and so on."""
    folder = work / "parcel"
    tree = folder / "tree"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    shutil.copytree(wheels(cache, say), folder / "wheels")
    _run([str(ROOT / "scripts" / "package"), "--wheels", str(folder / "wheels"), "--own"])
    shutil.copytree(packages(cache, say), folder / "packages")
    shutil.copy(ROOT / "tests" / "machines" / "start", folder / "start")
    (folder / "tests").write_text("".join(shlex.join(arguments) + "\n" for arguments in boots))
    _run(["mke2fs", "-q", "-t", "ext4", "-L", "parcel", "-d", str(folder), str(image), SIZE])
    shutil.rmtree(folder)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command[0], done.stdout[-3000:])
