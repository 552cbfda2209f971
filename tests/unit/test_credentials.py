"""Temporary credentials: sandboxd's registry, what is checked of its messages, the environment, and what the API takes them for."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox import environment
from sandbox.credentials import Credentials
from sandbox.daemon.checks import checked_request_id, checked_secret_id
from sandbox.daemon.listener import row
from sandbox.errors import LaunchError
from sandbox.network import ruleset
from server.api.inside import PEER_CONNECTIONS, Peers
from server.api.request import INSIDE
from tests.unit.test_api import AUTHORIZED, FakeClient
from tests.unit.test_core_policy import SPEC
from tests.unit.test_network import LAYOUT, rules
from tests.unit.test_scf_protocol import api, app, build, code, pair, send  # noqa: F401 - fixtures

HERE = "10.1.0.1:9080"
OWN = {
    "secret_key": "key",
    "token": "tok",
    "namespace": "alice",
    "function": "f",
    "family": "i",
    "sandbox": "s1",
    "request_id": "r-7",
    "hops": 3,
}


def sandbox(**changes: Any) -> Any:
    facts = {"namespace": "alice", "name": "f", "family": "i", "id": "s1", "request_id": "r-7", "hops": 3, "network": "nat", "ended": False}
    return SimpleNamespace(grant={}, on_close=None, **{**facts, **changes})


# ---- registry -------------------------------------------------------------------------------------------------------


def test_a_credential_is_found_until_its_sandbox_closes() -> None:
    known, one = Credentials({"scf": HERE}), sandbox()
    known.give(one)
    grant = dict(one.grant)
    found = known.find(grant["secret_id"])
    assert found is not None
    assert found.to_json() == {**OWN, "secret_key": grant["secret_key"], "token": grant["token"]}
    assert known.find("AKIDother") is None
    one.on_close(one)
    assert known.find(grant["secret_id"]) is None
    assert (len(known), one.grant) == (0, {})


def test_a_dead_sandbox_has_none_though_nobody_has_closed_it_yet() -> None:
    known, one = Credentials({}), sandbox()
    known.give(one)
    one.ended = True
    assert known.find(one.grant["secret_id"]) is None


def test_nothing_of_one_says_anything_of_another() -> None:
    known, all_of_them = Credentials({"scf": HERE}), [sandbox() for _ in range(100)]
    for one in all_of_them:
        known.give(one)
    values = [one.grant[name] for one in all_of_them for name in ("secret_id", "secret_key", "token")]
    assert len(set(values)) == 300
    # 24 random bytes and more: no two share even a few characters at the same place by more than chance
    assert all(one[4:12] != other[4:12] for one, other in zip(values, values[3:], strict=False))


def test_secrets_are_in_no_text_that_could_be_logged() -> None:
    known, one = Credentials({}), sandbox()
    known.give(one)
    shown = repr(known.find(one.grant["secret_id"])) + repr(known)
    assert one.grant["secret_key"] not in shown and one.grant["token"] not in shown


def test_a_description_has_no_credential() -> None:
    facts = dict.fromkeys(("version", "image", "runtime", "pid", "memory_bytes", "tmp_bytes", "calls", "born", "idle_since"), 0)
    one = sandbox(**facts, state="creating", slot=SimpleNamespace(uid=5))
    Credentials({"scf": HERE}).give(one)
    shown = json.dumps(row(one))
    assert not any(value in shown for value in one.grant.values() if value)


@pytest.mark.parametrize("message", [{}, {"secret_id": 5}, {"secret_id": ""}, {"secret_id": "x" * 1000}, {"secret_id": None}])
def test_a_secret_id_that_is_none_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(LaunchError):
        checked_secret_id(message)


def test_a_request_id_is_a_short_text_or_none() -> None:
    assert (checked_request_id({"request_id": "r"}), checked_request_id({})) == ("r", "")
    for wrong in ({"request_id": 1}, {"request_id": None}, {"request_id": "x" * 65}):
        with pytest.raises(LaunchError):
            checked_request_id(wrong)


# ---- environment ------------------------------------------------------------------------------------------------------


def test_a_functions_own_variables_do_not_replace_its_credentials() -> None:
    one = sandbox()
    Credentials({"scf": HERE}).give(one)
    names = ("SECRETID", "SECRETKEY", "SESSIONTOKEN", "SCF_ENDPOINT", "SCF_PROTOCOL")
    spec = replace(SPEC, environment={f"TENCENTCLOUD_{name}": "mine" for name in names})
    seen = environment.for_function(spec, "r", "C.UTF-8", one.grant)
    expected = [one.grant[name] for name in ("secret_id", "secret_key", "token", "endpoint")]
    assert [seen[f"TENCENTCLOUD_{name}"] for name in names] == [*expected, "http"]


def test_without_a_network_there_is_no_endpoint() -> None:
    one = sandbox(network="none")
    Credentials({"scf": HERE}).give(one)
    assert "TENCENTCLOUD_SCF_ENDPOINT" not in environment.for_function(SPEC, "r", "C.UTF-8", one.grant)


def test_the_firewall_opens_one_port_of_one_address_for_tcp_before_it_refuses_the_host() -> None:
    chain = rules(ruleset.ip_table(LAYOUT, endpoints=[("10.1.0.1", 9080)]), "sandbox")
    assert chain.index("ip daddr 10.1.0.1 tcp dport 9080 accept") < chain.index("fib daddr type != unicast goto refused")
    assert "9080" not in ruleset.ip_table(LAYOUT)


# ---- the API --------------------------------------------------------------------------------------------------------


def own(fake: FakeClient, **changes: Any) -> dict[str, str]:
    fake.temporary["AKIDtemporary"] = {**OWN, **changes}
    return {"secret_id": "AKIDtemporary", "secret_key": "key", "token": "tok"}


@pytest.fixture
def fake(app: Any) -> FakeClient:  # noqa: F811
    found: FakeClient = app.services.client
    return found


async def test_they_are_good_for_invoking_in_their_own_namespace_and_nothing_else(api: Any, fake: FakeClient) -> None:  # noqa: F811
    mine = own(fake)
    for action in ("Invoke", "InvokeFunction"):
        assert (
            code(await send(api, build(mine, action, {"FunctionName": "g"}))) == "ResourceNotFound.Namespace"
        )  # of alice, which is not there
        other = await send(api, build(mine, action, {"FunctionName": "g", "Namespace": "default"}))
        assert code(other) == "UnauthorizedOperation"
    for action in ("GetFunction", "ListFunctions", "CreateFunction", "DeleteFunction", "GetFunctionLogs", "ListNamespaces", "GetAccount"):
        assert code(await send(api, build(mine, action, {"FunctionName": "f"}))) == "UnauthorizedOperation", action


@pytest.mark.parametrize("scheme", ["TC3-HMAC-SHA256", "HmacSHA256"])
async def test_a_wrong_or_dead_token_and_a_wrong_key(api: Any, fake: FakeClient, scheme: str) -> None:  # noqa: F811
    mine = own(fake)

    async def tried(**changes: str) -> str:
        return code(await send(api, build({**mine, **changes}, "Invoke", {"FunctionName": "g"}, scheme=scheme)))

    assert await tried() == "ResourceNotFound.Namespace"  # of alice, which is not there
    assert await tried(token="tok2") == "AuthFailure.TokenFailure"
    assert await tried(token="") == "AuthFailure.SecretIdNotFound"
    assert await tried(secret_key="other") == "AuthFailure.SignatureFailure"
    del fake.temporary["AKIDtemporary"]
    assert await tried() == "AuthFailure.TokenFailure"


async def test_to_functions_nothing_is_served_but_what_is_signed(api: Any, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    serve = type(app).__call__

    async def inside(self: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await serve(self, scope | {INSIDE: True} if scope["type"] == "http" else scope, receive, send)

    monkeypatch.setattr(type(app), "__call__", inside)
    for path in ("/v1/functions", "/v1/keys", "/healthz", "/metrics", "/openapi.json", "/nowhere", "/v1/functions/x/invocations"):
        for headers in ({}, AUTHORIZED, {"Authorization": "Bearer guess"}):
            answer = await api.simulate_get(path, headers=headers)
            assert (answer.status_code, answer.json["code"]) == (404, "not_found"), (path, headers)
    answer = await api.simulate_post("/", body="{}", headers=AUTHORIZED)
    assert answer.json["Response"]["Error"]["Code"] == "AuthFailure.SignatureFailure"


def test_one_address_has_few_connections_and_all_together_a_share() -> None:
    peers = Peers(PEER_CONNECTIONS + 1)
    assert all(peers.admit("a") for _ in range(PEER_CONNECTIONS))
    assert not peers.admit("a")
    assert peers.admit("b") and not peers.admit("c")
    peers.forget("a")
    assert peers.admit("c") and not peers.admit("a")
