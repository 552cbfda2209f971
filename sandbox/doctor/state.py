"""Directories, the API's user, the credential, the default image and the disk: what `hearth up` makes and expects unchanged."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.doctor.model import Check, judged
from sandbox.errors import SandboxError
from sandbox.image import load_images, resolve
from sandbox.settings import Settings

GROUP: Final = "state"

ENOUGH_DISK_BYTES: Final = 1_000_000_000
_NOT_YET: Final = "not there yet, `hearth up` makes it"


def checks(conf: Settings) -> Iterator[Check]:
    account = _account(conf.user)
    yield _user(conf.user, account)
    directories = {"state directory": Path(conf.home), "images": conf.images_dir, "socket directory": Path(conf.run)}
    for name, path in directories.items():
        yield _directory(name, path, 0, "others could put code of theirs where root runs it")
    owner = account.pw_uid if account else -1
    yield _directory("database and code store", conf.state_dir, owner, "others could read or change functions and records")
    yield _credential(conf.credential_path)
    yield _image(conf)
    yield _disk(Path(conf.home))


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _user(name: str, account: pwd.struct_passwd | None) -> Check:
    found = "no such user" if account is None else f"uid {account.pw_uid}"
    without = f"the API does not start: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
    return judged(
        GROUP, f"user {name} of the API", "not root", holds=account is not None and account.pw_uid > 0, found=found, without=without
    )


def _directory(name: str, path: Path, uid: int, without: str) -> Check:
    """Owned by `uid` and nobody else's to write; through the last link, as every use of it goes."""
    needs = f"{path} of uid {uid}, writable by it alone" if uid >= 0 else f"{path} of the API's user"
    try:
        status = path.stat()
    except FileNotFoundError:
        return judged(GROUP, name, needs, holds=True, found=_NOT_YET, without="")
    except OSError as error:
        return judged(GROUP, name, needs, holds=False, found=error.strerror or str(error), without=without)
    found = f"uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
    holds = stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o022
    return judged(GROUP, name, needs, holds=holds, found=found, without=f"{without}: chown {max(uid, 0)} and chmod go-w {path}")


def _credential(path: Path) -> Check:
    name, needs = "credential is a secret", f"{path} of root, mode 0600"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return judged(GROUP, name, needs, holds=True, found=_NOT_YET, without="")
    holds = stat.S_ISREG(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o077
    found = f"uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
    without = "other users of this host could call the API: remove it and start again for a new one"
    return judged(GROUP, name, needs, holds=holds, found=found, without=without)


def _image(conf: Settings) -> Check:
    name, needs = f"default image {conf.default_image}", "an image with a Python 3"
    images = load_images(conf.images_dir)
    if conf.default_image not in images:
        # `hearth up` builds this one by itself, if nothing broken is in its place.
        makes = conf.default_image == "host" and not (conf.images_dir / "host" / "manifest.json").exists()
        found = _NOT_YET if makes else "missing or broken"
        return judged(GROUP, name, needs, holds=makes, found=found, without="`python3` has no runtime: hearth image import or build")
    own = {conf.default_image: images[conf.default_image]}
    try:
        found = resolve(own, "python3", default_image=conf.default_image, strict=False).runtime
    except SandboxError as error:
        without = "`python3` is served by another image, if there is one"
        return judged(GROUP, name, needs, holds=False, found=error.message, without=without, required=False)
    return judged(GROUP, name, needs, holds=True, found=found, without="")


def _disk(home: Path) -> Check:
    place = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    facts, free = os.statvfs(place), shutil.disk_usage(place).free
    holds = free >= ENOUGH_DISK_BYTES and (not facts.f_files or facts.f_favail > 10_000)
    found = f"{free / 1e9:.1f} GB" + (f", {facts.f_favail} inodes" if facts.f_files else "")
    without = "deploying and importing fail when it is full, and records are lost"
    return judged(GROUP, "free disk", f"1 GB at {place}", holds=holds, found=found, without=without)
