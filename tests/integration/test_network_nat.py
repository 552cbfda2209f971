"""The network `nat` as the kernel sees it: namespaces connected by sandboxd's own parts, and root inside one trying what a sandbox can't.

All of it in network namespaces of the test's own, see world.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from sandbox.daemon.__main__ import Daemon
from sandbox.doctor import network
from sandbox.errors import ConfigError, LaunchError
from sandbox.kernel import links, netlink, nftables
from sandbox.kernel.nftables import Nftables
from sandbox.namespaces import NetworkNamespaces
from sandbox.network import forwarding, layout, nat, ruleset
from sandbox.network.layout import Port
from sandbox.network.nat import Nat
from sandbox.settings import Settings
from tests.integration.world import (
    HOST,
    HOST_PORT,
    HOST_TOO,
    METADATA,
    METADATA_PORT,
    NAME,
    OTHER_METADATA,
    OUTSIDE,
    SERVER,
    SERVER_PORT,
    UPLINK,
    World,
    add_address,
    add_default_route,
    connect,
    new_namespace,
    within,
)

pytestmark = pytest.mark.requires("root", "nft")

REFUSED = (OSError, TimeoutError)


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


class Running:
    """A Nat, and namespaces of it."""

    def __init__(self, home: Path, **settings: Any) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(home=str(home), **{"nat_dns": OUTSIDE, **settings})
        self.nat = Nat(self.settings)
        self.namespaces: list[int] = []
        self.runs = False

    def start(self) -> Running:
        self.nat.start()
        self.runs = True
        self.thread = ThreadPoolExecutor(1)
        self.networks = NetworkNamespaces(self.thread, 1, self.nat)
        self.networks.start()
        return self

    def sandbox(self, kind: Any = "nat") -> int:
        self.namespaces.append(asyncio.run(self.networks.take(kind)))
        return self.namespaces[-1]

    def left(self) -> list[str]:
        found = links.names_with_prefix(self.nat._layout.prefix) + nat.tables(self.settings.instance)
        return found + [path for path in (forwarding.record_path(),) if os.path.exists(path)]

    def stop(self) -> None:
        """Idempotent."""
        if not self.runs:
            return
        self.runs = False
        for fd in self.namespaces:
            os.close(fd)
        self.namespaces.clear()
        self.networks.stop()
        self.thread.shutdown()
        self.nat.stop()


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def started(name: str = "home", **settings: Any) -> Running:
        made.append(Running(tmp_path / name, **settings).start())
        return made[-1]

    yield started
    for running in made:
        running.stop()
    assert [running.left() for running in made] == [[]] * len(made)


def address_of(namespace: int) -> str:
    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((SERVER, 9))
            return str(sock.getsockname()[0])

    return within(namespace, ask)


def refused(namespace: int, host: str, port: int) -> bool:
    """Whether no connection comes about from there; a SYN lost while a new port begins to carry is sent again after a second."""
    try:
        within(namespace, lambda: socket.create_connection((host, port), 3.0).close())
    except REFUSED:
        return True
    return False


# -- what is open


def test_outside_sees_the_host_and_nobody_else(start: Callable[..., Running]) -> None:
    inside = start().sandbox()
    assert within(inside, lambda: connect(SERVER, SERVER_PORT)) == HOST


def test_none_is_the_loopback_alone(start: Callable[..., Running]) -> None:
    inside = start().sandbox("none")
    assert within(inside, lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
    assert refused(inside, SERVER, SERVER_PORT)


def test_ipv6_is_off_but_for_the_loopback(start: Callable[..., Running]) -> None:
    inside = start().sandbox()
    assert {line.split()[-1] for line in within(inside, Path("/proc/thread-self/net/if_inet6").read_text).splitlines()} <= {"lo"}


def test_resolver_of_the_host_answers_behind_an_address_of_ours(start: Callable[..., Running], world: World) -> None:
    running = start()
    seen = running.nat.resolv_conf.split()[1]
    assert OUTSIDE not in running.nat.resolv_conf

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.connect((seen, 53))
            sock.send(bytes.fromhex("000101000001000000000000") + b"\6server\4test\0" + struct.pack(">HH", 1, 1))
            return sock.recv(512)

    assert within(running.sandbox(), ask).endswith(socket.inet_aton(SERVER))
    assert world.questions == [NAME]


# -- what is closed, each with the proof that it would be open


@pytest.mark.parametrize(
    ("host", "port"),
    [(HOST, HOST_PORT), (HOST_TOO, HOST_PORT), ("gateway", HOST_PORT), (METADATA, METADATA_PORT), (OTHER_METADATA, METADATA_PORT)],
)
def test_host_and_metadata_are_refused(start: Callable[..., Running], host: str, port: int) -> None:
    running = start()
    inside = running.sandbox()
    host = str(running.nat._layout.gateway(0)) if host == "gateway" else host
    assert connect(host, port)  # from the host itself there is somebody
    assert refused(inside, host, port)
    with Nftables() as nft:
        nft.run(f"flush chain ip {ruleset.table(running.settings.instance)} sandbox")
    assert not refused(inside, host, port)  # it was the firewall


def test_two_sandboxes_cannot_reach_each_other_through_the_host(start: Callable[..., Running]) -> None:
    running = start()
    one, two = running.sandbox(), running.sandbox()
    server = within(two, lambda: socket.create_server(("", 9999)))
    try:
        target = address_of(two)
        assert refused(one, target, 9999)
        with Nftables() as nft:
            nft.run(ruleset.removal(running.settings.instance))
        assert not refused(one, target, 9999)  # it was the firewall
    finally:
        server.close()


def test_two_sandboxes_cannot_reach_each_other_through_the_bridge(start: Callable[..., Running]) -> None:
    """Root in both has made the other a neighbour; no firewall, and no way through the host."""
    running = start()
    one, two = running.sandbox(), running.sandbox()
    with Nftables() as nft:
        nft.run(ruleset.removal(running.settings.instance))
    links.write_switch(f"ipv4/conf/{running.nat._layout.bridge_name(0)}/forwarding", "0")
    ports = {str(port.address): port for port in running.nat._layout.ports(0)}
    near(one, ports[address_of(two)])
    near(two, ports[address_of(one)])
    server = within(two, lambda: socket.create_server(("", 9999)))
    try:
        target = address_of(two)
        assert refused(one, target, 9999)
        with netlink.Netlink() as sock:
            for name in links.names_with_prefix(f"{running.nat._layout.prefix}p"):
                kind, flags, body = netlink.isolated(name)
                sock.call((kind, flags, body[:-4] + bytes(4)))  # the last attribute is the flag
        assert not refused(one, target, 9999)  # it was the isolation
    finally:
        server.close()


def near(namespace: int, port: Port) -> None:
    """Its address is on the link itself, its MAC known."""

    def change() -> None:
        index = links.index_of("eth0")
        # struct rtmsg: RT_SCOPE_LINK, RTN_UNICAST, table main; RTA_DST, RTA_OIF
        route = struct.pack("BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 3, 253, 1, 0)
        route += struct.pack("HH4s", 8, 1, port.address.packed) + struct.pack("HHI", 8, 4, index)
        with netlink.Netlink() as sock:
            sock.call((netlink.RTM_NEWROUTE, netlink.NLM_F_CREATE, route), netlink.neighbour(index, port.address, port.mac))

    within(namespace, change)


def test_nobody_outside_begins_a_connection_to_a_sandbox(start: Callable[..., Running], world: World) -> None:
    running = start()
    inside = running.sandbox()
    server = within(inside, lambda: socket.create_server(("", 9999)))
    try:
        target = address_of(inside)
        within(world.outside, lambda: add_default_route("out0", HOST))
        assert refused(world.outside, target, 9999)
        with Nftables() as nft:
            nft.run(f"flush chain ip {ruleset.table(running.settings.instance)} forward")
        assert not refused(world.outside, target, 9999)
    finally:
        server.close()


def frame(namespace: int, *, source_mac: bytes, source: str, target_mac: bytes, kind: int = 0x0800) -> None:
    """One UDP datagram to the outside's port 7 as a raw Ethernet frame."""
    payload = struct.pack(">HHHH", 7, 7, 8, 0)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(SERVER))
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("eth0", 0))
            sock.send(target_mac + source_mac + struct.pack(">H", kind) + header + payload)

    within(namespace, send)


