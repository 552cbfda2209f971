"""Ranges, destinations, resolvers, proxies, hosts and URLs as settings spell them. Pure parsing: ValueError says what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from posixpath import normpath
from typing import Final

#: What one bridge needs, see network/layout.py.
SMALLEST_RANGE_BITS: Final = 22
_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", re.ASCII)
_DOMAIN = re.compile(r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)


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


def parse_directories(text: str) -> tuple[str, ...]:
    """A list of absolute paths, separated by commas."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for path in found:
        if not path.startswith("/") or normpath(path) != path:
            raise ValueError(f"{path!r} is no absolute path without .. and empty parts")
    return found


def parse_bucket_hosts(text: str) -> dict[str, str]:
    """`host[:port]=bucket, …`: which bucket a host is."""
    found = {}
    for word in text.replace(",", " ").split():
        host, equals, bucket = word.rpartition("=")
        if not equals or not host or not bucket:
            raise ValueError(f"{word!r} is not host=bucket")
        found[host.lower()] = bucket
    return found


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """A list of addresses and networks of either kind, separated by commas or blanks."""
    return tuple(ip_network(word) for word in text.replace(",", " ").split())


def parse_url(text: str) -> str:
    """The address of a server, perhaps with a path; the empty text is none."""
    if text and _URL.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no address of a server, as https://functions.example.org")
    return text


def parse_domain(text: str) -> str:
    """A domain's name in lower case, without a port; the empty text is none."""
    if text and _DOMAIN.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no domain in lower case, as fn.example.org")
    return text
