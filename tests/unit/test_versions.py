"""Published versions: frozen, numbered once, kept whatever becomes of `$LATEST`, gone with their function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, FunctionNotFound, LimitExceeded, QualifierNotFound
from server.functions import CodeStore, Function, Functions
from server.functions.versions import Versions
from server.store import tables
from tests.unit import test_api as rest
from tests.unit import test_functions as service
from tests.unit.test_functions import _at_once as at_once

client, app, api, hello = rest.client, rest.app, rest.api, rest.hello
engine, functions = service.engine, service.functions
payload, zipped, problem = service.payload, service.zipped, rest.problem
VERSIONS = f"{rest.HELLO}/versions"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_versions=12)


@pytest.fixture
def versions(engine: Engine, settings: Settings) -> Versions:
    return Versions(engine, settings)


def count(engine: Engine, table: str = "versions") -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(tables.METADATA.tables[table])).scalar_one()


def test_a_version_is_what_latest_was(functions: Functions, versions: Versions) -> None:
    made = functions.create(payload(memory=256, timeout=7, environment={"A": "ü"}, description="first", network="none"))
    one = versions.publish("hello")
    assert one.version == "1" and one.family == made.function_id != one.function_id
    functions.update("hello", {"memory": 128, "environment": {}, "description": "second"})
    functions.update_code("hello", zipped("index.py", content="x = 1\ndef main_handler(e, c): pass\n"))
    two = versions.publish("hello", {"description": "说明"})
    assert versions.get("hello", "1") == functions.get("hello", qualifier="1") == one
    assert (one.memory, one.timeout, one.environment, one.description, one.code) == (256, 7, {"A": "ü"}, "first", made.code)
    assert (one.network, one.layers, one.runtime, one.handler, one.tmp) == ("none", (), "python3", "index.main_handler", 512)
    assert (two.version, two.memory, two.description) == ("2", 128, "说明") and two.code != one.code
    assert versions.list("hello") == (3, [functions.get("hello"), one, two])
    assert versions.list("hello", order="desc", offset=1, limit=1) == (3, [two])
    assert versions.list("hello", offset=3) == (3, [])
    with pytest.raises(BadRequest):
        versions.list("hello", order="up")


def test_a_version_serves_with_an_id_of_its_own_and_its_function_s_concurrency(functions: Functions, versions: Versions) -> None:
    made = functions.create(payload(concurrency=3))
    spec = versions.publish("hello").spec()
    assert (spec.version, spec.family, spec.generation, spec.concurrency) == ("1", made.function_id, 1, 3)
    assert spec.function_id != made.function_id and made.spec().family == made.function_id
    functions.update("hello", {"concurrency": 5})
    again = versions.get("hello", "1").spec()
    assert again.concurrency == 5 and again.function_id == spec.function_id and again.generation == 1


def test_a_change_of_code_and_configuration_and_its_version_are_one(functions: Functions, versions: Versions) -> None:
    before = functions.create(payload())
    changes = {"memory": 256, "handler": "app.main_handler", "description": "new"}
    after = functions.update("hello", changes, zip_bytes=zipped("app.py"), scf={"Role": "r"}, publish=True)
    assert (after.generation, after.memory, after.handler, after.scf) == (2, 256, "app.main_handler", {"Role": "r"})
    one = versions.get("hello", "1")
    assert (one.memory, one.handler, one.code, one.description, one.scf) == (256, "app.main_handler", after.code, "new", {"Role": "r"})
    assert one.code != before.code and functions.get("hello") == after


def test_a_change_that_can_t_be_published_is_none(functions: Functions, versions: Versions, engine: Engine, settings: Settings) -> None:
    functions.create(payload())
    for _ in range(settings.limit_versions):
        versions.publish("hello")
    before = functions.get("hello")
    for refused, more in (
        (LimitExceeded, {"publish": True}),
        (BadRequest, {"publish": True, "zip_bytes": zipped("elsewhere.py")}),
    ):
        with pytest.raises(refused):
            functions.update("hello", {"memory": 512}, **{"zip_bytes": zipped("index.py", content="x = 3\n"), **more})
    assert functions.get("hello") == before and count(engine) == settings.limit_versions


def test_simultaneous_publishing_changes_have_a_version_each(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    memories = [128 * number for number in range(1, 6)]
    outcomes = at_once(lambda number: functions.update("hello", {"memory": memories[number]}, publish=True), 5)
    _, found = versions.list("hello")
    assert sorted(version.memory for version in found[1:]) == memories
    # Each froze its own change, in the order in which they came.
    in_order = sorted(outcomes, key=lambda outcome: outcome.generation)
    assert [version.memory for version in found[1:]] == [outcome.memory for outcome in in_order]


def test_publishing_what_has_not_changed_makes_another_version(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    assert [versions.publish("hello").version for _ in range(3)] == ["1", "2", "3"]


def test_a_number_is_never_used_again(functions: Functions, versions: Versions, engine: Engine) -> None:
    functions.create(payload())
    for _ in range(2):
        versions.publish("hello")
    assert versions.delete("hello", "2").version == "2"
    assert versions.publish("hello").version == "3"
    functions.update("hello", {"timeout": 9})
    assert versions.publish("hello").version == "4"
    assert [row.version for row in versions.list("hello")[1]] == ["$LATEST", "1", "3", "4"]


def test_versions_have_a_limit(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    for _ in range(12):
        versions.publish("hello")
    with pytest.raises(LimitExceeded, match="12 versions, limit 12"):
        versions.publish("hello")
    versions.delete("hello", "5")
    assert versions.publish("hello").version == "13"


@pytest.mark.parametrize("version", ["0", "2", "01", "-1", "1.0", "", "x", "$latest", "9" * 30, "１", "1\n", "\ud800", "\0"])
def test_a_version_that_is_not_there_is_said(functions: Functions, versions: Versions, version: str) -> None:
    functions.create(payload())
    versions.publish("hello")
    for ask in (versions.get, versions.delete, lambda name, v: functions.get(name, qualifier=v)):
        with pytest.raises(QualifierNotFound) as missing:
            ask("hello", version)
        assert missing.value.scf_status == 442
    with pytest.raises(FunctionNotFound):
        versions.get("nobody", "1")
    with pytest.raises(FunctionNotFound):
        versions.publish("nobody")


def test_latest_is_no_version_to_delete(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    with pytest.raises(Conflict):
        versions.delete("hello", "$LATEST")
    assert versions.get("hello", "$LATEST") == functions.get("hello")


def test_all_versions_go_with_their_function(functions: Functions, versions: Versions, engine: Engine) -> None:
    functions.create(payload())
    versions.publish("hello")
    functions.delete("hello")
    assert count(engine) == 0
    functions.create(payload())
    with pytest.raises(QualifierNotFound):
        versions.get("hello", "1")
    assert versions.publish("hello").version == "1"


def test_a_version_s_code_is_kept(functions: Functions, versions: Versions, settings: Settings) -> None:
    store = CodeStore(settings)
    old = functions.create(payload()).code
    versions.publish("hello")
    functions.update_code("hello", zipped("index.py", content="y = 1\n"))
    os.utime(settings.code_dir / old)
    functions.collect_code()
    assert store.path(old).is_dir() and not Path(f"{store.path(old)}.unused").exists()
    versions.delete("hello", "1")
    functions.collect_code()
    assert Path(f"{store.path(old)}.unused").exists()


def test_simultaneous_publications_get_a_number_each(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    outcomes = at_once(lambda _: versions.publish("hello"), 6)
    assert sorted(outcome.version for outcome in outcomes) == ["1", "2", "3", "4", "5", "6"]


def test_publishing_in_the_middle_of_updates_freezes_one_state(functions: Functions, versions: Versions) -> None:
    """Every update gives the three fields one and the same number."""
    functions.create(payload(timeout=1, init_timeout=3, tmp=1))

    def work(number: int) -> Any:
        if number % 2:
            return versions.publish("hello")
        return functions.update("hello", {"timeout": number + 10, "init_timeout": number + 10, "tmp": number + 10})

    outcomes = at_once(work, 12)
    published = [outcome for outcome in outcomes if isinstance(outcome, Function) and outcome.family]
    assert len(published) == 6
    for version in published:
        assert (version.timeout, version.init_timeout, version.tmp) in [(1, 3, 1), *((n + 10,) * 3 for n in range(0, 12, 2))]


def test_publishing_and_deleting_at_once_leave_nothing(functions: Functions, versions: Versions, engine: Engine) -> None:
    functions.create(payload())
    outcomes = at_once(lambda number: functions.delete("hello") if number == 2 else versions.publish("hello"), 6)
    assert count(engine) == 0 and count(engine, "functions") == 0
    assert {type(outcome) for outcome in outcomes} <= {Function, FunctionNotFound}


def test_a_version_is_deleted_once(functions: Functions, versions: Versions) -> None:
    functions.create(payload())
    versions.publish("hello")
    outcomes = at_once(lambda _: versions.delete("hello", "1"), 5)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Function"] + ["QualifierNotFound"] * 4


async def test_versions_over_http(api: Any, hello: Any, client: rest.FakeClient) -> None:
    made = await api.simulate_post(VERSIONS, json={"description": "one"})
    assert (made.status_code, made.headers["location"], made.json["version"]) == (201, f"{VERSIONS}/1", "1")
    assert (made.json["description"], made.json["code_sha256"]) == ("one", hello["code_sha256"])
    assert (await api.simulate_post(VERSIONS)).json["version"] == "2"
    listed = (await api.simulate_get(VERSIONS)).json["versions"]
    assert [row["version"] for row in listed] == ["$LATEST", "1", "2"] and listed[0] == hello
    assert (await api.simulate_get(f"{VERSIONS}/1")).json == made.json
    assert (await api.simulate_get(f"{VERSIONS}/$LATEST")).json == hello
    assert (await api.simulate_get(rest.HELLO, params={"qualifier": "1"})).json == {**made.json, "served_by": rest.SERVED_BY}
    problem(await api.simulate_get(f"{VERSIONS}/3"), 404, "version_not_found")
    problem(await api.simulate_get(rest.HELLO, params={"qualifier": "3"}), 404)
    problem(await api.simulate_post(VERSIONS, json={"odd": 1}), 400)
    problem(await api.simulate_post(VERSIONS, body=b"null"), 400)
    problem(await api.simulate_post(VERSIONS, body=b"["), 400, "invalid_json")
    problem(await api.simulate_delete(f"{VERSIONS}/$LATEST"), 409, "latest_version")
    assert client.retired == []
    assert (await api.simulate_delete(f"{VERSIONS}/1")).status_code == 204
    assert client.retired == [(made.json["function_id"], None)]


async def test_a_call_of_a_version_runs_it(api: Any, hello: Any, client: rest.FakeClient) -> None:
    version = (await api.simulate_post(VERSIONS)).json
    await api.simulate_patch(rest.HELLO, json={"memory": 256})
    for place in ({"params": {"qualifier": "1"}}, {"headers": {"X-Scf-Qualifier": "1"}}):
        called = await api.simulate_post(rest.CALL, **place)
        spec = client.specs[-1]
        assert (spec.function_id, spec.version, spec.memory_mb, spec.family) == (version["function_id"], "1", 128, hello["function_id"])
        record = await rest.record_of(api, called)
        assert (record["qualifier"], record["version"], record["status"]) == ("1", "1", 200)
    assert shown(problem(await api.simulate_post(rest.CALL, params={"qualifier": "7"}), 404)) == 442
    text = (await api.simulate_get("/metrics")).text
    assert 'hearth_invocations_total{function="hello",namespace="default",status="200",version="1"} 2.0' in text


def shown(document: dict[str, Any]) -> int:
    return int(document["scf_status"])


async def test_a_version_s_calls_follow_its_function_s_changes(api: Any, app: rest.App, hello: Any, client: rest.FakeClient) -> None:
    """What another process has changed: the concurrency, which is the function's, and whether there is a version at all."""
    await api.simulate_post(VERSIONS)
    await api.simulate_post(rest.CALL, params={"qualifier": "1"})
    app.services.functions.update("hello", {"concurrency": 1})
    client.on_change(hello["function_id"])
    await api.simulate_post(rest.CALL, params={"qualifier": "1"})
    assert [spec.concurrency for spec in client.specs] == [20, 1]
    gone = app.services.versions.delete("hello", "1")
    client.on_change(gone.function_id)
    problem(await api.simulate_post(rest.CALL, params={"qualifier": "1"}), 404, "qualifier_not_found")
