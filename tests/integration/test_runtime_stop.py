"""Stopping in the middle of calls, and the violent end of every process of ours: nothing is left, and the next call is served."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import httpx
import pytest

from tests.integration.instance import Answer, Instance, wait_until

# What is left is looked for by the instance's own mark, so that another instance on this machine is not taken for a leak.
pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

SLEEPER = "import time\ndef main_handler(event, context):\n    time.sleep(event.get('seconds', 0))\n    return 1\n"
FAST, SLOW = {"seconds": 0.01}, {"seconds": 2}


@pytest.fixture
def instance(start: Callable[..., Instance]) -> Iterator[Instance]:
    hearth = start(keep_alive_seconds=60)
    try:
        yield hearth
    finally:
        hearth.close()


def burst(hearth: Instance, name: str, count: int = 6) -> list[Future[Answer]]:
    """Slow calls that are running when this returns, some warm workers idle beside them."""
    for call in [hearth.call_soon(name, FAST) for _ in range(3)]:
        call.result().ok()
    calls = [hearth.call_soon(name, SLOW) for _ in range(count)]
    wait_until(lambda: sum(row["state"] == "leased" for row in hearth.sandboxes(name)) == count, "the calls run")
    return calls


def outcome(call: Future[Answer]) -> int:
    """The HTTP status, 0 where the connection was lost."""
    try:
        return call.result(30).status
    except httpx.TransportError:
        return 0


def served_again(hearth: Instance, name: str) -> None:
    def answered() -> bool:
        try:
            return hearth.call(name, FAST).status == 200
        except httpx.TransportError:
            return False

    wait_until(answered, "calls are served again", 20)
    assert [hearth.call(name, FAST).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_in_the_middle_of_calls_leaves_nothing(instance: Instance, number: signal.Signals) -> None:
    name = instance.deploy(SLEEPER, timeout=5)
    calls = burst(instance, name)
    family = instance.family()
    assert len(family) > 12  # hearth up, launcher, sandboxd, API and its workers, a zygote, two processes for each sandbox
    instance.stop(number)
    assert {outcome(call) for call in calls} <= {200, 0, 500, 503}
    instance.assert_nothing_left(family)


def test_a_second_ctrl_c_in_the_middle_of_calls_leaves_nothing_either(instance: Instance) -> None:
    calls = burst(instance, instance.deploy(SLEEPER, timeout=5))
    family = instance.family()
    os.kill(instance.pid, signal.SIGINT)
    wait_until(lambda: "hearth  | stopping" in instance.log.read_text(), "the first one was seen")
    instance.stop(signal.SIGINT)
    assert {outcome(call) for call in calls} <= {200, 0, 500, 503}
    instance.assert_nothing_left(family)


def sandboxd(hearth: Instance) -> list[int]:
    return hearth.part("sandboxd") or hearth.part("sandbox.daemon")


def launcher(hearth: Instance) -> list[int]:
    return hearth.part("sandbox.launcher") or hearth.part("hearth-launcher")


def zygote(hearth: Instance) -> list[int]:
    lists = [path / "cgroup.procs" for path in hearth.cgroups() if path.name == "zygotes"]
    return sorted({int(pid) for path in lists for pid in path.read_text().split()})


def api_worker(hearth: Instance) -> list[int]:
    return hearth.part("gunicorn")[1:2]


def api_master(hearth: Instance) -> list[int]:
    return hearth.part("gunicorn")[:1]


PARTS: dict[str, Callable[[Instance], list[int]]] = {
    "sandboxd": sandboxd,
    "launcher": launcher,
    "zygote": zygote,
    "an API worker": api_worker,
    "the API": api_master,
}


@pytest.mark.parametrize("part", PARTS)
def test_kill_9_in_the_middle_of_a_burst(instance: Instance, part: str) -> None:
    name = instance.deploy(SLEEPER, timeout=5)
    calls = burst(instance, name)
    before = instance.confined()
    pids = PARTS[part](instance)
    assert pids, f"no process found for {part}"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    outcomes = [outcome(call) for call in calls]
    assert set(outcomes) <= {200, 0, 500, 503}
    if part == "zygote":
        assert outcomes == [200] * len(calls)  # sandboxes do not need the one that made them
    served_again(instance, name)
    if part in ("sandboxd", "launcher"):
        assert before & instance.confined() == set()  # the former life's sandboxes went with it
    family = instance.family()
    wait_until(lambda: not [row for row in instance.sandboxes(name) if row["state"] == "leased"], "no call of the dead is counted")
    full = [instance.call_soon(name, {"seconds": 0.3}) for _ in range(20)]
    assert [call.result().status for call in full] == [200] * 20  # no place under the concurrency limit was lost
    family |= instance.family() | before
    instance.stop()
    instance.assert_nothing_left(family)


@pytest.mark.parametrize("part", ["sandboxd", "launcher"])
def test_kill_9_while_idle_workers_are_frozen(instance: Instance, part: str) -> None:
    name = instance.deploy(SLEEPER, timeout=5)
    instance.call(name, FAST).ok()
    wait_until(lambda: [row["state"] for row in instance.sandboxes(name)] == ["frozen"], "its worker is frozen")
    before = instance.confined()
    for pid in PARTS[part](instance):
        os.kill(pid, signal.SIGKILL)
    served_again(instance, name)
    assert before & instance.confined() == set()
    family = instance.family() | before
    instance.stop()
    instance.assert_nothing_left(family)


def test_kill_9_of_hearth_up_leaves_no_process_and_the_next_start_sweeps(instance: Instance) -> None:
    name = instance.deploy(SLEEPER, timeout=5)
    calls = burst(instance, name)
    family = instance.family()
    os.kill(instance.pid, signal.SIGKILL)
    assert instance.process is not None
    assert instance.process.wait(10) == -signal.SIGKILL
    assert {outcome(call) for call in calls} <= {0, 500, 503}
    wait_until(lambda: "processes" not in instance.left(family), "its processes are gone")
    instance.start()
    served_again(instance, name)
    family |= instance.family()
    instance.stop()
    instance.assert_nothing_left(family)


def test_again_and_again(instance: Instance) -> None:
    """Every part in turn, without a pause in between."""
    name = instance.deploy(SLEEPER, timeout=5)
    for find in (sandboxd, zygote, api_worker, launcher, sandboxd):
        calls = [instance.call_soon(name, {"seconds": 0.2}) for _ in range(6)]
        for pid in find(instance):
            os.kill(pid, signal.SIGKILL)
        assert {outcome(call) for call in calls} <= {200, 0, 500, 503}
        served_again(instance, name)
    family = instance.family()
    instance.stop()
    instance.assert_nothing_left(family)
