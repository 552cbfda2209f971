"""The host-side executor of plans. Runs in a forked child: no logging, no locks, no imports after the fork.

`run` stops at the first step that fails and raises StepFailed, which says which step, errno and path it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.kernel import constants as k
from sandbox.kernel import filesystem, process


class StepFailed(Exception):
    """Step number `index` (from 1) named `op` failed with `errno` at `path`."""

    def __init__(self, index: int, op: str, errno: int, path: str, hint: str) -> None:
        super().__init__(f"step {index} {op}: errno {errno} {path}")
        self.index, self.op, self.errno, self.path, self.hint = index, op, errno, path, hint


def run(steps: list[list[Any]], fds: dict[str, int], filters: Mapping[str, bytes]) -> None:
    """Run the JSON form of a plan; "@name" arguments are looked up in `fds`, to which `clone_tree` adds, `seccomp`'s in `filters`."""
    for index, (op, args, hint) in enumerate(steps, 1):
        try:
            OPERATIONS[op](fds, *([filters[name] for name in args] if op == "seccomp" else args))
        except (OSError, ValueError) as error:  # ValueError: setrlimit(2) refused, as Python's resource module tells it
            raise StepFailed(index, op, getattr(error, "errno", 0) or 0, str(getattr(error, "filename", "") or ""), hint) from error


def _join_cgroups(fds: dict[str, int], *names: str) -> None:
    for name in names:
        fd = fds.pop(name)
        os.write(fd, b"0")  # the writer itself; cheap only from inside, see kernel-costs
        os.close(fd)


def _setns(fds: dict[str, int], name: str, kind: int) -> None:
    fd = fds.pop(name)
    process.setns(fd, kind)
    os.close(fd)


def _move_mount(fds: dict[str, int], name: str, target: str) -> None:
    fd = fds.pop(name)
    filesystem.move_mount(fd, target)
    os.close(fd)


def _clone_tree(fds: dict[str, int], path: str, name: str) -> None:
    fds[name] = filesystem.clone_tree(path)


def _write_file(_: dict[str, int], path: str, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.write(fd, text.encode())
    os.fchmod(fd, mode)
    os.close(fd)


def _pivot_root(_: dict[str, int], root: str) -> None:
    os.chdir(root)
    filesystem.pivot_root_here()


def _mask_file(_: dict[str, int], path: str) -> None:
    if os.path.exists(path):
        filesystem.mount("/dev/null", path, None, k.MS_BIND)


def _mask_directory(_: dict[str, int], path: str) -> None:
    if os.path.isdir(path):
        filesystem.mount("tmpfs", path, "tmpfs", k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC, "size=4k,nr_inodes=2,mode=555")


def _read_only(_: dict[str, int], path: str) -> None:
    flags = k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC
    filesystem.mount(path, path, None, k.MS_BIND | k.MS_REC)
    filesystem.mount(None, path, None, k.MS_BIND | k.MS_REMOUNT | k.MS_RDONLY | flags)


def _wait(fds: dict[str, int], name: str) -> None:
    if os.read(fds[name], 1) != b"1":
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))


def _map_ids(_: dict[str, int], pid: int, inside: int, uid: int, gid: int) -> None:
    for name, outside in (("uid_map", uid), ("gid_map", gid)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{inside} {outside} 1".encode())
        finally:
            os.close(fd)


OPERATIONS: dict[str, Callable[..., None]] = {
    "join_cgroups": _join_cgroups,
    "unshare": lambda _, flags: process.unshare(flags),
    "setns": _setns,
    "mount": lambda _, source, target, fstype, flags, data: filesystem.mount(source, target, fstype, flags, data),
    "pivot_root": _pivot_root,
    "clone_tree": _clone_tree,
    "move_mount": _move_mount,
    "mkdir": lambda _, path, mode: os.mkdir(path, mode),
    "write_file": _write_file,
    "symlink": lambda _, target, path: os.symlink(target, path),
    "mask_file": _mask_file,
    "mask_directory": _mask_directory,
    "read_only": _read_only,
    "sethostname": lambda _, name: process.sethostname(name),
    "umask": lambda _, mask: (os.umask(mask), None)[1],
    "bounding_set": lambda _, keep: process.limit_bounding_set(frozenset(keep)),
    "capabilities": lambda _, keep: process.set_capabilities(frozenset(keep)),
    "set_ids": lambda _, uid, gid: process.set_ids(uid, gid),
    "no_new_privs": lambda _: process.set_no_new_privs(),
    "seccomp": lambda _, program: process.set_seccomp_filter(program),
    "dumpable": lambda _, dumpable: process.set_dumpable(dumpable=dumpable),
    "die_with_parent": lambda _: process.die_with_parent(),
    "tell": lambda fds, name: (os.write(fds[name], b"1"), None)[1],
    "wait": _wait,
    "map_ids": _map_ids,
    "limit": lambda _, name, value: process.set_limit(name, value),
}
