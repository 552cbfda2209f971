"""Names and addresses of an instance's network, all of them computed from its mark, a range and a number: nothing to keep, nothing to lose.

range, default a /16:   bridge 0: the first 1024 addresses, bridge 1: the next …, one bridge for every 1000 sandboxes
of 1024:                0 the subnet · 1 the bridge itself · 16 … 1015 sandboxes · 1023 broadcast
of the first 1024:      1 … 3 also the resolvers that sandboxes see, see ruleset.py

hth<5 digits of the mark>b<bridge>      a bridge                        MAC 02:<6 digits of the mark>:ff:<bridge>
hth<5 digits of the mark>p<number>      the host's end of a veth        MAC of the far end 02:<6 digits>:<number, two bytes>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

#: A Linux bridge has at most 1024 ports, BR_MAX_PORTS of net/bridge/br_private.h.
PORTS_A_BRIDGE: Final = 1000
BRIDGE_BITS: Final = 22
FIRST_PORT: Final = 16
MAX_BRIDGES: Final = 9
RESOLVERS: Final = 3
INTERFACE: Final = "eth0"

#: Private ranges, RFC 1918 and RFC 6598, the one with most room first.
_CANDIDATES: Final = ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10")
_CANDIDATE_BITS: Final = 16


def link_prefix(instance: str) -> str:
    """Names of links are at most 15 bytes: `hth`, five digits of the instance, the rest a letter and a number."""
    return f"hth{instance[:5]}"


def link_group(instance: str) -> int:
    """The group of the instance's veths: a number that nobody gives by hand, and never 0."""
    return 0x68000000 | int(instance[:6], 16)


def candidates(instance: str) -> Iterator[IPv4Network]:
    """Every private /16, in each block from a place of the instance's own, so that two instances rarely begin with the same one."""
    for block in map(IPv4Network, _CANDIDATES):
        found = list(block.subnets(new_prefix=_CANDIDATE_BITS))
        start = int(instance, 16) % len(found)
        yield from found[start:] + found[:start]


@dataclass(frozen=True, slots=True)
class Port:
    """One sandbox's connection."""

    name: str
    mac: bytes
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one instance (its mark of eight hexadecimal digits) in one range."""

    instance: str
    range: IPv4Network

    @property
    def prefix(self) -> str:
        return link_prefix(self.instance)

    @property
    def bridges(self) -> int:
        """The most there can be."""
        return min(MAX_BRIDGES, 1 << (BRIDGE_BITS - self.range.prefixlen))

    def bridge_name(self, bridge: int) -> str:
        return f"{self.prefix}b{bridge}"

    def bridge_mac(self, bridge: int) -> bytes:
        return self._mac(0xFF00 + bridge)

    def gateway(self, bridge: int) -> IPv4Address:
        return self._address(bridge, 1)

    def resolver(self, index: int) -> IPv4Address:
        """The address at which a sandbox finds the host's resolver number `index`, 0 to 2."""
        return self._address(0, 1 + index)

    def port(self, number: int) -> Port:
        bridge, place = divmod(number, PORTS_A_BRIDGE)
        return Port(f"{self.prefix}p{number}", self._mac(number), self._address(bridge, FIRST_PORT + place))

    def ports(self, bridge: int) -> list[Port]:
        return [self.port(number) for number in range(bridge * PORTS_A_BRIDGE, (bridge + 1) * PORTS_A_BRIDGE)]

    def _address(self, bridge: int, place: int) -> IPv4Address:
        return self.range.network_address + ((bridge << (32 - BRIDGE_BITS)) + place)

    def _mac(self, number: int) -> bytes:
        return b"\x02" + bytes.fromhex(self.instance[:6]) + number.to_bytes(2, "big")
