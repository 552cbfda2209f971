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

#: In the ASGI scope of a request that came in on the listener for functions (`server.api.inside`).
INSIDE: Final = "hearth.inside"

Event = dict[str, Any]


class ClientGone(Exception):
    """The client left before its body was whole."""


class Request(falcon.asgi.Request):
    """Falcon's request with a body that is read once, by `body`."""

    def __init__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], first_event: Any = None, options: Any = None) -> None:
        super().__init__(scope, receive, first_event=first_event, options=options)
        self._source = receive
        self._at_end = self._begun = False
        self._drain_left = DRAIN_BYTES
        #: Set by the resource that gives the request an id; problem documents repeat it.
        self.request_id = ""
        #: Set by `Auth` for paths that take other secrets too: whether the bearer credential came with it.
        self.is_operator = False

    @property
    def is_from_function(self) -> bool:
        """Whether it came from a sandbox, on the listener for functions: then whoever sent it is hostile, also with a good credential."""
        return INSIDE in self.scope

    async def body(self, limit_bytes: int) -> bytes | None:
        """The whole body; None when it is longer than that, and then it has been drained as far as it goes. Raises ClientGone.

        Called once.
        """
        declared = self.content_length
        if declared is None or declared <= limit_bytes:
            data = await self._next()
            if self._at_end and len(data) <= limit_bytes:
                return data
            # Not a list of parts: there may be millions of them, of a byte each.
            whole = bytearray(data)
            while not self._at_end and len(whole) <= limit_bytes:
                whole += await self._next()
            if len(whole) <= limit_bytes:
                return bytes(whole)
        await self.drain()
        return None

    async def drain(self) -> None:
        """Read and forget what is left of the body, within bounds. Called before every refusal.

        Nothing is read of a body that is larger, nor of one that waits for a 100 (RFC 9110 section 10.1.1): reading would ask for it.
        """
        if self._at_end or (self.content_length or 0) > DRAIN_BYTES or self._is_awaited():
            return
        with suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._drain_left > 0 and not self._at_end:
                    self._drain_left -= len(await self._next())

    @property
    def body_left(self) -> bool:
        """Whether some of the body has not been read: the connection can't be used again."""
        return not self._at_end

    def has_any_header(self, names: frozenset[bytes]) -> bool:
        """Whether one of these (lower case) is there: for many names far cheaper than asking for each."""
        return not names.isdisjoint(self._asgi_headers)

    def raw_header(self, name: bytes) -> bytes | None:
        """A header by its name in lower case, as it came."""
        value: bytes | None = self._asgi_headers.get(name)
        return value

    def signed_header(self, name: str) -> str | None:
        """A header (lower case) with every byte as it came: what is not UTF-8 is escaped and encodes to itself again."""
        value = self.raw_header(name.encode())
        return None if value is None else value.decode("utf-8", "surrogateescape")

    async def has_left(self) -> bool:
        """Whether the client has closed the connection. Only for a request whose body has been read."""
        watcher = asyncio.ensure_future(self._source())
        await asyncio.sleep(0)  # the watcher's first step: it ends there when the connection is closed
        if watcher.done():
            return bool(watcher.result()["type"] == "http.disconnect")
        watcher.cancel()
        return False

    def _is_awaited(self) -> bool:
        """Whether the client holds its body back until it is asked for it."""
        return not self._begun and (self.get_header("Expect") or "").lower() == "100-continue"

    async def _next(self) -> bytes:
        self._begun = True
        event: Event = await self._source()
        if event["type"] == "http.disconnect":
            self._at_end = True
            raise ClientGone
        self._at_end = not event.get("more_body")
        data: bytes = event.get("body", b"")
        return data
