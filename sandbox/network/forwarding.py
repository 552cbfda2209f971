"""IPv4 forwarding on the host's uplinks, switched on only where it is off, and off again when nobody of us needs it.

The kernel asks the link a packet comes in by (`net.ipv4.conf.LINK.forwarding`): ours need it, and the uplinks need it for the replies.
The global switch `net.ipv4.ip_forward` would make a router of every link, now and later, so it is left alone. What an uplink forwards only
because of us, our firewall restricts to our bridges (ruleset.py, `guarded`).

Several instances share the uplinks. Each holds a shared flock(2) on one file, in which every switched link stands before it is switched;
who can lock it alone is the last one, or the first one after a crash, and switches them off. The file carries the number of the network
namespace and lies in /run: both are gone after a reboot, as the switches are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sandbox.kernel import links

FOLDER: Final = "/run"
GLOBAL: Final = "ipv4/ip_forward"


def record_path(folder: str = FOLDER) -> str:
    return os.path.join(folder, f"hearth-forwarding-{os.stat('/proc/thread-self/ns/net').st_ino}")


def _switch(link: str) -> str:
    return f"ipv4/conf/{link}/forwarding"


class Forwarding:
    """`hold`, `raise_on` at will, `release`. For one thread at a time, in the host's network namespace."""

    def __init__(self, folder: str = FOLDER) -> None:
        self._path = record_path(folder)
        self._fd = -1

    def hold(self) -> None:
        """Be one of those who need the uplinks. Whatever a dead last one left is undone first."""
        with _alone(self._path) as fd:
            if fd is not None:
                _undo(fd)
        self._fd = _opened(self._path, fcntl.LOCK_SH)

    def raise_on(self, names: Iterable[str]) -> None:
        """Switch forwarding on for those links where it is off."""
        for name in names:
            if links.read_switch(_switch(name)) == "0":
                if name not in self.raised():
                    os.write(self._fd, f"{name}\n".encode())  # before the switch: a crash between the two loses nothing
                links.write_switch(_switch(name), "1")

    def raised(self) -> list[str]:
        """What any of us switched on; nothing of it counts any more once the host forwards everywhere of its own accord."""
        return [] if links.read_switch(GLOBAL) == "1" else sorted(set(_recorded(self._fd)))

    def release(self) -> None:
        """Idempotent. The last one switches off what was switched on."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        restore(os.path.dirname(self._path))


def leftovers(folder: str = FOLDER) -> list[str]:
    """Links that forward only because of instances that are dead."""
    if not os.path.exists(record_path(folder)):
        return []
    with _alone(record_path(folder)) as fd:
        return [] if fd is None else _recorded(fd)


def restore(folder: str = FOLDER) -> int:
    """Switch off what nobody needs any more, unless the host forwards everywhere by now; how many links were recorded."""
    if not os.path.exists(record_path(folder)):
        return 0
    with _alone(record_path(folder)) as fd:
        if fd is None:
            return 0
        count = len(_recorded(fd))
        _undo(fd)
        os.unlink(record_path(folder))
        return count


def _undo(fd: int) -> None:
    if links.read_switch(GLOBAL) != "1":
        for name in _recorded(fd):
            links.switch_if_there(_switch(name), "0")
    os.ftruncate(fd, 0)


def _recorded(fd: int) -> list[str]:
    return os.pread(fd, 65_536, 0).decode().split()


@contextlib.contextmanager
def _alone(path: str) -> Iterator[int | None]:
    """The record locked by us alone, or None where somebody else needs it."""
    try:
        fd = _opened(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(path: str, how: int) -> int:
    """Open and lock; again where the file was removed by its last user between the two."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, how)
        except BlockingIOError:
            os.close(fd)
            raise
        with contextlib.suppress(FileNotFoundError):
            if Path(path).stat().st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)
