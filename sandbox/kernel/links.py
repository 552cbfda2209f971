"""Network links and the switches of /proc/sys/net, of the calling thread's network namespace.

Loopback is brought up by two ioctls (netdevice(7)), names are asked from the C library: both for each sandbox, or for hundreds of links.
What is done once goes by pyroute2. Its import costs a quarter of a second and 16 MB, and each call runs an asyncio loop: so it is imported
where it is used, never on a request path, never after a fork, and never used in a thread whose own loop is running.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from sandbox.kernel.netlink import RT_TABLE_MAIN

if TYPE_CHECKING:
    from pyroute2 import IPRoute

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


def index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def add_bridge(name: str, *, mac: bytes, gateway: IPv4Interface) -> int:
    """A new bridge, up, with that address; its index."""
    with _iproute() as ip:
        ip.link("add", ifname=name, kind="bridge", address=mac.hex(":"), state="up")
        index = index_of(name)
        ip.addr("add", index=index, family=socket.AF_INET, address=str(gateway.ip), prefixlen=gateway.network.prefixlen)
        return index


def delete(name: str) -> None:
    """Remove a link of this namespace, if it is there; a veth's peer goes with it. 20 ms: the kernel waits until nobody looks at it."""
    with _if_there(), _iproute() as ip:
        ip.link("del", ifname=name)


def delete_group(group: int) -> None:
    """Remove all links of a group in this namespace, if there are any, at the price of one. Never group 0, which everybody is in."""
    assert group
    with _if_there(), _iproute() as ip:
        ip.link("del", group=group)


def routes() -> list[tuple[str, IPv4Network]]:
    """(link, destination) of the main table's IPv4 routes, one for each next hop; the link is "" where a route leads to none."""
    found = []
    with _iproute() as ip:
        for route in ip.get_routes(family=socket.AF_INET, table=RT_TABLE_MAIN):
            destination = IPv4Network(f"{route.get('dst') or '0.0.0.0'}/{route['dst_len']}")
            hops = [hop["oif"] for hop in route.get("multipath") or ()] or [route.get("oif") or 0]
            found += [(_name_of(index), destination) for index in hops]
    return found


def own_addresses() -> list[IPv4Address]:
    """Every IPv4 address of this namespace's own."""
    with _iproute() as ip:
        return [IPv4Address(address.get("local") or address.get("address")) for address in ip.get_addr(family=socket.AF_INET)]


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""  # a blackhole's 0, or gone since


@contextlib.contextmanager
def _iproute() -> Iterator[IPRoute]:
    """A socket of the calling thread's network namespace, whose errors are OSErrors.

    It runs an event loop of its own, which asyncio refuses in a thread that has one running already.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def read_switch(name: str) -> str | None:
    """A value below /proc/sys/net, such as `ipv4/ip_forward`; None where the kernel has no such switch, or the link is gone."""
    try:
        with open(f"/proc/sys/net/{name}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write_switch(name: str, value: str) -> None:
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)


def switch_if_there(name: str, value: str) -> None:
    """Write it where the kernel has it: a host may be without IPv6."""
    if read_switch(name) is not None:
        write_switch(name, value)
