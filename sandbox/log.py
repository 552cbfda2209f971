"""One way to log for every process of ours: one line to stderr, `key=value` pairs behind the message."""

from __future__ import annotations

import logging
import sys
from typing import Any


def configure(process: str, level: str = "INFO") -> None:
    """Send records of all loggers to stderr, named after the process. Called once, by a composition root."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process}[%(process)d] %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def pairs(message: str, **values: Any) -> str:
    """`pairs("sandbox closed", id=3)` is 'sandbox closed id=3'; values with spaces are quoted."""
    shown = (f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in values.items())
    return " ".join((message, *shown))
