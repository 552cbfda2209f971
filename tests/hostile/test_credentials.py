"""A function that wants more of its credentials, and of the one door to this host that it may use, than to call other functions."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

from tests.integration.instance import Instance, wait_until
from tests.integration.scf import Client

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "nft"), pytest.mark.shares_host]

ATTACKER = """
import http.client, os, socket

def attempt(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__

def connect(place):
    with socket.create_connection(tuple(place), 2) as sock:
        return sock.recv(20).decode()

def datagram(place):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect(tuple(place))
        sock.send(b"x")
        return sock.recv(20).decode()

def ask(method, path, headers):
    connection = http.client.HTTPConnection(os.environ["TENCENTCLOUD_SCF_ENDPOINT"], timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return [answer.status, answer.read().decode()]

HELD = []

def flood(number):
    host, port = os.environ["TENCENTCLOUD_SCF_ENDPOINT"].split(":")
    for _ in range(number):
        HELD.append(socket.create_connection((host, int(port)), 5))
        HELD[-1].sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n")
    answered = 0
    for sock in HELD:
        sock.settimeout(0.5)
        try:
            answered += b" 503 " in sock.recv(100)
        except OSError:
            break
    return answered

def main_handler(event, context):
    if "ask" in event:
        return attempt(lambda: ask(*event["ask"]))
    if "connect" in event:
        return [attempt(lambda: connect(place)) for place in event["connect"]]
    if "datagram" in event:
        return attempt(lambda: datagram(event["datagram"]))
    if "flood" in event:
        return attempt(lambda: flood(event["flood"]))
    return {name: value for name, value in os.environ.items() if name.startswith("TENCENTCLOUD_")}
"""


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    instance = start(prepared=1, keep_alive_seconds=600)
    try:
        yield instance
    finally:
        instance.close()


@pytest.fixture(scope="module")
def victim(hearth: Instance) -> str:
    return hearth.deploy("def main_handler(event, context):\n    return event\n", name="victim")


@pytest.fixture
def attacker(hearth: Instance, victim: str) -> Iterator[str]:
    name = hearth.deploy(ATTACKER, timeout=60)
    yield name
    hearth.request("DELETE", f"/v1/functions/{name}")


def stolen(hearth: Instance, name: str) -> dict[str, str]:
    """The pair of the function's warm sandbox, as it sees it."""
    seen = hearth.call(name, {}).ok()
    fields = {"secret_id": "SECRETID", "secret_key": "SECRETKEY", "token": "SESSIONTOKEN", "endpoint": "SCF_ENDPOINT"}
    return {field: seen[f"TENCENTCLOUD_{variable}"] for field, variable in fields.items()}


def refused(hearth: Instance, pair: dict[str, str], action: str, **parameters: Any) -> str:
    """The error's code; "" where it was answered."""
    try:
        Client(hearth, pair).call(action, **parameters)
    except TencentCloudSDKException as error:
        return str(error.code)
    return ""


def test_a_pair_invokes_and_does_nothing_else(hearth: Instance, attacker: str, victim: str) -> None:
    pair = stolen(hearth, attacker)
    assert refused(hearth, pair, "Invoke", FunctionName=victim, ClientContext="{}") == ""
    assert refused(hearth, pair, "Invoke", FunctionName=victim, Namespace="other") == "UnauthorizedOperation"
    assert refused(hearth, pair, "ListFunctions") == "UnauthorizedOperation"
    for action in ("GetFunction", "DeleteFunction", "GetFunctionLogs", "UpdateFunctionCode", "GetFunctionAddress"):
        assert refused(hearth, pair, action, FunctionName=victim) == "UnauthorizedOperation", action


def test_a_pair_dies_with_its_sandbox(hearth: Instance, attacker: str, victim: str) -> None:
    pair = stolen(hearth, attacker)
    assert refused(hearth, pair, "Invoke", FunctionName=victim) == ""
    hearth.delete(attacker)
    wait_until(lambda: not hearth.sandboxes(attacker), "its sandbox is gone")
    assert refused(hearth, pair, "Invoke", FunctionName=victim) == "AuthFailure.TokenFailure"


def test_a_pair_dies_with_sandboxd(start: Callable[..., Instance]) -> None:
    instance = start(prepared=1)
    try:
        name = instance.deploy(ATTACKER)
        pair = stolen(instance, name)
        assert refused(instance, pair, "Invoke", FunctionName=name) == ""
        instance.stop()
        instance.start()
        again = stolen(instance, name)
        assert refused(instance, pair, "Invoke", FunctionName=name) == "AuthFailure.TokenFailure"
        assert instance.call(name, {"ask": ["GET", "/", {}]}).ok()[0] == 200
        assert again["endpoint"] == pair["endpoint"]
    finally:
        instance.close()


def test_parts_of_two_pairs_make_none(hearth: Instance, attacker: str, victim: str) -> None:
    other = hearth.deploy(ATTACKER)
    one, two = stolen(hearth, attacker), stolen(hearth, other)
    assert len({*one.values(), *two.values()}) == 7  # the endpoint is the same
    assert refused(hearth, {**one, "token": two["token"]}, "Invoke", FunctionName=victim) == "AuthFailure.TokenFailure"
    assert refused(hearth, {**one, "secret_key": two["secret_key"]}, "Invoke", FunctionName=victim) == "AuthFailure.SignatureFailure"
    assert refused(hearth, {**one, "token": one["token"][:-1]}, "Invoke", FunctionName=victim) == "AuthFailure.TokenFailure"
    hearth.delete(other)


def test_the_rest_interface_is_not_served_to_functions(hearth: Instance, attacker: str) -> None:
    token = (hearth.home / "credential").read_text().strip()
    good = {"Authorization": f"Bearer {token}"}
    assert hearth.request("GET", "/v1/functions", headers=good).status == 200
    for path in (
        "/v1/functions",
        "/v1/keys",
        "/v1/functions/victim/invocations",
        "/metrics",
        "/healthz",
        "/openapi.json",
        "//v1/functions",
    ):
        for headers in ({}, {"Authorization": "Bearer guess"}, good):
            status, body = hearth.call(attacker, {"ask": ["GET", path, headers]}).ok()
            assert status == 404 and json.loads(body)["code"] == "not_found", (path, body)
    # the control: what is signed is served there, and says that this is not
    status, body = hearth.call(attacker, {"ask": ["GET", "/", good]}).ok()
    assert status == 200 and json.loads(body)["Response"]["Error"]["Code"].startswith("AuthFailure")


def test_no_other_port_of_the_host_is_open(hearth: Instance, attacker: str) -> None:
    gateway, port = stolen(hearth, attacker)["endpoint"].split(":")
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((gateway, int(port)))
        udp.setblocking(False)
        other = server.getsockname()[1]
        with socket.create_connection((gateway, other), 1):  # the control: it is there for the host
            places = [(gateway, other), ("127.0.0.1", other), (gateway, hearth.port), (gateway, 22)]
            assert hearth.call(attacker, {"connect": places}).ok() == ["ConnectionRefusedError"] * 4
        hearth.call(attacker, {"datagram": [gateway, int(port)]}).ok()
        with pytest.raises(BlockingIOError):
            udp.recv(10)


def test_a_flood_of_connections_leaves_room_for_everybody_else(hearth: Instance, attacker: str, victim: str) -> None:
    flood = hearth.call_soon(attacker, {"flood": 400})
    for number in range(50):
        assert hearth.call(victim, {"n": number}).ok() == {"n": number}
    assert isinstance(flood.result().body, int), flood.result().content
    assert hearth.call(victim, {"after": 1}).ok() == {"after": 1}


def test_secrets_are_nowhere_but_in_the_sandbox(hearth: Instance, attacker: str) -> None:
    answer = hearth.call(attacker, {})
    seen = answer.ok()
    secrets = [seen[f"TENCENTCLOUD_{name}"] for name in ("SECRETKEY", "SESSIONTOKEN")]
    record = {**hearth.record(answer), "result": None}  # the function itself has returned them
    places = [json.dumps(record), hearth.request("GET", "/v1/sandboxes").content.decode(), hearth.log.read_text()]
    assert not [secret for secret in secrets for place in places if secret in place]