def test_only_a_sandboxs_own_addresses_leave_its_port(start: Callable[..., Running], world: World) -> None:
    running = start()
    inside, other = running.sandbox(), running.sandbox()
    own, stranger = address_of(inside), address_of(other)
    number = next(n for n in range(100) if str(running.nat._layout.port(n).address) == own)
    mac, gateway = running.nat._layout.port(number).mac, running.nat._layout.bridge_mac(0)

    def listening() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 7))
        return sock

    server = within(world.outside, listening)
    server.settimeout(2)
    try:
        frame(inside, source_mac=mac, source=stranger, target_mac=gateway)  # another sandbox's address
        frame(inside, source_mac=mac, source=SERVER, target_mac=gateway)  # anybody's
        frame(inside, source_mac=bytes.fromhex("02aaaaaaaaaa"), source=own, target_mac=gateway)  # another MAC
        frame(inside, source_mac=mac, source=own, target_mac=gateway, kind=0x86DD)  # not IPv4 at all
        frame(inside, source_mac=mac, source=own, target_mac=gateway)
        assert server.recvfrom(100)[1][0] == HOST  # the last one came, and it was the first that did
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)
        with Nftables() as nft:
            nft.run(f"flush chain bridge {ruleset.table(running.settings.instance)} prerouting")
        server.settimeout(2)
        frame(inside, source_mac=mac, source=stranger, target_mac=gateway)
        server.recv(100)  # it was that chain
    finally:
        server.close()


