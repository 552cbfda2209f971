"""The three ways to sign a request, checked: TC3-HMAC-SHA256, and HmacSHA1 and HmacSHA256 of API 3.0 and of API 2.0.

Pure: a claim is read from what came, and compared with what a secret would make of the same bytes, in constant time. What is no
signature at all is a ScfError (AuthFailure.…), never another exception.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from server.keys.model import is_secret_id
from server.scf.errors import ScfError

ALGORITHM: Final = "TC3-HMAC-SHA256"
SERVICE: Final = "scf"
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
#: How far clocks may differ: API 3.0, and API 2.0.
SKEW_SECONDS: Final = 300
OLD_SKEW_SECONDS: Final = 7200
MAX_SIGNED_HEADERS: Final = 50
DIGESTS: Final = {"HmacSHA1": "sha1", "HmacSHA256": "sha256"}

_SCOPE = re.compile(r"(?P<id>[^/]*)/(?P<date>\d{4}-\d{2}-\d{2})/(?P<service>[a-z0-9_-]{1,64})/tc3_request", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)

#: A header's value by its lower-case name, None where it was not sent.
Headers = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims to have signed, and when. `nonce` is empty where the scheme has none."""

    secret_id: str
    token: str
    timestamp: int
    signature: str
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Tc3Claim(Claim):
    date: str = ""
    signed_headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OldClaim(Claim):
    digest: str = "sha1"


def failure(message: str) -> ScfError:
    return ScfError("AuthFailure.SignatureFailure", message)


# TC3 ------------------------------------------------------------------------------------------------------------------------


def read_tc3(authorization: str, header: Headers) -> Tc3Claim:
    """The claim of an Authorization header. Raises ScfError."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise failure(f"the Authorization header is not one of {ALGORITHM}")
    pairs = [part.strip().partition("=") for part in rest.split(",")]
    parts = {name: value for name, _, value in pairs}
    scope = _SCOPE.fullmatch(parts.get("Credential", ""))
    names = tuple(parts.get("SignedHeaders", "").lower().split(";"))
    signature = parts.get("Signature", "")
    if scope is None or not _HEX.fullmatch(signature):
        raise failure("the Authorization header is not Credential=ID/DATE/scf/tc3_request, SignedHeaders=…, Signature=HEX")
    if len(names) > MAX_SIGNED_HEADERS or "host" not in names or not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise failure("SignedHeaders must name headers, host among them")
    timestamp = _timestamp(header("x-tc-timestamp") or "", "X-TC-Timestamp")
    if scope["service"] != SERVICE or scope["date"] != _utc_date(timestamp):
        raise failure(f"the credential's scope is not {_utc_date(timestamp)}/{SERVICE}/tc3_request, as the timestamp has it")
    return Tc3Claim(
        secret_id=_secret_id(scope["id"]),
        token=header("x-tc-token") or "",
        timestamp=timestamp,
        signature=signature.lower(),
        date=scope["date"],
        signed_headers=names,
    )


def tc3_matches(claim: Tc3Claim, secret_key: str, *, method: str, path: str, query: str, header: Headers, body: bytes) -> bool:
    """Whether the secret makes this signature of this request; `query` as it came, undecoded."""
    unsigned = (header("x-tc-content-sha256") or "").upper() == UNSIGNED_PAYLOAD
    payload = hashlib.sha256(UNSIGNED_PAYLOAD.encode() if unsigned else body).hexdigest()
    key = b"TC3" + secret_key.encode()
    for part in (claim.date, SERVICE, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    found = False
    for headers in _canonical(claim.signed_headers, header):
        canonical = "\n".join((method, path, query, headers, ";".join(claim.signed_headers), payload))
        to_sign = "\n".join((ALGORITHM, str(claim.timestamp), f"{claim.date}/{SERVICE}/tc3_request", _sha256(canonical)))
        expected = hmac.digest(key, to_sign.encode(), "sha256").hex()
        found |= hmac.compare_digest(expected, claim.signature)
    return found


def _canonical(names: Iterable[str], header: Headers) -> set[str]:
    """The headers as signers write them. The document has values in lower case, its examples only the action's, the SDKs none."""
    values = [(name, (header(name) or "").strip()) for name in names]
    forms = (
        [f"{name}:{value}\n" for name, value in values],
        [f"{name}:{value.lower()}\n" for name, value in values],
        [f"{name}:{value.lower() if name.startswith('x-tc-') else value}\n" for name, value in values],
    )
    return {"".join(form) for form in forms}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _utc_date(timestamp: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(timestamp))


# The older ones -------------------------------------------------------------------------------------------------------------


def read_old(parameters: Mapping[str, str]) -> OldClaim:
    """The claim in a form or a query. Raises ScfError."""
    missing = [name for name in ("SecretId", "Signature", "Timestamp", "Nonce") if not parameters.get(name)]
    if missing:
        raise failure(f"the request is not signed: no Authorization header and no parameter {missing[0]}")
    digest = DIGESTS.get(parameters.get("SignatureMethod", "") or "HmacSHA1")
    if digest is None:
        raise failure(f"SignatureMethod is none of {', '.join(DIGESTS)}")
    if not _NUMBER.fullmatch(parameters["Nonce"]):
        raise failure("Nonce is not a positive whole number")
    return OldClaim(
        secret_id=_secret_id(parameters["SecretId"]),
        token=parameters.get("Token", ""),
        timestamp=_timestamp(parameters["Timestamp"], "Timestamp"),
        signature=parameters["Signature"],
        nonce=parameters["Nonce"],
        digest=digest,
    )


def old_matches(
    claim: OldClaim, secret_key: str, *, method: str, hosts: Iterable[str], path: str, parameters: Mapping[str, str], skip_files: bool
) -> bool:
    """Whether the secret makes this signature. `hosts`: under which names the client may know us; `skip_files`: values that begin
    with @ are not signed (API 2.0, POST)."""
    pairs = {
        name.replace("_", "."): value
        for name, value in parameters.items()
        if name != "Signature" and not (skip_files and value.startswith("@"))
    }
    text = "&".join(f"{name}={pairs[name]}" for name in sorted(pairs))
    found = False
    for host in hosts:
        message = f"{method}{host}{path}?{text}".encode("utf-8", "surrogatepass")
        expected = base64.b64encode(hmac.digest(secret_key.encode(), message, claim.digest)).decode()
        found |= hmac.compare_digest(expected.encode(), claim.signature.encode("utf-8", "surrogatepass"))
    return found


def _secret_id(value: str) -> str:
    if not is_secret_id(value):
        raise ScfError("AuthFailure.InvalidSecretId", "the SecretId is not one of an API key")
    return value


def _timestamp(text: str, name: str) -> int:
    # Eleven digits reach the year 5138, which every clock can still be compared with.
    if not _NUMBER.fullmatch(text) or len(text) > 11:
        raise failure(f"{name} is not a time in whole seconds")
    return int(text)
