"""Times: float seconds since the epoch inside, RFC 3339 in UTC with milliseconds outside."""

from __future__ import annotations

import time
from datetime import datetime


def rfc3339(seconds: float) -> str:
    """`2026-11-23T22:33:00.123Z`."""
    # Rounded once, as a whole number of milliseconds: 59.9996 s must carry into the minute.
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def epoch(text: str) -> float:
    """The inverse of `rfc3339`; raises ValueError for what is not an RFC 3339 time with a zone."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return parsed.timestamp()


def utc_day(seconds: float) -> str:
    """`2026-11-23`, the day in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
