"""Waking the other processes of this machine: small datagrams in place of a delay between two looks at the database.

    state/wake/dispatcher-ID.sock     told "work" when an event is there, "cancel" when a running one is to be stopped,
                                      "timers" when a timer has changed
    state/wake/api-ID.sock            told "done ID ID …" when events have been settled
A datagram is a hint: one that is lost (a full socket, another machine) costs the time until the next look. The names tell who lives: a
socket file that refuses a connection belongs to a process that is dead, see unix(7); a dispatcher's is removed by another one, once that
has taken over its events.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

WORK: Final = b"work"
CANCEL: Final = b"cancel"
TIMERS: Final = b"timers"
DONE: Final = b"done "
DISPATCHER: Final = "dispatcher"
API: Final = "api"
#: unix(7): sun_path has 108 bytes; a path through /proc/self/fd is short, however long the directory's own is.
_SUFFIX: Final = ".sock"
MAX_DATAGRAM_BYTES: Final = 60_000


class Mailbox:
    """One process's socket: `open` it in the loop that reads, `close` it there. Sending works without opening."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.name = f"{kind}-{secrets.token_hex(8)}"
        self._directory = directory
        self._folder = -1
        self._sock: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, receive: Callable[[bytes], None]) -> None:
        """Raises OSError. `receive` is called from the loop with each datagram."""
        self._open_folder()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind(self._path(self.name + _SUFFIX))
        except BaseException:
            sock.close()
            raise
        self._sock, self._loop = sock, asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable, receive)

    def close(self) -> None:
        if self._sock is not None and self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self.forget(self.name)
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def tell(self, kind: str, message: bytes) -> list[str]:
        """Send to every living process of that kind; the names of those that turned out to be dead."""
        return [name for name in self._names(kind) if not self._send(name, message)]

    def tell_done(self, request_ids: Iterable[str]) -> None:
        ids = [request_id.encode() for request_id in request_ids]
        most = MAX_DATAGRAM_BYTES // 65
        for at in range(0, len(ids), most):
            for dead in self.tell(API, DONE + b" ".join(ids[at : at + most])):
                self.forget(dead)

    def forget(self, name: str) -> None:
        """Remove the socket file of a dead process."""
        with suppress(FileNotFoundError):
            os.unlink(name + _SUFFIX, dir_fd=self._folder)

    def has(self, kind: str) -> bool:
        """Whether a process of that kind lives on this machine."""
        return any(self._send(name, b"") for name in self._names(kind))

    def _names(self, kind: str) -> list[str]:
        self._open_folder()
        found = (name.removesuffix(_SUFFIX) for name in os.listdir(self._folder) if name.endswith(_SUFFIX))
        return [name for name in found if name.startswith(f"{kind}-") and name != self.name]

    def _send(self, name: str, message: bytes) -> bool:
        """False for one that is dead."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto(message, self._path(name + _SUFFIX))
            except ConnectionRefusedError:
                return False
            except FileNotFoundError:
                return True  # it ended in order, just now
            except BlockingIOError:
                return True  # it has enough to read
        return True

    def _readable(self, receive: Callable[[bytes], None]) -> None:
        while self._sock is not None:
            try:
                message = self._sock.recv(MAX_DATAGRAM_BYTES + 1024)
            except BlockingIOError:
                return
            if message:
                receive(message)

    def _open_folder(self) -> None:
        if self._folder < 0:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _path(self, name: str) -> str:
        return f"/proc/self/fd/{self._folder}/{name}"
