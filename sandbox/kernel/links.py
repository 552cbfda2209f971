"""Network links: loopback by two ioctls (netdevice(7)), everything else by netlink through pyroute2, imported where it is used.

`import pyroute2` costs a quarter of a second and starts an asyncio machinery: never on a request path or after a fork.
"""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def bring_up_loopback() -> None:
    """Set IFF_UP on `lo` of the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def names_with_prefix(prefix: str) -> list[str]:
    """Names of this namespace's links that start with `prefix`."""
    return [name for _, name in socket.if_nameindex() if name.startswith(prefix)]


def delete(name: str) -> None:
    """Remove a link of this namespace; its veth peer goes with it."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=name):
            ip.link("del", index=index)
