"""One way to log for every process of ours: to the journal with fields where systemd reads our stderr, else one line there,
`key=value` pairs behind the message.

Fields: MESSAGE, PRIORITY, SYSLOG_IDENTIFIER (the process's name), LOGGER, HEARTH_REQUEST_ID and the like for what `pairs` or `extra` name.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any

STDERR = 2
JOURNAL = "/run/systemd/journal/socket"
#: syslog(3)'s numbers.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
#: What `extra` may name.
_EXTRA = ("request_id", "function")


class Pairs(str):
    """A message that knows the values in it."""

    __slots__ = ("values",)
    values: dict[str, Any]


def configure(process: str, level: str = "INFO") -> None:
    """Send records of all loggers to the journal or to stderr, named after the process. Called once, by a composition root."""
    handler: logging.Handler = JournalHandler(process) if is_journal(STDERR, os.environ) else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process}[%(process)d] %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def pairs(message: str, **values: Any) -> str:
    """`pairs("sandbox closed", id=3)` is 'sandbox closed id=3'; values with spaces are quoted."""
    shown = (f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in values.items())
    told = Pairs(" ".join((message, *shown)))
    told.values = values
    return told


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether the journal reads this descriptor: systemd.exec(5), JOURNAL_STREAM is its device and inode."""
    status = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Speaks the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram an entry."""

    def __init__(self, process: str, path: str = JOURNAL) -> None:
        super().__init__()
        self._process = process
        self._path = path
        self._plain = logging.Formatter("%(message)s")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = entry(self._fields(record))
            try:
                self._sock.sendto(data, self._path)
            except OSError:
                # Too long for a datagram, or journald is being restarted: stderr is its pipe, and waits.
                sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        given = dict(record.msg.values) if isinstance(record.msg, Pairs) else {}
        given |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        return {
            "MESSAGE": self._plain.format(record),
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": f"hearth-{self._process}",
            "LOGGER": record.name,
            **{f"HEARTH_{name.upper()}": str(value) for name, value in given.items()},
        }

    def close(self) -> None:
        self._sock.close()
        super().close()


def entry(fields: Mapping[str, str]) -> bytes:
    """One entry as it travels: `NAME=value`, or for a value with line breaks the name, its length in 64 bits, and the value."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="surrogateescape")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)
