"""The request as the bucket service reads it: the API's bounded one, its body in parts, and the Call it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property

from server.api import request
from server.buckets.call import Call, read_call


class Request(request.Request):
    """`call` raises BucketError for a target that can't be read."""

    @cached_property
    def call(self) -> Call:
        return read_call(self.scope)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ClientGone when it ends too early; asked for once."""
        while self.body_left:
            yield await self._next()
