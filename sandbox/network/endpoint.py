"""The one place of the host that sandboxes of the network `nat` may reach: SCF's interfaces and the bucket service, at the first
bridge's address, a port each.

sandboxd binds them and keeps them for as long as the firewall lets sandboxes through to them, so nobody else can be behind that address and
those ports; the processes that serve get the listening socket (`endpoint` in daemon/listener.py) and accept from it.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import Final

BACKLOG: Final = 1024


def listen(address: IPv4Address, port: int) -> socket.socket:
    """A listening TCP socket; `port` 0 is any free one. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Beside a former life's, which the API's processes may not have closed yet. The kernel allows it to the same uid only, root.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((str(address), port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
