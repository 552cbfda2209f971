"""rtnetlink(7), the few messages that connect one sandbox's network namespace: a veth, its port, address, neighbour, route.

Messages are bytes made by the functions below, `Netlink.call` sends some in one packet and waits until the kernel has done them all. The
numbers are those of <linux/rtnetlink.h>, <linux/if_link.h>, <linux/neighbour.h>. Done by hand, since pyroute2 takes three times the CPU
for them, in a thread that shares its interpreter lock with sandboxd's loop. What is not done for each sandbox it does, see links.py.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address
from typing import Final

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2

RTM_NEWLINK: Final = 16
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_NEWROUTE: Final = 24
RTM_NEWNEIGH: Final = 28

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
VETH_INFO_PEER: Final = 1
IFLA_BRPORT_ISOLATED: Final = 33
IFF_UP: Final = 1

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NUD_PERMANENT: Final = 0x80
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RTN_UNICAST: Final = 1
RTNH_F_ONLINK: Final = 4

_HEADER = struct.Struct("IHHII")
_IFINFO = struct.Struct("BxHiII")
_ANSWER_BYTES: Final = 65_536

#: (type, flags beside NLM_F_REQUEST and NLM_F_ACK, body)
Message = tuple[int, int, bytes]


class Netlink:
    """A NETLINK_ROUTE socket of the network namespace its maker was in, for one thread."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def call(self, *messages: Message) -> None:
        """Have them done in order. The kernel does the rest even when one fails; the first failure is raised as OSError."""
        packet = b""
        for kind, flags, body in messages:
            self._sequence += 1
            packet += _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0) + body
        self._sock.send(packet)
        codes: list[int] = []
        while len(codes) < len(messages):
            codes += _codes(self._sock.recv(_ANSWER_BYTES))
        if failed := next((code for code in codes if code), 0):
            raise OSError(-failed, os.strerror(-failed))


def _codes(data: bytes) -> list[int]:
    """The errno, negative, or 0 of each acknowledgement in a packet."""
    found, offset = [], 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind == NLMSG_ERROR:
            found.append(struct.unpack_from("i", data, offset + _HEADER.size)[0])
        offset += (length + 3) & ~3
    return found


# Messages -------------------------------------------------------------------------------------------------------------------


def veth(name: str, *, group: int = 0, peer: str, peer_mac: bytes, peer_namespace: int) -> Message:
    """A new pair, both ends down (neither can be up before the other is there), `peer` in the namespace of that descriptor. Links of a
    `group` can be removed together."""
    far = _ifinfo() + _name(peer) + _attribute(IFLA_ADDRESS, peer_mac) + _attribute(IFLA_NET_NS_FD, _u32(peer_namespace))
    info = _attribute(IFLA_INFO_KIND, b"veth\0") + _attribute(IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, far))
    body = _ifinfo() + _name(name) + _attribute(IFLA_GROUP, _u32(group)) + _attribute(IFLA_LINKINFO, info)
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body


def without_ipv6_address(name: str) -> Message:
    """No link-local address when the link comes up: IN6_ADDR_GEN_MODE_NONE."""
    mode = _attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return RTM_SETLINK, 0, _ifinfo() + _name(name) + _attribute(IFLA_AF_SPEC, _attribute(socket.AF_INET6, mode))


def enslaved(name: str, master: int) -> Message:
    """Make a link a port of the bridge of that index, still down."""
    return RTM_SETLINK, 0, _ifinfo() + _name(name) + _attribute(IFLA_MASTER, _u32(master))


def isolated(name: str) -> Message:
    """IFLA_BRPORT_ISOLATED: the bridge forwards nothing from this port to another isolated one. And up."""
    info = _attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0") + _attribute(IFLA_INFO_SLAVE_DATA, _attribute(IFLA_BRPORT_ISOLATED, b"\1"))
    return RTM_NEWLINK, 0, _ifinfo(IFF_UP) + _name(name) + _attribute(IFLA_LINKINFO, info)


def up(index: int) -> Message:
    return RTM_NEWLINK, 0, _ifinfo(IFF_UP, index=index)


def address(index: int, own: IPv4Address, bits: int) -> Message:
    body = struct.pack("BBBBI", socket.AF_INET, bits, 0, 0, index)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + _attribute(IFA_LOCAL, own.packed) + _attribute(IFA_ADDRESS, own.packed)


def neighbour(index: int, other: IPv4Address, mac: bytes) -> Message:
    """Permanent, so that nobody is asked who has the address, and it doesn't count for the table's limit (gc_thresh3)."""
    body = struct.pack("BxxxiHBB", socket.AF_INET, index, NUD_PERMANENT, 0, 0)
    return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body + _attribute(NDA_DST, other.packed) + _attribute(NDA_LLADDR, mac)


def default_route(index: int, gateway: IPv4Address) -> Message:
    """By a gateway that is taken to be on that link, whatever the link's own addresses."""
    body = struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, RTNH_F_ONLINK)
    return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body + _attribute(RTA_GATEWAY, gateway.packed) + _attribute(RTA_OIF, _u32(index))


def _ifinfo(flags: int = 0, *, index: int = 0) -> bytes:
    """struct ifinfomsg; `flags` are set, none is taken away."""
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _name(name: str) -> bytes:
    return _attribute(IFLA_IFNAME, name.encode() + b"\0")


def _u32(number: int) -> bytes:
    return struct.pack("I", number)
