"""Whether functions can have the network `nat` here: all of it tried in a network namespace of the doctor's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv4Network
from typing import Final

from sandbox.addresses import parse_addresses
from sandbox.doctor.model import Check, judged, reason_of
from sandbox.kernel import constants as k
from sandbox.kernel import links, netlink, process
from sandbox.kernel.nftables import Nftables
from sandbox.network import layout, resolvers, ruleset
from sandbox.network.layout import Layout
from sandbox.settings import Settings

GROUP: Final = "network"
_NEEDS: Final = "veth, bridge, nftables, libnftables1"
_WITHOUT: Final = "functions that ask for nat get the loopback only"
_NAT: Final = "network `nat`"


def checks(conf: Settings) -> Iterator[Check]:
    if not conf.nat:
        yield Check(GROUP, _NAT, _NEEDS, "weaker", "switched off: HEARTH_NAT", _WITHOUT)
        return
    with ThreadPoolExecutor(1) as thread:  # not in a child, as other probes are: pyroute2 never comes after a fork
        reason = reason_of(thread.submit(_everything).result)
    yield judged(GROUP, _NAT, _NEEDS, holds=not reason, found=reason or "works", without=_WITHOUT)
    if reason:
        return
    found = parse_addresses(conf.nat_dns) or resolvers.of_host()
    without = "names are not resolved in sandboxes: set HEARTH_NAT_DNS"
    shown = ", ".join(map(str, found)) or "only what serves the host alone"
    yield judged(
        GROUP, "names resolved in sandboxes", "a resolver not on 127.0.0.x", holds=bool(found), found=shown, without=without, required=False
    )
    dropping = _dropping_chains()
    without = "the host's own firewall has the last word: let it forward what comes from and goes to hth*"
    shown = ", ".join(dropping) or "none here"
    yield judged(
        GROUP, "way through the host", "no chain that drops by policy", holds=not dropping, found=shown, without=without, required=False
    )


def _everything() -> None:
    """What sandbox/network/nat.py will do, in a namespace that the calling thread enters; nothing remains of it after the thread."""
    process.unshare(k.CLONE_NEWNET)
    plan = Layout("00000000", IPv4Network("10.0.0.0/16"))
    port = plan.port(0)
    with Nftables() as nft, netlink.Netlink() as host:
        gateway = IPv4Interface((plan.gateway(0), layout.BRIDGE_BITS))
        bridge = links.add_bridge(plan.bridge_name(0), mac=plan.bridge_mac(0), gateway=gateway)
        links.write_switch(f"ipv4/conf/{plan.bridge_name(0)}/forwarding", "1")
        nft.run(ruleset.bridge_table(plan) + ruleset.senders(plan, [port]) + ruleset.ip_table(plan, resolvers=[plan.gateway(0)]))
        process.unshare(k.CLONE_NEWNET)
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            host.call(
                netlink.veth(port.name, peer=layout.INTERFACE, peer_mac=port.mac, peer_namespace=namespace),
                netlink.enslaved(port.name, bridge),
                netlink.isolated(port.name),
            )
        finally:
            os.close(namespace)


def _dropping_chains() -> list[str]:
    """`table/chain` of base chains of the forward hook, not ours, that drop what no rule accepts."""
    try:
        with Nftables() as nft:
            text = nft.run("list chains")
    except OSError:
        return []
    found, table = [], ""
    for block in re.finditer(r"^table \S+ (\S+) \{|^\tchain (\S+) \{\n\t\ttype filter hook forward [^\n]*policy drop;", text, re.MULTILINE):
        table = block[1] or table
        if block[2] and not table.startswith(ruleset.TABLE_PREFIX):
            found.append(f"{table}/{block[2]}")
    return found
