"""`python -m server.records FD`: the process that writes records, at its end of the socket (`process` has the drawing)."""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import sys
from typing import Any

from sandbox.log import configure, pairs
from server.records.journal import Journal
from server.records.outcome import Outcome
from server.records.process import SIZE, WriterGone, exactly
from server.records.writer import Writer
from server.store.engine import connect_database

_log = logging.getLogger(__name__)


def main() -> None:
    # A stop is told by end of file, behind the last batch; Ctrl-C reaches the whole foreground group at once.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        settings = _received(sock)
        configure("records", settings.log_level)
        writer = Writer(Journal(connect_database(settings)), lambda: _has_hung_up(sock))
        while True:
            again, outcomes, recorded = _received(sock)
            items = [*(Outcome._make(values) for values in outcomes), *recorded]
            sock.sendall(SIZE.pack(writer.write(items, again=again)))
    except WriterGone:
        return
    except OSError as error:
        _log.warning(pairs("the worker is gone", error=os.strerror(error.errno or 0)))


def _received(sock: socket.socket) -> Any:
    """Only our parent has the other end: what comes is as trusted as ourselves. Raises WriterGone at its end."""
    size: int = SIZE.unpack(exactly(sock, SIZE.size))[0]
    return pickle.loads(exactly(sock, size))


def _has_hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main()
