"""Namespaces, credentials, capabilities and pidfds of one process. See namespaces(7), capabilities(7), prctl(2), pidfd_open(2).

Called between fork and exec too: no logging, no locks, no imports inside the functions.
"""

from __future__ import annotations

import errno
import os
import resource
import signal

import prctl

from sandbox.kernel import constants as k
from sandbox.kernel import libc


def unshare(flags: int) -> None:
    libc.check(libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    libc.check(libc.setns(fd, kind))


def sethostname(name: str) -> None:
    raw = name.encode()
    libc.check(libc.sethostname(raw, len(raw)))


def become_subreaper() -> None:
    """Orphaned descendants become our children: PR_SET_CHILD_SUBREAPER."""
    prctl.set_child_subreaper(True)


def set_title(name: str) -> None:
    """The name `ps -o comm` shows, 15 bytes."""
    prctl.set_name(name[:15])


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """PR_SET_PDEATHSIG; a change of uid clears it, so call it after."""
    prctl.set_pdeathsig(number)


def set_dumpable(*, dumpable: bool) -> None:
    """A process that is not dumpable cannot be traced, nor its descriptors taken, by another of its uid."""
    prctl.set_dumpable(dumpable)


def set_no_new_privs() -> None:
    prctl.set_no_new_privs(1)


def set_seccomp_filter(program: bytes) -> None:
    """One more filter (struct sock_filter, 8 bytes each) on this thread and all it starts, for good: seccomp(2).

    Needs no_new_privs or CAP_SYS_ADMIN (EACCES). By prctl, which every C library has; one thread is all there is.
    """
    fprog = libc.SockFprog(len(program) // 8, program)
    libc.check(libc.prctl(k.PR_SET_SECCOMP, k.SECCOMP_MODE_FILTER, libc.addressof(fprog), 0, 0))


def limit_bounding_set(keep: frozenset[int] = frozenset()) -> None:
    """Drop every capability but `keep` from the bounding set; needs CAP_SETPCAP."""
    for capability in range(k.CAP_LAST + 1):
        if capability in keep:
            continue
        try:
            libc.check(libc.prctl(k.PR_CAPBSET_DROP, capability, 0, 0, 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return  # the kernel's last capability is behind us


def set_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Make permitted and effective exactly `keep`, inheritable and ambient empty; capset(2)."""
    libc.prctl(k.PR_CAP_AMBIENT, k.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    low = sum(1 << c for c in keep if c < 32)
    high = sum(1 << (c - 32) for c in keep if c >= 32)
    header = libc.CapHeader(k.LINUX_CAPABILITY_VERSION_3, 0)
    data = (libc.CapData * 2)(libc.CapData(low, low, 0), libc.CapData(high, high, 0))
    libc.check(libc.syscall(libc.c_long(k.SYS_CAPSET[libc.MACHINE]), libc.byref(header), libc.byref(data)))


def set_ids(uid: int, gid: int) -> None:
    """All three uids and gids, no supplementary group. Not dumpable afterwards, prctl(2)."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def set_limit(name: str, value: int) -> None:
    """Soft and hard resource limit by name ("NOFILE", "CORE"); never above the hard one we already have."""
    number = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def reset_signals() -> None:
    """Default dispositions and an empty mask: what an exec'd program expects."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_descriptors(keep: set[int]) -> None:
    """Close everything but `keep`, with few calls."""
    low = 0
    for fd in sorted(keep):
        if low < fd:  # an empty range would become close_range(low, ~0)
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 65_536)


def kill_pidfd(pidfd: int, number: int = signal.SIGKILL) -> bool:
    """Signal by pidfd; False if the process is gone already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True
