"""A request's `receive` that asks the client for nothing of the body until somebody wants it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

Receive = Callable[[], Awaitable[Any]]
#: What Falcon waits for before it looks at a request.
NOTHING_YET: Final = {"type": "http.request", "body": b"", "more_body": True}


class Deferred:
    """Falcon takes one event before anything else; taken from the client it would be the body's first bytes, waited for or even asked
    for (100 Continue) before the credential has been looked at.
    """

    __slots__ = ("_first", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive, self._first = receive, True

    async def __call__(self) -> Any:
        if self._first:
            self._first = False
            return NOTHING_YET
        return await self._receive()
