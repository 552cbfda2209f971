"""The host's resolvers, as far as a sandbox can use them.

A resolver on 127.0.0.x (systemd-resolved's stub, a local dnsmasq) serves the host alone; systemd-resolved tells in a file of its own whom
it asks. Where nothing is left, names are not resolved in sandboxes, which the log and the doctor say: we send nobody's names to a resolver
that the host's owner has not chosen. IPv6 resolvers are left out, sandboxes have IPv4 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from sandbox.network.layout import RESOLVERS, Layout

FILES: Final = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


def usable(text: str) -> tuple[IPv4Address, ...]:
    """From the text of a resolv.conf(5): the first three that can be reached from elsewhere."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = IPv4Address(words[1])
            except AddressValueError:
                continue
            if not address.is_loopback and not address.is_unspecified:
                found.append(address)
    return tuple(found[:RESOLVERS])


def of_host(files: Sequence[str] = FILES) -> tuple[IPv4Address, ...]:
    """Of the first file that names a usable one."""
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = usable(file.read())
        except OSError:
            continue
        if found:
            return found
    return ()


def resolv_conf(layout: Layout, count: int) -> str:
    """What sandboxes have at /etc/resolv.conf: addresses of ours, so that it never changes and tells nothing of the host."""
    return "".join(f"nameserver {layout.resolver(index)}\n" for index in range(max(1, count)))
