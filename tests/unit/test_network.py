"""Names, addresses and the firewall's text of an instance's network, and the resolvers found on a host."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from sandbox import plan
from sandbox.addresses import Destination, parse_addresses, parse_destinations, parse_range
from sandbox.kernel import netlink
from sandbox.network import layout, resolvers, ruleset
from sandbox.network.layout import Layout

LAYOUT = Layout("0123abcd", IPv4Network("10.7.0.0/16"))


# -- addresses


def test_every_port_has_a_name_a_mac_and_an_address_of_its_own_inside_its_bridges_subnet() -> None:
    ports = [port for bridge in range(LAYOUT.bridges) for port in LAYOUT.ports(bridge)]
    assert len(ports) == layout.MAX_BRIDGES * layout.PORTS_A_BRIDGE
    assert len({port.name for port in ports}) == len({port.mac for port in ports}) == len({port.address for port in ports}) == len(ports)
    for bridge in range(LAYOUT.bridges):
        subnet = IPv4Network((LAYOUT.gateway(bridge), layout.BRIDGE_BITS), strict=False)
        special = {subnet.network_address, subnet.broadcast_address, LAYOUT.gateway(bridge), *map(LAYOUT.resolver, range(3))}
        assert all(port.address in subnet and port.address not in special for port in LAYOUT.ports(bridge))
    assert not {LAYOUT.bridge_mac(bridge) for bridge in range(LAYOUT.bridges)} & {port.mac for port in ports}


def test_names_fit_the_kernels_fifteen_bytes_and_macs_are_local_unicast() -> None:
    port = LAYOUT.port(layout.MAX_BRIDGES * layout.PORTS_A_BRIDGE - 1)
    assert max(len(port.name), len(LAYOUT.bridge_name(layout.MAX_BRIDGES))) <= 15
    assert port.mac[0] & 0b11 == 0b10
    assert len(port.mac) == len(LAYOUT.bridge_mac(0)) == 6


def test_small_range_has_as_many_bridges_as_fit() -> None:
    assert [Layout("0123abcd", IPv4Network(f"10.0.0.0/{bits}")).bridges for bits in (22, 21, 20, 16, 8)] == [1, 2, 4, 9, 9]


def test_candidates_are_every_private_16_once_and_begin_elsewhere_for_another_instance() -> None:
    found = list(layout.candidates("0123abcd"))
    assert len(found) == len(set(found)) == 256 + 16 + 64
    assert all(network.is_private or network.subnet_of(IPv4Network("100.64.0.0/10")) for network in found)
    assert found[0] != next(layout.candidates("0123abce"))


@pytest.mark.parametrize("text", ["10.0.0.0/23", "10.0.0.1/16", "10.0.0.0", "fd00::/64", "x"])
def test_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_range(text)


def test_empty_range_leaves_the_choice() -> None:
    assert parse_range("  ") is None


def test_destinations_with_and_without_port_and_bits() -> None:
    found = parse_destinations("10.0.0.1:80, 10.2.0.0/16  192.0.2.1")
    networks = [IPv4Network(text) for text in ("10.0.0.1/32", "10.2.0.0/16", "192.0.2.1/32")]
    assert found == (Destination(networks[0], 80), Destination(networks[1]), Destination(networks[2]))
    assert parse_destinations("") == ()


@pytest.mark.parametrize("text", ["10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", "host:80", "10.0.0.1/16", "10.0.0.1; drop"])
def test_destination_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_destinations(text)


# -- the firewall's text


def rules(text: str, chain: str) -> list[str]:
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() == f"chain {chain} {{":
            return [rule.strip() for rule in itertools.takewhile(lambda line: line.strip() != "}", lines) if rule.strip()]
    raise AssertionError(f"no chain {chain}")


def test_what_is_allowed_comes_before_what_is_refused() -> None:
    text = ruleset.ip_table(LAYOUT, allowed=parse_destinations("169.254.169.254:80 10.9.9.9"), resolvers=parse_addresses("192.0.2.53"))
    found = rules(text, "sandbox")
    assert found[:4] == [
        "ip saddr != 10.7.0.0/16 drop",
        "ip daddr 10.7.0.1 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 169.254.169.254/32 meta l4proto { tcp, udp } th dport 80 accept",
        "ip daddr 10.9.9.9/32 accept",
    ]
    assert found[4] == "fib daddr type != unicast goto refused"
    assert found[5].startswith("ip daddr { 10.7.0.0/16, ")
    assert "169.254.0.0/16" in found[5]
    assert len(found) == 6


def test_nothing_is_open_by_itself() -> None:
    text = ruleset.ip_table(LAYOUT)
    assert [rule for rule in rules(text, "sandbox") if rule.endswith("accept")] == []
    assert [rule for rule in rules(text, "resolvers") if "dnat" in rule] == []


def test_links_that_forward_because_of_us_forward_only_for_us() -> None:
    assert 'iifname "eth7" oifname != "hth*" drop' in rules(ruleset.ip_table(LAYOUT, guarded=["eth7"]), "forward")


def test_range_that_covers_a_refused_address_does_not_name_it_twice() -> None:
    wide = Layout("0123abcd", IPv4Network("100.64.0.0/10"))
    assert "100.100.100.200" not in ruleset.ip_table(wide)
    assert "100.100.100.200" in ruleset.ip_table(LAYOUT)


def test_senders_pin_each_port_to_its_mac_and_address() -> None:
    port = LAYOUT.port(3)
    assert f'"{port.name}" . {port.mac.hex(":")} . {port.address}' in ruleset.senders(LAYOUT, LAYOUT.ports(0))
    assert rules(ruleset.bridge_table(LAYOUT), "port")[-1] == "drop"


# -- resolvers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 192.0.2.53\n", ["192.0.2.53"]),
        ("# nameserver 192.0.2.1\nsearch example\nnameserver 127.0.0.53\noptions edns0\n", []),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.2 # second\nnameserver ::1\nnameserver fe80::1%eth0\n", ["192.0.2.2"]),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
        ("nameserver\nnameserver x\nnameserver 0.0.0.0\n", []),
    ],
)
def test_only_resolvers_that_can_be_reached_from_elsewhere_are_used(text: str, found: list[str]) -> None:
    assert [str(address) for address in resolvers.usable(text)] == found


def test_resolver_behind_a_local_stub_is_found_in_the_second_file(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 192.0.2.53\n")
    assert resolvers.of_host([str(stub), str(real)]) == (IPv4Address("192.0.2.53"),)
    assert resolvers.of_host([str(stub), str(tmp_path / "none")]) == ()


def test_sandboxes_see_addresses_of_ours() -> None:
    assert resolvers.resolv_conf(LAYOUT, 2) == "nameserver 10.7.0.1\nnameserver 10.7.0.2\n"
    assert resolvers.resolv_conf(LAYOUT, 0) == "nameserver 10.7.0.1\n"


def test_resolv_conf_is_covered_only_where_there_is_one() -> None:
    files = {"guest/worker.py": ""}
    assert "/etc/resolv.conf" not in plan.describe(plan.root_steps("/image", "/stage", files))
    assert "/etc/resolv.conf" in plan.describe(plan.root_steps("/image", "/stage", files | {plan.RESOLV_CONF: "nameserver 10.7.0.1\n"}))


# -- messages


def test_message_is_laid_out_as_the_kernel_reads_it() -> None:
    kind, flags, body = netlink.address(7, IPv4Address("10.7.0.1"), 22)
    assert (kind, flags) == (20, 0x600)
    assert body == bytes.fromhex("02160000 07000000 0800 0200 0a070001 0800 0100 0a070001")


def test_names_are_padded_to_four_bytes() -> None:
    kind, flags, body = netlink.enslaved("abcd", 7)
    assert (kind, flags) == (19, 0)
    assert body[16:] == bytes.fromhex("0900 0300") + b"abcd\0" + bytes(3) + bytes.fromhex("0800 0a00 07000000")
