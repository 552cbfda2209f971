"""Versions, aliases and namespaces with real workers: what serves which call while everything around it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.instance import Answer, Instance, packed, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "freezer"), pytest.mark.shares_host]

CALLS = 200


def answers(text: str) -> str:
    return f"""
        import time
        def main_handler(event, context):
            time.sleep((event or {{}}).get("seconds", 0))
            return {text!r} + " " + context["function_version"] + " " + context["namespace"]
    """


def publish(hearth: Instance, name: str) -> dict[str, Any]:
    answer = hearth.request("POST", f"/v1/functions/{name}/versions")
    assert answer.status == 201, answer.content
    return dict(answer.body)


def alias(hearth: Instance, function: str, **fields: Any) -> None:
    answer = hearth.request("POST", f"/v1/functions/{function}/aliases", json=fields)
    assert answer.status == 201, answer.content


def change_alias(hearth: Instance, name: str, of: str, **fields: Any) -> None:
    answer = hearth.request("PATCH", f"/v1/functions/{name}/aliases/{of}", json=fields)
    assert answer.status == 200, answer.content


def call(hearth: Instance, name: str, qualifier: str, event: Any = None, **headers: str) -> Answer:
    path = f"/v1/functions/{name}/invocations"
    return hearth.request("POST", path, params={"qualifier": qualifier}, json=event or {}, headers=headers)


@pytest.fixture
def name(hearth: Instance) -> Iterator[str]:
    """A function with version 1, which says old; its `$LATEST` says new."""
    made = hearth.deploy(answers("old"))
    publish(hearth, made)
    hearth.update(made, answers("new"))
    yield made
    hearth.request("DELETE", f"/v1/functions/{made}")


def test_a_version_keeps_its_code_and_its_worker_through_updates(hearth: Instance, name: str) -> None:
    assert call(hearth, name, "1").ok() == "old 1 default"
    assert call(hearth, name, "$LATEST").ok() == "new $LATEST default"
    hearth.update(name, answers("newer"))
    again = call(hearth, name, "1")
    assert (again.ok(), again.start) == ("old 1 default", "warm")
    assert call(hearth, name, "$LATEST").ok() == "newer $LATEST default"
    broken = hearth.request("PUT", f"/v1/functions/{name}/code", content=b"no zip", headers={"Content-Type": "application/zip"})
    assert broken.status == 400 and call(hearth, name, "1").start == "warm"
    hearth.update(name, "this does not parse")
    assert call(hearth, name, "$LATEST").scf == 443
    assert call(hearth, name, "1").start == "warm"
    assert {row["version"] for row in hearth.sandboxes(name)} == {"1"}


def test_both_serve_at_once(hearth: Instance, name: str) -> None:
    with_event = [hearth.soon(call, hearth, name, qualifier, {"seconds": 0.2}) for qualifier in ["1", "$LATEST"] * 4]
    assert Counter(future.result().ok() for future in with_event) == {"old 1 default": 4, "new $LATEST default": 4}


def test_a_deleted_version_is_gone_with_its_workers(hearth: Instance, name: str) -> None:
    call(hearth, name, "1").ok()
    call(hearth, name, "$LATEST").ok()
    assert hearth.request("DELETE", f"/v1/functions/{name}/versions/1").status == 204
    assert call(hearth, name, "1").outcome == (404, 442)
    wait_until(lambda: [row["version"] for row in hearth.sandboxes(name)] == ["$LATEST"], "the version's worker goes, the other stays")
    assert call(hearth, name, "$LATEST").start == "warm"
    assert publish(hearth, name)["version"] == "2"


def test_a_deleted_function_takes_every_version_along(hearth: Instance) -> None:
    name = hearth.deploy(answers("first"), name="recreated")
    publish(hearth, name)
    long = hearth.soon(call, hearth, name, "1", {"seconds": 1})
    wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "it runs")
    hearth.delete(name)
    assert call(hearth, name, "1").outcome == (404, 435)
    assert long.result().ok() == "first 1 default"  # what runs ends
    wait_until(lambda: not hearth.sandboxes(name), "no worker is left")
    hearth.deploy(answers("second"), name=name)
    assert call(hearth, name, "1").outcome == (404, 442)
    assert call(hearth, name, "$DEFAULT").ok() == "second $LATEST default"
    publish(hearth, name)
    assert call(hearth, name, "1").ok() == "second 1 default"
    hearth.delete(name)


def test_the_concurrency_counts_latest_and_versions_together(hearth: Instance, name: str) -> None:
    assert hearth.request("PATCH", f"/v1/functions/{name}", json={"concurrency": 3, "timeout": 20}).status == 200
    publish(hearth, name)
    alias(hearth, name, name="prod", version="2")
    slow = [hearth.soon(call, hearth, name, qualifier, {"seconds": 3}) for qualifier in ("$LATEST", "2", "prod")]
    wait_until(lambda: sum(row["state"] == "leased" for row in hearth.sandboxes(name)) == 3, "three calls run")
    refused = [call(hearth, name, qualifier).outcome for qualifier in ("$LATEST", "1", "2", "prod", "$DEFAULT") * 3]
    assert refused == [(429, 432)] * 15
    assert [future.result().status for future in slow] == [200] * 3
    assert call(hearth, name, "1").status == 200


def test_exactly_the_limit_of_many_simultaneous_calls_is_let_in(hearth: Instance, name: str) -> None:
    assert hearth.request("PATCH", f"/v1/functions/{name}", json={"concurrency": 4, "timeout": 20}).status == 200
    calls = [hearth.soon(call, hearth, name, qualifier, {"seconds": 2}) for qualifier in ("$LATEST", "1") * 8]
    assert Counter(future.result().status for future in calls) == {200: 4, 429: 12}


def test_weights_spread_the_calls(hearth: Instance, name: str) -> None:
    alias(hearth, name, name="canary", version="1", routing={"weights": [{"version": "$LATEST", "weight": 0.3}]})
    went = Counter(call(hearth, name, "canary").ok() for _ in range(CALLS))
    assert set(went) == {"old 1 default", "new $LATEST default"}
    # 0.3 of 200 are 60, the standard deviation is 6.5: five of them
    assert 28 <= went["new $LATEST default"] <= 92


def test_a_routing_key_chooses_the_version(hearth: Instance, name: str) -> None:
    rules = [
        {"version": "$LATEST", "key": "invoke.headers.user", "method": "exact", "expression": "vip"},
        {"version": "$LATEST", "key": "invoke.headers.shard", "method": "range", "expression": "[10,20]"},
    ]
    alias(hearth, name, name="ruled", version="1", routing={"matches": rules})
    for key, served in (
        ('{"user": "vip"}', "new $LATEST default"),
        ('{"user": "other"}', "old 1 default"),
        ('{"shard": "20"}', "new $LATEST default"),
        ('{"shard": "21"}', "old 1 default"),
    ):
        assert call(hearth, name, "ruled", **{"X-Scf-Routing-Key": key}).ok() == served
    record = hearth.record(call(hearth, name, "ruled", **{"X-Scf-Routing-Key": '{"user": "vip"}'}))
    assert (record["qualifier"], record["version"]) == ("ruled", "$LATEST")


def test_every_process_follows_a_changed_alias_at_once(hearth: Instance, name: str) -> None:
    """Two HTTP workers: after the answer to a change no more than the message's way is left to the other."""
    alias(hearth, name, name="live", version="1")
    for version, served in [("$LATEST", "new $LATEST default"), ("1", "old 1 default")] * 3:
        for _ in range(8):
            call(hearth, name, "live").ok()
        change_alias(hearth, name, "live", version=version)
        wait_until(lambda served=served: call(hearth, name, "live").ok() == served, "the alias is followed", 0.5)
        assert {call(hearth, name, "live").ok() for _ in range(12)} == {served}
    assert {row["version"] for row in hearth.sandboxes(name)} == {"1", "$LATEST"}  # and no worker went for it


