"""Reading query parameters and JSON bodies: each wrong value is one clear 400."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import date
from typing import Any, Final, NoReturn

import orjson

from server.api.request import Request
from server.errors import BadRequest, PayloadTooLarge
from server.functions.checks import checked_name, is_name, shown
from server.functions.model import DEFAULT_NAMESPACE
from server.store.times import epoch

FLAGS: Final = ("0", "1", "false", "true")
#: float() also takes underscores, spaces, words and other scripts' digits.
_NUMBER = re.compile(r"[0-9.eE+-]{1,40}", re.ASCII)


def text(req: Request, name: str) -> str | None:
    """The parameter's (last) value, None when it is absent. An empty one is a value, and seldom a good one."""
    return req.get_param(name)


def integer(req: Request, name: str, default: int, *, low: int, high: int) -> int:
    value = text(req, name)
    if value is None:
        return default
    # ASCII digits only: int() also takes signs, underscores and other scripts' digits.
    if not (value.isascii() and value.isdecimal() and len(value) <= 18 and low <= int(value) <= high):
        raise BadRequest(f"{name}: {shown(value)} is not a whole number from {low} to {high}", field=name)
    return int(value)


def seconds(req: Request, name: str, *, high: float) -> float:
    value = text(req, name)
    return 0.0 if value is None else as_seconds(name, value, high=high)


def as_seconds(name: str, value: str, *, high: float) -> float:
    """The value of a header or parameter. Raises BadRequest."""
    try:
        given = float(value) if _NUMBER.fullmatch(value) else -1.0
    except ValueError:
        given = -1.0
    if not 0 <= given <= high:  # refuses NaN too
        raise BadRequest(f"{name}: {shown(value)} is not a number of seconds from 0 to {high:g}", field=name)
    return given


def query(*, namespace: str) -> str:
    """The query that a path of ours needs so that it is about that namespace."""
    return "" if namespace == DEFAULT_NAMESPACE else f"?namespace={namespace}"


def namespace(req: Request) -> str:
    """The namespace that a request is about. Raises BadRequest for what can't be one."""
    if not req.query_string:
        return DEFAULT_NAMESPACE
    value = text(req, "namespace")
    return DEFAULT_NAMESPACE if value is None else checked_name(value, "namespace")


def function_name(req: Request) -> str | None:
    """The function that a list is bounded to; None: all. Raises BadRequest for what can't be one."""
    value = text(req, "function")
    if value is not None and not is_name(value):
        raise BadRequest(f"function: {shown(value)} is no function's name", field="function")
    return value


def flag(req: Request, name: str) -> bool:
    return choice(req, name, FLAGS) in ("1", "true")


def choice(req: Request, name: str, values: Iterable[str]) -> str | None:
    value = text(req, name)
    if value is not None and value not in (known := sorted(values)):
        raise BadRequest(f"{name}: {shown(value)} is not known", field=name, hint=f"one of {', '.join(known)}")
    return value


def moment(req: Request, name: str) -> float | None:
    """A time in RFC 3339, as seconds since the epoch."""
    value = text(req, name)
    if value is None:
        return None
    try:
        # A + of the zone that was not escaped arrives as a space.
        return epoch(value.replace(" ", "+")) if len(value) <= 40 and value.isascii() else _no_time(name, value)
    except (ValueError, OverflowError):
        return _no_time(name, value)


def _no_time(name: str, value: str) -> NoReturn:
    raise BadRequest(f"{name}: {shown(value)} is not a time", field=name, hint="as in 2026-11-23T22:33:00Z")


def day(req: Request, name: str) -> str | None:
    """A day as `2026-11-23`."""
    value = text(req, name)
    if value is None:
        return None
    try:
        # fromisoformat also reads 20261123 and 2026-W48-1, which would not compare with ours.
        if date.fromisoformat(value).isoformat() == value:
            return value
    except ValueError as error:
        raise _not_a_day(name, value) from error
    raise _not_a_day(name, value)


def _not_a_day(name: str, value: str) -> BadRequest:
    return BadRequest(f"{name}: {shown(value)} is not a day", field=name, hint="as in 2026-11-23")


def whole(data: bytes | None, limit_bytes: int, what: str) -> bytes:
    """`Request.body`'s answer, or PayloadTooLarge."""
    if data is None:
        raise PayloadTooLarge(f"{what} is over the limit of {limit_bytes} bytes")
    return data


async def json_body(req: Request, limit_bytes: int, *, empty: Any = None) -> Any:
    """A request's JSON body; `empty` where there is none and that is allowed. Raises BadRequest, PayloadTooLarge."""
    data = whole(await req.body(limit_bytes), limit_bytes, "the body")
    return empty if not data and empty is not None else parsed(data)


def parsed(data: bytes) -> Any:
    """A JSON body. Raises BadRequest."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _parsed_slowly(data)


def check_event(data: bytes) -> None:
    """Raise BadRequest (SCF 400) unless `data` is JSON in UTF-8, NaN and Infinity not allowed."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        _parsed_slowly(data, "the event")


def _parsed_slowly(data: bytes, what: str = "the body") -> Any:
    """What orjson refuses and JSON allows: half a surrogate pair, deep nesting, integers of any size."""
    try:
        # Decoded first: json.loads would guess UTF-16 or 32 from bytes.
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise BadRequest(f"{what} is not JSON: {reason[:1].lower()}{reason[1:200]}", code="invalid_json", scf_status=400) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
