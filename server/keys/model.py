"""A secret pair as data, and the checks of what a client asks for when it wants one."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from server.errors import BadRequest
from server.functions.checks import MAX_DESCRIPTION, checked_name, shown
from server.store.times import rfc3339

Scope = Literal["invoke", "read", "all"]
SCOPES: Final[tuple[str, ...]] = get_args(Scope)

_ALPHABET: Final = string.ascii_letters + string.digits
ID_PREFIX: Final = "AKID"
#: Behind the prefix, and of a key; 190 bits each.
CHARACTERS: Final = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`namespace` is empty for a pair that is good for all of them. `created_at` in seconds since the epoch."""

    secret_id: str
    scope: Scope
    namespace: str
    description: str
    created_at: float

    def to_json(self) -> dict[str, Any]:
        """REST's shape, without the secret."""
        return {
            "secret_id": self.secret_id,
            "scope": self.scope,
            "namespace": self.namespace or None,
            "description": self.description,
            "created_at": rfc3339(self.created_at),
        }

    @property
    def rights(self) -> bytes:
        """What the encrypted secret is bound to: in a row that was given other rights it can't be decrypted."""
        return "\n".join((self.secret_id, self.scope, self.namespace)).encode()


def new_secret_id() -> str:
    return ID_PREFIX + _random(CHARACTERS)


def new_secret_key() -> str:
    return _random(CHARACTERS)


def is_secret_id(value: str) -> bool:
    """Whether a secret id can be that: what may be shown, logged and asked a database for."""
    return _ID.fullmatch(value) is not None


def checked_creation(payload: Any) -> dict[str, str]:
    """`scope`, `namespace` and `description` of a creation's body. Raises BadRequest."""
    if not isinstance(payload, dict):
        raise BadRequest(f"the body is not a JSON object but {shown(payload)}")
    given = {key: value for key, value in payload.items() if value is not None}
    if unknown := sorted(given.keys() - {"scope", "namespace", "description"}):
        raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint="known are description, namespace, scope")
    scope = given.get("scope", "all")
    if scope not in SCOPES:
        raise BadRequest(f"scope: {shown(scope)} is not known", field="scope", hint=f"one of {', '.join(SCOPES)}")
    namespace = checked_name(given["namespace"], "namespace") if "namespace" in given else ""
    return {"scope": scope, "namespace": namespace, "description": _description(given.get("description", ""))}


def _description(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or not value.isprintable():
        raise BadRequest(f"description: {shown(value)} is not one line of text", field="description")
    if len(value) > MAX_DESCRIPTION:
        raise BadRequest(f"description: {len(value)} characters, limit {MAX_DESCRIPTION}", field="description")
    return value


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
