"""Quotas and provisioned workers through the service and HTTP (the real database, a stand-in for sandboxd), and schedules by the clock."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from sandbox.errors import Unavailable
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.app import App
from server.errors import QualifierNotFound
from server.functions.model import LATEST, Function
from server.functions.provisioning import Action, check_cron, number_at
from server.functions.provisions import Provisions
from server.functions.quotas import forget_namespace
from server.functions.reconciler import Reconciler
from server.store.engine import writing
from server.store.tables import provisioned
from tests.unit import test_api as rest
from tests.unit.test_api import CALL, FakeClient, creation, problem

#: The fixtures of the REST interface's tests.
api, app, client, hello = rest.api, rest.app, rest.client, rest.hello

SHARE = "/v1/functions/hello/concurrency"
PROVISIONED = "/v1/functions/hello/versions/1/provisioned"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_provisioned=20, limit_provisioned_actions=2, default_total_mb=10_000, limit_total_mb=20_000)


# Reservations and totals ----------------------------------------------------------------------------------------------------


async def call_spec(api: Any, client: FakeClient) -> FunctionSpec:
    assert (await api.simulate_post(CALL)).status_code == 200
    return client.specs[-1]


def bounds(spec: FunctionSpec) -> tuple[int | None, int | None]:
    return spec.reserved_mb, spec.unreserved_mb


async def test_who_never_sets_a_quota_has_no_bound_but_the_machine(api: Any, hello: Any, client: FakeClient) -> None:
    spec = await call_spec(api, client)
    assert (bounds(spec), spec.quota_epoch, spec.family) == ((None, None), 0, hello["function_id"])
    found = (await api.simulate_get(SHARE)).json
    assert found == {"function": "hello", "namespace": "default", "reserved_mb": None, "total_mb": 10_000, "unreserved_mb": 10_000}


async def test_a_reservation_goes_with_the_next_call_and_sandboxd_is_told(api: Any, hello: Any, client: FakeClient) -> None:
    await call_spec(api, client)
    result = await api.simulate_put(SHARE, json={"reserved_mb": 1024})
    assert (result.status_code, result.json["reserved_mb"], result.json["unreserved_mb"]) == (200, 1024, 8976)
    spec = await call_spec(api, client)
    assert bounds(spec) == (1024, 8976)
    assert client.quotas == [("default", spec.quota_epoch, hello["function_id"], True)]
    assert (await api.simulate_delete(SHARE)).status_code == 204
    after = await call_spec(api, client)
    assert after.reserved_mb is None and after.unreserved_mb is None and after.quota_epoch > spec.quota_epoch
    assert client.quotas[-1] == ("default", after.quota_epoch, hello["function_id"], False)


async def test_a_share_is_taken_out_of_what_the_others_have(api: Any, hello: Any, client: FakeClient) -> None:
    await api.simulate_post("/v1/functions", json=creation(name="other"))
    await api.simulate_put("/v1/functions/other/concurrency", json={"reserved_mb": 4000})
    assert bounds(await call_spec(api, client)) == (None, 6000)
    assert (await api.simulate_delete("/v1/functions/other")).status_code == 204
    assert (await api.simulate_get(SHARE)).json["unreserved_mb"] == 10_000


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        (10_001, 409, "reserved_exceeds_total"),
        (9001, 409, "reserved_concurrency_limit"),
        (9000, 200, ""),
        (-1, 400, "invalid_parameter"),
        (1.5, 400, "invalid_parameter"),
        (True, 400, "invalid_parameter"),
        ("128", 400, "invalid_parameter"),
        (None, 400, "invalid_parameter"),
        (1 << 60, 400, "invalid_parameter"),
    ],
)
async def test_a_tenth_stays_unreserved(api: Any, hello: Any, wanted: Any, status: int, code: str) -> None:
    result = await api.simulate_put(SHARE, json={"reserved_mb": wanted})
    if code:
        problem(result, status, code)
        assert (await api.simulate_get(SHARE)).json["reserved_mb"] is None
    else:
        assert result.status_code == status


async def test_less_is_always_allowed_however_full_it_is(api: Any, hello: Any, app: App) -> None:
    await api.simulate_put(SHARE, json={"reserved_mb": 9000})
    with writing(app.services.engine) as connection:
        forget_namespace(connection, "default")
        connection.exec_driver_sql("UPDATE quotas SET total_mb = 100")
    for wanted in (8000, 0):
        assert (await api.simulate_put(SHARE, json={"reserved_mb": wanted})).status_code == 200


async def test_the_total_of_a_namespace(api: Any, hello: Any, client: FakeClient) -> None:
    result = await api.simulate_put("/v1/account", json={"namespace": "default", "total_mb": 2000})
    assert result.status_code == 200 and result.json["namespaces"][0]["total_mb"] == 2000
    assert bounds(await call_spec(api, client)) == (None, 2000)
    assert client.quotas[-1][2:] == ("", False)
    await api.simulate_put(SHARE, json={"reserved_mb": 900})
    problem(await api.simulate_put("/v1/account", json={"total_mb": 999}), 409, "total_concurrency_limit")
    assert (await api.simulate_put("/v1/account", json={"total_mb": 1000})).status_code == 200
    problem(await api.simulate_put("/v1/account", json={"total_mb": 20_001}), 409, "user_total_concurrency_limit")
    problem(await api.simulate_put("/v1/account", json={"total_mb": 0}), 400)
    problem(await api.simulate_put("/v1/account", json={"namespace": "no name", "total_mb": 5}), 400)
    problem(await api.simulate_put("/v1/account", json={"total": 5}), 400)


async def test_the_account_tells_what_is_used_and_what_may_be(api: Any, hello: Any) -> None:
    await api.simulate_put(SHARE, json={"reserved_mb": 500})
    account = (await api.simulate_get("/v1/account")).json
    assert account["namespaces"] == [
        {
            "namespace": "default",
            "functions": ["hello"],
            "functions_count": 1,
            "total_mb": 10_000,
            "reserved_mb": 500,
            "reserved_functions": 1,
            "unreserved_mb": 9500,
            "provisioned_mb": 0,
        }
    ]
    assert (account["total_mb"], account["reserved_mb"], account["limits"]["functions"]) == (10_000, 500, 20)
    assert account["limits"]["events"] == {"retries": 2, "min_ttl": 60, "max_ttl": 21_600}
    assert account["limits"]["triggers"]["timer"] == account["limits"]["timers"] == 2


async def test_a_quota_that_sandboxd_could_not_be_told_holds_all_the_same(api: Any, hello: Any, client: FakeClient) -> None:
    client.connected = False
    assert (await api.simulate_put(SHARE, json={"reserved_mb": 128})).status_code == 200
    client.connected = True
    assert (await call_spec(api, client)).reserved_mb == 128


async def test_nobody_s_concurrency_is_404(api: Any) -> None:
    for method in ("GET", "DELETE"):
        problem(await api.simulate_request(method, "/v1/functions/nobody/concurrency"), 404, "function_not_found")
    problem(await api.simulate_put("/v1/functions/nobody/concurrency", json={"reserved_mb": 1}), 404, "function_not_found")


# Provisioned workers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(app: App, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], Function]:
    """Version 1 of every function, as published versions are: an id of its own."""
    plain = app.services.functions.get

    def get(name: str, namespace: str = "default", qualifier: str = LATEST) -> Function:
        function = plain(name, namespace)
        if qualifier == LATEST:
            return function
        if qualifier != "1":
            raise QualifierNotFound(f"no version {qualifier}")
        return replace(function, function_id="version-1", version="1")

    monkeypatch.setattr(app.services.provisions, "_get", get)
    monkeypatch.setattr(app.services.functions, "get", get)
    monkeypatch.setattr(app.services.reconciler, "_spec_of", lambda target: get(target.function, target.namespace, target.version).spec())
    return get


async def test_workers_are_provisioned_shown_and_released(api: Any, hello: Any, published: Any, client: FakeClient) -> None:
    assert (await api.simulate_get(PROVISIONED)).json["status"] == "done"
    result = await api.simulate_put(PROVISIONED, json={"number": 3, "schedule": [{"name": "day", "number": 5, "cron": "0 0 8 * * * 2099"}]})
    assert result.status_code == 200, result.text
    spec, number, revision = client.provisioned["version-1"]
    assert (spec.version, number, revision) == ("1", 3, 1)
    shown = (await api.simulate_get(PROVISIONED)).json
    assert (shown["number"], shown["allocated"], shown["available"]) == (3, 3, 1)
    assert (shown["status"], shown["reason"], shown["schedule"][0]["cron"]) == ("failed", "it \u00e9 broke", "0 0 8 * * * 2099")
    assert (await api.simulate_get("/v1/account")).json["provisioned_mb"] == 5 * 128
    assert (await api.simulate_delete(PROVISIONED)).status_code == 204
    assert client.provisioned == {} and (await api.simulate_get(PROVISIONED)).json["number"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"number": 21}, 409, "provisioned_number_limit"),
        ({"number": -1}, 400, "invalid_parameter"),
        ({"number": 1.5}, 400, "invalid_parameter"),
        ({}, 400, "invalid_parameter"),
        ({"number": 1, "more": 1}, 400, "invalid_parameter"),
        ({"number": 1, "schedule": 5}, 400, "invalid_parameter"),
        ({"number": 1, "schedule": [{"name": "a", "number": 1}]}, 400, "invalid_parameter"),
        ({"number": 1, "schedule": [{"name": "a", "number": 1, "cron": "* * * * *"}]}, 400, "invalid_parameter"),
        ({"number": 1, "schedule": [{"name": "a", "number": 1, "cron": "0 0 8 * * * *"}] * 2}, 400, "invalid_parameter"),
        ({"number": 1, "schedule": [{"name": c, "number": 1, "cron": "0 0 8 * * * *"} for c in "abc"]}, 409, "provisioned_actions_limit"),
    ],
)
async def test_a_wrong_configuration_changes_nothing(
    api: Any,
    hello: Any,
    published: Any,
    body: Any,
    status: int,
    code: str,
) -> None:
    problem(await api.simulate_put(PROVISIONED, json=body), status, code)
    assert (await api.simulate_get(PROVISIONED)).json["number"] == 0


async def test_the_editable_version_and_a_missing_one_have_none(api: Any, hello: Any, published: Any) -> None:
    path = "/v1/functions/hello/versions/{}/provisioned"
    problem(await api.simulate_put(path.format("$LATEST"), json={"number": 1}), 409, "provisioned_latest")
    problem(await api.simulate_put(path.format("2"), json={"number": 1}), 404, "qualifier_not_found")


async def test_no_more_is_provisioned_than_may_run(api: Any, hello: Any, published: Any) -> None:
    await api.simulate_put(SHARE, json={"reserved_mb": 300})
    problem(await api.simulate_put(PROVISIONED, json={"number": 3}), 409, "provisioned_exceeds_reserved")
    assert (await api.simulate_put(PROVISIONED, json={"number": 2})).status_code == 200
    await api.simulate_delete(SHARE)
    await api.simulate_put("/v1/account", json={"total_mb": 1300})
    problem(await api.simulate_put(PROVISIONED, json={"number": 11}), 409, "provisioned_exceeds_available")
    assert (await api.simulate_put(PROVISIONED, json={"number": 10})).status_code == 200


async def test_with_a_function_its_provisioned_workers_are_forgotten(api: Any, hello: Any, published: Any, app: App) -> None:
    await api.simulate_put(PROVISIONED, json={"number": 2})
    assert (await api.simulate_delete("/v1/functions/hello")).status_code == 204
    with app.services.engine.connect() as connection:
        assert connection.execute(select(provisioned)).all() == []


# The reconciler -------------------------------------------------------------------------------------------------------------


async def test_what_sandboxd_forgot_is_said_again_and_what_it_need_not_have_is_released(
    api: Any,
    hello: Any,
    published: Any,
    app: App,
    client: FakeClient,
) -> None:
    await api.simulate_put(PROVISIONED, json={"number": 2})
    client.provisioned = {"gone": (published("hello").spec(), 4, 9)}
    await app.services.reconciler.round()
    assert {key: number for key, (_, number, _) in client.provisioned.items()} == {"version-1": 2}


async def test_a_schedule_is_followed_by_the_clock(
    api: Any,
    hello: Any,
    published: Any,
    app: App,
    client: FakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = [{"name": "day", "number": 5, "cron": "0 0 8 * * * *"}, {"name": "night", "number": 0, "cron": "0 0 20 * * * *"}]
    assert (await api.simulate_put(PROVISIONED, json={"number": 2, "schedule": schedule})).status_code == 200
    reconciler, seen = app.services.reconciler, []
    tomorrow = math.ceil(app.services.provisions.targets()[0].updated_at / 86400 + 1) * 86400 - 8 * 3600  # there, not in UTC
    for hour in (7.9999, 8, 19.99999, 20, 32.5):
        monkeypatch.setattr(reconciler, "_clock", lambda hour=hour: tomorrow + hour * 3600)
        pause = await reconciler.round()
        seen.append((client.provisioned["version-1"][1], pause))
    assert [number for number, _ in seen] == [0, 5, 5, 0, 5]
    assert seen[0][1] == pytest.approx(0.36, abs=0.01) and seen[1][1] == 2.0


async def test_a_version_that_is_no_more_is_released_with_its_row(
    api: Any,
    hello: Any,
    published: Any,
    app: App,
    client: FakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api.simulate_put(PROVISIONED, json={"number": 2})

    def gone(_: Any) -> FunctionSpec:
        raise QualifierNotFound("no version 1")

    monkeypatch.setattr(app.services.reconciler, "_spec_of", gone)
    await app.services.reconciler.round()
    assert client.provisioned == {} and app.services.provisions.targets() == []


async def test_one_process_reconciles_and_another_takes_over(tmp_path: Path) -> None:
    said: list[str] = []

    class Once(Reconciler):
        def __init__(self, name: str) -> None:
            super().__init__(None, FakeClient(), lambda _: None, tmp_path / "lock")  # type: ignore[arg-type, return-value]
            self.name, self.went = name, asyncio.Event()

        async def round(self) -> float:
            said.append(self.name)
            self.went.set()
            raise Unavailable("stop here")

    first, second = Once("first"), Once("second")
    first.start()
    await first.went.wait()
    assert not second._owns()
    await first.close()
    second.start()
    await second.went.wait()
    await second.close()
    assert said == ["first", "second"]


# Schedules ------------------------------------------------------------------------------------------------------------------


SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = SHANGHAI) -> float:
    """A moment by SCF's clock, or another."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def number(configured: int, actions: list[Action], since: float, now: float, zone: ZoneInfo = SHANGHAI) -> tuple[int, float]:
    return number_at(configured, actions, since=since, now=now, zone=zone)


