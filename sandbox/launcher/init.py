"""PID 1 of an exec'd sandbox, host side: it reaps, takes one order (to kill all, by end of file), reports the worker's end.

Its counterpart inside an image is in guest/zygote.py; both speak the same messages on the control socket:
    to sandboxd    {"op": "ready"} {"op": "error", …} {"op": "exited", "status": n}
    from sandboxd  end of file: kill all, exit
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket


def report(control: socket.socket, message: dict[str, object]) -> None:
    """Tell sandboxd; if it is gone there is nobody to tell and the next read sees end of file."""
    try:
        control.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except OSError:
        os._exit(EXIT_NO_SANDBOXD)


EXIT_NO_SANDBOXD = 72


def reap_until_end(control: socket.socket, worker: int) -> None:
    """Serve as PID 1 until the worker ends or sandboxd lets go; never returns."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # pid_namespaces(7): the only signal with a handler reaches PID 1
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    status = _reap(worker)
    while status is None:
        ready, _, _ = select.select([control.fileno(), read_end], [], [])
        if read_end in ready:
            os.read(read_end, 4096)
        if control.fileno() in ready and not control.recv(1):
            break
        status = _reap(worker)
    if status is not None:
        report(control, {"op": "exited", "status": status})
    os._exit(0)  # the kernel kills the rest of the namespace, pid_namespaces(7)


def _reap(worker: int) -> int | None:
    """Collect every dead child; the worker's wait status if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == worker:
            found = status
