"""SCF's times: `2026-11-23 22:33:00` in the server's own time zone, both ways."""

from __future__ import annotations

import time

from server.scf.errors import ScfError

FORMAT = "%Y-%m-%d %H:%M:%S"


def local_time(seconds: float) -> str:
    return time.strftime(FORMAT, time.localtime(seconds))


def epoch_of(text: str, code: str) -> float:
    """Raises ScfError with that code."""
    try:
        return time.mktime(time.strptime(text, FORMAT))
    except (ValueError, OverflowError) as error:
        raise ScfError(code, f"{text[:40]!a} is not a time as 2026-11-23 22:33:00") from error
