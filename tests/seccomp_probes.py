"""What the filter's tests ask of the kernel, by name; both the unit and the integration tests go through these lists.

Outside, as root, each answers something else than what the filter tells, and changes nothing: that is the control.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pyseccomp

from sandbox import syscalls

UPPER = 0x5 << 32  # in the half of a register that the kernel does not look at


@dataclass(frozen=True, slots=True)
class Probe:
    """`call(arguments)` is answered `told` inside and one of `outside` without a filter (empty: anything else); 0 is success."""

    name: str
    call: str | int
    arguments: tuple[int, ...]
    told: int
    outside: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        return self.call if isinstance(self.call, int) else int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, self.call))

    def to_json(self) -> list[object]:
        return [self.number, list(self.arguments)]


#: Every argument -1: no pointer, no descriptor, no flag that any call takes.
BY_NUMBER = [
    Probe(name, name, (-1,) * 6, rule.errno)
    for rule in (*syscalls.MAKING, *syscalls.REFUSED)
    for name in syscalls.names(rule)
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0
]

SIGCHLD = 17
EPERM, EBADF, EFAULT, EINVAL = errno.EPERM, errno.EBADF, errno.EFAULT, errno.EINVAL

BY_ARGUMENT = [
    *(Probe(f"clone({name})", "clone", (flag | SIGCHLD, 0, 0, 0, 0), EPERM, (0,)) for name, flag in syscalls.CLONE_NEW.items()),
    Probe("clone(two of them)", "clone", (0x20020000 | SIGCHLD, 0, 0, 0, 0), EPERM, (0,)),
    Probe("unshare(CLONE_NEWUSER)", "unshare", (0x10000000,), EPERM, (0,)),
    Probe("socket(AF_PACKET, SOCK_RAW)", "socket", (17, 3, 0x300), EPERM, (0,)),
    Probe("socket(AF_PACKET with upper bits)", "socket", (UPPER | 17, 3, 0), EPERM, (0,)),
    Probe("socket(AF_INET, SOCK_RAW, ICMP)", "socket", (2, 3, 1), EPERM, (0,)),
    Probe("socket(AF_INET6, SOCK_RAW, ICMP)", "socket", (10, 3, 58), EPERM, (0, errno.EAFNOSUPPORT)),
    Probe("socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC)", "socket", (2, 3 | 0o2000000, 255), EPERM, (0,)),
    Probe("socket(AF_INET, SOCK_STREAM, SCTP)", "socket", (2, 1, 132), EPERM),
    Probe("socket(AF_INET, SOCK_STREAM, MPTCP)", "socket", (2, 1, 262), EPERM),
    Probe("socket(AF_NETLINK, NETLINK_KOBJECT_UEVENT)", "socket", (16, 3, 15), EPERM),
    Probe("socket(AF_NETLINK, NETLINK_NETFILTER)", "socket", (16, 3, 12), EPERM),
    Probe("socket(AF_NETLINK, NETLINK_GENERIC)", "socket", (16, 3, 16), EPERM),
    *(
        Probe(f"socket({name})", "socket", (family, 5, 0), EPERM)
        for name, family in (("AF_ALG", 38), ("AF_VSOCK", 40), ("AF_BLUETOOTH", 31), ("AF_KEY", 15), ("AF_TIPC", 30), ("AF_XDP", 44))
    ),
    Probe("socketpair(AF_INET)", "socketpair", (2, 1, 0, -1), EPERM, (errno.EOPNOTSUPP, EFAULT)),
    Probe("ioctl(TIOCSTI)", "ioctl", (-1, 0x5412, 0), EPERM, (EBADF,)),
    Probe("ioctl(TIOCSTI with upper bits)", "ioctl", (-1, UPPER | 0x5412, 0), EPERM, (EBADF,)),
    Probe("ioctl(TIOCLINUX)", "ioctl", (-1, 0x541C, 0), EPERM, (EBADF,)),
    Probe("prctl(PR_SET_SECCOMP)", "prctl", (22, 2, -1, 0, 0), EINVAL, (EFAULT,)),
    Probe("prctl(PR_SET_SECCOMP with upper bits)", "prctl", (UPPER | 22, 2, -1, 0, 0), EINVAL, (EFAULT,)),
    Probe("setsockopt(SO_ATTACH_FILTER)", "setsockopt", (-1, 1, 26, 0, 0), EPERM, (EBADF,)),
    Probe("setsockopt(SO_ATTACH_BPF)", "setsockopt", (-1, UPPER | 1, UPPER | 50, 0, 0), EPERM, (EBADF,)),
    Probe("personality(ADDR_NO_RANDOMIZE)", "personality", (0x0040000,), EPERM, (0,)),
    Probe("personality(READ_IMPLIES_EXEC)", "personality", (0x0400000,), EPERM, (0,)),
    Probe("mknodat(a block device)", "mknodat", (-1, -1, 0o060666, 0x800), EPERM, (EFAULT,)),
    Probe("mknodat(a character device)", "mknodat", (-1, -1, 0o020666, 0), EPERM, (EFAULT,)),
]

#: Answered the same inside and outside.
LIKE_OUTSIDE = [
    Probe("a call of the future", 1000, (0,), errno.ENOSYS, (errno.ENOSYS,)),
    Probe("clone without new namespaces", "clone", (SIGCHLD, 0, 0, 0, 0), 0, (0,)),
    Probe("socket(AF_INET with upper bits)", "socket", (UPPER | 2, 1, 0), 0, (0,)),
    Probe("socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, UDP)", "socket", (2, 2 | 0o2000000, 17), 0, (0,)),
    Probe("socket(AF_NETLINK, NETLINK_ROUTE)", "socket", (16, 3 | 0o2000000, 0), 0, (0,)),
    Probe("ioctl(TCGETS)", "ioctl", (-1, 0x5401, 0), EBADF, (EBADF,)),
    Probe("ioctl(FIONREAD)", "ioctl", (-1, 0x541B, 0), EBADF, (EBADF,)),
    Probe("setsockopt(SO_REUSEADDR)", "setsockopt", (-1, 1, 2, 0, 0), EBADF, (EBADF,)),
    Probe("setsockopt(IPPROTO_TCP, 26)", "setsockopt", (-1, 6, 26, 0, 0), EBADF, (EBADF,)),
    Probe("prctl(PR_GET_NAME)", "prctl", (16, 0, 0, 0, 0), EFAULT, (EFAULT,)),
    Probe("personality(ask)", "personality", (0xFFFFFFFF,), 0, (0,)),
    Probe("mknodat(a fifo)", "mknodat", (-1, -1, 0o010666, 0), EFAULT, (EFAULT,)),
]
X32_GETPID = Probe("getpid of x32", 0x40000000 | 39, (), errno.ENOSYS)


def is_told_apart(probe: Probe, answer: int) -> bool:
    """Whether what came without a filter shows that it is the filter which tells `probe.told`. A call that this kernel lacks
    (ENOSYS) shows nothing, and there is nothing to protect."""
    if answer == errno.ENOSYS:
        return True
    return answer in probe.outside if probe.outside else answer != probe.told
