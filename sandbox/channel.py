"""A SOCK_SEQPACKET connection on an asyncio loop: JSON messages with descriptors, one message one packet.

Sandboxd uses it towards the launcher, zygotes, each sandbox's PID 1 and the API; the client towards sandboxd. The channel owns its
socket. Received descriptors belong to whoever handles the message. A peer that sends garbage, or more than a message may hold, is
closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from sandbox.kernel import sockets

_log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any], list[int], int], None]


class Channel:
    """`on_message(message, fds, pid)` for each packet, `on_close()` once, whoever closed.

    A peer for which more than `queue_bytes` wait unread is closed: one that is not trusted must not fill our memory. With `spares` a
    message whose descriptors we had no room for comes without any; else it is the end of the connection.
    """

    __slots__ = ("_closed", "_fd", "_loop", "_on_close", "_on_message", "_queue", "_queue_bytes", "_queued", "_spares", "sock")

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Handler,
        on_close: Callable[[], None],
        *,
        queue_bytes: int | None = None,
        spares: bool = False,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._on_message = on_message
        self._on_close = on_close
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued = 0
        self._queue_bytes = queue_bytes
        self._spares = spares
        self._closed = False
        loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue or send; a closed channel swallows it, since `on_close` has told or will tell. `fds` stay the caller's."""
        if self._closed:
            return
        raw = orjson.dumps(message)
        if not self._queue:
            try:
                sockets.send(self.sock, raw, fds)
                return
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._writable)
            except OSError as error:
                self._fail(error)
                return
        self._queued += len(raw)
        if self._queue_bytes is not None and self._queued > self._queue_bytes:
            self._fail(ConnectionError(f"the peer leaves {self._queued} bytes unread"))
            return
        self._queue.append((raw, [os.dup(fd) for fd in fds]))

    def close(self) -> None:
        """Idempotent; calls `on_close` the first time."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)  # before close: the peer may hold the open file, epoll would go on reporting it
        self._loop.remove_writer(self._fd)
        self.sock.close()
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._on_close()

    def _readable(self) -> None:
        """One packet: the loop calls again while there are more, and asking for one that is not there costs as much as that."""
        if self._closed:
            return
        try:
            data, fds, pid = sockets.receive(self.sock)
        except (BlockingIOError, InterruptedError):
            return
        except sockets.TruncatedMessage as cut:
            if not self._spares or not cut.data:
                self._fail(cut)
                return
            data, fds, pid = cut.data, [], 0
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._drop(fds)  # an empty packet may carry some, and reads like end of file
            self.close()
            return
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            self._drop(fds)
            self._fail(error)
            return
        if not isinstance(message, dict):
            self._drop(fds)
            self._fail(ValueError("a message is not a JSON object"))
            return
        self._on_message(message, fds, pid)

    def _writable(self) -> None:
        while self._queue:
            raw, fds = self._queue[0]
            try:
                sockets.send(self.sock, raw, fds)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            self._queue.popleft()
            self._queued -= len(raw)
            self._drop(fds)
        self._loop.remove_writer(self._fd)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, (ConnectionResetError, BrokenPipeError)):
            _log.warning("channel closed: %s", error)
        self.close()

    @staticmethod
    def _drop(fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