def test_before_its_first_time_the_configured_number_holds_then_what_the_last_action_set() -> None:
    actions = [Action("up", 10, "0 0 8 * * MON-FRI *"), Action("down", 1, "0 30 18 * * * *")]
    since = at("2026-11-23T07:00")  # a Monday
    numbers = {moment: number(3, actions, since, at(moment))[0] for moment in MOMENTS}
    assert numbers == MOMENTS


MOMENTS = {
    "2026-11-23T07:59:59": 3,
    "2026-11-23T08:00:00": 10,
    "2026-11-23T18:29:59": 10,
    "2026-11-23T18:30:00": 1,
    "2026-11-24T07:00:00": 1,
    "2026-11-24T08:00:01": 10,
    "2026-11-28T09:00:00": 1,  # Saturday
}


def test_the_next_change_is_the_nearest_time_of_all_actions() -> None:
    actions = [Action("up", 10, "0 0 8 * * * *"), Action("down", 1, "0 0 20 * * * *")]
    assert number(0, actions, 0, at("2026-11-23T09:00:00.5"))[1] == at("2026-11-23T20:00")
    assert number(0, [], 0, 5.0) == (0, math.inf)


def test_a_time_that_is_past_for_good_holds_and_one_that_never_was_does_not() -> None:
    once = [Action("once", 7, "0 0 8 23 11 * 2026")]
    since = at("2026-11-20")
    assert number(2, once, since, at("2026-11-22")) == (2, at("2026-11-23T08:00"))
    assert number(2, once, since, at("2026-12-22")) == (7, math.inf)
    assert number(2, once, at("2026-11-24"), at("2026-12-22")) == (2, math.inf)


