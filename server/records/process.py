"""The writer of records as a process of its own, one beside each HTTP worker.

In the worker's own process, SQLAlchemy and the event loop hand the interpreter's lock to and fro at every system call: that cost a warm
call a third of its CPU (docs/decisions/0006). Between the two is a stream socket:

    worker  ── !I size, pickle of Settings ─────────────────────────────────▶  writer
            ── !I size, pickle of (again, outcomes as tuples, records) ─────▶          any number of times
            ◀── !I records dropped ──────────────────────────────────────────

The writer belongs to the recorder's thread that started it. End of file ends it, behind what it has in hand; when it dies itself, another
is started and gets the same batch again.
"""

from __future__ import annotations

import logging
import pickle
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from sandbox.log import pairs
from sandbox.settings import Settings
from server.records.outcome import Outcome
from server.records.writer import CLOSE_SECONDS, RETRY_SECONDS, Item

SIZE: Final = struct.Struct("!I")

_log = logging.getLogger(__name__)


class WriterGone(ConnectionError):
    """The writer's process ended in the middle of a batch."""


class WriterProcess:
    """A `Writer` that works elsewhere. Used by one thread; `start` spares the first batch its start-up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def start(self) -> None:
        """Raises OSError where no process can be made; `write` tries again."""
        self._sock = self._sock or self._start()

    def write(self, items: Sequence[Item]) -> int:
        """Commit these, however often the process must be started anew; how many had to be dropped."""
        again = False
        while True:
            try:
                return self._ask(_batch(items, again=again))
            except OSError as error:
                _log.error(pairs("the records' writer is gone, starting another", error=str(error)))
                self.close()
                again = True
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Let it end what it has in hand."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._process is not None:
            try:
                self._process.wait(2 * CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _ask(self, batch: bytes) -> int:
        sock = self._sock or self._start()
        sock.sendall(batch)
        dropped: int = SIZE.unpack(exactly(sock, SIZE.size))[0]
        return dropped

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "server.records", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._sock = ours
        ours.sendall(_framed(self._settings))  # not by its environment or arguments: a database's URL may hold a password
        return ours


def _batch(items: Sequence[Item], *, again: bool) -> bytes:
    """Outcomes as bare tuples: half the work on either side."""
    outcomes = [tuple(item) for item in items if isinstance(item, Outcome)]
    return _framed((again, outcomes, [item for item in items if not isinstance(item, Outcome)]))


def _framed(value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return SIZE.pack(len(data)) + data


def exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            raise WriterGone("the connection ended")
        parts += part
    return bytes(parts)