def test_arp_is_not_answered_and_does_not_pass(start: Callable[..., Running]) -> None:
    running = start()
    inside = running.sandbox()
    gateway = running.nat._layout.gateway(0)
    question = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, bytes(6), socket.inet_aton(address_of(inside)), bytes(6), gateway.packed)

    def ask() -> bytes:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
            sock.bind(("eth0", 0x0806))
            sock.settimeout(0.5)
            sock.send(b"\xff" * 6 + bytes(6) + b"\x08\x06" + question)
            while True:
                answer, where = sock.recvfrom(100)
                if where[2] != socket.PACKET_OUTGOING:
                    return answer

    with pytest.raises(TimeoutError):
        within(inside, ask)


# -- where it can't be had


def test_host_without_the_library_has_no_nat_says_why_and_is_left_as_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nftables, "LIBRARY", "libnothing.so.1")
    before = socket.if_nameindex()

    async def started() -> tuple[Nat | None, str]:
        async with contextlib.AsyncExitStack() as stack:
            return await Daemon(Settings(home=str(tmp_path)), {})._nat(stack, stack.enter_context(ThreadPoolExecutor(1)))

    assert asyncio.run(started()) == (None, "libnothing.so.1 is missing: apt-get install libnftables1")
    assert "NO NETWORK" in caplog.text
    assert (socket.if_nameindex(), os.path.exists(forwarding.record_path())) == (before, False)
    check = next(network.checks(Settings(home=str(tmp_path))))
    assert (check.state, check.found) == ("missing", "libnothing.so.1 is missing: apt-get install libnftables1")


