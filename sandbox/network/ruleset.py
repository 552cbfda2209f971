"""The firewall as text, nft(8): two tables of ours, both named by the instance's mark.

    bridge   each port may send from its own MAC and IPv4 address and nothing else: no ARP, no IPv6, no broadcast of any other kind
    ip       what sandboxes may reach, the way to their resolvers and to SCF's interfaces, nobody begins a connection to them, masquerade

The decision falls in prerouting, before anybody's DNAT: a published port of the host is judged by the address the sandbox asked for. TCP
is refused by a reset, since the kernel sends few ICMP errors a second and a function would wait for its own timeout. Tables of others
come to their own verdict beside ours: a host that drops what it forwards drops this too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from sandbox.addresses import Destination
from sandbox.network.layout import Layout, Port

TABLE_PREFIX: Final = "hearth_"

#: Nobody's business in a sandbox: this host, link-local and with it most metadata services, multicast, and the metadata services of
#: Alibaba, Azure and Oracle, which are elsewhere.
REFUSED: Final = (
    "0.0.0.0/8",
    "100.100.100.200",
    "127.0.0.0/8",
    "168.63.129.16",
    "169.254.0.0/16",
    "192.0.0.192",
    "224.0.0.0/3",
)

_DNS: Final = "meta l4proto { tcp, udp } th dport 53"


def table(instance: str) -> str:
    return f"{TABLE_PREFIX}{instance}"


def removal(instance: str) -> str:
    """Both tables gone, whether they are there or not."""
    return "".join(f"add table {family} {table(instance)}\ndelete table {family} {table(instance)}\n" for family in ("bridge", "ip"))


def bridge_table(layout: Layout) -> str:
    name, ports = table(layout.instance), f'"{layout.prefix}p*"'
    return f"""
table bridge {name} {{
    set senders {{ type ifname . ether_addr . ipv4_addr; }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname {ports} jump port
    }}
    chain port {{
        ether type ip iifname . ether saddr . ip saddr @senders accept
        drop
    }}
}}
"""


def senders(layout: Layout, ports: Iterable[Port]) -> str:
    """Who may send what, for the ports of one more bridge."""
    elements = ", ".join(f'"{port.name}" . {port.mac.hex(":")} . {port.address}' for port in ports)
    return f"add element bridge {table(layout.instance)} senders {{ {elements} }}\n"


def ip_table(
    layout: Layout,
    *,
    allowed: Sequence[Destination] = (),
    resolvers: Sequence[IPv4Address] = (),
    guarded: Sequence[str] = (),
    endpoints: Sequence[tuple[str, int]] = (),
) -> str:
    """The table new, in one transaction. `guarded` are links that forward only because of us: nothing but ours goes through them.
    `endpoints` are addresses and TCP ports of the host's that are open, see endpoint.py."""
    name, bridges = table(layout.instance), f'"{layout.prefix}b*"'
    pairs = [(layout.resolver(index), resolver) for index, resolver in enumerate(resolvers)]
    return f"""
add table ip {name}
delete table ip {name}
table ip {name} {{
    chain prerouting {{
        type filter hook prerouting priority -150; policy accept;
        iifname {bridges} jump sandbox
    }}
    chain sandbox {{
        ip saddr != {layout.range} drop
        {_lines(f"ip daddr {seen} {_DNS} accept" for seen, _ in pairs)}
        {_lines(map(_accepted, allowed))}
        {_lines(f"ip daddr {address} tcp dport {port} accept" for address, port in endpoints)}
        fib daddr type != unicast goto refused
        ip daddr {{ {", ".join((str(layout.range), *_outside(layout)))} }} goto refused
    }}
    chain refused {{
        meta l4proto tcp reject with tcp reset
        reject with icmp type admin-prohibited
    }}
    chain resolvers {{
        type nat hook prerouting priority -100; policy accept;
        {_lines(f"iifname {bridges} ip daddr {seen} {_DNS} dnat to {resolver}" for seen, resolver in pairs)}
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname {bridges} ct state invalid drop
        oifname {bridges} ct state != {{ established, related }} drop
        {_lines(f'iifname "{link}" oifname != "hth*" drop' for link in guarded)}
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {layout.range} oifname != {bridges} masquerade
    }}
}}
"""


def _outside(layout: Layout) -> list[str]:
    """The refused ones that a chosen range doesn't cover already: intervals of a set must not overlap."""
    return [text for text in REFUSED if not IPv4Network(text).overlaps(layout.range)]


def _accepted(destination: Destination) -> str:
    port = f" meta l4proto {{ tcp, udp }} th dport {destination.port}" if destination.port else ""
    return f"ip daddr {destination.network}{port} accept"


def _lines(lines: Iterable[str]) -> str:
    return "\n        ".join(lines)
