"""Temporary credentials: what a function signs its own calls with, made when a sandbox gets its function and gone when that closes.

They are in sandboxd's memory alone: in the sandbox they belong to, and here by their id. No log line, no description and no record has
them; the answer to a cold acquire, a load frame and the answer to `credential` do.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.sandbox import Sandbox

#: Bytes of randomness of an id and of a key, twice as many of a token; four characters of text for three of them.
RANDOM_BYTES: Final = 24
CHARACTERS: Final = RANDOM_BYTES * 4 // 3


@dataclass(frozen=True, slots=True)
class Credential:
    """A pair, its token, and the sandbox in which they were given to a function."""

    secret_id: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    sandbox: Sandbox = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """For who checks a signature: the secrets, whose they are, and the call that runs there now."""
        sandbox = self.sandbox
        return {
            "secret_key": self.secret_key,
            "token": self.token,
            "namespace": sandbox.namespace,
            "function": sandbox.name,
            "family": sandbox.family,
            "sandbox": sandbox.id,
            "request_id": sandbox.request_id,
            "hops": sandbox.hops,
        }


class Credentials:
    """All that are good now. `endpoints`: where functions of the network `nat` reach SCF's interfaces (`scf`) and the bucket service
    (`buckets`); what they can't reach is not in it."""

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self._endpoints = endpoints
        self._known: dict[str, Credential] = {}

    def __len__(self) -> int:
        return len(self._known)

    def give(self, sandbox: Sandbox) -> None:
        """Make a sandbox's own, once, when it has got its function."""
        random = secrets.token_urlsafe(4 * RANDOM_BYTES)  # once: a cold start waits for it
        # As Tencent's temporary ones look: AKID and letters of either case, digits, - and _.
        secret_id = f"AKID{random[:CHARACTERS]}"
        made = Credential(secret_id, random[CHARACTERS : 2 * CHARACTERS], random[2 * CHARACTERS :], sandbox)
        sandbox.grant = {
            "secret_id": made.secret_id,
            "secret_key": made.secret_key,
            "token": made.token,
            "endpoint": self._endpoints.get("scf", "") if sandbox.network == "nat" else "",
            "bucket_endpoint": self._endpoints.get("buckets", "") if sandbox.network == "nat" else "",
        }
        sandbox.on_close = self._forget
        self._known[secret_id] = made

    def find(self, secret_id: str) -> Credential | None:
        """None where it never was, or its sandbox is at its end: PID 1 gone, though nobody has seen to it yet."""
        found = self._known.get(secret_id)
        return None if found is None or found.sandbox.ended else found

    def _forget(self, sandbox: Sandbox) -> None:
        self._known.pop(sandbox.grant["secret_id"], None)
        sandbox.grant = {}
