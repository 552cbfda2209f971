"""IPv4 ranges, destinations, resolvers and hosts as settings spell them. Pure parsing: ValueError says what is wrong with the text."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

#: What one bridge needs, see network/layout.py.
SMALLEST_RANGE_BITS: Final = 22


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a sandbox may connect to. `port` 0 is every port and protocol; otherwise TCP and UDP."""

    network: IPv4Network
    port: int = 0


def parse_range(text: str) -> IPv4Network | None:
    """The range of the sandboxes' addresses; None for the empty text, which leaves the choice to us."""
    if not text.strip():
        return None
    found = IPv4Network(text.strip())
    if found.prefixlen > SMALLEST_RANGE_BITS:
        raise ValueError(f"{text!r} is smaller than /{SMALLEST_RANGE_BITS}")
    return found


def parse_destinations(text: str) -> tuple[Destination, ...]:
    """A list of `address[/bits][:port]`, separated by commas or blanks."""
    return tuple(_destination(word) for word in text.replace(",", " ").split())


def _destination(word: str) -> Destination:
    address, colon, port = word.partition(":")
    if colon and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{word!r} has no port between 1 and 65535 behind its colon")
    return Destination(IPv4Network(address), int(port) if colon else 0)


def parse_addresses(text: str) -> tuple[IPv4Address, ...]:
    """A list of addresses, separated by commas or blanks."""
    return tuple(IPv4Address(word) for word in text.replace(",", " ").split())


def parse_bucket_hosts(text: str) -> dict[str, str]:
    """`host[:port]=bucket, …`: which bucket a host is."""
    found = {}
    for word in text.replace(",", " ").split():
        host, equals, bucket = word.rpartition("=")
        if not equals or not host or not bucket:
            raise ValueError(f"{word!r} is not host=bucket")
        found[host.lower()] = bucket
    return found
