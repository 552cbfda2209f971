"""The credentials that a function has in its environment, asked of sandboxd each time: with its sandbox they end at once, everywhere."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any, Final, Protocol

from sandbox.errors import Unavailable
from server.keys.credentials import Credential
from server.keys.model import Scope

ASK_SECONDS: Final = 5.0


class Source(Protocol):
    """What of `sandbox.client.Client` this needs."""

    async def credential(self, secret_id: str) -> dict[str, Any] | None: ...


class Temporary:
    """`find` is a `server.keys.credentials.Resolver`: good for `scope`, in the function's own namespace."""

    def __init__(self, source: Source, scope: Scope = "invoke") -> None:
        self._source, self._scope = source, scope

    async def find(self, secret_id: str, token: str) -> Credential | None:
        """None where the token is another's or the sandbox is gone. Raises Unavailable."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await self._source.credential(secret_id)
        except TimeoutError:
            raise Unavailable(f"sandboxd did not answer within {ASK_SECONDS:g} s") from None
        # surrogateescape: a header may hold any byte
        if found is None or not hmac.compare_digest(found["token"].encode(), token.encode("utf-8", "surrogatepass")):
            return None
        return Credential(
            secret_id,
            found["secret_key"],
            self._scope,
            found["namespace"],
            caused_by=found["request_id"],
            hops=found["hops"] + 1,  # the call that asks is one itself
        )
