"""A root filesystem on disk: names resolved inside it, our mount points in it, nothing dangerous left in it.

Everything here treats symbolic links as the image will see them: an absolute target starts at the image's root, and `..` stops
there, as after chroot(2). No link in an image ever leads us to a file of the host.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import Final

from sandbox.errors import ImageError

#: Directories that a sandbox mounts on, or expects; the image is read-only by then, so they must exist before.
MOUNT_POINTS: Final = ("proc", "sys", "dev", "tmp", "run", "opt", "var/user", "var/runtime/hearth", "home/qcloud")

_PASSWD_ROOT: Final = "root:x:0:0:root:/root:/bin/sh\n"
_PASSWD_USER: Final = "qcloud:x:1000:1000::/home/qcloud:/bin/bash\n"
_GROUP_ROOT: Final = "root:x:0:\n"
_GROUP_USER: Final = "qcloud:x:1000:\n"
_FILES: Final = {
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}
_MAX_LINKS: Final = 40  # as the kernel, path_resolution(7)


def resolve_in_root(root: str | os.PathLike[str], path: str) -> str:
    """The host path that `path` names for a process whose root is `root`; components that don't exist are kept as written.

    The result is `root` or below it and has no symbolic link behind `root`. Raises ImageError on a loop of links.
    """
    base = os.fspath(root)
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del done[-1:]
            continue
        try:
            target = os.readlink(os.path.join(base, *done, part))
        except OSError:  # not a link, or not there
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise ImageError(f"too many levels of symbolic links at {path}")
        if target.startswith("/"):
            done.clear()
        pending += [step for step in reversed(target.split("/")) if step not in ("", ".")]
    return os.path.join(base, *done)


def prepare_root(root: str | os.PathLike[str]) -> None:
    """Give a root filesystem what every sandbox needs: mount points, user `qcloud`, the few files of /etc. Idempotent."""
    os.chmod(root, 0o755)
    for name in MOUNT_POINTS:
        make_directory(root, name)
    os.chmod(resolve_in_root(root, "tmp"), 0o1777)
    make_directory(root, "etc")
    _account(root, "etc/passwd", _PASSWD_ROOT, _PASSWD_USER)
    _account(root, "etc/group", _GROUP_ROOT, _GROUP_USER)
    for name, text in _FILES.items():
        if not os.path.isfile(resolve_in_root(root, name)):
            _write(root, name, text)


def sanitise(root: str | os.PathLike[str]) -> dict[str, int]:
    """Make a tree that a tool of the host's unpacked as an import would have: no devices, no setuid, readable by every uid.

    Returns how many were removed or changed: {"special", "setuid"}.
    """
    counts = {"special": 0, "setuid": 0}
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                os.unlink(path)
                counts["special"] += 1
                continue
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                counts["setuid"] += 1
            os.chown(path, 0, 0)
            os.chmod(path, directory_mode(mode) if stat.S_ISDIR(mode) else file_mode(mode))
    return counts


def directory_mode(mode: int) -> int:
    """A directory's mode in an image: open to every uid, sticky kept, setuid and setgid not."""
    return mode & 0o1777 | 0o755


def file_mode(mode: int) -> int:
    """A file's mode in an image: readable by every uid, executable by all or none, no setuid, setgid or sticky."""
    return mode & 0o777 | 0o644 | (0o111 if mode & 0o111 else 0)


def clear_directory(root: str | os.PathLike[str], name: str) -> None:
    """Empty a directory of the image, if it has one there."""
    path = resolve_in_root(root, name)
    if not os.path.isdir(path):
        return
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def make_directory(root: str | os.PathLike[str], name: str) -> str:
    """Make a directory and its parents, wherever the image's links put it, and open it to every uid. Returns its path on the host."""
    path = resolve_in_root(root, name)
    base = os.fspath(root)
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ImageError(f"/{name} is not a directory in this image", hint="a sandbox mounts there") from error
    opened = path
    while len(opened) > len(base):
        os.chmod(opened, stat.S_IMODE(os.lstat(opened).st_mode) | 0o755)
        opened = os.path.dirname(opened)
    return path


def _account(root: str | os.PathLike[str], name: str, first: str, line: str) -> None:
    """Add a line to an account file that has none of our user, and `first` before it if there is no such file."""
    path = resolve_in_root(root, name)
    text = first
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    if not any(row.startswith("qcloud:") for row in text.splitlines()):
        _write(root, name, text if text.endswith("\n") or not text else text + "\n", line)


def _write(root: str | os.PathLike[str], name: str, *texts: str) -> None:
    """Replace a file of the image. It is unlinked first, since it may share its inode with another name.

    A link to a file is followed inside the image; one to nothing is replaced itself: resolv.conf often leads into /run, which is
    empty in a sandbox.
    """
    path = resolve_in_root(root, name)
    if not os.path.isfile(path):
        path = os.path.join(resolve_in_root(root, os.path.dirname(name)), os.path.basename(name))
    try:
        if os.path.lexists(path):
            os.unlink(path)
    except IsADirectoryError as error:
        raise ImageError(f"/{name} is a directory in this image") from error
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(texts)
    os.chmod(path, 0o644)
