"""From what a function returned to a response: SCF's integrated response (scf-interface.md section 8.3), checked as hostile input.

    {"statusCode": 200, "headers": {"Set-Cookie": ["a=1", "b=2"]}, "body": "…", "isBase64Encoded": false}    that response
    any other JSON                                                                                          200, application/json, that JSON

Framing is ours: what would change where the response ends, or whom it is for, is dropped. A header that can't be one makes all of it no
response: half of an answer would be worse than none.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from server.httptriggers.events import HOP_BY_HOP, named_by_connection

#: SCF's own words for what is no response.
MALFORMED: Final = b'{"errno":403,"error":"Invalid scf response format. please check your scf response format."}'
_DROPPED: Final = HOP_BY_HOP | {"content-length"}
_OUR_PREFIX: Final = "x-scf-"
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)
#: RFC 9110 section 5.5: no control character but the tab.
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

Headers = tuple[tuple[str, bytes], ...]


class Malformed(ValueError):
    """What a function returned has a statusCode and is no response. The message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case; one that is there several times is to be sent several times."""

    status: int
    headers: Headers
    body: bytes


def answer_of(returned: bytes, limit_header_bytes: int) -> Answer:
    """`returned` is the function's return value as JSON. Raises Malformed."""
    value = _loaded(returned)
    if not isinstance(value, dict) or "statusCode" not in value:
        return Answer(200, (("content-type", b"application/json"),), returned)
    headers = _headers(value.get("headers"))
    if (size := sum(len(name) + len(text) for name, text in headers)) > limit_header_bytes:
        raise Malformed(f"headers of {size} bytes, limit {limit_header_bytes}")
    return Answer(_status(value["statusCode"]), headers, _body(value.get("body"), value.get("isBase64Encoded")))


def _loaded(returned: bytes) -> Any:
    try:
        return orjson.loads(returned)
    except orjson.JSONDecodeError:
        pass_on = returned.decode(errors="replace")
    try:
        return json.loads(pass_on)  # half a surrogate pair, deep nesting, integers of any size
    except (ValueError, RecursionError):
        return None


def _status(value: Any) -> int:
    """A final one: 1xx would leave the client waiting for another response."""
    if isinstance(value, str) and re.fullmatch(r"[2-5][0-9][0-9]", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise Malformed("statusCode is not 200 to 599")
    return value


def _headers(value: Any) -> Headers:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise Malformed("headers is not an object")
    pairs = [(_name(name), text) for name, item in value.items() for text in _texts(item)]
    dropped = _DROPPED | named_by_connection(pairs)
    return tuple(
        (name, text.encode("utf-8", "replace")) for name, text in pairs if name not in dropped and not name.startswith(_OUR_PREFIX)
    )


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise Malformed("a header's name is no token")
    return name.lower()


def _texts(item: Any) -> Iterator[str]:
    for value in item if isinstance(item, list) else [item]:
        if value is None:
            continue
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise Malformed("a header's value is neither text nor number")
        text = str(value)
        if _VALUE.fullmatch(text) is None:
            raise Malformed("a header's value has control characters")
        yield text.strip(" \t")


def _body(value: Any, is_base64: Any) -> bytes:
    if is_base64 is not None and not isinstance(is_base64, bool):
        raise Malformed("isBase64Encoded is not true or false")
    if value is None:
        return b""
    if not isinstance(value, str):
        raise Malformed("body is not a text")
    if not is_base64:
        return value.encode("utf-8", "replace")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("body is not base64") from None