def test_one_name_in_two_namespaces_is_two_functions(hearth: Instance) -> None:
    assert hearth.request("POST", "/v1/namespaces", json={"name": "team"}).status == 201
    name = hearth.deploy(answers("ours"), name="shared")
    theirs = {
        "name": name,
        "runtime": "python3",
        "handler": "index.main_handler",
        "concurrency": 1,
        "code": {"zip": packed(answers("theirs"))},
    }
    made = hearth.request("POST", "/v1/functions?namespace=team", json=theirs)
    assert made.status == 201, made.content
    path = f"/v1/functions/{name}/invocations"
    assert hearth.request("POST", path, json={}).ok() == "ours $LATEST default"
    slow = hearth.soon(hearth.request, "POST", f"{path}?namespace=team", json={"seconds": 2})
    wait_until(lambda: [row for row in hearth.sandboxes(name) if (row["namespace"], row["state"]) == ("team", "leased")], "it runs")
    assert hearth.request("POST", f"{path}?namespace=team", json={}).status == 429
    assert hearth.request("POST", path, json={}).status == 200
    assert slow.result().ok() == "theirs $LATEST team"
    assert hearth.request("DELETE", f"/v1/functions/{name}?namespace=team").status == 204
    assert hearth.request("POST", path, json={}).start == "warm"
    assert hearth.request("DELETE", "/v1/namespaces/team").status == 204
    hearth.delete(name)
