"""Who may call a URL: everybody, who has signed with a secret pair, or who has the instance's credential.

CAM is TC3-HMAC-SHA256 as everywhere in SCF: service `scf`, path and query of the request as they were sent. Clients of function URLs send
the time as X-Scf-Cam-Timestamp; X-TC-Timestamp, as all others send it, will do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from server.api.auth import Auth
from server.api.request import Request
from server.api.services import Services
from server.errors import ApiError
from server.keys.credentials import Credential, InvalidToken, UnknownSecretId
from server.scf.authentication import INLINE_BYTES
from server.scf.errors import ScfError
from server.scf.signatures import ALGORITHM, SKEW_SECONDS, Tc3Claim, read_tc3, tc3_matches
from server.triggers.http import BEARER, CAM
from server.triggers.model import Trigger

_SCOPES: Final = ("all", "invoke")
_OTHER_NAMES: Final = {"x-tc-timestamp": "x-scf-cam-timestamp", "x-tc-token": "x-scf-cam-token"}


@dataclass(frozen=True, slots=True)
class Signer:
    """A claim whose secret is known and whose signature is still to be compared with the body's."""

    claim: Tc3Claim
    credential: Credential


class Gate:
    """`clock` is seconds since the epoch."""

    def __init__(self, services: Services, auth: Auth, clock: Callable[[], float] = time.time) -> None:
        self._services, self._auth, self._clock = services, auth, clock

    async def admit(self, req: Request, kind: str, trigger: Trigger) -> Signer | None:
        """Before the body is read: a Signer where there is a signature to be checked with it. Raises ApiError (401, 403)."""
        if kind == BEARER:
            self._auth.check(req)
        if kind != CAM:
            return None
        header = partial(signed_header, req)
        try:
            claim = read_tc3(req.get_header("Authorization") or "", header)
        except ScfError as error:
            raise refused(error.message) from None
        if abs(claim.timestamp - self._clock()) > SKEW_SECONDS:
            raise refused(f"the timestamp is more than {SKEW_SECONDS} s from the server's clock")
        return Signer(claim, await self._find(claim, trigger))

    async def check(self, req: Request, signer: Signer, path: str, body: bytes) -> None:
        """With the body: raise ApiError (401) unless the secret makes that signature. `path` as the client sent it."""
        matches = partial(
            tc3_matches,
            signer.claim,
            signer.credential.secret_key,
            method=req.method,
            path=path,
            query=req.query_string,
            header=partial(signed_header, req),
            body=body,
        )
        if not (matches() if len(body) <= INLINE_BYTES else await self._services.uploads.run(matches)):
            raise refused("the signature is not this request's")

    async def _find(self, claim: Tc3Claim, trigger: Trigger) -> Credential:
        try:
            credential = await self._services.credentials.find(claim.secret_id, claim.token)
        except (UnknownSecretId, InvalidToken):
            raise refused("the secret id, or its token, is not known") from None
        if credential.scope not in _SCOPES or credential.namespace not in ("", trigger.namespace):
            raise ApiError(403, "forbidden", "Forbidden", "this key is not good for calls of this function", scf_status=403)
        return credential


def signed_header(req: Request, name: str) -> str | None:
    """A header as it came; the protocol's own also under the names that SCF's function URLs have for them."""
    value = req.signed_header(name)
    return req.signed_header(_OTHER_NAMES[name]) if value is None and name in _OTHER_NAMES else value


def refused(why: str) -> ApiError:
    return ApiError(
        401, "unauthorized", "Unauthorized", why, f"sign with {ALGORITHM} and a secret pair; `hearth keys create` makes one", 401
    )
