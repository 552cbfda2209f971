"""Temporary credentials of a function's call: they say which call it is, so that what it writes carries on its count of hops.

    token       = hearth1.BASE64URL(JSON).BASE64URL(HMAC-SHA256(key, JSON))      goes with each request
    secret key  = hex HMAC-SHA256(key, "secret " + token)                        signs each request

Nothing is stored: the key both sides share is enough to check one. `issue` is for who starts a call, `read` for who gets a request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from typing import Final

PREFIX: Final = "hearth1."
SECRET_ID: Final = "HEARTHTEMPORARY"
LONGEST_TOKEN: Final = 4096


@dataclass(frozen=True, slots=True)
class Grant:
    """What a call may do, and where it stands in a chain of calls. `expires_at`: seconds since the epoch."""

    namespace: str
    function: str
    request_id: str
    hops: int
    expires_at: float
    scope: str = "all"


@dataclass(frozen=True, slots=True)
class Credentials:
    """For TENCENTCLOUD_SECRETID, TENCENTCLOUD_SECRETKEY and TENCENTCLOUD_SESSIONTOKEN."""

    secret_id: str
    secret_key: str
    token: str


def grants_key(credential_digest: str) -> bytes:
    """The key of this installation, from its credential's SHA-256, which every process of ours is given."""
    return hmac.new(credential_digest.encode(), b"hearth grants", hashlib.sha256).digest()


def issue(key: bytes, grant: Grant) -> Credentials:
    body = json.dumps(asdict(grant), separators=(",", ":")).encode()
    token = f"{PREFIX}{_text(body)}.{_text(_mac(key, body))}"
    return Credentials(SECRET_ID, _secret(key, token), token)


def read(key: bytes, token: str, now: float) -> tuple[Grant, str] | None:
    """(the grant, its secret key); None for a token that is not ours or has expired."""
    if not token.startswith(PREFIX) or len(token) > LONGEST_TOKEN:
        return None
    body_text, _, mac_text = token[len(PREFIX) :].partition(".")
    try:
        body, mac = _bytes(body_text), _bytes(mac_text)
    except (binascii.Error, ValueError):
        return None
    if not hmac.compare_digest(mac, _mac(key, body)):
        return None
    grant = Grant(**json.loads(body))
    return (grant, _secret(key, token)) if now < grant.expires_at else None


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, body, hashlib.sha256).digest()


def _secret(key: bytes, token: str) -> str:
    return hmac.new(key, f"secret {token}".encode(), hashlib.sha256).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
