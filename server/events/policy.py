"""When an event is tried again (SCF's rules, scf-interface.md section 9). Pure: statuses and times in, a verdict out.

    what the attempt came to                        again
    430 433 434 437 439 443 446 450 407             `retries` more times, one interval apart: an error of the function
    432 429 · 449 500 and everything unknown        one interval apart, without using up a retry, until the event is `ttl` seconds old
    400 401 404 406 435 436 438 441 442 499         not: the call itself is wrong, or was cancelled
An event that became too old while it waited, for its turn or for room, expires without running again; one that waits for its retry after
an error of the function gets that retry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SUCCESS: Final = 200
CANCELLED: Final = 499
FUNCTION_ERRORS: Final = frozenset({407, 430, 433, 434, 437, 439, 443, 444, 445, 446, 447, 450})
CALLER_ERRORS: Final = frozenset({400, 401, 404, 405, 406, 410, 435, 436, 438, 441, 442})
#: SCF's status of a call that is wrong in itself; nothing else fits an event that is refused here.
CALLER_ERROR: Final = 400
#: Shown for an event that became too old before anything had been tried: SCF's InsufficientResources.
NEVER_TRIED: Final = 449


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome` "retried": at `due_at`, with `tries` used up by then."""

    outcome: Literal["succeeded", "failed", "cancelled", "expired", "retried"]
    due_at: float = 0.0
    tries: int = 0


def judge(status: int, *, tries: int, now: float, deadline: float, retries: int, interval_seconds: float) -> Verdict:
    """What becomes of an event after an attempt that ended with SCF's `status`; `tries` errors of the function came before."""
    if status == SUCCESS:
        return Verdict("succeeded")
    if status == CANCELLED:
        return Verdict("cancelled")
    if status in CALLER_ERRORS:
        return Verdict("failed")
    if status in FUNCTION_ERRORS:
        return Verdict("failed") if tries >= retries else Verdict("retried", now + interval_seconds, tries + 1)
    if now >= deadline:
        return Verdict("expired")
    # Not beyond its deadline: at that moment it is told to have expired, not an interval later.
    return Verdict("retried", min(now + interval_seconds, deadline), tries)


def expired(last_status: int | None, *, now: float, deadline: float) -> bool:
    """Whether an event that is due now has waited too long to run. `last_status`: its last attempt's, None before the first."""
    return now >= deadline and last_status not in FUNCTION_ERRORS
