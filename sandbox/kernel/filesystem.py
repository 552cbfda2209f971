"""Mounts, detached trees and opening beneath a directory. See mount(2), open_tree(2), mount_setattr(2), fsopen(2), openat2(2)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from sandbox.kernel import constants as k
from sandbox.kernel import libc


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    raw = [None if item is None else os.fsencode(item) for item in (source, fstype, data)]
    libc.check(libc.mount(raw[0], os.fsencode(target), raw[1], flags, raw[2]), target)


def umount(target: str, flags: int = k.MNT_DETACH) -> None:
    libc.check(libc.umount2(os.fsencode(target), flags), target)


def pivot_root_here() -> None:
    """pivot_root(2) with "." for both: the old root ends up stacked below the new one and is detached."""
    libc.check(libc.syscall(libc.c_long(k.SYS_PIVOT_ROOT[libc.MACHINE]), libc.c_char_p(b"."), libc.c_char_p(b".")), ".")
    umount(".")
    os.chdir("/")


def open_beneath(directory_fd: int, path: str, flags: int) -> int:
    """openat2 that neither leaves the directory nor follows any symbolic link; OSError ELOOP or EXDEV when it would."""
    how = libc.OpenHow(flags | os.O_CLOEXEC, 0, k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS | k.RESOLVE_NO_MAGICLINKS)
    number = libc.c_long(k.SYS_OPENAT2)
    return libc.check(libc.syscall(number, directory_fd, libc.c_char_p(os.fsencode(path)), libc.byref(how), libc.sizeof(how)), path)


def clone_tree_read_only(directory_fd: int) -> int:
    """A detached, read-only, nosuid, nodev copy of the mount at `directory_fd`; goes away with its descriptor.

    Before Linux 5.12 (no mount_setattr) it is writable: whoever attaches it remounts it read-only, as plan.attach_plan does.
    """
    flags = libc.c_uint(k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_EMPTY_PATH)
    fd = libc.check(libc.syscall(libc.c_long(k.SYS_OPEN_TREE), directory_fd, libc.c_char_p(b""), flags))
    try:
        attributes = libc.MountAttr(k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV, 0, 0, 0)
        number, empty = libc.c_long(k.SYS_MOUNT_SETATTR), libc.c_char_p(b"")
        libc.check(libc.syscall(number, fd, empty, libc.c_uint(k.AT_EMPTY_PATH), libc.byref(attributes), libc.sizeof(attributes)))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return fd
        os.close(fd)
        raise
    return fd


def merge_read_only(directories: Sequence[int]) -> int:
    """The directories as one detached, read-only, nosuid, nodev mount, the first on top; goes away with its descriptor.

    Several are a read-only overlay (Documentation/filesystems/overlayfs.rst): directories are merged, anything else hides what is below
    it. No directory may be named twice (ELOOP). ENODEV where the kernel has no overlayfs.
    """
    if len(directories) == 1:
        return clone_tree_read_only(directories[0])
    context = libc.check(libc.syscall(libc.c_long(k.SYS_FSOPEN), libc.c_char_p(b"overlay"), libc.c_uint(k.FSOPEN_CLOEXEC)), "overlay")
    try:
        _configure(context, "source", "layers")
        # mountinfo shows the option as it was given, and sandboxes read it: numbers of ours and no path of the host. It is short, too:
        # fsconfig(2) takes 255 bytes.
        _configure(context, "lowerdir", ":".join(f"/proc/self/fd/{fd}" for fd in directories))
        number, nothing = libc.c_long(k.SYS_FSCONFIG), libc.c_long(0)
        libc.check(libc.syscall(number, context, libc.c_uint(k.FSCONFIG_CMD_CREATE), nothing, nothing, nothing), "overlay")
        attributes = libc.c_uint(k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV)
        return libc.check(libc.syscall(libc.c_long(k.SYS_FSMOUNT), context, libc.c_uint(k.FSMOUNT_CLOEXEC), attributes), "overlay")
    finally:
        os.close(context)


def _configure(context: int, key: str, value: str) -> None:
    number, text, zero = libc.c_long(k.SYS_FSCONFIG), (libc.c_char_p(key.encode()), libc.c_char_p(value.encode())), libc.c_long(0)
    libc.check(libc.syscall(number, context, libc.c_uint(k.FSCONFIG_SET_STRING), *text, zero), key)


def clone_tree(path: str) -> int:
    """A detached copy of the mounts at and below `path`, open_tree(2)."""
    flags = libc.c_uint(k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_RECURSIVE)
    return libc.check(libc.syscall(libc.c_long(k.SYS_OPEN_TREE), k.AT_FDCWD, libc.c_char_p(os.fsencode(path)), flags), path)


def move_mount(tree_fd: int, target: str) -> None:
    """Attach a detached tree at `target`, move_mount(2)."""
    number, empty, path = libc.c_long(k.SYS_MOVE_MOUNT), libc.c_char_p(b""), libc.c_char_p(os.fsencode(target))
    libc.check(libc.syscall(number, tree_fd, empty, k.AT_FDCWD, path, libc.c_uint(k.MOVE_MOUNT_F_EMPTY_PATH)), target)
