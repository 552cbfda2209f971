"""Who signs: `Credentials.find(secret_id, token)` is the one door for every checker of a signature.

id in the table          ─▶ that pair; a token beside it means nothing
id not there, a token    ─▶ `resolve`, where one is plugged in: temporary credentials, as a function has them
neither                  ─▶ nobody
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from server.keys.model import Scope, is_secret_id
from server.keys.service import Keys


@dataclass(frozen=True, slots=True)
class Credential:
    """What a signature is checked with and what its owner may do. `namespace` empty: all of them.

    `caused_by` is the call that signs with a function's own credentials, by its request id; "" of anybody else, and between calls. `hops`
    counts the calls behind what is asked with it: 0 for anybody else's.
    """

    secret_id: str
    secret_key: str = field(repr=False)
    scope: Scope
    namespace: str
    caused_by: str = ""
    hops: int = 0


class UnknownSecretId(LookupError):
    """There is no such secret id."""


class InvalidToken(LookupError):
    """The id is a temporary one and its token is not, or no more, good."""


#: Finds temporary credentials by (secret id, token). Returns None where the two do not belong together or have ended.
Resolver = Callable[[str, str], Awaitable[Credential | None]]
#: Runs a blocking function in a thread.
Run = Callable[..., Awaitable[Any]]


class Credentials:
    """`resolve` may be set at any time by whoever knows temporary credentials."""

    def __init__(self, keys: Keys, run: Run, resolve: Resolver | None = None) -> None:
        self._keys, self._run = keys, run
        self.resolve = resolve

    async def find(self, secret_id: str, token: str = "") -> Credential:
        """Raises UnknownSecretId, InvalidToken; SQLAlchemyError and ConfigError where the table can't be asked."""
        if not is_secret_id(secret_id):
            raise UnknownSecretId(secret_id)
        found = await self._run(self._keys.find, secret_id)
        if found is not None:
            pair, secret = found
            return Credential(secret_id, secret, pair.scope, pair.namespace)
        if not token:
            raise UnknownSecretId(secret_id)
        temporary = None if self.resolve is None else await self.resolve(secret_id, token)
        if temporary is None:
            raise InvalidToken(secret_id)
        return temporary
