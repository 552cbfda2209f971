"""The kernel's own word that memory is short, Documentation/accounting/psi.rst: sooner than any look once a second.

A kernel without it (CONFIG_PSI off, or psi=0) has no such file; then there is nothing to listen to, and the pool's looks remain.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

FILE = "/proc/pressure/memory"
#: Tasks stood still for want of memory during a tenth of two seconds; a shorter window takes CAP_SYS_RESOURCE.
TRIGGER = "some 200000 2000000"


class MemoryPressure:
    """Calls `stalled` on the loop while tasks wait for memory, at most once in two seconds. One owner, who closes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stalled: Callable[[], None], trigger: int) -> None:
        self._loop, self._stalled, self._trigger = loop, stalled, trigger
        # Loops wait for input, and this comes as EPOLLPRI: an epoll descriptor that has something is input.
        self._epoll = select.epoll()
        self._epoll.register(trigger, select.EPOLLPRI)
        loop.add_reader(self._epoll.fileno(), self._ready)

    def _ready(self) -> None:
        for _, event in self._epoll.poll(0):
            if event & select.EPOLLERR:  # psi was switched off meanwhile
                self._loop.remove_reader(self._epoll.fileno())
        self._stalled()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._trigger)


def open_trigger(path: str = FILE) -> int:
    """A descriptor that has EPOLLPRI when memory is short. Raises OSError where the kernel can't tell."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(fd, TRIGGER.encode() + b"\0")
    except OSError:
        os.close(fd)
        raise
    return fd
