"""A leased worker's two descriptors on the lease holder's loop: frames out, frames in, and the log pipe beside them.

What comes from the socket is hostile input. The two descriptors are the exchange's: it takes them off the loop before it closes them,
since the sandbox keeps the same open files. Callbacks instead of coroutines: on the way of a warm call every turn of the loop counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from sandbox.errors import ProtocolError, ReplyTooLarge
from sandbox.protocol import FrameError, FrameReader, FrameTooLarge
from sandbox.readers import Readers

#: Most replies are small, and a large buffer for each costs more than a second read of the few large ones.
FIRST_READ_BYTES = 16 * 1024
READ_BYTES = 256 * 1024


class EndOfSandbox(Exception):
    """End of file on the worker's socket: the process ended, was killed, or closed the descriptor."""


Frame = tuple[dict[str, Any], bytes]
#: What comes of asking: a whole frame, or why there will be none (EndOfSandbox, ProtocolError, ReplyTooLarge).
Answer = Frame | EndOfSandbox | ProtocolError | ReplyTooLarge


class Exchange:
    """One question at a time: `ask`, or `expect` what comes without asking. `close` gives both descriptors back."""

    __slots__ = (
        "_ended", "_fd", "_log", "_log_dropped", "_log_fd", "_log_limit", "_log_open", "_log_watched", "_loop", "_pending",
        "_read_bytes", "_reader", "_readers", "_waiter",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, readers: Readers, worker_fd: int, log_fd: int, *, reply_bytes: int, log_bytes: int
    ) -> None:
        self._loop = loop
        self._readers = readers
        self._fd = worker_fd
        self._log_fd = log_fd
        self._reader = FrameReader(reply_bytes)
        self._read_bytes = FIRST_READ_BYTES
        self._log = bytearray()
        self._log_limit = log_bytes
        self._log_dropped = 0
        self._log_open = True
        self._log_watched = False
        self._pending: memoryview | None = None
        self._waiter: Callable[[Answer], None] | None = None
        self._ended: EndOfSandbox | ProtocolError | ReplyTooLarge | None = None
        readers.add(worker_fd, self._readable)
        # Most calls are over before their log would need a reader, and `log` takes what is in the pipe. A function that fills it
        # (64 KB) stops until somebody reads: no longer than that.
        readers.later(self._watch_log)

    @property
    def in_step(self) -> bool:
        """Whether every frame so far was whole and asked for: the worker can serve another call."""
        return self._ended is None

    # -- frames ---------------------------------------------------------------------------------------------------------

    def ask(self, frame: bytes, answer: Callable[[Answer], None]) -> None:
        """Send a frame; `answer` is called once, from the loop, unless `close` comes first."""
        if self._ended is None:
            self._send(frame)
        self.expect(answer)

    def expect(self, answer: Callable[[Answer], None]) -> None:
        """The same for a frame that comes by itself."""
        if self._ended is None:
            self._waiter = answer
        else:
            self._loop.call_soon(answer, self._ended)

    def _send(self, data: bytes) -> None:
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reading side finds the end of file
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        assert self._pending is not None
        try:
            sent = os.write(self._fd, self._pending)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._pending)  # the reading side finds the end of file
        self._pending = self._pending[sent:]
        if not self._pending:
            self._loop.remove_writer(self._fd)
            self._pending = None

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end(EndOfSandbox("the sandbox ended"))
            return
        try:
            frame = self._reader.feed(data)
        except FrameTooLarge as error:
            self._end(ReplyTooLarge(str(error)))
            return
        except FrameError as error:
            self._end(ProtocolError(str(error)))
            return
        if frame is None:
            self._read_bytes = READ_BYTES
        elif self._waiter is None:
            self._end(ProtocolError("a frame nobody asked for"))
        else:
            answer, self._waiter = self._waiter, None
            answer(frame)

    def _end(self, error: EndOfSandbox | ProtocolError | ReplyTooLarge) -> None:
        self._readers.remove(self._fd)
        self._ended = error
        if self._waiter is not None:
            answer, self._waiter = self._waiter, None
            answer(error)

    # -- log ------------------------------------------------------------------------------------------------------------

    def _watch_log(self) -> None:
        if self._log_open:
            self._log_watched = True
            self._readers.add(self._log_fd, self._read_log)

    def _read_log(self) -> bool:
        """One read; whether more may be there."""
        try:
            data = os.read(self._log_fd, 65_536)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._unwatch_log()
            self._log_open = False
            return False
        room = self._log_limit - len(self._log)
        self._log += data[:room]
        self._log_dropped += max(0, len(data) - room)
        return True

    def log(self) -> bytes:
        """What the function wrote, cut with a marker where it was more than the limit. Drains the pipe first, a bounded time."""
        for _ in range(64):
            if not self._log_open or not self._read_log():
                break
        if not self._log_dropped:
            return bytes(self._log)
        return bytes(self._log) + b"\n[log cut here: %d bytes kept, at least %d dropped]\n" % (len(self._log), self._log_dropped)

    def _unwatch_log(self) -> None:
        if self._log_watched:
            self._readers.remove(self._log_fd)
            self._log_watched = False

    def close(self) -> None:
        """Take both descriptors off the loop, then close them. Nobody is answered any more."""
        self._waiter = None
        if self._ended is None:
            self._readers.remove(self._fd)
        if self._pending is not None:
            self._loop.remove_writer(self._fd)
        self._unwatch_log()
        self._log_open = False
        os.close(self._fd)
        os.close(self._log_fd)
