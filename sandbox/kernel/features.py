"""What this kernel can do, found out by doing it: each probe raises OSError where a feature is missing, and leaves nothing.

Probes that change the process (namespaces, mounts) run in a child by `tried`; its namespaces, and every mount in them, end with it.
Called by the doctor, which has one thread.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from sandbox.kernel import constants as k
from sandbox.kernel import filesystem, links, process

PROBE_SECONDS: Final = 10
_SCRATCH: Final = "/tmp"  # covered in the child's own mount namespace only
_UNKNOWN: Final = 255


def tried(probe: Callable[[], None]) -> int:
    """Run `probe` in a child. 0 when it went well, else the errno; ETIMEDOUT for one that did not come to its end."""
    child = os.fork()
    if child == 0:
        code = _UNKNOWN
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PROBE_SECONDS)
            probe()
            code = 0
        except OSError as error:
            code = error.errno or _UNKNOWN
        finally:
            os._exit(code)  # never back into the parent's code
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else errno.ETIMEDOUT


def namespace(kind: str) -> Callable[[], None]:
    """A probe for one of NAMESPACES or "user", for `tried`; the pid namespace is entered too, loopback brought up in a net one."""
    special: dict[str, Callable[[], None]] = {
        "pid": _pid_namespace,
        "net": _net_namespace,
        "user": partial(process.unshare, k.CLONE_NEWUSER),
    }
    return special[kind] if kind in special else partial(process.unshare, k.NAMESPACES[kind])


def _pid_namespace() -> None:
    process.unshare(k.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else errno.ENOSYS)
    _raise(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _net_namespace() -> None:
    process.unshare(k.CLONE_NEWNET)
    links.bring_up_loopback()


def _scratch(data: str = "size=1m") -> None:
    """A tmpfs of the child's own, cwd in it."""
    process.unshare(k.CLONE_NEWNS)
    filesystem.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE)
    filesystem.mount("tmpfs", _SCRATCH, "tmpfs", k.MS_NOSUID | k.MS_NODEV, data)
    os.chdir(_SCRATCH)


def overlayfs() -> None:
    """For `tried`: two directories merged, the first on top, and read-only."""
    _scratch()
    for name in ("top", "bottom", "merged"):
        os.mkdir(name)
    os.mkdir("bottom/below")
    directories = [os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in ("top", "bottom")]
    filesystem.move_mount(filesystem.merge_read_only(directories), "merged")
    try:
        os.mkdir("merged/written")
    except OSError as error:
        if error.errno == errno.EROFS and os.listdir("merged") == ["below"]:
            return
        raise
    _raise(errno.EOPNOTSUPP)


def tmpfs_inodes() -> None:
    """For `tried`: a tmpfs stops at its number of inodes."""
    _scratch("size=1m,nr_inodes=8")
    try:
        for number in range(16):
            os.mkdir(str(number))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return
        raise
    _raise(errno.EOPNOTSUPP)


def detached_mounts() -> None:
    """For `tried`: open_tree, mount_setattr and move_mount; what is attached must be read-only."""
    _scratch()
    os.mkdir("code")
    os.mkdir("place")
    source = os.open("code", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    filesystem.move_mount(filesystem.clone_tree_read_only(source), "place")
    try:
        os.mkdir("place/written")
    except OSError as error:
        if error.errno == errno.EROFS:
            return
        raise
    _raise(errno.EOPNOTSUPP)


def filtered(programs: Iterable[bytes]) -> None:
    """For `tried`: these system call filters are taken, refuse a namespace with EPERM, and leave the process alive."""
    process.set_no_new_privs()
    for program in programs:
        process.set_seccomp_filter(program)
    try:
        process.unshare(k.CLONE_NEWUTS)
    except PermissionError:
        return
    _raise(errno.EOPNOTSUPP)


def openat2() -> None:
    """A path beneath a directory opens, one that leaves it does not. Changes nothing, needs no child."""
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(filesystem.open_beneath(root, "sys", os.O_PATH))
        try:
            os.close(filesystem.open_beneath(root, "../", os.O_PATH))
        except OSError as error:
            if error.errno == errno.EXDEV:
                return
            raise
        _raise(errno.EOPNOTSUPP)
    finally:
        os.close(root)


def pidfd() -> None:
    """pidfd_open and pidfd_send_signal. Changes nothing, needs no child."""
    own = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(own, 0)
    finally:
        os.close(own)


def _raise(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))
