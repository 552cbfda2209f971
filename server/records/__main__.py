"""`python -m server.records FD`: the process that writes records, at its end of the socket (`process` has the drawing)."""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import sys

from sandbox.log import configure, pairs
from sandbox.settings import load
from server.records.journal import Journal
from server.records.process import SIZE, WriterGone, exactly
from server.records.writer import Writer
from server.store.engine import connect_database

_log = logging.getLogger(__name__)


def main() -> None:
    # A stop is told by end of file, behind the last batch; Ctrl-C reaches the whole foreground group at once.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = load()
    configure("records", settings.log_level)
    sock = socket.socket(fileno=int(sys.argv[1]))
    writer = Writer(Journal(connect_database(settings)), lambda: _has_hung_up(sock))
    while True:
        try:
            size = SIZE.unpack(exactly(sock, SIZE.size))[0]
            # Only our parent has the other end: what comes is as trusted as ourselves.
            again, items = pickle.loads(exactly(sock, size))
        except WriterGone:
            return
        dropped = writer.write(items, again=again)
        try:
            sock.sendall(SIZE.pack(dropped))
        except OSError as error:
            _log.warning(pairs("the worker is gone", error=os.strerror(error.errno or 0)))
            return


def _has_hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main()
