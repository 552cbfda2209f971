"""Telling systemd how we are, sd_notify(3): a datagram to the socket named by NOTIFY_SOCKET. Without one nothing is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environ: Mapping[str, str] | None = None) -> None:
    """`state` is like "READY=1" or "WATCHDOG=1"; several are lines. Raises OSError where systemd has gone."""
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract name, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.send(state.encode())


def watchdog_seconds(environ: Mapping[str, str] | None = None) -> float:
    """How often to say WATCHDOG=1: half of what systemd waits, sd_watchdog_enabled(3); 0.0 where it doesn't.

    The watch is set on the service's main process: the launcher, whose child sandboxd is.
    """
    environ = os.environ if environ is None else environ
    try:
        microseconds, pid = int(environ.get("WATCHDOG_USEC", "0")), int(environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return 0.0
    return microseconds / 2e6 if not pid or pid in (os.getpid(), os.getppid()) else 0.0
