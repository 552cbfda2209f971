"""The directory of images: staged, published by rename, replaced and removed while sandboxes run.

    .tmp-<name>-<pid>   being made; its maker holds flock(2) on it, so a dead maker's is known for certain; a guard removes it
    <name>              an image
    .old-<name>-<n>     replaced or removed, kept until no mount and no process uses it

A running sandbox has a replaced image's root mounted: renaming doesn't disturb it, deleting its files would. So the old one is
set aside here and goes with the next command that finds it unused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.errors import ImageError
from sandbox.image import IMAGE_NAME, ROOT

_TMP: Final = ".tmp-"
_OLD: Final = ".old-"
_LOCK: Final = ".lock"


@contextlib.contextmanager
def staged(images_dir: Path, name: str, *, force: bool) -> Iterator[Path]:
    """A directory with an empty `root/` to fill; published as `name` when the block ends well, gone otherwise.

    Raises ImageError for a bad name, for one that exists without `force`, and for a directory that can't be made.
    """
    path, descriptor = _stage(images_dir, name, force=force)
    try:
        with _guarded(path):
            (path / ROOT).mkdir(0o755)
            yield path
            os.chmod(path, 0o755)
            _publish(images_dir, path, name, force=force)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    sweep(images_dir)


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """A process in a session of its own that removes the half-made tree should its maker be killed outright, which end of file tells it.

    It may also see the end of a maker that lives: by then the tree has its name, or the maker is removing it too.
    """
    command = ["sh", "-c", 'read -r _; rm -rf "$1"', "sh", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True
    ):
        yield


def remove(images_dir: Path, name: str) -> None:
    """Take an image away. Sandboxes that run on it keep it until they end. Raises ImageError if there is none."""
    _check_name(name)
    with _locked(images_dir):
        if not (images_dir / name).is_dir():
            raise ImageError(f"no image {name!r}", hint="`hearth image ls` shows what there is")
        _set_aside(images_dir, name)
    sweep(images_dir)


def leftovers(images_dir: Path) -> list[str]:
    """Names of what a sweep would delete now."""
    if not images_dir.is_dir():
        return []
    with _locked(images_dir):
        return [entry.name for entry in _stale(images_dir)]


def sweep(images_dir: Path) -> list[str]:
    """Delete what dead makers left and what is no longer used. Returns the names that went."""
    if not images_dir.is_dir():
        return []
    with _locked(images_dir):
        gone = _stale(images_dir)
        for entry in gone:
            shutil.rmtree(entry, ignore_errors=True)
    return [entry.name for entry in gone]


def _stale(images_dir: Path) -> list[Path]:
    found = []
    for entry in sorted(images_dir.iterdir()):
        stale = entry.name.startswith(_TMP) and _unlocked(entry)
        unused = entry.name.startswith(_OLD) and not in_use(entry)
        if (stale or unused) and not entry.is_symlink():
            found.append(entry)
    return found


def in_use(path: Path) -> bool:
    """Whether any process has a mount of, or its root in, the directory. proc_pid_mountinfo(5): field 4 is the root of a mount."""
    needle = f"/{path.name}/".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                if any(needle in line.split(b" ")[3] + b"/" for line in file):
                    return True
            if needle in os.fsencode(os.readlink(f"/proc/{pid}/root")) + b"/":
                return True
        except OSError:  # ended meanwhile
            continue
    return False


def _stage(images_dir: Path, name: str, *, force: bool) -> tuple[Path, int]:
    """Make the staged directory and lock it; the descriptor returned holds the lock."""
    _check_name(name)
    try:
        images_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        raise ImageError(
            f"{images_dir}: {error.strerror}", hint="images are made by root; HEARTH_HOME names the state directory"
        ) from error
    sweep(images_dir)
    _refuse_existing(images_dir, name, force=force)
    path = images_dir / f"{_TMP}{name}-{os.getpid()}"
    with _locked(images_dir):  # made and locked at once, or a sweep in between takes it for a dead maker's
        try:
            path.mkdir(0o700)  # nobody else looks into a half-made tree
        except FileExistsError:
            raise ImageError(f"image {name!r} is being made by this process") from None
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path, descriptor


def _publish(images_dir: Path, path: Path, name: str, *, force: bool) -> None:
    with _locked(images_dir):
        _refuse_existing(images_dir, name, force=force)
        if os.path.lexists(images_dir / name):
            _set_aside(images_dir, name)
        os.rename(path, images_dir / name)


def _set_aside(images_dir: Path, name: str) -> None:
    os.rename(images_dir / name, images_dir / f"{_OLD}{name}-{secrets.token_hex(4)}")


def _refuse_existing(images_dir: Path, name: str, *, force: bool) -> None:
    if not force and os.path.lexists(images_dir / name):
        raise ImageError(f"image {name!r} exists", hint="--force replaces it; running sandboxes keep the old one")


def _check_name(name: str) -> None:
    if not IMAGE_NAME.fullmatch(name):
        raise ImageError(f"{name!r} is not a name for an image", hint="letters, digits, dot, dash and underscore, 64 at most")


@contextlib.contextmanager
def _locked(images_dir: Path) -> Iterator[None]:
    descriptor = os.open(images_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unlocked(path: Path) -> bool:
    """Whether the maker of a staged directory is dead: its lock went with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
