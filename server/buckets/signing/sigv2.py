"""AWS Signature Version 2: old, but what boto3 still presigns with unless told otherwise.

string to sign = METHOD \n Content-MD5 \n Content-Type \n Date | Expires \n x-amz- headers \n resource
signature      = base64 HMAC-SHA1
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from server.buckets.call import Call, decode
from server.buckets.errors import BucketError
from server.buckets.signing.model import EXPIRED, Payload, check_skew

#: The parameters that are part of the resource.
RESOURCE_PARAMETERS: Final = frozenset(
    "acl analytics cors defaultObjectAcl delete encryption inventory lifecycle location logging metrics notification object-lock "
    "partNumber policy policyStatus publicAccessBlock replication requestPayment response-cache-control response-content-disposition "
    "response-content-encoding response-content-language response-content-type response-expires restore select select-type storageClass "
    "tagging torrent uploadId uploads versionId versioning versions website retention legal-hold ownershipControls "
    "intelligent-tiering".split()
)


@dataclass(frozen=True, slots=True)
class SigV2:
    """A claim. `date` is the header's text, for presigned ones the seconds of `Expires`."""

    secret_id: str
    token: str
    presigned: bool
    signature: str
    date: str

    def check(self, secret_key: str, call: Call, bucket: str, now: float) -> Payload:
        if self.presigned:
            if now > int(self.date):
                raise BucketError("AccessDenied", EXPIRED)
        else:
            check_skew(_epoch(call.headers.get("x-amz-date") or self.date), now)
        key = secret_key.encode()
        # `?uploads=` is signed as it is by botocore, and without its equals sign by others.
        texts = [self._string_to_sign(call, bucket, bare=bare) for bare in (False, True)]
        expected = [base64.b64encode(hmac.new(key, _bytes(text), hashlib.sha1).digest()) for text in texts]
        if not any(hmac.compare_digest(self.signature.encode(), one) for one in expected):
            raise BucketError("SignatureDoesNotMatch")
        return Payload()

    def _string_to_sign(self, call: Call, bucket: str, *, bare: bool) -> str:
        get = call.headers.get
        date = "" if "x-amz-date" in call.headers and not self.presigned else self.date
        amz = "".join(f"{name}:{call.headers[name].strip()}\n" for name in sorted(call.headers) if name.startswith("x-amz-"))
        resource = (f"/{bucket}" if bucket else "") + call.raw_path + _parameters(call, bare=bare)
        return f"{call.method}\n{get('content-md5', '')}\n{get('content-type', '')}\n{date}\n{amz}{resource}"


def read(call: Call) -> SigV2 | None:
    """Raises BucketError for a claim that can't be read."""
    header = call.headers.get("authorization", "")
    if header.startswith("AWS "):
        secret_id, colon, signature = header[4:].strip().rpartition(":")
        if not colon:
            raise BucketError("InvalidArgument", "AWS authorization header is invalid")
        return SigV2(secret_id, call.headers.get("x-amz-security-token", ""), False, signature, call.headers.get("date", ""))
    params = call.params
    if "AWSAccessKeyId" not in params or "Signature" not in params:
        return None
    expires = params.get("Expires", "")
    if not (expires.isascii() and expires.isdecimal() and len(expires) < 16):
        raise BucketError("AccessDenied", "Query-string authentication requires Expires, in seconds")
    # A `+` of the base64 may have been sent as it is.
    signature = next(decode(value) for name, value in call.query if name == "Signature")
    return SigV2(params["AWSAccessKeyId"], params.get("x-amz-security-token", ""), True, signature, expires)


def _parameters(call: Call, *, bare: bool) -> str:
    """`bare`: without the equals sign of those that have no value."""
    found = sorted((decode(name), decode(value, plus=True)) for name, value in call.query if decode(name) in RESOURCE_PARAMETERS)
    text = "&".join(name if bare and not value else f"{name}={value}" for name, value in found)
    return f"?{text}" if text else ""


def _epoch(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        raise BucketError("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None


def _bytes(text: str) -> bytes:
    # Header values are bytes as sent, a character each; a decoded parameter may be more.
    try:
        return text.encode("latin-1")
    except UnicodeError:
        return text.encode()
