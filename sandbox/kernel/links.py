"""Network links and the switches of /proc/sys/net, of the calling thread's network namespace.

Loopback is brought up by two ioctls (netdevice(7)), everything else goes by netlink.
"""

from __future__ import annotations

import errno
import fcntl
import re
import socket
import struct
from ipaddress import IPv4Address, IPv4Network

from sandbox.kernel import netlink

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


def delete(name: str) -> None:
    """Remove a link of this namespace, if it is there; its veth peer goes with it."""
    with netlink.Netlink() as socket_:
        try:
            socket_.call(netlink.deleted(name))
        except OSError:
            if name in names_with_prefix(name):
                raise


def delete_group(group: int) -> None:
    """Remove all links of a group in this namespace, if there are any."""
    with netlink.Netlink() as socket_:
        try:
            socket_.call(netlink.group_deleted(group))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def routes() -> list[tuple[str, IPv4Network]]:
    """(link, destination) of the main table's IPv4 routes, proc_net(5)."""
    found = []
    with open("/proc/thread-self/net/route") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            # both numbers are printed as this machine stores them
            address, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[column], 16))) for column in (1, 7))
            found.append((fields[0], IPv4Network(f"{address}/{mask}")))
    return found


def own_addresses() -> list[IPv4Address]:
    """Every IPv4 address of this namespace's own, proc_pid_net(5)'s fib_trie."""
    with open("/proc/thread-self/net/fib_trie") as file:
        return [IPv4Address(text) for text in re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", file.read())]


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