def test_start_that_fails_half_way_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path / "home")
    monkeypatch.setattr(ruleset, "ip_table", lambda *_, **__: "table ip nonsense { nonsense }")
    with pytest.raises(OSError, match="nftables"):
        running.nat.start()
    assert running.left() == []
    assert set(switches().values()) == {"0"}


def test_kernel_that_refuses_a_connection_is_told_and_the_other_kind_goes_on(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(tmp_path / "home").start()
    try:
        links.delete(running.nat._layout.bridge_name(0))
        with pytest.raises(LaunchError, match="make a namespace"):
            for _ in range(3):  # one was made ahead
                running.sandbox("nat")
        for _ in range(4):
            running.sandbox("none")
        assert "cannot make a network namespace for nat" in caplog.text
    finally:
        running.stop()
    assert running.left() == []


# -- the setting that opens


@pytest.mark.parametrize(
    ("allow", "opened"),
    [
        ("", set()),
        (f"{HOST}:{HOST_PORT}", {(HOST, HOST_PORT)}),
        (f"{HOST}:1 {HOST_TOO}", {(HOST_TOO, HOST_PORT)}),
        (f"{METADATA}:{METADATA_PORT}", {(METADATA, METADATA_PORT)}),
        ("169.254.0.0/16", {(METADATA, METADATA_PORT), (METADATA, SERVER_PORT)}),
    ],
)
def test_setting_opens_exactly_what_it_names(start: Callable[..., Running], allow: str, opened: set[tuple[str, int]]) -> None:
    inside = start(nat_allow=allow).sandbox()
    closed = {(HOST, HOST_PORT), (HOST_TOO, HOST_PORT), (METADATA, METADATA_PORT), (METADATA, SERVER_PORT)}
    assert {place for place in closed if not refused(inside, *place)} == opened


# -- what is changed on the host, and undone


def switches() -> dict[str, str | None]:
    return {name: links.read_switch(f"ipv4/{name}") for name in ("ip_forward", f"conf/{UPLINK}/forwarding", "conf/default/forwarding")}


def test_only_the_uplink_forwards_and_only_while_somebody_needs_it(start: Callable[..., Running]) -> None:
    assert set(switches().values()) == {"0"}
    one, two = start("one"), start("two")
    assert switches() == {"ip_forward": "0", f"conf/{UPLINK}/forwarding": "1", "conf/default/forwarding": "0"}
    one.stop()
    assert switches()[f"conf/{UPLINK}/forwarding"] == "1"
    assert within(two.sandbox(), lambda: connect(SERVER, SERVER_PORT)) == HOST
    two.stop()
    assert set(switches().values()) == {"0"}


def test_uplink_does_not_become_a_router_for_others(start: Callable[..., Running], world: World) -> None:
    third = new_namespace()
    try:
        with netlink.Netlink() as sock:
            sock.call(netlink.veth("up1", peer="third0", peer_mac=bytes.fromhex("02cafe000003"), peer_namespace=third))
        add_address("up1", "203.0.114.2", 24)
        within(third, lambda: (add_address("third0", "203.0.114.1", 24), add_default_route("third0", "203.0.114.2")))
        within(world.outside, lambda: add_default_route("out0", HOST))
        server = within(third, lambda: socket.create_server(("", 9999)))
        running = start()
        assert refused(world.outside, "203.0.114.1", 9999)
        links.write_switch("ipv4/ip_forward", "1")  # now its owner wants a router
        running.nat.look()
        assert not refused(world.outside, "203.0.114.1", 9999)
        server.close()
    finally:
        os.close(third)


def test_switch_that_the_hosts_owner_has_turned_on_meanwhile_stays(start: Callable[..., Running]) -> None:
    running = start()
    links.write_switch("ipv4/ip_forward", "1")
    running.stop()
    assert switches() == {"ip_forward": "1", f"conf/{UPLINK}/forwarding": "1", "conf/default/forwarding": "1"}


def test_flushed_firewall_is_made_again(start: Callable[..., Running]) -> None:
    running = start()
    inside = running.sandbox()
    with Nftables() as nft:
        nft.run("flush ruleset")
    running.nat.look()
    assert within(inside, lambda: connect(SERVER, SERVER_PORT)) == HOST
    assert refused(inside, HOST_TOO, HOST_PORT)


def test_two_instances_have_ranges_of_their_own_and_cannot_reach_each_other(start: Callable[..., Running]) -> None:
    one, two = start("one"), start("two")
    assert not one.nat._layout.range.overlaps(two.nat._layout.range)
    here, there = one.sandbox(), two.sandbox()
    server = within(there, lambda: socket.create_server(("", 9999)))
    try:
        assert refused(here, address_of(there), 9999)
        assert within(here, lambda: connect(SERVER, SERVER_PORT)) == HOST
        assert within(there, lambda: connect(SERVER, SERVER_PORT)) == HOST
    finally:
        server.close()


def test_range_in_use_is_left_and_a_set_one_refused(start: Callable[..., Running], tmp_path: Path) -> None:
    first = start()
    mine = first.nat._layout.range
    first.stop()
    add_address("lo", str(mine.network_address + 5), 30)
    again = Running(tmp_path / "home").start()
    assert not again.nat._layout.range.overlaps(mine)
    again.stop()
    with pytest.raises(ConfigError, match="overlaps"):
        Nat(Settings(home=str(tmp_path / "home"), nat_range=str(mine))).start()
    assert again.left() == []


def test_range_covering_refused_addresses_is_accepted(start: Callable[..., Running]) -> None:
    running = start(nat_range="100.100.0.0/16")
    assert within(running.sandbox(), lambda: connect(SERVER, SERVER_PORT)) == HOST


def test_addresses_are_not_used_again_soon_and_nothing_grows(start: Callable[..., Running]) -> None:
    running = start()
    seen = []
    for _ in range(12):
        inside = running.sandbox()
        seen.append(address_of(inside))
        os.close(running.namespaces.pop())
    assert len(set(seen)) == 12


def test_second_bridge_comes_with_the_need(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "ENOUGH_FREE", 1001)
    running = start()
    running.sandbox()
    prefix = running.nat._layout.prefix
    assert links.names_with_prefix(f"{prefix}b") == [f"{prefix}b0", f"{prefix}b1"]
    running.nat._free.clear()
    running.nat._free.append(1500)
    found = None
    for _ in range(4):  # those made ahead come first
        inside = running.sandbox()
        if IPv4Address(address_of(inside)) == running.nat._layout.port(1500).address:
            found = inside
    assert found is not None
    assert within(found, lambda: connect(SERVER, SERVER_PORT)) == HOST
    assert refused(found, HOST_TOO, HOST_PORT)


def test_dead_ones_links_tables_and_forwarding_are_swept(world: World, tmp_path: Path) -> None:
    running = Running(tmp_path / "home").start()
    running.sandbox()
    # what kill -9 does: descriptors go, nothing is undone; the namespace stays, so its link does not go by itself
    running.networks.stop()
    running.thread.shutdown()
    running.nat._netlink.close()
    running.nat._nft.close()
    running.nat._close_endpoints()
    os.close(running.nat._forwarding._fd)
    assert forwarding.leftovers() == [UPLINK]
    assert running.left()
    stranger = layout.link_prefix("ffffffff") + "p0"
    with netlink.Netlink() as sock:
        sock.call(netlink.veth(stranger, peer="other0", peer_mac=bytes.fromhex("02cafe000009"), peer_namespace=running.namespaces[0]))
    found = nat.sweep(running.settings.instance)
    assert stranger in links.names_with_prefix(stranger)  # of no group of ours, nor of our name
    os.close(running.namespaces.pop())
    assert found["tables"] == 2
    assert found["forwarding"] == 1
    assert found["links"] >= 1
    assert running.left() == []
    assert set(switches().values()) == {"0"}
