"""What an attempt came to, as the parts of a settlement. Pure: calls and times in, data out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from server.errors import ApiError
from server.events import deadletters
from server.events.model import MAX_HOPS, Event, EventSettings, Outcome, Settlement, final_record, queue_ms
from server.events.policy import CALLER_ERROR, CANCELLED, FUNCTION_ERRORS, NEVER_TRIED, Verdict
from server.records.model import usage_of
from server.store.times import epoch, rfc3339

#: The last attempt's fields that an event's record takes over; the others are the event's own.
_FROM_RECORD: Final = ("version", "result", "error", "start", "why_cold", "log", "runtime", "memory_bytes") + (
    *("started_at", "ended_at"),
    *("start_ms", "run_ms", "billed_ms"),
)
#: What `attempts` keeps of each.
_SHOWN: Final = ("start", "start_ms", "run_ms", "billed_ms", "memory_bytes")
#: Of an error's message in `attempts`.
MAX_ERROR: Final = 300


def attempt_of(event: Event, record: dict[str, Any], status: int, *, ended_at: float) -> dict[str, Any]:
    """One entry of a record's `attempts`."""
    entry: dict[str, Any] = {"number": len(event.attempts) + 1, "status": status, "dispatcher": event.owner}
    entry["started_at"] = rfc3339(event.claimed_at or ended_at)
    entry["ended_at"] = rfc3339(ended_at)
    if record.get("started_at") is not None:
        entry |= {name: record[name] for name in _SHOWN}
    if record.get("error"):
        entry["error"] = {"code": record["error"]["code"], "message": record["error"]["message"][:MAX_ERROR]}
    return entry


def merged(attempts: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The list with one more; refusals of the same kind in a row are one entry with their `count`: there may be hundreds."""
    last = attempts[-1] if attempts else None
    same = last is not None and "start" not in entry and "start" not in last and last["status"] == entry["status"] == last.get("status")
    if same and last is not None and last.get("error", {}).get("code") == entry.get("error", {}).get("code"):
        return [*attempts[:-1], {**last, "ended_at": entry["ended_at"], "count": last.get("count", 1) + 1}]
    return [*attempts, entry]


def failed_tries(event: Event, status: int) -> int:
    """SCF's RetryNum of an event that ends now: attempts after the first that really failed."""
    return max(0, event.tries + int(status in FUNCTION_ERRORS) - 1)


def of_refusal(error: ApiError, *, now: float) -> dict[str, Any]:
    """The attempt's record where there was no function to call."""
    return {"error": {"code": error.code, "message": error.detail}, "ended_at": now, "started_at": None}


def settlement(
    event: Event, settings: EventSettings, record: dict[str, Any], status: int, verdict: Verdict, *, memory_mb: int, now: float
) -> Settlement:
    """After an attempt: over, or again. `record` is the attempt's (`record_of`), or at least error, started_at, ended_at."""
    attempts = merged(event.attempts, attempt_of(event, record, status, ended_at=now))
    ran = record.get("started_at") is not None
    usage = (
        usage_of({**record, "namespace": event.namespace, "function": event.function, "created_at": event.created_at}, memory_mb)
        if ran
        else None
    )
    if verdict.outcome == "retried":
        return Settlement(
            event=event, outcome="retried", status=status, attempts=attempts, due_at=verdict.due_at, tries=verdict.tries, usage=usage
        )
    return over(event, settings, record, status, verdict.outcome, attempts, usage=usage, now=now)


def over(
    event: Event,
    settings: EventSettings,
    record: dict[str, Any],
    status: int,
    outcome: Outcome,
    attempts: list[dict[str, Any]],
    *,
    now: float,
    usage: Any = None,
) -> Settlement:
    """The end of an event: its record, and its dead letter where it ended badly."""
    fields: dict[str, Any] = {name: record[name] for name in _FROM_RECORD if name in record}
    fields["queue_ms"] = queue_ms(event, _first_run(event, record))
    fields.setdefault("ended_at", now)
    final = final_record(event, state=outcome, status=status, attempts=attempts, **fields)
    dead = None
    if outcome in ("failed", "expired"):
        retries = failed_tries(event, status)
        dead = deadletters.row_of(event, settings, state=outcome, status=status, error=final["error"] or {}, retries=retries, now=now)
    return Settlement(event=event, outcome=outcome, status=status, attempts=attempts, record=final, dead=dead, usage=usage)


def expiry(event: Event, settings: EventSettings, *, now: float) -> Settlement:
    """It waited too long."""
    last = event.attempts[-1] if event.attempts else None
    why = f", the last attempt was refused with {last['status']}" if last else " and nothing could be tried"
    error = {"code": "event_expired", "message": f"it waited longer than {settings.ttl} s{why}"}
    status = last["status"] if last else NEVER_TRIED
    return over(event, settings, {"error": error, "ended_at": now}, status, "expired", event.attempts, now=now)


def cancellation(event: Event, settings: EventSettings, *, now: float) -> Settlement:
    """It was cancelled before it ran, or between two attempts."""
    error = {"code": "cancelled", "message": "the event was cancelled"}
    return over(event, settings, {"error": error, "ended_at": now}, CANCELLED, "cancelled", event.attempts, now=now)


def too_many_hops(event: Event, settings: EventSettings, *, now: float) -> Settlement:
    """Events that make events have gone on for long enough: it isn't run. Its dead letter makes no event either, or that would go on."""
    if settings.target_type == "function":
        settings = replace(settings, target_type="none", target="")
    message = f"stopped after {event.hops} calls that led to each other, limit {MAX_HOPS}: does the function write to what triggers it?"
    record = {"error": {"code": "too_many_hops", "message": message}, "ended_at": now}
    attempts = merged(event.attempts, attempt_of(event, record, CALLER_ERROR, ended_at=now))
    return over(event, settings, record, CALLER_ERROR, "failed", attempts, now=now)


def lost(event: Event, *, now: float) -> Settlement:
    """Its dispatcher is gone: nobody knows whether it ran to its end, so it runs again at once."""
    error = {"code": "dispatcher_lost", "message": f"its dispatcher {event.owner} went away during the attempt"}
    entry = attempt_of(event, {"error": error}, 500, ended_at=now)
    return Settlement(event=event, outcome="retried", status=500, attempts=merged(event.attempts, entry), due_at=now, tries=event.tries)


def _first_run(event: Event, record: dict[str, Any]) -> float:
    """When the first attempt that really ran began; now where none did."""
    for attempt in event.attempts:
        if "start" in attempt:
            return epoch(attempt["started_at"])
    return event.claimed_at or record.get("ended_at") or event.ready_at
