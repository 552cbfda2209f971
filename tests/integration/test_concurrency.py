"""Quotas and provisioned workers against a running instance: exact through several HTTP processes, warm, kept, replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from sqlalchemy import insert

from sandbox.client import Client
from sandbox.errors import Unavailable
from sandbox.settings import Settings, load
from sandbox.spec import FunctionSpec
from server.functions import CodeStore, Functions
from server.store.engine import connect_database, writing
from server.store.tables import provisioned
from tests.integration.instance import Instance, leaving_nothing, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "freezer"), pytest.mark.shares_host]

T = TypeVar("T")

SLEEPER = """
    import time
    def main_handler(event, context):
        time.sleep(event.get("seconds", 0))
        return event
"""
KEEP_ALIVE_SECONDS = 1.5


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    """Three HTTP processes, and workers that expire soon."""
    with leaving_nothing(start(workers=3, keep_alive_seconds=KEEP_ALIVE_SECONDS, freeze_after_seconds=0.2)) as instance:
        yield instance


def reserve(hearth: Instance, name: str, megabytes: int) -> None:
    answer = hearth.request("PUT", f"/v1/functions/{name}/concurrency", json={"reserved_mb": megabytes})
    assert (answer.status, answer.body["reserved_mb"]) == (200, megabytes), answer.content


def release(hearth: Instance, name: str) -> None:
    assert hearth.request("DELETE", f"/v1/functions/{name}/concurrency").status == 204


def set_total(hearth: Instance, megabytes: int) -> None:
    answer = hearth.request("PUT", "/v1/account", json={"namespace": "default", "total_mb": megabytes})
    assert answer.status == 200, answer.content


@pytest.fixture
def small_total(hearth: Instance) -> Iterator[int]:
    """A total of ten calls of 128 MB."""
    set_total(hearth, 1280)
    yield 1280
    set_total(hearth, 128_000)


# Quotas ---------------------------------------------------------------------------------------------------------------------


def test_a_reservation_of_zero_shuts_the_function_off_at_once_in_every_process(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    assert [hearth.call(name, {}).outcome for _ in range(6)] == [(200, 200)] * 6  # every process knows it now
    for _ in range(5):
        reserve(hearth, name, 0)
        answers = [hearth.call(name, {}) for _ in range(9)]
        assert [answer.outcome for answer in answers] == [(429, 432)] * 9
        assert answers[0].body["detail"] == f"Function [ {name} ] concurrency exceeded reserved quota 0 MB"
        release(hearth, name)
        assert [hearth.call(name, {}).outcome for _ in range(9)] == [(200, 200)] * 9


def test_a_reservation_is_exact_under_forty_parallel_calls_through_several_processes(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER, concurrency=100, timeout=20)
    reserve(hearth, name, 5 * 128 + 100)
    hearth.call(name, {})
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(lambda _: hearth.call(name, {"seconds": 3}), range(40)))
    assert Counter(answer.outcome for answer in answers) == {(200, 200): 5, (429, 432): 35}
    assert hearth.call(name, {}).outcome == (200, 200)
    release(hearth, name)


def test_a_share_can_be_used_by_nobody_else_and_the_rest_by_all(hearth: Instance, small_total: int) -> None:
    mine, other = (hearth.deploy(SLEEPER, concurrency=100, timeout=20) for _ in range(2))
    reserve(hearth, mine, 6 * 128)
    with ThreadPoolExecutor(24) as threads:
        others = [threads.submit(hearth.call, other, {"seconds": 4}) for _ in range(12)]
        wait_until(lambda: len([row for row in hearth.sandboxes(other) if row["state"] == "leased"]) == 4, "four calls of the shared part")
        wait_until(lambda: sum(call.done() for call in others) == 8, "eight are refused")
        assert hearth.call(other, {}).body["detail"] == f"Function [ {other} ] concurrency exceeded region unreserved quota 512 MB"
        owners = [threads.submit(hearth.call, mine, {"seconds": 1}) for _ in range(8)]
        assert Counter(call.result().outcome for call in owners) == {(200, 200): 6, (429, 432): 2}
        assert Counter(call.result().outcome for call in others) == {(200, 200): 4, (429, 432): 8}
    release(hearth, mine)


def test_a_deleted_function_s_share_goes_back(hearth: Instance, small_total: int) -> None:
    name = hearth.deploy(SLEEPER)
    reserve(hearth, name, 1024)
    hearth.delete(name)
    assert hearth.request("GET", "/v1/account").body["namespaces"][0]["reserved_mb"] == 0


# Provisioned workers --------------------------------------------------------------------------------------------------------


def settings_of(hearth: Instance) -> Settings:
    return load({key: value for key, value in hearth.environment.items() if key.startswith("HEARTH_")})


def spec_of(hearth: Instance, name: str) -> FunctionSpec:
    settings = settings_of(hearth)
    engine = connect_database(settings)
    try:
        return Functions(engine, settings, CodeStore(settings)).get(name).spec()
    finally:
        engine.dispose()


def with_client(hearth: Instance, work: Callable[[Client], Awaitable[T]]) -> T:
    """As a process of the API would: root may connect, too."""

    async def run() -> T:
        client = Client(settings_of(hearth))
        await client.start()
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def provision(hearth: Instance, name: str, number: int, **options: Any) -> FunctionSpec:
    spec = spec_of(hearth, name)
    with_client(hearth, lambda client: client.provision(spec, number, purpose="test", **options))
    return spec


def status(hearth: Instance, spec: FunctionSpec) -> dict[str, Any]:
    rows = with_client(hearth, lambda client: client.provisions())
    return next((row for row in rows if row["function_id"] == spec.function_id), {})


def done(hearth: Instance, spec: FunctionSpec, within_seconds: float = 15.0) -> dict[str, Any]:
    return wait_until(lambda: (row := status(hearth, spec)).get("status") == "done" and row, "all are started", within_seconds) or {}


def test_provisioned_workers_are_loaded_warm_frozen_kept_and_released(hearth: Instance) -> None:
    name = hearth.deploy("""
        import os
        print("loading")
        loaded = []
        def main_handler(event, context):
            loaded.append(1)
            return os.getpid(), len(loaded), context["function_name"]
    """)
    spec = provision(hearth, name, 3)
    assert done(hearth, spec)["available"] == 3
    wait_until(lambda: [row["state"] for row in hearth.sandboxes(name)] == ["frozen"] * 3, "three frozen ones")
    ages = time.monotonic()
    wait_until(lambda: time.monotonic() - ages > KEEP_ALIVE_SECONDS * 2, "keep-alive expires", 30)
    answer = hearth.call(name)
    assert (answer.outcome, answer.start) == ((200, 200), "warm")
    assert answer.ok()[1:] == [1, name]
    assert len(hearth.sandboxes(name)) == 3
    capacity = hearth.request("GET", "/v1/sandboxes").body["capacity"]
    assert capacity["aside_bytes"] == 3 * 128 * 1024 * 1024
    provision(hearth, name, 0)
    wait_until(lambda: hearth.sandboxes(name) == [], "they expire as others do", 20)


def test_who_dies_is_replaced(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    spec = provision(hearth, name, 2)
    done(hearth, spec)
    victim = hearth.sandboxes(name)[0]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(
        lambda: victim["id"] not in {row["id"] for row in hearth.sandboxes(name)} or status(hearth, spec)["available"] < 2, "it is gone"
    )
    done(hearth, spec)
    assert len(hearth.sandboxes(name)) == 2
    assert hearth.call(name, {}).start == "warm"
    provision(hearth, name, 0)


def test_who_is_used_up_is_replaced(hearth: Instance) -> None:
    name = hearth.deploy("import os\ndef main_handler(event, context):\n    os._exit(3)\n")
    spec = provision(hearth, name, 1)
    for _ in range(4):
        done(hearth, spec)
        answer = hearth.call(name, {})
        assert (answer.outcome, answer.start) == ((502, 439), "warm")
    provision(hearth, name, 0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('at import')\n", "user_code_error"),
        ("import os\nos._exit(4)\n", "process_exit"),
        ("while True: pass\n", "init_timeout"),
        ("x = bytearray(300 << 20)\n", "memory_limit"),
    ],
)
def test_who_does_not_load_is_told_and_not_tried_in_a_hurry(hearth: Instance, code: str, reason: str) -> None:
    name = hearth.deploy(code + "def main_handler(event, context): return 1\n", init_timeout=3)
    spec = provision(hearth, name, 4)
    row = wait_until(lambda: (row := status(hearth, spec)).get("status") == "failed" and row, "it failed") or {}
    assert row["reason"].startswith(reason) and row["available"] == 0
    before = hearth.counters()["created"]
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3, "a while")
    assert hearth.counters()["created"] - before <= 12  # prepared ones are replaced, too
    hearth.delete(name)
    assert status(hearth, spec) == {}


def test_a_changed_function_has_no_demand_any_more(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    spec = provision(hearth, name, 1)
    done(hearth, spec)
    hearth.update(name, "def main_handler(event, context):\n    return 'new'\n")
    assert status(hearth, spec) == {}
    wait_until(lambda: hearth.sandboxes(name) == [], "its workers are gone")


def test_a_demand_ends_by_itself_where_that_was_said(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    spec = provision(hearth, name, 1, seconds=2.0)
    done(hearth, spec)
    wait_until(lambda: status(hearth, spec) == {} and hearth.sandboxes(name) == [], "it is over", 20)


def test_after_sandboxd_was_killed_they_come_back(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    spec = spec_of(hearth, name)
    engine = connect_database(settings_of(hearth))
    row = {"function_id": spec.function_id, "family": spec.family, "namespace": "default", "function": name, "version": "$LATEST"}
    with writing(engine) as connection:  # of a version that is not published: what the API refuses is enough here
        connection.execute(insert(provisioned).values(**row, number=2, peak=2, memory_mb=128, schedule="[]", revision=1, updated_at=0.0))
    engine.dispose()
    done(hearth, spec)
    before = {row["pid"] for row in hearth.sandboxes(name)}
    os.kill((hearth.part("sandboxd") or hearth.part("sandbox.daemon"))[0], signal.SIGKILL)
    wait_until(lambda: hearth.request("GET", "/readyz").status == 200 and status_or_none(hearth, spec) == "done", "they are back", 30)
    rows = hearth.sandboxes(name)
    assert len(rows) == 2 and not before & {row["pid"] for row in rows}
    assert hearth.call(name, {}).start == "warm"
    hearth.delete(name)
    wait_until(lambda: hearth.request("GET", "/readyz").status == 200 and hearth.sandboxes(name) == [], "they go with their function", 30)


def status_or_none(hearth: Instance, spec: FunctionSpec) -> str | None:
    try:
        return status(hearth, spec).get("status")
    except Unavailable:
        return None  # it is still being started


def test_what_is_set_aside_is_not_given_to_others_and_its_own_calls_need_no_more(start: Callable[..., Instance]) -> None:
    with leaving_nothing(start(capacity_mb=512)) as hearth:
        mine, other = hearth.deploy(SLEEPER), hearth.deploy(SLEEPER)
        spec = provision(hearth, mine, 3)
        done(hearth, spec)
        held = hearth.call_soon(other, {"seconds": 2})
        wait_until(lambda: [row["state"] for row in hearth.sandboxes(other)] == ["leased"], "one of the others runs")
        assert hearth.call(other, {}).outcome == (503, 449)
        with ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda _: hearth.call(mine, {"seconds": 0.5}), range(3)))
        assert [(answer.outcome, answer.start) for answer in answers] == [((200, 200), "warm")] * 3
        held.result()
        provision(hearth, mine, 9)
        row = wait_until(lambda: (row := status(hearth, spec)).get("status") == "failed" and row, "there is no room for nine") or {}
        assert row["reason"].startswith("no_capacity") and row["available"] == 4
