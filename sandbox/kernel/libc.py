"""ctypes declarations of the C library's and the kernel's calls that Python lacks, and the one error function.

Runs on both sides of a fork; nothing here allocates more than its arguments.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

MACHINE: Final = platform.machine()


class OpenHow(ctypes.Structure):
    """struct open_how, <linux/openat2.h>."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class MountAttr(ctypes.Structure):
    """struct mount_attr, <linux/mount.h>."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class CapHeader(ctypes.Structure):
    """struct __user_cap_header_struct, <linux/capability.h>."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    """struct __user_cap_data_struct, <linux/capability.h>."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class SockFprog(ctypes.Structure):
    """struct sock_fprog, <linux/filter.h>: a classic BPF program and how many instructions it has."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


mount = _libc.mount
mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
umount2 = _libc.umount2
umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
unshare = _libc.unshare
unshare.argtypes = (ctypes.c_int,)
setns = _libc.setns
setns.argtypes = (ctypes.c_int, ctypes.c_int)
prctl = _libc.prctl
prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
sethostname = _libc.sethostname
sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
syscall = _libc.syscall
syscall.restype = ctypes.c_long

byref = ctypes.byref
sizeof = ctypes.sizeof
addressof = ctypes.addressof
c_long = ctypes.c_long
c_char_p = ctypes.c_char_p
c_uint = ctypes.c_uint


def check(result: int, path: str = "") -> int:
    """The one error function: `result` if it is not negative, else OSError with errno and the path."""
    if result >= 0:
        return result
    errno = ctypes.get_errno()
    raise OSError(errno, os.strerror(errno), path or None)
