"""Namespaces: made, changed and deleted, and functions of one name in two of them, which are two functions everywhere."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine

from sandbox.settings import Settings
from server.errors import ApiError, BadRequest, Conflict, LimitExceeded, NamespaceNotFound
from server.functions import Functions
from server.functions.namespaces import Namespaces
from tests.unit import test_api as rest
from tests.unit import test_functions as service

settings, client, app, api, hello = rest.settings, rest.client, rest.app, rest.api, rest.hello
engine, functions = service.engine, service.functions
creation, problem = rest.creation, rest.problem
TEAM = {"namespace": "team"}


@pytest.fixture
def namespaces(engine: Engine, settings: Settings) -> Namespaces:
    return Namespaces(engine, settings)


def test_there_is_a_default_one_that_stays(namespaces: Namespaces) -> None:
    assert [namespace.name for namespace in namespaces.list()] == ["default"]
    with pytest.raises(Conflict) as refused:
        namespaces.delete("default")
    assert refused.value.code == "default_namespace"


def test_one_is_made_described_and_deleted(namespaces: Namespaces) -> None:
    made = namespaces.create({"name": "team", "description": "ours"})
    assert namespaces.get("team") == made
    changed = namespaces.update("team", {"description": "theirs 你好"})
    assert (changed.description, changed.created_at) == ("theirs 你好", made.created_at) and changed.updated_at >= made.updated_at
    assert namespaces.update("team", {}).description == "theirs 你好"
    namespaces.delete("team")
    for ask in (namespaces.get, namespaces.delete, lambda name: namespaces.update(name, {})):
        with pytest.raises(NamespaceNotFound):
            ask("team")


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"name": "a"}, {"name": "-ab"}, {"name": "a\0b"}, {"name": 5}, {"name": "ok", "odd": 1}]
    + [{"name": "ok", "description": text} for text in (5, "x" * 1001, "\0", "\ud800")],
)  # fmt: skip
def test_a_wrong_one_is_refused(namespaces: Namespaces, payload: Any) -> None:
    with pytest.raises(BadRequest):
        namespaces.create(payload)
    assert len(namespaces.list()) == 1


def test_a_name_is_taken_once_and_there_is_a_limit(namespaces: Namespaces) -> None:
    for name in ("n1", "n2", "n3", "n4"):
        namespaces.create({"name": name})
    with pytest.raises(Conflict, match="exists already"):
        namespaces.create({"name": "n4"})
    with pytest.raises(LimitExceeded, match="5 namespaces, limit 5"):
        namespaces.create({"name": "n5"})


def test_one_with_functions_is_not_deleted(namespaces: Namespaces, functions: Functions) -> None:
    namespaces.create({"name": "team"})
    functions.create(service.payload(), "team")
    with pytest.raises(Conflict) as refused:
        namespaces.delete("team")
    assert refused.value.code == "namespace_not_empty"
    functions.delete("hello", "team")
    namespaces.delete("team")
    with pytest.raises(NamespaceNotFound):
        functions.create(service.payload(), "team")


def test_no_function_is_made_in_one_that_is_being_deleted(namespaces: Namespaces, functions: Functions) -> None:
    """Whoever comes first: either there is both, or neither."""
    for number in range(8):
        name = f"n{number}"
        namespaces.create({"name": name})
        outcomes: list[ApiError] = []

        def attempt(work: Any, outcomes: list[ApiError] = outcomes) -> None:
            try:
                work()
            except ApiError as error:
                outcomes.append(error)

        makers = (lambda name=name: functions.create(service.payload(), name), lambda name=name: namespaces.delete(name))
        threads = [threading.Thread(target=attempt, args=[work]) for work in makers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1 and isinstance(outcomes[0], Conflict | NamespaceNotFound)
        if isinstance(outcomes[0], Conflict):
            functions.delete("hello", name)
            namespaces.delete(name)


def test_functions_are_listed_searched_and_paged(functions: Functions, namespaces: Namespaces) -> None:
    namespaces.create({"name": "team"})
    functions.create(service.payload(name="elsewhere"), "team")
    for name, runtime in (("beta", "python3"), ("alpha_1", "Python3.6"), ("alpha2", "Python2.7")):
        functions.create(service.payload(name=name, runtime=runtime, description=f"100% of {name}"))

    def names(**wanted: Any) -> list[str]:
        return [function.name for function in functions.list(**wanted)[1]]

    assert (functions.list()[0], names()) == (3, ["alpha2", "alpha_1", "beta"])
    assert names(order="desc") == ["beta", "alpha_1", "alpha2"]
    assert names(order_by="created_at") == ["beta", "alpha_1", "alpha2"]
    functions.update("beta", {"memory": 256})
    assert names(order_by="updated_at", order="desc")[0] == "beta"
    assert (functions.list(offset=1, limit=1)[0], names(offset=1, limit=1)) == (3, ["alpha_1"])
    assert names(search="ALPHA") == ["alpha2", "alpha_1"] and names(search="a_") == ["alpha_1"] and names(search="%") == []
    assert names(description="100% OF B") == ["beta"]
    assert names(filters={"runtime": ["python3.6", "PYTHON2.7"]}) == ["alpha2", "alpha_1"]
    assert names(filters={"state": ["Active"], "type": ["Event", "HTTP"]}) == ["alpha2", "alpha_1", "beta"]
    assert functions.list(filters={"type": ["HTTP"]}) == (0, [])
    for wrong in ({"order": "up"}, {"order_by": "code"}, {"filters": {"odd": ["x"]}}, {"search": "\0"}):
        with pytest.raises(BadRequest):
            functions.list(**wrong)  # type: ignore[arg-type]
    with pytest.raises(NamespaceNotFound):
        functions.list("nowhere")


async def test_namespaces_over_http(api: Any) -> None:
    made = await api.simulate_post("/v1/namespaces", json={"name": "team", "description": "ours"})
    assert (made.status_code, made.headers["location"]) == (201, "/v1/namespaces/team")
    assert (await api.simulate_get("/v1/namespaces/team")).json == made.json
    assert [row["name"] for row in (await api.simulate_get("/v1/namespaces")).json["namespaces"]] == ["default", "team"]
    assert (await api.simulate_patch("/v1/namespaces/team", json={"description": "x"})).json["description"] == "x"
    problem(await api.simulate_post("/v1/namespaces", json={"name": "team"}), 409, "namespace_exists")
    problem(await api.simulate_post("/v1/namespaces", json={"name": "t"}), 400)
    problem(await api.simulate_delete("/v1/namespaces/default"), 409, "default_namespace")
    assert (await api.simulate_delete("/v1/namespaces/team")).status_code == 204
    problem(await api.simulate_get("/v1/namespaces/team"), 404, "namespace_not_found")


async def test_one_name_in_two_namespaces_is_two_functions(api: Any, app: rest.App, hello: Any, client: rest.FakeClient) -> None:
    await api.simulate_post("/v1/namespaces", json={"name": "team"})
    theirs = await api.simulate_post("/v1/functions", params=TEAM, json=creation(memory=256))
    assert (theirs.status_code, theirs.headers["location"]) == (201, f"{rest.HELLO}?namespace=team")
    for params, memory in ((TEAM, 256), ({}, 128), (TEAM, 256)):
        assert (await api.simulate_get(rest.HELLO, params=params)).json["memory"] == memory
        called = await api.simulate_post(rest.CALL, params=params)
        assert called.status_code == 200 and client.specs[-1].memory_mb == memory
        where, other = params.get("namespace", "default"), {"namespace": "default"} if params else TEAM
        path = f"/v1/invocations/{called.headers['x-scf-request-id']}"
        assert (await api.simulate_get(path, params={**params, "wait": "5"})).json["namespace"] == where
        problem(await api.simulate_get(path, params=other), 404, "invocation_not_found")
    for params, count in ((TEAM, 2), ({}, 1)):
        assert len((await api.simulate_get(rest.CALL, params=params)).json["invocations"]) == count
        assert len((await api.simulate_get(f"{rest.HELLO}/logs", params=params)).json["logs"]) == count
        assert [row["calls"] for row in (await api.simulate_get("/v1/usage", params=params)).json["usage"]] == [count]
    text = (await api.simulate_get("/metrics")).text
    assert 'hearth_invocations_total{function="hello",namespace="team",status="200",version="$LATEST"} 2.0' in text

    changed = await api.simulate_patch(rest.HELLO, params=TEAM, json={"timeout": 7})
    assert changed.json["timeout"] == 7 and (await api.simulate_get(rest.HELLO)).json["timeout"] == 3
    code = await api.simulate_put(f"{rest.HELLO}/code", params=TEAM, body=rest.zipped("x = 1\n"))
    assert code.status_code == 200 and code.json["code_sha256"] != hello["code_sha256"]
    assert (await api.simulate_delete(rest.HELLO, params=TEAM)).status_code == 204
    problem(await api.simulate_post(rest.CALL, params=TEAM), 404, "function_not_found")
    assert (await api.simulate_post(rest.CALL)).status_code == 200


async def test_a_call_that_became_stale_is_looked_up_in_its_own_namespace(api: Any, app: rest.App, hello: Any, client: Any) -> None:
    await api.simulate_post("/v1/namespaces", json={"name": "team"})
    await api.simulate_post("/v1/functions", params=TEAM, json=creation(memory=256))
    await api.simulate_post(rest.CALL, params=TEAM)
    app.services.functions.update("hello", {"memory": 512}, "team")  # and nobody says so

    async def behave(spec: Any, event: bytes, request_id: str) -> Any:
        if spec.generation == 1:
            raise rest.errors.StaleFunction("generation 1, now 2")
        return rest.reply(request_id)

    client.behaviour = behave
    assert (await api.simulate_post(rest.CALL, params=TEAM)).status_code == 200 and client.specs[-1].memory_mb == 512


@pytest.mark.parametrize(("namespace", "status"), [("nowhere", 404), ("", 400), ("a", 400), ("a b", 400), ("x" * 61, 400)])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/functions"),
        ("GET", rest.HELLO),
        ("PATCH", rest.HELLO),
        ("DELETE", rest.HELLO),
        ("PUT", f"{rest.HELLO}/code"),
        ("POST", rest.CALL),
        ("GET", rest.CALL),
        ("GET", f"{rest.HELLO}/logs"),
    ],
)
async def test_a_namespace_that_is_not_is_said(api: Any, hello: Any, method: str, path: str, namespace: str, status: int) -> None:
    body = rest.zipped() if path.endswith("/code") else b"{}"
    result = await api.simulate_request(method, path, params={"namespace": namespace}, body=body)
    shown = problem(result, status, "namespace_not_found" if status == 404 else "")
    assert status == 404 or "namespace" in shown["detail"]
