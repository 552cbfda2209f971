"""Links, addresses and routes of a network namespace of the test's own, made and read back through sandbox.kernel.links."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from sandbox.kernel import links
from tests.integration.world import new_namespace, within

pytestmark = pytest.mark.requires("root")

MAC = bytes.fromhex("0200cafe0001")
GROUP = 0x68000001


@pytest.fixture
def inside() -> Iterator[int]:
    namespace = new_namespace()
    yield namespace
    os.close(namespace)


def add_bridges() -> None:
    for number in (1, 2):
        links.add_bridge(f"br{number}", mac=MAC, gateway=IPv4Interface(f"10.7.{number * 4}.1/22"))


def test_bridge_is_up_with_its_mac_address_and_route(inside: int) -> None:
    def look() -> tuple[list[IPv4Address], list[tuple[str, IPv4Network]], str]:
        add_bridges()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("br1", 0))
            return links.own_addresses(), links.routes(), sock.getsockname()[4].hex()

    addresses, routes, mac = within(inside, look)
    assert set(addresses) == {IPv4Address(text) for text in ("127.0.0.1", "10.7.4.1", "10.7.8.1")}
    assert routes == [("br1", IPv4Network("10.7.4.0/22")), ("br2", IPv4Network("10.7.8.0/22"))]
    assert mac == MAC.hex()


def test_name_in_use_is_an_oserror(inside: int) -> None:
    def twice() -> None:
        add_bridges()
        add_bridges()

    with pytest.raises(FileExistsError):
        within(inside, twice)


def test_every_next_hop_of_a_route_counts_and_a_route_to_nowhere_too(inside: int) -> None:
    def look() -> list[tuple[str, IPv4Network]]:
        from pyroute2 import IPRoute

        add_bridges()
        with IPRoute() as ip:
            ip.route("add", family=socket.AF_INET, dst="default", multipath=[{"gateway": "10.7.4.2"}, {"gateway": "10.7.8.2"}])
            ip.route("add", type="blackhole", dst="172.16.0.0/12")
            ip.route("add", dst="192.0.2.0/24", oif=links.index_of("br1"), table=99)
        return [(name, network) for name, network in links.routes() if not network.subnet_of(IPv4Network("10.0.0.0/8"))]

    everywhere = IPv4Network("0.0.0.0/0")
    assert within(inside, look) == [("br1", everywhere), ("br2", everywhere), ("", IPv4Network("172.16.0.0/12"))]


def test_links_go_by_name_and_by_group_and_what_is_not_there_is_no_failure(inside: int) -> None:
    def look() -> list[list[str]]:
        from pyroute2 import IPRoute

        add_bridges()
        with IPRoute() as ip:
            ip.link("set", index=links.index_of("br2"), group=GROUP)
        seen = [links.names_with_prefix("br")]
        for remove in (lambda: links.delete_group(GROUP), lambda: links.delete("br1")):
            remove()
            seen.append(links.names_with_prefix("br"))
            remove()
        return seen

    assert within(inside, look) == [["br1", "br2"], ["br1"], []]


@pytest.mark.parametrize("program", ["sandbox.launcher", "sandbox.daemon.__main__", "sandbox.doctor", "server.app"])
def test_pyroute2_is_imported_only_where_it_is_used(program: str) -> None:
    code = f"import sys, {program}; sys.exit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
