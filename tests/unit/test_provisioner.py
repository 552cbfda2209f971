"""Provisioned workers' policy: demands, bounded starts, backing off; a stand-in for the pool, a loader in the test's hands, a manual clock.

The loop's timer is not waited for: each test asks for the passes that the timer would make.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from sandbox.daemon import provisioner as module
from sandbox.daemon.checks import checked_demand, checked_id, checked_quota
from sandbox.daemon.provisioner import AT_ONCE, AT_ONCE_EACH, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Provisioner
from sandbox.errors import LaunchError, StaleFunction, UserCodeError
from sandbox.gate import MEGABYTE
from sandbox.pool import Kept
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

SPEC = FunctionSpec("f", 1, "hello", "default", "1", "python3", "index.main", "c" * 64)
KEY = ("f", 1)


class FakeSandbox:
    def __init__(self, key: tuple[str, int], *, calls: int = 0, ended: bool = True) -> None:
        self.key, self.calls, self.ended, self.is_loading = key, calls, ended, False


class FakePool:
    """Counts the workers that the test says are alive."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], Kept] = {}
        self.on_gone: Callable[[Any], None] = lambda _: None
        self.workers: dict[tuple[str, int], int] = {}
        self.busy: set[Any] = set()
        self.generations: dict[str, int] = {}

    def check_generation(self, spec: FunctionSpec) -> None:
        if spec.generation < self.generations.get(spec.function_id, 0):
            raise StaleFunction("changed")
        self.generations[spec.function_id] = spec.generation

    def alive(self, key: tuple[str, int]) -> int:
        return self.workers.get(key, 0)

    def dies(self, key: tuple[str, int], *, calls: int = 0) -> None:
        self.workers[key] -= 1
        self.on_gone(FakeSandbox(key, calls=calls))


class Loads:
    """Each load waits until the test lets it end."""

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self.waiting: list[tuple[FunctionSpec, asyncio.Future[None]]] = []
        self.begun = 0

    async def __call__(self, spec: FunctionSpec) -> None:
        self.begun += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((spec, future))
        await future
        self._pool.workers[(spec.function_id, spec.generation)] = self._pool.alive((spec.function_id, spec.generation)) + 1

    async def end(self, error: Exception | None = None) -> None:
        """The oldest one."""
        _, future = self.waiting.pop(0)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await turn()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.pool = FakePool()
        self.loads = Loads(self.pool)
        self.provisioner = Provisioner(Settings(memory_reserve_percent=0), self.pool, self.loads, clock=lambda: self.now)  # type: ignore[arg-type]

    async def passes(self, count: int = 1) -> None:
        for _ in range(count):
            self.provisioner._pass()
            await turn()

    async def settle(self) -> None:
        """Until nothing is started any more, each load ending well."""
        await self.passes()
        while self.loads.waiting:
            await self.loads.end()
            await self.passes()

    def row(self) -> dict[str, Any]:
        rows = self.provisioner.describe()
        return rows[0] if rows else {}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for _, future in world.loads.waiting:
        future.cancel()
    await world.provisioner.close()


async def test_as_many_are_started_as_are_wanted_a_few_at_a_time(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 5)
    await world.passes(20)
    assert len(world.loads.waiting) == AT_ONCE_EACH == world.pool.kept[KEY].loading
    assert (world.row()["allocated"], world.row()["available"], world.row()["status"]) == (5, 0, "in_progress")
    await world.settle()
    assert (world.loads.begun, world.row()["available"], world.row()["status"]) == (5, 5, "done")
    assert world.pool.kept == {KEY: Kept(5, 128 * MEGABYTE, 0)}
    await world.passes(5)
    assert world.loads.begun == 5


async def test_all_functions_together_start_no_more_than_so_many(world: World) -> None:
    for number in range(AT_ONCE):
        world.provisioner.demand(replace(SPEC, function_id=f"f{number}"), "p", 4)
    await world.passes(20)
    assert len(world.loads.waiting) == AT_ONCE


