"""Who has signed a request, and that it is neither late nor a copy: the state around `signatures`.

A request is refused as early as can be: a TC3 claim and its secret id are looked at before the body is read, so that nobody without
a pair makes us hold more than a head. A form says only inside who has signed it: of large ones few at a time are read. A nonce is used up
only by a request whose signature is right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from server.api.request import Request
from server.api.services import Services
from server.keys.credentials import Credential, InvalidToken, UnknownSecretId
from server.scf.errors import ScfError
from server.scf.parameters import Parameters, read_flat, read_json, unflatten
from server.scf.signatures import (
    OLD_SKEW_SECONDS,
    SKEW_SECONDS,
    Claim,
    OldClaim,
    Tc3Claim,
    failure,
    old_matches,
    read_old,
    read_tc3,
    tc3_matches,
)

#: What a loop may do by itself; more is hashed and parsed in a thread.
INLINE_BYTES: Final = 64 * 1024
#: Forms of unknown senders: larger ones wait for their turn.
LARGE_FORM_BYTES: Final = 1024 * 1024
LARGE_FORMS: Final = 4
#: SCF's limits: a zip of `limit_code_bytes` in base64 inside a form, or an event inside a JSON string, each char of it escaped.
_FORM_GROWTH, _EVENT_GROWTH, _SPARE_BYTES = 1.5, 4, 256 * 1024
WRONG: Final = "The provided credentials could not be validated. Please check your signature is correct."
FORM: Final = "application/x-www-form-urlencoded"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Signed:
    """A request whose signer is known. `common` are the parameters of the protocol (Action, Version, Region), however they came."""

    credential: Credential
    common: Mapping[str, str]
    parameters: Parameters


class Authentication:
    """Raises ScfError for whatever is wrong. `clock` is seconds since the epoch."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.time) -> None:
        self._services, self._clock = services, clock
        self._large_forms, self._large_inside = asyncio.Semaphore(LARGE_FORMS), asyncio.Semaphore(LARGE_FORMS)
        settings = services.settings
        self._limit_bytes = int(max(settings.limit_code_bytes * _FORM_GROWTH, settings.limit_event_bytes * _EVENT_GROWTH)) + _SPARE_BYTES

    async def api3(self, req: Request) -> Signed:
        """A request of API 3.0, signed in either way."""
        authorization = req.get_header("Authorization")
        if authorization is None:
            async with self._turn(req):
                pairs = await self._pairs(req)
                credential = await self._old(req, pairs, SKEW_SECONDS, skip_files=False)
            return Signed(credential, pairs, Parameters(unflatten(pairs), flat=True))
        return await self._tc3(req, authorization)

    async def api2(self, req: Request) -> tuple[Credential, dict[str, str]]:
        """A request of API 2.0: its signer and its parameters as they are."""
        async with self._turn(req):
            pairs = await self._pairs(req)
            return await self._old(req, pairs, OLD_SKEW_SECONDS, skip_files=req.method == "POST"), pairs

    @asynccontextmanager
    async def _turn(self, req: Request) -> AsyncIterator[None]:
        """While it is not known who has sent a form; a function waits in a line of functions, known or not."""
        size = req.content_length
        if size is None and req.get_header("Transfer-Encoding") is None:
            size = 0
        if size is not None and size <= LARGE_FORM_BYTES:
            yield
            return
        async with self._large_inside if req.is_from_function else self._large_forms:
            yield

    async def _tc3(self, req: Request, authorization: str) -> Signed:
        header = req.signed_header
        claim = read_tc3(authorization, header)
        self._check_clock(claim, SKEW_SECONDS)
        credential = await self._find(claim)
        if not req.is_from_function:
            return await self._tc3_body(req, claim, credential)
        async with self._turn(req):
            return await self._tc3_body(req, claim, credential)

    async def _tc3_body(self, req: Request, claim: Tc3Claim, credential: Credential) -> Signed:
        header, body = req.signed_header, await self._body(req)

        def matches() -> bool:
            key = credential.secret_key
            return tc3_matches(claim, key, method=req.method, path=req.path, query=req.query_string, header=header, body=body)

        if not await self._work(len(body), matches):
            raise failure(WRONG)
        common = {name: header(f"x-tc-{name.lower()}") or "" for name in ("Action", "Version", "Region")}
        return Signed(credential, common, await self._work(len(body), lambda: _parameters(req, body)))

    async def _old(self, req: Request, pairs: Mapping[str, str], skew_seconds: int, *, skip_files: bool) -> Credential:
        claim = read_old(pairs)
        self._check_clock(claim, skew_seconds)
        credential = await self._find(claim)
        size = sum(map(len, pairs.values()))

        def matches() -> bool:
            key, hosts = credential.secret_key, _hosts(req)
            return old_matches(claim, key, method=req.method, hosts=hosts, path=req.path, parameters=pairs, skip_files=skip_files)

        if not await self._work(size, matches):
            raise failure(WRONG)
        await self._use_nonce(claim, skew_seconds)
        return credential

    async def _use_nonce(self, claim: OldClaim, skew_seconds: int) -> None:
        # Until then the clock would take the same request again.
        good_until = claim.timestamp + skew_seconds
        use = self._services.nonces.use
        if not await self._services.lookups.run(use, claim.secret_id, claim.nonce, now=self._clock(), good_until=good_until):
            raise ScfError("AuthFailure.SignatureExpire", "the nonce has been used before: a request can't be sent twice")

    async def _find(self, claim: Claim) -> Credential:
        try:
            return await self._services.credentials.find(claim.secret_id, claim.token)
        except UnknownSecretId:
            raise ScfError("AuthFailure.SecretIdNotFound", "the SecretId is not found") from None
        except InvalidToken:
            raise ScfError("AuthFailure.TokenFailure", "the token is not, or no more, one of this SecretId's") from None

    def _check_clock(self, claim: Claim, skew_seconds: int) -> None:
        apart = round(claim.timestamp - self._clock())
        if abs(apart) > skew_seconds:
            where = "ahead of" if apart > 0 else "behind"
            raise ScfError(
                "AuthFailure.SignatureExpire", f"the timestamp is {abs(apart)} s {where} the server's clock, limit {skew_seconds}"
            )

    async def _pairs(self, req: Request) -> dict[str, str]:
        """The query of a GET, the form of a POST."""
        body = await self._body(req)
        if req.method == "GET":
            return read_flat(req.query_string)
        if not _is_form(req):
            raise failure("the request has neither an Authorization header nor a signed form")
        return await self._work(len(body), lambda: read_flat(body))

    async def _body(self, req: Request) -> bytes:
        body = await req.body(self._limit_bytes)
        if body is None:
            raise ScfError("InvalidParameter.RequestTooLarge", f"the request is over the limit of {self._limit_bytes} bytes")
        return body

    async def _work(self, size: int, function: Callable[[], T]) -> T:
        return function() if size <= INLINE_BYTES else await self._services.uploads.run(function)


def _parameters(req: Request, body: bytes) -> Parameters:
    if req.method == "GET":
        return Parameters(unflatten(read_flat(req.query_string)), flat=True)
    if _is_form(req):
        return Parameters(unflatten(read_flat(body)), flat=True)
    if (req.content_type or "").startswith("multipart/"):
        raise ScfError("UnsupportedProtocol", "multipart bodies are not taken: send JSON or a form")
    return Parameters(read_json(body))


def _is_form(req: Request) -> bool:
    return (req.content_type or "").partition(";")[0].strip().lower() == FORM


def _hosts(req: Request) -> tuple[str, ...]:
    """The Host as it came; tccli signs the address of its --endpoint with the scheme, whether it sends it or not."""
    host = req.signed_header("host") or ""
    bare = host.partition("://")[2] or host
    return tuple(dict.fromkeys((host, bare, f"http://{bare}", f"https://{bare}")))
