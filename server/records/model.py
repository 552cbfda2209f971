"""The shape of a record, of a log entry and of a usage row, and how a record becomes rows and comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

import orjson

from server.store.times import epoch, rfc3339, utc_day

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]

FINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})
TIMES: Final = ("created_at", "started_at", "ended_at")
#: SCF's statuses of a call that was not admitted because a limit was reached.
THROTTLED_STATUSES: Final = frozenset({429, 432, 449})
#: Shown where a result can't be parsed.
UNREADABLE_RESULT: Final = "(not JSON)"


class InvocationRecord(TypedDict):
    """One call, as REST shows it (DESIGN section 8); more keys may follow. Times RFC 3339 UTC, durations in milliseconds."""

    request_id: str
    function: str
    namespace: str
    qualifier: str
    version: str
    type: Literal["sync", "async"]
    trigger: str | None
    caused_by: str | None
    state: State
    status: int
    result: Any
    error: Any
    start: Literal["cold", "warm"] | None
    why_cold: str | None
    created_at: str | float
    started_at: str | float | None
    ended_at: str | float | None
    queue_ms: float
    start_ms: float
    run_ms: float
    billed_ms: int
    memory_bytes: int
    attempts: list[Any]
    log: str | bytes


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records; None: all. `since` and `until` are about `created_at`, seconds since the epoch, the second one excluded."""

    namespace: str | None = None
    function: str | None = None
    state: str | None = None
    type: str | None = None
    since: float | None = None
    until: float | None = None


class LogEntry(TypedDict):
    """What one call wrote. `cursor` numbers entries in the order they became visible; `status` is SCF's."""

    cursor: int
    request_id: str
    time: str
    status: int
    log: str


class UsageRow(TypedDict):
    """One function's day (UTC). `calls` were admitted, `failures` of them failed; `throttled` were refused for a limit."""

    namespace: str
    function: str
    day: str
    calls: int
    failures: int
    throttled: int
    gb_seconds: float
    billed_ms: int


DEFAULTS: Final[dict[str, Any]] = {
    "qualifier": "$LATEST",
    "version": "$LATEST",
    "type": "sync",
    "trigger": None,
    "caused_by": None,
    "state": "succeeded",
    "status": 200,
    "result": None,
    "error": None,
    "start": None,
    "why_cold": None,
    "created_at": 0.0,
    "started_at": None,
    "ended_at": None,
    "queue_ms": 0,
    "start_ms": 0,
    "run_ms": 0,
    "billed_ms": 0,
    "memory_bytes": 0,
    "log": "",
}


def new_record(request_id: str, function: str, namespace: str = "default", **fields: Any) -> dict[str, Any]:
    """A record with every key of `InvocationRecord`; `fields` override the defaults and may add keys.

    Times may be float seconds and the log bytes: `Recorder` writes them out.
    """
    return {"request_id": request_id, "function": function, "namespace": namespace, **DEFAULTS, "attempts": [], **fields}


def to_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `invocations`, `seq` apart. Raises KeyError, TypeError or ValueError for what is not a record.

    A result in bytes is what a sandbox sent: kept apart and verbatim, so that it can't break the record around it.
    """
    shown = dict(record)
    log = shown.pop("log", "")
    result = shown.pop("result") if isinstance(shown.get("result"), bytes) else None
    for key in TIMES:
        if (value := shown.get(key)) is not None and not isinstance(value, str):
            shown[key] = rfc3339(value)
    return {
        "request_id": str(record["request_id"]),
        "namespace": str(record["namespace"]),
        "function": str(record["function"]),
        "state": state_of(record),
        "type": str(record.get("type", DEFAULTS["type"])),
        "created_at": _seconds(record["created_at"]),
        "record": _dump(shown),
        "result": result,
        "log": log if isinstance(log, bytes) else str(log).encode(errors="backslashreplace"),
    }


def from_row(record: str, result: bytes | None, log: bytes) -> dict[str, Any]:
    """The record that `to_row` took apart; bytes of the log that are no UTF-8 appear as \\xNN."""
    loaded = parse_record(record)
    if result is not None:
        loaded["result"] = _parse_result(bytes(result))
    return loaded | {"log": bytes(log).decode(errors="backslashreplace")}


def parse_record(text: str) -> dict[str, Any]:
    """A record's text with the defaults of what was left out of it."""
    return {"request_id": "", "function": "", "namespace": "default", **DEFAULTS, "attempts": [], **_parse(text)}


def _parse(text: str) -> Any:
    """What `_dump` wrote: orjson where it can, the standard library for half surrogates."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _parse_result(body: bytes) -> Any:
    try:
        # Not orjson: it makes floats of integers beyond 64 bits.
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return UNREADABLE_RESULT


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def state_of(record: Mapping[str, Any]) -> str:
    return str(record.get("state", DEFAULTS["state"]))


def usage_of(record: Mapping[str, Any], memory_mb: int) -> UsageRow:
    """What one finished call adds to its function's day."""
    admitted = record.get("started_at") is not None
    billed_ms = int(record.get("billed_ms") or 0) if admitted else 0
    ended = record.get("ended_at")
    return {
        "namespace": str(record["namespace"]),
        "function": str(record["function"]),
        "day": utc_day(_seconds(record["created_at"] if ended is None else ended)),
        "calls": int(admitted),
        "failures": int(admitted and state_of(record) == "failed"),
        "throttled": int(not admitted and record.get("status") in THROTTLED_STATUSES),
        "gb_seconds": memory_mb / 1024 * billed_ms / 1000,
        "billed_ms": billed_ms,
    }


def _seconds(value: Any) -> float:
    return epoch(value) if isinstance(value, str) else float(value)


def _dump(value: dict[str, Any]) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, default=repr)
