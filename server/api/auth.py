"""The bearer credential: every path needs it but those that say how the service is, those of SCF's own interfaces, where each request is
signed, the URLs of HTTP triggers, each of which says for itself what it needs, and notifications, which may have their source's secret. To
functions, on a listener of their own, only SCF's are served.

The API cannot read the credential's file, which is root's alone: `hearth up` hands it the SHA-256 in HEARTH_TOKEN_SHA256.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import falcon.asgi

from sandbox.errors import ConfigError
from sandbox.settings import Settings
from server.api.request import Request
from server.errors import NotFound, Unauthorized
from server.notifications.sources import PATH as NOTIFICATIONS_PATH
from server.triggers.http import URL_PREFIX

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
#: SCF's interfaces: every request there is signed, and `server.scf` checks it.
SIGNED_PATHS: Final = frozenset({"/", "/v2/index.php", "/scf/code"})
_NOT_OURS: Final = OPEN_PATHS | SIGNED_PATHS
ENVIRONMENT: Final = "HEARTH_TOKEN_SHA256"
HINT: Final = "Authorization: Bearer TOKEN; `hearth token` prints it"


def credential_digest(settings: Settings, environ: Mapping[str, str]) -> str:
    """The credential's SHA-256 in hex: from the environment, else from its file where it may be read. Raises ConfigError."""
    digest = environ.get(ENVIRONMENT, "").strip().lower()
    if not digest:
        try:
            token = settings.credential_path.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"no credential: {ENVIRONMENT} is not set and {settings.credential_path} can't be read", hint="start with `hearth up`"
            ) from error
        if not token:
            raise ConfigError(f"credential {settings.credential_path} is empty", hint="remove it; `hearth up` makes a new one")
        digest = hashlib.sha256(token.encode()).hexdigest()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{ENVIRONMENT} is not a SHA-256 in hex: {len(digest)} characters")
    return digest


class Auth:
    """Middleware: raises Unauthorized (401) for a request without the credential, before any path is looked at."""

    def __init__(self, digest: str) -> None:
        self._digest = bytes.fromhex(digest)
        self._valid: bytes | None = None  # the last header that was; most clients send the same one each time

    async def process_request(self, req: Request, resp: falcon.asgi.Response) -> None:
        if req.is_from_function and req.path not in SIGNED_PATHS:
            # With or without a credential: from in there nobody may even try one.
            raise NotFound("this is not served to functions", hint="a function calls others through SCF's interfaces, at /")
        if req.path.startswith(NOTIFICATIONS_PATH):
            with suppress(Unauthorized):  # its resource asks for the source's secret then
                self.check(req)
                req.is_operator = True
        elif req.path not in _NOT_OURS and not req.path.startswith(URL_PREFIX):
            self.check(req)

    def check(self, req: Request) -> None:
        """Raises Unauthorized."""
        header = req.raw_header(b"authorization")
        if header is None:
            raise Unauthorized("no credential was given", hint=HINT)
        if self._valid is None or not hmac.compare_digest(header, self._valid):
            self._check(header)
            self._valid = header

    def _check(self, header: bytes) -> None:
        scheme, _, token = header.partition(b" ")
        # Digests are compared, so that neither content nor length of the credential can be timed.
        given = hashlib.sha256(token.strip()).digest()
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given, self._digest):
            raise Unauthorized("the credential is not valid", hint=HINT)