async def test_the_same_demand_again_changes_nothing(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 2, revision=3)
    await world.settle()
    for _ in range(5):
        world.provisioner.demand(SPEC, "p", 2, revision=3)
        await world.passes(2)
    assert world.loads.begun == 2


async def test_workers_that_there_are_already_count(world: World) -> None:
    world.pool.workers[KEY] = 3
    world.provisioner.demand(SPEC, "p", 4)
    await world.settle()
    assert world.loads.begun == 1


async def test_the_dead_are_replaced_at_once_where_they_have_served(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 2)
    await world.settle()
    world.pool.dies(KEY, calls=1)
    await world.settle()
    assert (world.loads.begun, world.row()["status"]) == (3, "done")


async def test_who_dies_before_its_first_call_is_a_failure(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 1)
    await world.settle()
    world.pool.dies(KEY)
    await world.passes(3)
    assert world.loads.begun == 1
    assert (world.row()["status"], world.row()["reason"]) == ("failed", "process_exit: the worker ended before its first call")
    world.now += FIRST_PAUSE_SECONDS
    await world.settle()
    assert (world.loads.begun, world.row()["status"]) == (2, "done")


async def test_after_each_failure_it_waits_twice_as_long_up_to_a_bound(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 3)
    pauses = []
    await world.passes()
    for _ in range(14):
        for _ in range(len(world.loads.waiting)):
            await world.loads.end(UserCodeError("it\nraised"))
        began = world.now
        while not world.loads.waiting:
            world.now += FIRST_PAUSE_SECONDS / 2
            await world.passes()
        pauses.append(world.now - began)
        assert len(world.loads.waiting) == 1  # no more at once while it fails
    assert pauses == sorted(pauses)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0] and pauses[-1] == LONGEST_PAUSE_SECONDS
    assert (world.row()["status"], world.row()["reason"]) == ("failed", "user_code_error: it raised")


async def test_a_changed_demand_is_tried_at_once_and_a_repeated_one_is_not(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 1)
    await world.passes()
    await world.loads.end(UserCodeError("no"))
    world.provisioner.demand(SPEC, "p", 1)
    await world.passes(3)
    assert world.loads.begun == 1
    world.provisioner.demand(SPEC, "p", 2)
    await world.passes()
    assert world.loads.begun == 2


async def test_the_largest_of_several_purposes_counts_and_each_is_released_for_itself(world: World) -> None:
    world.provisioner.demand(SPEC, "provisioned", 3)
    world.provisioner.demand(SPEC, "timer", 1)
    assert (world.row()["allocated"], world.row()["purposes"]) == (3, ["provisioned", "timer"])
    world.provisioner.demand(SPEC, "provisioned", 0)
    assert world.row()["allocated"] == 1
    world.provisioner.release("f", "timer")
    await world.passes()
    assert (world.row(), world.pool.kept) == ({}, {})


async def test_a_demand_runs_out(world: World) -> None:
    world.provisioner.demand(SPEC, "timer", 1, seconds=60)
    await world.settle()
    world.now += 59
    await world.passes()
    assert world.row()["allocated"] == 1
    world.now += 1
    await world.passes()
    assert (world.row(), world.pool.kept) == ({}, {})


async def test_an_older_revision_that_comes_late_says_nothing(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 2, revision=5)
    world.provisioner.demand(SPEC, "p", 9, revision=4)
    world.provisioner.release("f", "p", revision=4)
    assert (world.row()["allocated"], world.row()["revision"]) == (2, 5)
    world.provisioner.release("f", "p", revision=6)
    await world.passes()
    world.provisioner.demand(SPEC, "p", 2, revision=5)
    assert world.row() == {}


