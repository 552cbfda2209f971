"""One call over a leased worker's socket: load (when cold), event, result, and the log pipe beside it.

Runs in the lease holder, on its loop. What comes from the socket is hostile input. The two descriptors are the exchange's: it takes
them off the loop before it closes them, since the sandbox keeps the same open files.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

from sandbox.errors import EventInvalid, HandlerError, HandlerNotFound, InvocationFailed, ProtocolError, ReplyTooLarge, UserCodeError
from sandbox.protocol import GUEST_PROTOCOL, FrameError, FrameReader, FrameTooLarge, encode_frame

READ_SIZE = 256 * 1024
#: A function that fills the log pipe (64 KB) stops until somebody reads; it stops no longer than this.
LOG_AFTER_SECONDS = 0.002
MAX_MESSAGE = 8 * 1024
MAX_TRACE = 128 * 1024

#: What a worker may say went wrong, by phase; anything else is not a frame of ours.
FAILURES: dict[str, dict[str, type[InvocationFailed]]] = {
    "load_failed": {"handler_not_found": HandlerNotFound, "user_code_error": UserCodeError},
    "failed": {"handler_error": HandlerError, "event_invalid": EventInvalid, "reply_too_large": ReplyTooLarge},
}


class EndOfSandbox(Exception):
    """End of file on the worker's socket: the process ended, was killed, or closed the descriptor."""


class Exchange:
    """Use once. `close` gives both descriptors back."""

    def __init__(self, worker_fd: int, log_fd: int, *, reply_bytes: int, log_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        # Told, not found out: that would be three system calls.
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=worker_fd)
        self._fd = worker_fd
        self._log_fd = log_fd
        self._reader = FrameReader(reply_bytes)
        self._log = bytearray()
        self._log_limit = log_bytes
        self._log_dropped = 0
        self._log_open = True
        self._log_watched = False
        self._pending = memoryview(b"")
        self._writing = False
        self._waiter: asyncio.Future[tuple[dict[str, Any], bytes]] | None = None
        self._ended: Exception | None = None
        self._loop.add_reader(self._fd, self._readable)
        # Most calls are over before their log would need a reader, and `log` takes what is in the pipe.
        self._log_timer = self._loop.call_later(LOG_AFTER_SECONDS, self._watch_log)

    # -- frames ---------------------------------------------------------------------------------------------------------

    async def hello(self) -> None:
        """The first frame of a worker. Raises ProtocolError, EndOfSandbox."""
        head, _ = await self._frame()
        if head.get("op") != "hello" or head.get("protocol") != GUEST_PROTOCOL:
            raise ProtocolError("the worker did not say hello in our protocol")

    async def load(self, request: dict[str, Any]) -> None:
        """Have it load the handler. Raises HandlerNotFound, UserCodeError, ProtocolError, EndOfSandbox."""
        self._send(encode_frame({"op": "load", **request}))
        head, _ = await self._frame()
        if head.get("op") != "loaded":
            raise _failure(head, "load_failed")

    async def invoke(self, request_id: str, context: dict[str, Any], event: bytes) -> tuple[bytes, float]:
        """Hand over the event; (return value as JSON text, when its frame was complete in monotonic seconds).

        Raises HandlerError, EventInvalid, ReplyTooLarge, ProtocolError, EndOfSandbox.
        """
        self._send(encode_frame({"op": "invoke", "id": request_id, "context": context}, event))
        head, body = await self._frame()
        finished = time.monotonic()
        if head.get("id") != request_id:
            raise ProtocolError("the reply names another invocation")
        if head.get("op") != "result":
            raise _failure(head, "failed")
        return body, finished

    def _send(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reading side finds the end of file
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._pending, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._pending)  # the reading side finds the end of file
        self._pending = self._pending[sent:]
        if not self._pending:
            self._loop.remove_writer(self._fd)
            self._writing = False

    async def _frame(self) -> tuple[dict[str, Any], bytes]:
        if self._ended is not None:
            raise self._ended
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end(EndOfSandbox())
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
            return
        if self._waiter is None or self._waiter.done():
            self._end(ProtocolError("a frame nobody asked for"))
            return
        self._waiter.set_result(frame)

    def _end(self, error: Exception) -> None:
        self._loop.remove_reader(self._fd)
        self._ended = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # -- log ------------------------------------------------------------------------------------------------------------

    def _watch_log(self) -> None:
        if self._log_open:
            self._log_watched = True
            self._loop.add_reader(self._log_fd, self._log_readable)

    def _log_readable(self) -> None:
        self._read_log()

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
        self._log_timer.cancel()
        if self._log_watched:
            self._loop.remove_reader(self._log_fd)
            self._log_watched = False

    def close(self) -> None:
        """Take both descriptors off the loop, then close them."""
        if self._ended is None:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._unwatch_log()
        self._sock.close()
        os.close(self._log_fd)


def _failure(head: dict[str, Any], op: str) -> InvocationFailed:
    kind = FAILURES[op].get(str(head.get("code"))) if head.get("op") == op else None
    if kind is None:
        return ProtocolError(f"unexpected frame {str(head.get('op'))[:40]!r}")
    return kind(str(head.get("message"))[:MAX_MESSAGE], stack_trace=str(head.get("trace") or "")[:MAX_TRACE])