def test_a_schedule_goes_by_the_clock_of_its_zone_and_the_clock_s_changes() -> None:
    actions = [Action("up", 10, "0 0 8 * * * *"), Action("down", 1, "0 30 2 * * * *")]
    since = at("2026-03-27T12:00", BERLIN)
    for day in ("28", "30"):  # before and after the clock went forward
        for time, wanted in (("07:59:59", 1), ("08:00:00", 10)):
            assert number(3, actions, since, at(f"2026-03-{day}T{time}", BERLIN), BERLIN)[0] == wanted, (day, time)
    # Half past two is not that night: it is the moment of the change.
    assert number(3, actions, since, at("2026-03-29T00:00", BERLIN), BERLIN) == (10, at("2026-03-29T03:00", BERLIN))
    assert number(3, actions, since, at("2026-03-28T08:00", SHANGHAI), SHANGHAI)[0] == 10
    assert number(3, actions, since, at("2026-03-28T08:00", SHANGHAI), BERLIN)[0] == 3


async def test_the_zone_is_the_timers_own(
    api: Any, app: App, hello: Any, client: FakeClient, published: Callable[[str, str, str], Function]
) -> None:
    body = {"number": 1, "schedule": [{"name": "up", "number": 2, "cron": "0 0 8 * * * *"}]}
    assert (await api.simulate_put(PROVISIONED, json=body)).status_code == 200
    [target] = app.services.provisions.targets()
    assert target.zone.key == app.services.settings.timer_zone == "Asia/Shanghai"
    elsewhere = Provisions(app.services.engine, replace(app.services.settings, timer_zone="UTC"), published).targets()[0]
    assert elsewhere.at(target.updated_at)[1] != target.at(target.updated_at)[1]


@pytest.mark.parametrize(
    "cron", ["*/5 * * * * * *", "0 0 2 1 * * *", "0 15 10 * * MON-FRI *", "0 */30 9-17 * * * *", "0 0 12 * * WED 1970-2099"]
)
def test_scf_s_expressions_are_taken(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    "cron", ["", "* * * * *", "0 0 24 * * * *", "@daily", "H * * * * * *", "0 0 8 * *  *", "0\t0 8 * * * *", "0 0 8 * * XXX *"]
)
def test_others_are_refused(cron: str) -> None:
    with pytest.raises(ValueError):
        check_cron(cron)