async def test_a_newer_generation_starts_anew_and_an_older_one_is_stale(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 2)
    await world.passes(2)
    newer = replace(SPEC, generation=2)
    world.provisioner.demand(newer, "p", 2)
    await world.passes(2)
    assert [spec.generation for spec, _ in world.loads.waiting] == [1, 1, 2, 2]
    for _ in range(2):
        await world.loads.end(UserCodeError("the old one's failure is not the new one's"))
    assert world.row()["reason"] == "" and world.pool.kept == {("f", 2): Kept(2, 128 * MEGABYTE, 2)}
    with pytest.raises(StaleFunction):
        world.provisioner.demand(SPEC, "p", 2)


@pytest.mark.parametrize(("function_id", "generation"), [("f", None), ("family", None), ("f", 2)])
async def test_a_changed_or_deleted_function_has_no_demands(world: World, function_id: str, generation: int | None) -> None:
    world.provisioner.demand(replace(SPEC, family="family"), "p", 2)
    await world.settle()
    world.provisioner.retired("f", 1)  # nothing that is older
    assert world.row()["allocated"] == 2
    world.provisioner.retired(function_id, generation)
    assert (world.row(), world.pool.kept) == ({}, {})


async def test_a_generation_that_turns_out_stale_is_dropped(world: World) -> None:
    world.provisioner.demand(SPEC, "p", 1)
    await world.passes()
    await world.loads.end(StaleFunction("changed"))
    assert world.row() == {}


async def test_without_memory_nothing_is_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.machine, "memory_available_percent", lambda: -1.0)
    world.provisioner.demand(SPEC, "p", 1)
    await world.passes(2)
    assert (world.loads.begun, world.row()["reason"]) == (0, "no_capacity: the machine is short of memory")


async def test_there_is_a_bound_on_provisioned_functions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROVISIONS", 1)
    world.provisioner.demand(SPEC, "p", 1)
    with pytest.raises(LaunchError, match="1 functions have provisioned workers"):
        world.provisioner.demand(replace(SPEC, function_id="g"), "p", 1)
    monkeypatch.setattr(module, "REVISIONS_KEPT", 2)
    for number in range(9):
        world.provisioner.release(f"r{number}", "p", revision=1)
    assert len(world.provisioner._revisions) == 2


# What sandboxd checks again -------------------------------------------------------------------------------------------------

DEMAND: dict[str, Any] = {"op": "provision", "purpose": "p", "number": 3, "revision": 7, "seconds": None}
QUOTA: dict[str, Any] = {"op": "quota", "namespace": "default", "epoch": 3, "family": "f", "is_reserved": True}


def test_sound_messages_pass() -> None:
    assert checked_demand(DEMAND) == ("p", 3, 7, None)
    assert checked_demand(DEMAND | {"seconds": 60}) == ("p", 3, 7, 60)
    assert checked_quota(QUOTA) == ("default", 3, "f", True)
    assert checked_quota({**QUOTA, "family": "", "is_reserved": False}) == ("default", 3, "", False)
    assert checked_id({"function_id": "f"}) == "f"


@pytest.mark.parametrize("value", [None, -1, 1.5, True, "1", 1 << 60, [], {}, float("nan")])
@pytest.mark.parametrize("field", ["number", "revision", "epoch"])
def test_a_number_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(LaunchError, match=field):
        checked_quota(QUOTA | {field: value}) if field in QUOTA else checked_demand(DEMAND | {field: value})


@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan"), float("inf"), 1e9, []])
def test_a_time_out_of_bounds_is_refused(value: Any) -> None:
    with pytest.raises(LaunchError, match="seconds"):
        checked_demand(DEMAND | {"seconds": value})


@pytest.mark.parametrize("value", [None, "", 5, "x" * 513, []])
def test_a_text_out_of_bounds_is_refused(value: Any) -> None:
    for check, message, field in (
        (checked_demand, DEMAND, "purpose"),
        (checked_quota, QUOTA, "namespace"),
        (checked_id, {}, "function_id"),
    ):
        with pytest.raises(LaunchError, match=field):
            check(message | {field: value})  # type: ignore[operator]
