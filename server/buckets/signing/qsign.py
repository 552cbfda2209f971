"""COS's signature, `q-sign-algorithm=sha1&q-ak=…&q-sign-time=a;b&q-key-time=a;b&q-header-list=…&q-url-param-list=…&q-signature=…`.

    http string    = method \n path, decoded \n parameters \n headers \n      names and values encoded, names lower case, sorted
    string to sign = sha1 \n q-sign-time \n sha1(http string) \n
    key            = hex HMAC-SHA1(secret, q-key-time), signature = hex HMAC-SHA1(key, string to sign)

The lists say what is signed; what is not in them whoever holds a presigned URL may add. What selects another operation or
another source must therefore be in them here.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from server.buckets.call import Call
from server.buckets.errors import BucketError
from server.buckets.signing.model import EXPIRED, SKEW_SECONDS, Payload

FIELDS: Final = ("q-ak", "q-sign-time", "q-key-time", "q-header-list", "q-url-param-list", "q-signature")
#: Parameters that anybody may add to a presigned URL: they change how an answer looks, or belong to the signature.
FREE: Final = (
    "q-",
    "response-",
    "x-cos-security-token",
    "x-cos-traffic-limit",
    "prefix",
    "delimiter",
    "marker",
    "max-keys",
    "encoding-type",
)
BOUND_HEADERS: Final = ("x-cos-copy-source", "x-cos-copy-source-range")


@dataclass(frozen=True, slots=True)
class QSign:
    """A claim. Times are `begin;end`, seconds since the epoch."""

    secret_id: str
    token: str
    presigned: bool
    sign_time: str
    key_time: str
    headers: tuple[str, ...]
    parameters: tuple[str, ...]
    signature: str

    def check(self, secret_key: str, call: Call, bucket: str, now: float) -> Payload:
        for text in (self.sign_time, self.key_time):
            begin, end = _times(text)
            if now + SKEW_SECONDS < begin:
                raise BucketError("AccessDenied", "Request is not yet valid")
            if now > end:
                raise BucketError("AccessDenied", EXPIRED)
        if self.presigned:
            self._check_bound(call)
        # Signed without a value it would not be missed: `?uploads`.
        if not set(self.parameters) <= {_encoded(name).lower() for name in call.params}:
            raise BucketError("SignatureDoesNotMatch")
        # cos-python-sdk-v5 signs the host without its port, and sends it with it; others sign what they send.
        hosts = {call.host, call.host.rsplit(":", 1)[0]}
        if not any(hmac.compare_digest(self.signature.encode(), self._signature(secret_key, call, host).encode()) for host in hosts):
            raise BucketError("SignatureDoesNotMatch")
        return Payload()

    def _check_bound(self, call: Call) -> None:
        loose = [name for name in call.params if not name.lower().startswith(FREE) and _encoded(name).lower() not in self.parameters]
        loose += [name for name in BOUND_HEADERS if name in call.headers and name not in self.headers]
        if loose:
            raise BucketError("AccessDenied", f"not signed, and it must be: {', '.join(loose)}")

    def _signature(self, secret_key: str, call: Call, host: str) -> str:
        given = {_encoded(name).lower(): _encoded(value) for name, value in call.params.items()}
        parameters = "&".join(f"{name}={given.get(name, '')}" for name in sorted(self.parameters))
        values = {**call.headers, "host": host}
        headers = "&".join(f"{name}={_encoded(values.get(name, ''), 'latin-1')}" for name in sorted(self.headers))
        http = f"{call.method.lower()}\n{call.path}\n{parameters}\n{headers}\n"
        text = f"sha1\n{self.sign_time}\n{hashlib.sha1(http.encode()).hexdigest()}\n"
        key = hmac.new(secret_key.encode(), self.key_time.encode(), hashlib.sha1).hexdigest()
        return hmac.new(key.encode(), text.encode(), hashlib.sha1).hexdigest()


def read(call: Call) -> QSign | None:
    """Raises BucketError for a claim that can't be read."""
    header = call.headers.get("authorization", "")
    if header.startswith("q-"):
        pairs = (part.partition("=") for part in header.split("&"))
        fields = {name.strip(): value.strip() for name, _, value in pairs}
        token = call.headers.get("x-cos-security-token", "")
    elif "q-sign-algorithm" in call.params:
        fields = dict(call.params)
        token = call.params.get("x-cos-security-token", "") or call.headers.get("x-cos-security-token", "")
    else:
        return None
    if fields.get("q-sign-algorithm") != "sha1" or any(name not in fields for name in FIELDS):
        raise BucketError("InvalidArgument", "the q-sign authorization is malformed")
    return QSign(
        secret_id=fields["q-ak"],
        token=token,
        presigned=not header.startswith("q-"),
        sign_time=fields["q-sign-time"],
        key_time=fields["q-key-time"],
        headers=_names(fields["q-header-list"]),
        parameters=_names(fields["q-url-param-list"]),
        signature=fields["q-signature"],
    )


def _names(text: str) -> tuple[str, ...]:
    # Each name is encoded by itself; some clients encode what is between them too.
    return tuple(name.lower() for name in text.replace("%3B", ";").replace("%3b", ";").split(";") if name)


def _encoded(text: str, encoding: str = "utf-8") -> str:
    return quote(text.encode(encoding), safe="-_.~")


def _times(text: str) -> tuple[int, int]:
    begin, _, end = text.partition(";")
    if not all(part.isascii() and part.isdecimal() and len(part) < 16 for part in (begin, end)):
        raise BucketError("InvalidArgument", "q-sign-time and q-key-time are begin;end in seconds")
    return int(begin), int(end)
