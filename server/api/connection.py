"""One client's connection: gunicorn's, with the bounds that it leaves out. Made by `server.api.worker`, run by its loop.

    bytes ─▶ Connection ─▶ gunicorn's parser ─▶ server.app, one request at a time
             │ head     64 KB at most, within http_idle_seconds (408, 431)
             │ body     keeps coming (408)
             │ reply    keeps being read, or the connection is cut
             │ refusal  is a problem document; what still comes is read for a while, or the client would never see it
             └ Connections: no more than there are descriptors for; the longest idle one gives way (503 where all are busy)

gunicorn's own checks stay: request line and field sizes, framing (RFC 9112 section 6), tokens, bare LF, chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from gunicorn.asgi.parser import LimitRequestHeaders
from gunicorn.asgi.protocol import ASGIProtocol

from server.api.request import DRAIN_BYTES
from server.api.strict import check_host, refusal, to_origin_form

if TYPE_CHECKING:
    from server.api.worker import Worker

#: Of one request, all lines together. gunicorn bounds each: a hundred of 16 KB would be a lot for everyone who connects.
HEAD_BYTES: Final = 64 * 1024
HEAD_TOO_LARGE: Final = f"the request head is over the limit of {HEAD_BYTES} bytes"
#: A body that comes slower than this has stalled.
SLOWEST_BYTES_PER_SECOND: Final = 512
#: How long a refused client may go on sending before the connection is cut.
LINGER_SECONDS: Final = 3.0
LOOK_AGAIN_SECONDS: Final = 0.05


class Connections:
    """A worker's connections: how many there may be, and which are idle (the one idle for longest first)."""

    def __init__(self, limit: int, stall_seconds: float) -> None:
        self.limit, self.stall_seconds = limit, stall_seconds
        self._open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}

    def admit(self, new: Connection) -> bool:
        """Count it in. Where there are too many an idle one is closed for it; False where none is idle."""
        self._open.add(new)
        if len(self._open) <= self.limit:
            return True
        if not self.idle:
            return False
        oldest = next(iter(self.idle))
        del self.idle[oldest]
        oldest.give_way()
        return True

    def forget(self, gone: Connection) -> None:
        self._open.discard(gone)
        self.idle.pop(gone, None)


