"""AWS Signature Version 4, in the Authorization header and in a URL's query.

    canonical request = METHOD \n path \n query \n headers \n signed names \n payload hash
    string to sign    = AWS4-HMAC-SHA256 \n time \n date/region/service/aws4_request \n sha256(canonical request)
    key               = HMAC(HMAC(HMAC(HMAC("AWS4" + secret, date), region), service), "aws4_request")

Any region is taken: there is one here, and clients must name some. S3 signs the path encoded once, and not normalised.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from server.buckets.call import Call, decode
from server.buckets.errors import BucketError
from server.buckets.signing.model import EXPIRED, SKEW_SECONDS, ChunkKey, Payload, check_skew, compare

ALGORITHM: Final = "AWS4-HMAC-SHA256"
LONGEST_SECONDS: Final = 7 * 24 * 3600
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
#: x-amz-content-sha256 → are the chunks signed, is there a trailer.
STREAMING: Final = {
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": (True, False),
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": (True, True),
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": (False, True),
}
_SCOPE = re.compile(r"(?P<id>[^/]+(?:/[^/]+)*)/(?P<date>\d{8})/(?P<region>[^/]*)/(?P<service>[^/]*)/aws4_request")
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = "X-Amz-Signature"


@dataclass(frozen=True, slots=True)
class SigV4:
    """A claim. `scope` is `date/region/service/aws4_request`; `expires_seconds` counts for presigned ones."""

    secret_id: str
    token: str
    presigned: bool
    scope: str
    signed: tuple[str, ...]
    signature: str
    timestamp: str
    expires_seconds: int = 0

    def check(self, secret_key: str, call: Call, bucket: str, now: float) -> Payload:
        self._check_time(now)
        self._check_names(call)
        sha256 = call.headers.get("x-amz-content-sha256") or call.params.get("X-Amz-Content-Sha256", "")
        if not sha256 and not self.presigned:
            raise BucketError("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
        sha256 = sha256 or UNSIGNED
        key = signing_key(secret_key, self.scope)
        expected = hmac.new(key, self._string_to_sign(call, sha256).encode(), hashlib.sha256).hexdigest()
        compare(self.signature, expected)
        return self._payload(sha256, key)

    def _check_time(self, now: float) -> None:
        then = _epoch(self.timestamp)
        if self.scope[:8] != self.timestamp[:8]:
            raise BucketError("AuthorizationHeaderMalformed", "the credential's date is not that of the request")
        if not self.presigned:
            check_skew(then, now)
        elif then - now > SKEW_SECONDS:
            raise BucketError("AccessDenied", "Request is not yet valid")
        elif now > then + self.expires_seconds:
            raise BucketError("AccessDenied", EXPIRED)

    def _check_names(self, call: Call) -> None:
        """The host and every x-amz- header must be signed: they say where, and what is to be done."""
        if "host" not in self.signed:
            raise BucketError("AuthorizationHeaderMalformed", "the host is not among the signed headers")
        loose = [name for name in call.headers if name.startswith("x-amz-") and name not in self.signed and name != "x-amz-content-sha256"]
        if loose:
            raise BucketError(
                "AccessDenied", "There were headers present in the request which were not signed", HeadersNotSigned=", ".join(loose)
            )

    def _string_to_sign(self, call: Call, sha256: str) -> str:
        headers = "".join(f"{name}:{_trimmed(call.headers.get(name, ''))}\n" for name in self.signed)
        canonical = "\n".join((call.method, quote(call.path, safe="/-_.~"), _query(call), headers, ";".join(self.signed), sha256))
        # Header values are the bytes as sent, one character each; everything else here is ASCII.
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        return f"{ALGORITHM}\n{self.timestamp}\n{self.scope}\n{digest}"

    def _payload(self, sha256: str, key: bytes) -> Payload:
        if sha256 == UNSIGNED:
            return Payload()
        if sha256 in STREAMING:
            signed, trailer = STREAMING[sha256]
            chunk_key = ChunkKey(key, self.timestamp, self.scope, self.signature) if signed else None
            return Payload(chunked=True, trailer=trailer, chunk_key=chunk_key)
        if not _HEX.fullmatch(sha256):
            if sha256.startswith("STREAMING-"):
                raise BucketError("NotImplemented", f"x-amz-content-sha256: {sha256}")
            raise BucketError("InvalidArgument", "x-amz-content-sha256 is neither a SHA-256 nor one of its words")
        return Payload(sha256=sha256)


def read(call: Call) -> SigV4 | None:
    """Raises BucketError for a claim that can't be read."""
    header = call.headers.get("authorization", "")
    if header.startswith(ALGORITHM):
        return _of_header(call, header)
    return _of_query(call) if call.params.get("X-Amz-Algorithm") == ALGORITHM else None


def _of_header(call: Call, header: str) -> SigV4:
    pairs = (part.strip().partition("=") for part in header[len(ALGORITHM) :].split(","))
    fields = {name: value for name, _, value in pairs}
    scope = _SCOPE.fullmatch(fields.get("Credential", ""))
    if scope is None or not fields.get("SignedHeaders") or not fields.get("Signature"):
        raise BucketError("AuthorizationHeaderMalformed")
    timestamp = call.headers.get("x-amz-date", "")
    if not timestamp:
        raise BucketError("AccessDenied", "AWS authentication requires a valid x-amz-date header")
    return SigV4(
        secret_id=scope["id"],
        token=call.headers.get("x-amz-security-token", ""),
        presigned=False,
        scope=fields["Credential"][len(scope["id"]) + 1 :],
        signed=tuple(fields["SignedHeaders"].lower().split(";")),
        signature=fields["Signature"],
        timestamp=timestamp,
    )


def _of_query(call: Call) -> SigV4:
    get = call.params.get
    scope = _SCOPE.fullmatch(get("X-Amz-Credential", ""))
    expires = get("X-Amz-Expires", "")
    if scope is None or not get("X-Amz-SignedHeaders") or not get(_SIGNATURE) or not get("X-Amz-Date"):
        raise BucketError("AuthorizationQueryParametersError")
    if not expires.isascii() or not expires.isdecimal() or not 1 <= int(expires[:9]) <= LONGEST_SECONDS or len(expires) > 9:
        raise BucketError("AuthorizationQueryParametersError", f"X-Amz-Expires must be a number of seconds up to {LONGEST_SECONDS}")
    return SigV4(
        secret_id=scope["id"],
        token=get("X-Amz-Security-Token", ""),
        presigned=True,
        scope=get("X-Amz-Credential", "")[len(scope["id"]) + 1 :],
        signed=tuple(get("X-Amz-SignedHeaders", "").lower().split(";")),
        signature=get(_SIGNATURE, ""),
        timestamp=get("X-Amz-Date", ""),
        expires_seconds=int(expires),
    )


def signing_key(secret_key: str, scope: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _query(call: Call) -> str:
    """Each name and value encoded anew, so that it doesn't matter how the client did it; sorted as encoded."""
    pairs = [(_encoded(name), _encoded(value)) for name, value in call.query]
    return "&".join(f"{name}={value}" for name, value in sorted(pair for pair in pairs if pair[0] != _SIGNATURE))


def _encoded(text: str) -> str:
    return quote(decode(text), safe="-_.~")


def _trimmed(value: str) -> str:
    return re.sub(" +", " ", value.strip())


def _epoch(timestamp: str) -> float:
    try:
        return calendar.timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise BucketError("AccessDenied", "x-amz-date is not a time like 20261123T223300Z") from None
