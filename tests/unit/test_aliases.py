"""Aliases: `$DEFAULT` and named ones, routing by rules and by weight, and what becomes of them when their versions go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from sandbox.settings import Settings
from server.api import lookup
from server.errors import ApiError, BadRequest, Conflict, FunctionNotFound, LimitExceeded, QualifierNotFound
from server.functions import Function, Functions
from server.functions.aliases import Alias, Aliases
from server.functions.routing import Routing, checked_routing, checked_routing_key
from server.functions.versions import Versions
from server.store import tables
from tests.unit import test_api as rest
from tests.unit import test_functions as service
from tests.unit.test_functions import _at_once as at_once

client, app, api, hello = rest.client, rest.app, rest.api, rest.hello
engine, functions = service.engine, service.functions
payload, problem = service.payload, rest.problem
ALIASES, VERSIONS = f"{rest.HELLO}/aliases", f"{rest.HELLO}/versions"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_aliases=4)


@pytest.fixture
def versions(engine: Engine, settings: Settings) -> Versions:
    return Versions(engine, settings)


@pytest.fixture
def aliases(engine: Engine, settings: Settings, functions: Functions, versions: Versions) -> Aliases:
    """Of `hello`, which has two versions."""
    functions.create(payload())
    for _ in range(2):
        versions.publish("hello")
    return Aliases(engine, settings)


def rule(version: str, name: str, expression: str, method: str = "exact") -> dict[str, str]:
    return {"version": version, "key": f"invoke.headers.{name}", "method": method, "expression": expression}


def weighted(version: str, weight: float) -> dict[str, Any]:
    return {"weights": [{"version": version, "weight": weight}]}


# Routing --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expression", "value", "holds"),
    [
        ("exact", "7", "7", True),
        ("exact", "7", "07", False),
        ("exact", "A b", "A b", True),
        ("exact", "a", "A", False),
        ("range", "(1,5)", "1", False),
        ("range", "(1,5)", "2", True),
        ("range", "(1,5)", "4", True),
        ("range", "(1,5)", "5", False),
        ("range", "[1,5]", "1", True),
        ("range", "[1,5]", "5", True),
        ("range", "[1,5]", "6", False),
        ("range", "[ -3 , -1 ]", "-2", True),
        ("range", "[1,5]", "2.5", False),
        ("range", "[1,5]", "x", False),
        ("range", "[1,5]", "", False),
        ("range", "[1,5]", " 2", False),
        ("range", "[7,7]", "7", True),
    ],
)
def test_a_rule_holds(method: str, expression: str, value: str, holds: bool) -> None:
    routing = checked_routing({"matches": [rule("2", "user", expression, method)]})
    assert routing.choose("1", {"user": value}, 0.5) == ("2" if holds else "1")
    assert routing.choose("1", {"User": value}, 0.5) == routing.choose("1", {}, 0.5) == "1"
    assert checked_routing(routing.to_json()) == routing


def test_the_order_of_a_rule_s_fields_does_not_matter() -> None:
    turned = dict(reversed(rule("2", "user", "7").items()))
    assert checked_routing({"matches": [turned]}) == checked_routing({"matches": [rule("2", "user", "7")]})


def test_rules_come_before_weights_and_the_first_that_holds_wins() -> None:
    routing = checked_routing({**weighted("3", 1), "matches": [rule("2", "a", "x"), rule("4", "a", "x"), rule("5", "b", "y")]})
    assert [routing.choose("1", key, 0.0) for key in ({"a": "x", "b": "y"}, {"b": "y"}, {"c": "z"})] == ["2", "5", "3"]


@pytest.mark.parametrize(("weight", "share"), [(0, 0), (0.25, 250), (1, 1000), (1.0, 1000)])
def test_a_weight_is_a_share_of_the_calls(weight: float, share: int) -> None:
    routing = checked_routing(weighted("2", weight))
    assert Counter(routing.choose("1", {}, draw / 1000) for draw in range(1000))["2"] == share


@pytest.mark.parametrize(
    "value",
    [
        [],
        5,
        {"odd": 1},
        {"weights": {}},
        {"weights": [[]]},
        {"weights": [{"version": "1"}]},
        {"weights": [{"version": 1, "weight": 0.5}]},
        {"weights": [{"version": "1", "weight": 0.5, "odd": 1}]},
        *(weighted("2", weight) for weight in (-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None)),
        {"weights": [{"version": "1", "weight": 0.1}, {"version": "2", "weight": 0.1}]},
        {"matches": [rule("2", "a", "x")] * 11},
        {"matches": [{**rule("2", "a", "x"), "key": "headers.a"}]},
        {"matches": [{**rule("2", "a", "x"), "key": "invoke.headers."}]},
        {"matches": [rule("2", "a", "x", "prefix")]},
        {"matches": [rule("2", "a", "")]},
        {"matches": [rule("2", "a", "\ud800")]},
        *({"matches": [rule("2", "a", text, "range")]} for text in ("1,5", "(1,5]", "[1,5)", "[5,1]", "(1,2)", "[a,b]", "[1,2", "[１,２]")),
    ],
)
def test_a_wrong_routing_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        checked_routing(value)


def test_a_routing_key_is_an_object_of_strings() -> None:
    assert checked_routing_key(None) == checked_routing_key("{}") == {}
    assert checked_routing_key('{"user": "7", "号": ""}') == {"user": "7", "号": ""}
    assert len(checked_routing_key('{"a":"' + "x" * 1016 + '"}')["a"]) == 1016
    for wrong in ("", "x", "[]", '{"a": 1}', '{"a": null}', '"a"', '{"a":"' + "x" * 1017 + '"}', '{"a":"' + "号" * 400 + '"}', "\ud800"):
        with pytest.raises(BadRequest) as refused:
            checked_routing_key(wrong)
        assert refused.value.scf_status == 436


# The service ----------------------------------------------------------------------------------------------------------------


def test_every_function_has_a_default_that_stays(functions: Functions, aliases: Aliases) -> None:
    default = aliases.get("hello", "$DEFAULT")
    assert (default.version, default.routing) == ("$LATEST", Routing()) and aliases.list("hello") == [default]
    assert functions.get("hello", qualifier="$DEFAULT") == functions.get("hello")
    with pytest.raises(Conflict) as refused:
        aliases.delete("hello", "$DEFAULT")
    assert refused.value.code == "default_alias"
    with pytest.raises(Conflict):
        aliases.create("hello", {"name": "$DEFAULT", "version": "1"})
    aliases.update("hello", "$DEFAULT", {"version": "2"})
    assert functions.get("hello", qualifier="$DEFAULT").version == "2"
    assert functions.get("hello").version == "$LATEST"


def test_one_is_made_changed_and_deleted(functions: Functions, aliases: Aliases) -> None:
    function, made = aliases.create("hello", {"name": "prod", "version": "1", "description": "生产", "routing": weighted("2", 0.1)})
    assert function == functions.get("hello") and made == aliases.get("hello", "prod")
    assert (made.version, made.description, made.routing.weights) == ("1", "生产", (("2", 0.1),))
    _, changed = aliases.update("hello", "prod", {"version": "2"})
    assert (changed.version, changed.routing, changed.description) == ("2", made.routing, "生产")
    assert changed.created_at == made.created_at and changed.updated_at >= made.updated_at
    assert aliases.update("hello", "prod", {"routing": {}, "description": ""})[1].routing == Routing()
    assert [alias.name for alias in aliases.list("hello", version="2")] == ["prod"]
    assert aliases.list("hello", version="1") == []
    aliases.delete("hello", "prod")
    for ask in (aliases.get, aliases.delete, lambda name, alias: aliases.update(name, alias, {})):
        with pytest.raises(QualifierNotFound):
            ask("hello", "prod")
    with pytest.raises(FunctionNotFound):
        aliases.list("nobody")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {"version": "1"},
        {"name": "prod"},
        {"name": "prod", "version": 1},
        {"name": "prod", "version": "1", "odd": 1},
        {"name": "prod", "version": "1", "description": "x" * 1001},
        {"name": "prod", "version": "1", "routing": weighted("2", 2)},
        *({"name": name, "version": "1"} for name in ("", "1", "1a", "-a", "a.b", "a" * 65, "ä", "$LATEST", "$x", "a\n", 5)),
    ],
)
def test_a_wrong_one_is_refused(aliases: Aliases, wrong: Any) -> None:
    with pytest.raises(BadRequest):
        aliases.create("hello", wrong)
    assert len(aliases.list("hello")) == 1


@pytest.mark.parametrize("version", ["3", "", "prod", "$DEFAULT", "01", "\0"])
def test_only_versions_can_be_pointed_to(aliases: Aliases, version: str) -> None:
    for given in ({"version": version}, {"version": "1", "routing": weighted(version, 0.5)}):
        with pytest.raises((QualifierNotFound, BadRequest)):
            aliases.create("hello", {"name": "prod", **given})
        with pytest.raises((QualifierNotFound, BadRequest)):
            aliases.update("hello", "$DEFAULT", given)
    with pytest.raises((QualifierNotFound, BadRequest)):
        aliases.create("hello", {"name": "prod", "version": "1", "routing": {"matches": [rule(version, "a", "x")]}})


def test_names_are_taken_once_by_function_and_there_is_a_limit(functions: Functions, aliases: Aliases) -> None:
    for name in ("a", "b", "c" * 64):
        aliases.create("hello", {"name": name, "version": "1"})
    with pytest.raises(Conflict, match="already"):
        aliases.create("hello", {"name": "a", "version": "1"})
    with pytest.raises(LimitExceeded, match="4 aliases, limit 4"):
        aliases.create("hello", {"name": "d", "version": "1"})
    functions.create(payload(name="other"))
    aliases.create("other", {"name": "a", "version": "$LATEST"})


def test_a_version_is_not_deleted_under_an_alias(functions: Functions, aliases: Aliases, versions: Versions) -> None:
    aliases.create("hello", {"name": "prod", "version": "1"})
    aliases.create("hello", {"name": "test", "version": "2", "routing": {**weighted("1", 0.5), "matches": [rule("1", "a", "x")]}})
    aliases.update("hello", "$DEFAULT", {"version": "1"})
    for _ in range(2):
        with pytest.raises(Conflict) as refused:
            versions.delete("hello", "1")
        assert refused.value.code == "version_in_use"
    versions.delete("hello", "1", force=True)
    assert {alias.name: (alias.version, alias.routing) for alias in aliases.list("hello")} == {
        "$DEFAULT": ("$LATEST", Routing()),
        "test": ("2", Routing()),
    }
    with pytest.raises(QualifierNotFound):
        functions.get("hello", qualifier="prod")


def test_aliases_go_with_their_function(functions: Functions, aliases: Aliases, engine: Engine) -> None:
    aliases.create("hello", {"name": "prod", "version": "1"})
    functions.delete("hello")
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(tables.aliases)).scalar_one() == 0
    functions.create(payload())
    with pytest.raises(QualifierNotFound):
        functions.get("hello", qualifier="prod")


def test_no_alias_points_to_a_version_that_is_being_deleted(aliases: Aliases, versions: Versions) -> None:
    """Whoever comes first: the alias and its version are there, or neither can be made of the other."""
    for number in range(6):
        version = versions.publish("hello").version
        works = [
            lambda number=number, version=version: aliases.create("hello", {"name": f"a{number}", "version": version}),
            lambda version=version: versions.delete("hello", version),
        ]
        outcomes = at_once(lambda at, works=works: works[at](), 2)
        refused = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
        assert len(refused) == 1 and isinstance(refused[0], Conflict | QualifierNotFound)
        if isinstance(refused[0], Conflict):
            aliases.delete("hello", f"a{number}")


def test_simultaneous_changes_of_an_alias_are_each_whole(aliases: Aliases) -> None:
    aliases.create("hello", {"name": "prod", "version": "1"})
    wanted = [("1", weighted("2", 0.25)), ("2", weighted("1", 0.75))]

    def change(number: int) -> Any:
        version, routing = wanted[number % 2]
        return aliases.update("hello", "prod", {"version": version, "routing": routing})

    outcomes = at_once(change, 6)
    assert not [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    found = aliases.get("hello", "prod")
    assert (found.version, found.routing) in [(version, checked_routing(routing)) for version, routing in wanted]


# Copies -----------------------------------------------------------------------------------------------------------------------


def test_a_copy_has_code_and_configuration_and_nothing_else(functions: Functions, aliases: Aliases, versions: Versions) -> None:
    functions.update("hello", {"memory": 256, "environment": {"A": "1"}, "description": "first"})
    source = functions.get("hello")
    copied, replaced = functions.copy("hello", "again")
    assert replaced is None and copied == functions.get("again")
    assert (copied.code, copied.memory, copied.environment, copied.description) == (source.code, 256, {"A": "1"}, "first")
    assert copied.function_id != source.function_id and copied.generation == 1
    assert versions.list("again")[0] == 1 and [alias.version for alias in aliases.list("again")] == ["$LATEST"]
    bare, _ = functions.copy("hello", "bare", copy_configuration=False, description="mine")
    assert (bare.code, bare.handler, bare.runtime) == (source.code, source.handler, source.runtime)
    assert (bare.memory, bare.environment, bare.description) == (128, {}, "mine")
    assert functions.copy("hello", "third", description="")[0].description == ""


def test_a_copy_replaces_only_where_it_may(functions: Functions, aliases: Aliases, versions: Versions) -> None:
    old = functions.create(payload(name="old", memory=512))
    versions.publish("old")
    with pytest.raises(Conflict):
        functions.copy("hello", "old")
    assert functions.get("old") == old
    copied, replaced = functions.copy("hello", "old", override=True)
    assert replaced == old and copied.memory == 128 and versions.list("old")[0] == 1
    for wrong in ("hello", "-x", ""):
        with pytest.raises(BadRequest):
            functions.copy("hello", wrong, override=True)
    with pytest.raises(FunctionNotFound):
        functions.copy("nobody", "more")
    with pytest.raises(ApiError, match="no namespace"):
        functions.copy("hello", "more", target_namespace="nowhere")


async def test_who_is_overwritten_is_retired(api: Any, app: rest.App, hello: Any, client: rest.FakeClient) -> None:
    await api.simulate_post("/v1/functions", json=rest.creation(name="other", memory=256))
    copied = await app.services.copy("other", "hello", "default", override=True)
    assert client.retired == [(hello["function_id"], None)] and copied.memory == 256
    assert (await api.simulate_post(rest.CALL)).status_code == 200 and client.specs[-1].memory_mb == 256


# Over HTTP --------------------------------------------------------------------------------------------------------------------


async def test_aliases_over_http(api: Any, hello: Any, client: rest.FakeClient) -> None:
    for _ in range(2):
        await api.simulate_post(VERSIONS)
    routing = {**weighted("2", 0.5), "matches": [rule("2", "user", "[1,5]", "range")]}
    made = await api.simulate_post(ALIASES, json={"name": "prod", "version": "1", "routing": routing})
    assert (made.status_code, made.headers["location"], made.json["routing"]) == (201, f"{ALIASES}/prod", routing)
    assert (await api.simulate_get(f"{ALIASES}/prod")).json == made.json
    listed = (await api.simulate_get(ALIASES)).json["aliases"]
    assert [(row["name"], row["version"]) for row in listed] == [("$DEFAULT", "$LATEST"), ("prod", "1")]
    assert (await api.simulate_patch(f"{ALIASES}/$DEFAULT", json={"version": "2"})).json["version"] == "2"
    problem(await api.simulate_patch(f"{ALIASES}/prod", json={"version": "9"}), 404, "version_not_found")
    problem(await api.simulate_post(ALIASES, json={"name": "prod", "version": "1"}), 409, "alias_exists")
    problem(await api.simulate_delete(f"{ALIASES}/$DEFAULT"), 409, "default_alias")
    problem(await api.simulate_delete(f"{VERSIONS}/1"), 409, "version_in_use")
    assert (await api.simulate_delete(f"{VERSIONS}/1", params={"force": "1"})).status_code == 204
    problem(await api.simulate_get(f"{ALIASES}/prod"), 404, "qualifier_not_found")
    await api.simulate_post(ALIASES, json={"name": "x", "version": "2"})
    assert (await api.simulate_delete(f"{ALIASES}/x")).status_code == 204
    assert client.announced == [hello["function_id"]] * 4 and len(client.retired) == 1


async def test_a_call_follows_the_alias_and_its_record_says_so(api: Any, hello: Any, client: rest.FakeClient) -> None:
    await api.simulate_post(VERSIONS)
    await api.simulate_post(ALIASES, json={"name": "prod", "version": "1", "routing": {"matches": [rule("$LATEST", "user", "7")]}})
    for qualifier, key, version in (
        ("prod", None, "1"),
        ("prod", '{"user": "7"}', "$LATEST"),
        ("prod", '{"user": "8"}', "1"),
        ("$DEFAULT", None, "$LATEST"),
        ("$LATEST", '{"user": "7"}', "$LATEST"),
        ("1", '{"user": "7"}', "1"),
    ):
        headers = {} if key is None else {"X-Scf-Routing-Key": key}
        called = await api.simulate_post(rest.CALL, params={"qualifier": qualifier}, headers=headers)
        assert called.status_code == 200 and client.specs[-1].version == version
        record = await rest.record_of(api, called)
        assert (record["qualifier"], record["version"]) == (qualifier, version)
    for key in ("{", "[]", '{"user": 7}', '{"user":"' + "x" * 1020 + '"}'):
        wrong = await api.simulate_post(rest.CALL, headers={"X-Scf-Routing-Key": key})
        assert problem(wrong, 400, "invalid_routing_key")["scf_status"] == 436


async def test_weights_spread_calls_without_asking_the_database(
    api: Any, app: rest.App, hello: Any, client: rest.FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.simulate_post(VERSIONS)
    await api.simulate_post(ALIASES, json={"name": "prod", "version": "1", "routing": weighted("$LATEST", 0.25)})
    draws = iter([0.2, 0.3, 0.9, 0.0, 0.25])
    monkeypatch.setattr(lookup.random, "random", lambda: next(draws))
    for at in range(5):
        assert (await api.simulate_post(rest.CALL, params={"qualifier": "prod"})).status_code == 200
        if at == 0:
            monkeypatch.setattr(app.services.cache, "_look", None)
            monkeypatch.setattr(app.services.cache, "_clock", lambda: 0.0)  # nothing expires
    assert [spec.version for spec in client.specs] == ["$LATEST", "1", "1", "$LATEST", "1"]


async def test_a_change_of_an_alias_in_another_process_is_known(api: Any, app: rest.App, hello: Any, client: rest.FakeClient) -> None:
    await api.simulate_post(VERSIONS)
    call = {"params": {"qualifier": "$DEFAULT"}}
    await api.simulate_post(rest.CALL, **call)
    function, alias = app.services.aliases.update("hello", "$DEFAULT", {"version": "1"})
    assert isinstance(function, Function) and isinstance(alias, Alias)
    client.on_change(function.function_id)
    await api.simulate_post(rest.CALL, **call)
    app.services.aliases.update("hello", "$DEFAULT", {"version": "$LATEST"})  # and nobody says so
    app.services.cache._clock = lambda later=app.services.cache._clock: later() + lookup.TTL_SECONDS
    await api.simulate_post(rest.CALL, **call)
    assert [spec.version for spec in client.specs] == ["$LATEST", "1", "$LATEST"]


async def test_a_change_of_an_alias_is_made_though_sandboxd_is_away(api: Any, hello: Any, client: rest.FakeClient) -> None:
    await api.simulate_post(VERSIONS)
    client.connected = False
    assert (await api.simulate_patch(f"{ALIASES}/$DEFAULT", json={"version": "1"})).status_code == 200
