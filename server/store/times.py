"""Times: float seconds since the epoch inside, RFC 3339 in UTC with milliseconds outside."""

from __future__ import annotations

import time
from datetime import datetime
from functools import lru_cache


def rfc3339(seconds: float) -> str:
    """`2026-11-23T22:33:00.123Z`."""
    # Rounded once, as a whole number of milliseconds: 59.9996 s must carry into the minute.
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(maxsize=256)  # a busy second is asked for thousands of times
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def epoch(text: str) -> float:
    """The inverse of `rfc3339`; raises ValueError for what is not an RFC 3339 time with a zone."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return parsed.timestamp()


def utc_day(seconds: float) -> str:
    """`2026-11-23`, the day in UTC."""
    return _second(int(seconds // 1))[:10]
