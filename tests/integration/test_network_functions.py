"""What functions see of the network, through the whole of `hearth up`, on a host of the test's own making (world.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.kernel import links
from sandbox.network import forwarding, layout, nat
from tests.integration.instance import HEARTH, Instance, wait_until
from tests.integration.world import HOST, HOST_PORT, HOST_TOO, METADATA, METADATA_PORT, NAME, OUTSIDE, SERVER, SERVER_PORT, UPLINK, World

pytestmark = [pytest.mark.requires("root", "user", "memcg", "nft"), pytest.mark.shares_host]

PROBE = """
import socket, time, urllib.request

def attempt(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__

def connect(host, port):
    sock = socket.create_connection((host, port), 1)
    try:
        return sock.recv(100).decode()
    finally:
        sock.close()

def main_handler(event, context):
    if "connect" in event:
        return [attempt(lambda: connect(*place)) for place in event["connect"]]
    if "resolve" in event:
        return attempt(lambda: socket.gethostbyname(event["resolve"]))
    if "listen" in event:
        server = socket.create_server(("", event["listen"]))
        server.settimeout(1)
        return attempt(lambda: str(server.accept()[1]))
    if "address" in event:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((event["address"], 9))
        return sock.getsockname()[0]
    if "raw" in event:
        return attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
    return {"links": [name for _, name in socket.if_nameindex()], "resolv.conf": open("/etc/resolv.conf").read()}
"""

SERVER_PLACE, HOST_PLACES = (SERVER, SERVER_PORT), [(HOST, HOST_PORT), (HOST_TOO, HOST_PORT), (METADATA, METADATA_PORT)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def hearth(world: World, start: Callable[..., Instance]) -> Iterator[Instance]:
    instance = start(nat_dns=OUTSIDE, prepared=2)
    try:
        yield instance
        instance.stop()
        assert left(instance) == []
    finally:
        instance.close()


def left(instance: Instance) -> list[str]:
    """Of its network, as this namespace shows it; /sys/class/net shows another's."""
    return links.names_with_prefix(layout.link_prefix(instance.mark)) + nat.tables(instance.mark) + forwarding.leftovers()


def make(hearth: Instance, **configuration: Any) -> str:
    return hearth.deploy(PROBE, timeout=10, **configuration)


@pytest.mark.parametrize("environment", [{}, {"PYTHONHASHSEED": "1"}], ids=["forked", "exec'd"])
def test_function_reaches_a_server_by_name_and_is_seen_as_the_host(hearth: Instance, world: World, environment: dict[str, str]) -> None:
    name = make(hearth, environment=environment)
    assert hearth.call(name, {"resolve": NAME}).ok() == SERVER
    assert hearth.call(name, {"connect": [SERVER_PLACE]}).ok() == [HOST]
    assert hearth.call(name, {"resolve": "nothing.test"}).ok() == "gaierror"
    assert {NAME, "nothing.test"} <= set(world.questions)


def test_function_of_its_own_interpreter_has_no_network_either(hearth: Instance) -> None:
    name = make(hearth, network="none", environment={"PYTHONHASHSEED": "1"})
    assert hearth.call(name, {}).ok()["links"] == ["lo"]


def test_function_without_a_network_has_the_loopback_alone(hearth: Instance) -> None:
    name = make(hearth, network="none")
    for _ in range(2):  # the first one is forked for the call, the second was prepared without a network
        assert hearth.call(name, {}).ok()["links"] == ["lo"]
        assert hearth.call(name, {"connect": [SERVER_PLACE, *HOST_PLACES]}).ok() == ["OSError"] * 4
        hearth.update(name, PROBE + "\n")
        wait_until(lambda: prepared(hearth) >= {"none", "nat"}, "some of both kinds are prepared")


def prepared(hearth: Instance) -> set[str]:
    return {row["network"] for row in hearth.request("GET", "/v1/sandboxes").body["sandboxes"] if row["state"] == "prepared"}


def test_host_and_metadata_are_refused_at_once(hearth: Instance) -> None:
    answer = hearth.call(make(hearth), {"connect": HOST_PLACES})
    assert answer.ok() == ["ConnectionRefusedError"] * 3  # at once, not by a timeout
    assert answer.seconds < 2


def test_functions_cannot_reach_each_other(hearth: Instance) -> None:
    one, two = make(hearth), make(hearth)
    address = hearth.call(two, {"address": SERVER}).ok()
    assert hearth.call(one, {"address": SERVER}).ok() != address
    waiting = hearth.call_soon(two, {"listen": 9999})
    while not waiting.done():
        assert hearth.call(one, {"connect": [(address, 9999)]}).ok() == ["ConnectionRefusedError"]
    assert waiting.result().ok() in ("timeout", "TimeoutError")


def test_resolv_conf_tells_nothing_of_the_host(hearth: Instance) -> None:
    text = hearth.call(make(hearth), {}).ok()["resolv.conf"]
    assert text.startswith("nameserver ")
    assert OUTSIDE not in text


def test_worker_cannot_make_frames_of_its_own(hearth: Instance) -> None:
    assert hearth.call(make(hearth), {"raw": 1}).ok() == "PermissionError"


def test_service_tells_what_network_there_is(hearth: Instance) -> None:
    found = hearth.request("GET", "/v1/sandboxes").body["nat"]
    assert (found["works"], found["resolvers"]) == (True, [OUTSIDE])


def kill_at_once(instance: Instance) -> None:
    """kill -9 of everything but what is in sandboxes, nobody left to tidy up after another."""
    for title in ("hearth up", "sandbox.launcher", "sandbox.daemon", "gunicorn"):
        for pid in instance.part(title):
            os.kill(pid, signal.SIGSTOP)
    for pid, _ in instance.family() - instance.confined():
        os.kill(pid, signal.SIGKILL)
    assert instance.process is not None
    instance.process.wait(10)


def test_kill_9_and_a_new_life_leave_nothing_of_the_old(world: World, start: Callable[..., Instance]) -> None:
    instance = start(nat_dns=OUTSIDE)
    try:
        name = make(instance)
        assert instance.call(name, {"connect": [SERVER_PLACE]}).ok() == [HOST]
        sandboxd = instance.part("sandbox.daemon")
        os.kill(sandboxd[0], signal.SIGKILL)
        wait_until(lambda: instance.call(name, {"connect": [SERVER_PLACE]}).status == 200, "calls are served again", 20)
        bridges = links.names_with_prefix(f"{layout.link_prefix(instance.mark)}b")
        assert len(bridges) == 1
        assert len(nat.tables(instance.mark)) == 2
        kill_at_once(instance)
        assert left(instance)
        instance.start()
        assert instance.call(name, {"connect": [SERVER_PLACE]}).ok() == [HOST]
        instance.stop()
        assert left(instance) == []
    finally:
        instance.close()


def test_doctor_finds_and_removes_what_a_dead_instance_left(world: World, start: Callable[..., Instance]) -> None:
    instance = start(nat_dns=OUTSIDE)
    try:
        kill_at_once(instance)
        wait_until(lambda: "firewall tables" in leaked(instance), "the doctor sees the tables")
        assert {"links", "firewall tables"} <= leaked(instance).keys()
        report = doctor(instance, "--fix")
        assert "removed firewall tables: 2" in report["fixed"]
        assert left(instance) == []
    finally:
        instance.close()


def doctor(instance: Instance, *options: str) -> dict[str, Any]:
    command = [str(HEARTH), "doctor", "--json", *options]
    done = subprocess.run(command, env=instance.environment, capture_output=True, text=True, timeout=60, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def leaked(instance: Instance) -> dict[str, list[str]]:
    found = doctor(instance)["findings"]
    return {row["kind"]: row["items"] for row in found if row["leaked"] and row["instance"] == instance.mark}


def test_two_instances_at_once(hearth: Instance, start: Callable[..., Instance]) -> None:
    other = start(nat_dns=OUTSIDE, nat_allow=f"{HOST}:{HOST_PORT}")
    try:
        one, two = make(hearth), make(other)
        places = [SERVER_PLACE, HOST_PLACES[0]]
        assert hearth.call(one, {"connect": places}).ok() == [HOST, "ConnectionRefusedError"]
        assert other.call(two, {"connect": places}).ok() == [HOST, "host"]
        other.stop()
        assert left(other) == []
        assert hearth.call(one, {"connect": places}).ok() == [HOST, "ConnectionRefusedError"]
        assert links.read_switch(f"ipv4/conf/{UPLINK}/forwarding") == "1"
    finally:
        other.close()


def test_host_that_cannot_have_it_says_so_and_serves(world: World, start: Callable[..., Instance]) -> None:
    instance = start(nat=False)
    try:
        name = make(instance)
        found = instance.call(name, {}).ok()
        assert (found["links"], found["resolv.conf"]) == (["lo"], "")
        assert instance.request("GET", "/v1/sandboxes").body["nat"] == {"works": False, "reason": "switched off: HEARTH_NAT"}
        assert left(instance) == []
        check = next(row for row in doctor(instance)["checks"] if row["name"] == "network `nat`")
        assert check["state"] == "weaker"
    finally:
        instance.close()
