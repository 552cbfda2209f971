"""The instance's own part of the host's network: bridges, the firewall, forwarding; and the connecting of one namespace to it.

    sandbox  eth0 ──veth── hth…pN ─┬ isolated ports
                                   ├─ hth…b0 (gateway) ── host: prerouting filter, DNAT of DNS, forward, masquerade ── uplink
    sandbox  eth0 ──veth── hth…pM ─┘

From `start` to `stop` one thread uses it, that of namespaces.py, which has no event loop running (see links.py). Who has which port is
not kept: the kernel removes a veth when its namespace dies, so what is free is what isn't there. Ports are used in turn, so that an address
comes back as late as possible: connections of its former owner may still be tracked.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Final

from sandbox.addresses import parse_addresses, parse_destinations, parse_range
from sandbox.errors import ConfigError
from sandbox.kernel import links, netlink
from sandbox.kernel.nftables import Nftables
from sandbox.network import endpoint, forwarding, layout, resolvers, ruleset
from sandbox.network.forwarding import Forwarding
from sandbox.network.layout import PORTS_A_BRIDGE, Layout, Port
from sandbox.settings import Settings

_log = logging.getLogger(__name__)

#: With fewer free than this, another bridge is made.
ENOUGH_FREE: Final = 200


@dataclass(slots=True)
class _Applied:
    """What the ip table was made from."""

    resolvers: tuple[IPv4Address, ...]
    guarded: tuple[str, ...]


class Nat:
    """`start` it once; OSError or ConfigError says why it can't be had here, and then nothing is left."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._allowed = parse_destinations(settings.nat_allow)
        self._chosen = parse_addresses(settings.nat_dns)[: layout.RESOLVERS]
        self._forwarding = Forwarding()
        self._bridges: list[int] = []  # the index of each one's link
        self._free: deque[int] = deque()
        self._last = -1
        self._has_ipv6 = links.read_switch("ipv6/conf/all/disable_ipv6") is not None
        self._netlink: netlink.Netlink
        self._nft: Nftables
        self._layout: Layout
        self._applied = _Applied((), ())
        #: Listen where sandboxes reach SCF's interfaces (`scf`) and the bucket service (`buckets`).
        self.endpoints: dict[str, socket.socket] = {}

    # -- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with contextlib.ExitStack() as stack:
            self._nft = stack.enter_context(Nftables())
            self._netlink = stack.enter_context(netlink.Netlink())
            stack.callback(sweep, self._settings.instance)
            self._forwarding.hold()
            stack.callback(self._forwarding.release)
            self._layout = self._choose()
            stack.callback(self._close_endpoints)
            self._open_endpoints()
            self._apply_everything()
            stack.pop_all()
        _log.info("network nat: %s, resolvers %s", self._layout.range, _listed(self._applied.resolvers) or "none")
        if not self._applied.resolvers:
            _log.error("no resolver of this host can be reached from a sandbox: names are not resolved there; set HEARTH_NAT_DNS")

    def stop(self) -> None:
        """After the last sandbox: links, firewall and forwarding as they were."""
        self._close_endpoints()
        self._netlink.close()
        self._nft.close()
        self._forwarding.release()
        sweep(self._settings.instance)

    def describe(self) -> dict[str, Any]:
        resolvers = [str(address) for address in self._applied.resolvers]
        return {
            "range": str(self._layout.range),
            "bridges": len(self._bridges),
            "resolvers": resolvers,
            "api": self.api,
            "buckets": self.addresses.get("buckets", ""),
        }

    @property
    def api(self) -> str:
        """ADDRESS:PORT of SCF's interfaces as sandboxes reach them; "" where they can't."""
        return self.addresses.get("scf", "")

    @property
    def addresses(self) -> dict[str, str]:
        """ADDRESS:PORT of each endpoint there is."""
        return {of: "{}:{}".format(*sock.getsockname()) for of, sock in self.endpoints.items()}

    @property
    def resolv_conf(self) -> str:
        return resolvers.resolv_conf(self._layout, len(self._applied.resolvers))

    def _open_endpoints(self) -> None:
        """Functions work without them, so a port that somebody else has is told and no more."""
        conf, address = self._settings, self._layout.gateway(0)
        wanted = {"scf": conf.nat_api_port} if conf.nat_api else {}
        if conf.has_bucket_endpoint:
            wanted["buckets"] = conf.nat_bucket_port
        for of, port in wanted.items():
            try:
                self.endpoints[of] = endpoint.listen(address, port)
            except OSError as error:
                setting = "HEARTH_NAT_API_PORT" if of == "scf" else "HEARTH_NAT_BUCKET_PORT"
                _log.error("functions can't reach %s here: %s:%d: %s; see %s", of, address, port, error.strerror, setting)

    def _close_endpoints(self) -> None:
        while self.endpoints:
            self.endpoints.popitem()[1].close()

    def _places(self) -> list[tuple[str, int]]:
        return [sock.getsockname() for sock in self.endpoints.values()]

    # -- the host's side --------------------------------------------------------------------------------------------------

    def _choose(self) -> Layout:
        """The set range, or the first one that nothing on this host uses; its first bridge is made."""
        wanted = parse_range(self._settings.nat_range)
        for found in [wanted] if wanted else layout.candidates(self._settings.instance):
            if conflict := self._conflict(found):
                if wanted:
                    raise ConfigError(f"setting nat_range: {found} overlaps {conflict}", hint="choose another, or leave it empty")
                continue
            self._layout = Layout(self._settings.instance, found)
            self._add_bridge()
            # two that start together see each other now at the latest: the later one goes on
            if wanted or not self._conflict(found, before=self._bridges[0]):
                return self._layout
            links.delete(self._layout.bridge_name(0))
            self._bridges.clear()
        raise OSError("no private range of IPv4 addresses is free here: set HEARTH_NAT_RANGE")

    def _conflict(self, network: IPv4Network, *, before: int = 0) -> str:
        """A route, address or resolver of others in there, by name; with `before`, only the route of another instance's older link."""
        for name, destination in links.routes():
            if (
                destination.prefixlen == 0
                or not destination.overlaps(network)
                or name.startswith(layout.link_prefix(self._settings.instance))
            ):
                continue
            if not before or (name.startswith("hth") and links.index_of(name) < before):
                return f"the route to {destination} by {name or 'no link'}"
        if before:
            return ""
        known = [*((address, "address") for address in links.own_addresses()), *((address, "resolver") for address in self._resolvers())]
        return next((f"the {what} {address}" for address, what in known if address in network), "")

    def _add_bridge(self) -> None:
        number = len(self._bridges)
        name = self._layout.bridge_name(number)
        gateway = IPv4Interface((self._layout.gateway(number), layout.BRIDGE_BITS))
        self._bridges.append(links.add_bridge(name, mac=self._layout.bridge_mac(number), gateway=gateway))
        links.switch_if_there(f"ipv6/conf/{name}/disable_ipv6", "1")

    def _apply_everything(self) -> None:
        text = ruleset.removal(self._settings.instance) + ruleset.bridge_table(self._layout)
        for number in range(len(self._bridges)):
            text += ruleset.senders(self._layout, self._layout.ports(number))
        self._nft.run(text)
        self._apply(self._wanted())

    def _wanted(self) -> _Applied:
        for number in range(len(self._bridges)):  # again and again: whoever writes ip_forward writes these too
            links.write_switch(f"ipv4/conf/{self._layout.bridge_name(number)}/forwarding", "1")
        uplinks = {name for name, _ in links.routes() if name and not name.startswith("hth")}
        self._forwarding.raise_on(sorted(uplinks))
        return _Applied(self._resolvers(), tuple(self._forwarding.raised()))

    def _resolvers(self) -> tuple[IPv4Address, ...]:
        return self._chosen or resolvers.of_host()

    def _apply(self, wanted: _Applied) -> None:
        rules = ruleset.ip_table(
            self._layout, allowed=self._allowed, resolvers=wanted.resolvers, guarded=wanted.guarded, endpoints=self._places()
        )
        self._nft.run(rules)
        self._applied = wanted

    def look(self) -> None:
        """Follow the host, now and then: resolvers that changed, a new uplink, a firewall that somebody flushed. Raises OSError."""
        wanted = self._wanted()
        if len(self._nft.tables(ruleset.table(self._settings.instance))) < 2:
            _log.error("the tables %s are gone, somebody flushed them: made again", ruleset.table(self._settings.instance))
            self._apply_everything()
        elif wanted != self._applied:
            _log.info("network nat: resolvers %s, forwarding switched on for %s", _listed(wanted.resolvers), _listed(wanted.guarded))
            self._apply(wanted)

    # -- one sandbox's --------------------------------------------------------------------------------------------------------

    def reserve(self) -> int:
        """The number of a port that isn't there. In the host's namespace. OSError when all there can be are in use."""
        if not self._free:
            self._refill()
        self._last = self._free.popleft()
        return self._last

    def _refill(self) -> None:
        used = set(links.names_with_prefix(f"{self._layout.prefix}p"))
        free = [number for number in range(len(self._bridges) * PORTS_A_BRIDGE) if self._layout.port(number).name not in used]
        if len(free) < ENOUGH_FREE and len(self._bridges) < self._layout.bridges:
            number = len(self._bridges)
            self._add_bridge()
            self._nft.run(ruleset.senders(self._layout, self._layout.ports(number)))
            self._wanted()
            free += range(number * PORTS_A_BRIDGE, (number + 1) * PORTS_A_BRIDGE)
        if not free:
            raise OSError(f"all {len(self._bridges) * PORTS_A_BRIDGE} ports of this instance's bridges are in use")
        later = [number for number in free if number > self._last]
        self._free.extend(later + [number for number in free if number <= self._last])

    def connect(self, number: int, namespace: int) -> None:
        """Connect a new network namespace, which the calling thread is in and `namespace` is a descriptor of."""
        port, bridge = self._layout.port(number), number // PORTS_A_BRIDGE
        self._netlink.call(*self._host_side(port, bridge, namespace))
        index = links.index_of(layout.INTERFACE)
        gateway = self._layout.gateway(bridge)
        with netlink.Netlink() as inside:
            inside.call(
                *self._without_ipv6(layout.INTERFACE),
                netlink.up(index),
                netlink.address(index, port.address, 32),  # nothing but the gateway is near: even a neighbour's address goes to it
                netlink.neighbour(index, gateway, self._layout.bridge_mac(bridge)),
                netlink.default_route(index, gateway),
            )

    def _host_side(self, port: Port, bridge: int, namespace: int) -> Iterable[netlink.Message]:
        yield netlink.veth(
            port.name, group=layout.link_group(self._settings.instance), peer=layout.INTERFACE, peer_mac=port.mac, peer_namespace=namespace
        )
        yield from self._without_ipv6(port.name)
        yield netlink.enslaved(port.name, self._bridges[bridge])
        yield netlink.isolated(port.name)  # and up: no frame has gone through it before it was isolated
        yield netlink.neighbour(self._bridges[bridge], port.address, port.mac)

    def _without_ipv6(self, name: str) -> Iterable[netlink.Message]:
        """The bridge drops IPv6 in any case; this way nobody tries. Loopback keeps its ::1."""
        return [netlink.without_ipv6_address(name)] if self._has_ipv6 else []


def sweep(instance: str) -> dict[str, int]:
    """Remove an instance's links and tables and what only dead ones needed of forwarding; counts by kind.

    A veth goes by itself some time after its namespace. One alone costs 20 ms to remove, all of a group together little more.
    """
    prefix = layout.link_prefix(instance)
    found = {"links": len(links.names_with_prefix(prefix)), "tables": 0, "forwarding": forwarding.restore()}
    if found["links"]:
        links.delete_group(layout.link_group(instance))
    for name in links.names_with_prefix(prefix):
        links.delete(name)
    for name in tables(instance):
        found["tables"] += 1
        with Nftables() as nft:
            nft.run(f"delete table {name}")
    return found


def tables(instance: str = "") -> list[str]:
    """`FAMILY NAME` of an instance's tables, of all instances without one; none where nftables can't be asked."""
    try:
        with Nftables() as nft:
            return nft.tables(ruleset.table(instance))
    except OSError:
        return []


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))