class Connection(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's calls come in as methods that start with an underscore; what is new is below `# ours`."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._connections = worker.connections
        self._loop = worker.loop
        self._head_bytes = 0  # of a head that is not whole yet, before what is fed now
        self._fed_bytes = 0
        self._replying = False
        self._refused = False
        self._ended = False  # the client has closed its sending side
        self._lingering = False
        self._discarded = 0
        self._body_bytes = 0
        self._body_timer: asyncio.TimerHandle | None = None
        self._reply_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    # -- the transport's ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._admitted():
            self._arm_keepalive_timer()  # gunicorn's first timer comes only behind a first reply
            return
        self._send_error_response(503, "every connection is busy", (("Retry-After", "1"),))
        super()._close_transport()

    def _admitted(self) -> bool:
        return self._connections.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > DRAIN_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._current_request is None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self._closed:
                self._refuse(431, HEAD_TOO_LARGE)
        elif self._body_receiver is not None and not self._body_receiver._complete:
            self._body_bytes += len(data)
            if self._body_timer is None:
                self._watch_body()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read: a request that has come whole is answered (`printf … | nc -N`)."""
        if self._closed or self._current_request is None:
            return False
        self._ended = True
        self._tell_app()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reply()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self)
        for timer in (self._body_timer, self._reply_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -- gunicorn's ---------------------------------------------------------------------------------------------------------

    def _arm_keepalive_timer(self) -> None:
        super()._arm_keepalive_timer()
        self._connections.idle[self] = None
        if self._ended:
            self._loop.call_soon(self._keepalive_timeout)

    def _cancel_keepalive_timer(self) -> None:
        super()._cancel_keepalive_timer()
        self._connections.idle.pop(self, None)

    def _keepalive_timeout(self) -> None:
        if self._head_bytes and not self._closed and not self._ended:
            self._refuse(408, "the request head did not arrive in time")
        super()._keepalive_timeout()

    def _feed_callback_parser(self, data: bytes) -> bool:
        self._fed_bytes = len(data)
        try:
            return bool(super()._feed_callback_parser(data))
        except ValueError:
            self._refuse(400, "a number has too many digits")  # CPython's limit for int(), which gunicorn does not expect
            return False

    def _on_headers_complete(self) -> bool:
        parser, at_most = self._callback_parser, self._head_bytes + self._fed_bytes
        self._head_bytes = self._body_bytes = 0
        self._replying = False
        if at_most > HEAD_BYTES and sum(len(name) + len(value) for name, value in parser.headers) > HEAD_BYTES:
            raise LimitRequestHeaders(HEAD_TOO_LARGE)
        check_host(parser)
        skip_body: bool = super()._on_headers_complete()
        request = self._current_request
        if not request.raw_path.startswith(b"/"):
            to_origin_form(request)
        return skip_body

    def _is_websocket_upgrade(self, request: Any) -> bool:
        return False  # RFC 9110 section 7.8: a server may ignore Upgrade, and answers as if it were not there

    def _send_response_start(self, *args: Any, **kwargs: Any) -> None:
        self._replying = True
        super()._send_response_start(*args, **kwargs)

    def _send_error_response(self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()) -> None:
        """A refusal of gunicorn's or ours; nothing where a reply is on its way, of which this would become a part."""
        self._refused = True
        if self._replying and self._current_request is not None:
            return
        if status == 501:
            status = 400  # RFC 9112 section 6.1 would have 501 for an unknown transfer coding; the fault is not the server's
        self._safe_write(refusal(status, message, extra_headers))

    def _close_transport(self) -> None:
        if self._closed or self.transport is None:
            return
        receiver = self._body_receiver
        if self._refused or (receiver is not None and not receiver._complete):
            self._linger()
        else:
            super()._close_transport()
        if not self._lost() and self.transport.get_write_buffer_size():
            self._watch_reply()

    # -- ours ---------------------------------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """Close an idle connection at once."""
        self._closed = True
        self.transport.abort()
        self._request_ready.set()

    def _refuse(self, status: int, message: str) -> None:
        self._send_error_response(status, message)
        self._close_transport()
        self._request_ready.set()  # whoever waits for a request sees that there will be none

    def _lost(self) -> bool:
        return bool(self._conn_lost_handled)

    def _linger(self) -> None:
        """Close our side and read on for a moment: unread bytes would make the kernel send a reset, which overtakes the answer.

        RFC 9112 section 9.6.
        """
        self._closed = self._lingering = True
        try:
            self.transport.write_eof()
        except (OSError, RuntimeError):
            self.transport.abort()
            return
        if self._ended:
            self.transport.close()
            return
        self._resume_reading()
        self._linger_timer = self._loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _tell_app(self) -> None:
        """Let the application know that the client has left or will send no more, once it has what came before."""
        receiver = self._body_receiver
        if receiver is None or self._closed:
            return
        if receiver._complete and not receiver._body_finished:
            self._loop.call_later(LOOK_AGAIN_SECONDS, self._tell_app)
        else:
            receiver.signal_disconnect()

    def _watch_body(self) -> None:
        seconds = self._connections.stall_seconds
        self._body_timer = self._loop.call_later(seconds, self._check_body, self._body_receiver, self._body_bytes)

    def _check_body(self, receiver: Any, bytes_before: int) -> None:
        self._body_timer = None
        if receiver._complete or receiver is not self._body_receiver or self._closed:
            return
        enough = self._connections.stall_seconds * SLOWEST_BYTES_PER_SECOND
        if self._reading_paused or self._body_bytes - bytes_before >= enough:
            self._watch_body()
            return
        receiver._body_wait_expired = True  # the application reads it as a client that left, and answers 408
        receiver._wake_waiter()

    def _watch_reply(self) -> None:
        if self._reply_timer is None and not self._lost():
            size = self.transport.get_write_buffer_size()
            self._reply_timer = self._loop.call_later(self._connections.stall_seconds, self._check_reply, size)

    def _check_reply(self, size_before: int) -> None:
        self._reply_timer = None
        size = self.transport.get_write_buffer_size()
        if size >= size_before > 0:
            self.transport.abort()
        elif size:
            self._watch_reply()
