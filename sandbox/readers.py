"""Readiness of descriptors that come and go with every call: an epoll of our own inside the loop's.

A loop's add_reader makes objects and tries the descriptor out (seven system calls for a lease with uvloop); here it is one to add and one
to remove. See epoll(7): a set of descriptors is itself a descriptor that can be watched.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable

AT_ONCE = 64
LATER_SECONDS = 0.002


class Readers:
    """Calls back while a descriptor is readable or hung up, until `remove`. One for each loop; its owner closes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._later: deque[tuple[float, Callable[[], object]]] = deque()
        self._closing = False
        loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed: another process may hold the open file, and epoll would go on reporting it."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)
        if self._closing:
            self.close()

    def later(self, callback: Callable[[], object]) -> None:
        """Call back once, LATER_SECONDS from now or up to twice that. One timer for all: a timer each costs more than most of them do."""
        if not self._later:
            self._loop.call_later(LATER_SECONDS, self._call_later)
        self._later.append((self._loop.time(), callback))

    def _call_later(self) -> None:
        now = self._loop.time()
        while self._later and self._later[0][0] <= now - LATER_SECONDS:
            self._loop.call_soon(self._later.popleft()[1])  # one that raises must not keep others from their turn
        if self._later:
            self._loop.call_later(LATER_SECONDS, self._call_later)

    def close(self) -> None:
        """At once, or when the last descriptor is removed: a call that still runs comes to its end."""
        self._closing = True
        if not self._callbacks and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0, AT_ONCE):
            # Gone by an earlier callback; where another has taken its number, that one finds nothing to read.
            if callback := self._callbacks.get(fd):
                callback()
