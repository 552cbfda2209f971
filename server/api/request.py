"""The request as our resources read it: bounded bodies, draining before a refusal, and whether the client is still there.

Falcon's own stream ends in the same way for a whole body and for a client that left in its middle, and half an event must
never run: so bodies are read from the server's events here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import falcon.asgi

#: How much of a body that nobody wants is still read, so that the client gets to see the answer, and for how long.
DRAIN_BYTES: Final = 8 * 1024 * 1024
DRAIN_SECONDS: Final = 10.0

Event = dict[str, Any]


class ClientGone(Exception):
    """The client left before its body was whole."""


class Request(falcon.asgi.Request):
    """Falcon's request with a body that is read once, by `body`."""

    def __init__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], first_event: Any = None, options: Any = None) -> None:
        super().__init__(scope, receive, first_event=first_event, options=options)
        self._source = receive
        self._first: Event | None = first_event
        self._at_end = first_event is None or not first_event.get("more_body")
        self._drain_left = DRAIN_BYTES
        #: Set by the resource that gives the request an id; problem documents repeat it.
        self.request_id = ""

    async def body(self, limit_bytes: int) -> bytes | None:
        """The whole body; None when it is longer than that, and then it has been drained. Raises ClientGone."""
        first, self._first = self._first, None
        data: bytes = first.get("body", b"") if first else b""
        if self._at_end:
            return data if len(data) <= limit_bytes else None
        declared = self.content_length
        parts, size = [data], len(data)
        while size <= limit_bytes and (declared is None or declared <= limit_bytes):
            if self._at_end:
                return b"".join(parts)
            parts.append(await self._next())
            size += len(parts[-1])
        parts.clear()
        await self.drain()
        return None

    async def drain(self) -> None:
        """Read and forget what is left of the body, within bounds. Called before every refusal."""
        if self._at_end:
            return
        with suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._drain_left > 0 and not self._at_end:
                    self._drain_left -= len(await self._next())

    def has_any_header(self, names: frozenset[bytes]) -> bool:
        """Whether one of these (lower case) is there: for many names far cheaper than asking for each."""
        return not names.isdisjoint(self._asgi_headers)

    async def has_left(self) -> bool:
        """Whether the client has closed the connection. Only for a request whose body has been read."""
        watcher = asyncio.ensure_future(self._source())
        await asyncio.sleep(0)  # the watcher's first step: it ends there when the connection is closed
        if watcher.done():
            return bool(watcher.result()["type"] == "http.disconnect")
        watcher.cancel()
        return False

    async def _next(self) -> bytes:
        event: Event = await self._source()
        if event["type"] == "http.disconnect":
            self._at_end = True
            raise ClientGone
        self._at_end = not event.get("more_body")
        data: bytes = event.get("body", b"")
        return data
