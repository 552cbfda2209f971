"""Two instances with homes of their own on one machine: what happens to one is nothing to the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.instance import Instance, leaving_nothing, wait_until
from tests.soak import after
from tests.soak.load import Load

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event\n"


@pytest.fixture
def neighbour(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start()) as found:
        yield found


@pytest.fixture
def victim(start: Callable[..., Instance]) -> Iterator[Instance]:
    found = start()
    try:
        yield found
    finally:
        found.close()


def kill_whole(hearth: Instance) -> None:
    """Every process outside the sandboxes at once, so that none can clean up after another."""
    outside = hearth.family() - hearth.confined()
    for pid, _ in outside:
        os.kill(pid, signal.SIGSTOP)
    for pid, _ in outside:
        os.kill(pid, signal.SIGKILL)
    assert hearth.process is not None
    hearth.process.wait(10)


def test_death_sweep_and_restart_of_one_disturb_no_call_of_the_other(victim: Instance, neighbour: Instance) -> None:
    victim.call(victim.deploy(ECHO), 1).ok()
    with Load(neighbour, seed=1, callers=2) as load:
        load.wait_for_answers(10)
        kill_whole(victim)
        wait_until(lambda: not after.doctor(victim.environment)["running"], "it is dead")
        assert {row["instance"] for row in after.doctor(victim.environment)["findings"] if row["leaked"]} == {victim.mark}
        assert {row["instance"] for row in after.doctor(neighbour.environment)["findings"] if row["leaked"]} >= {victim.mark}
        fixed = after.doctor(victim.environment, "--fix")
        assert [row for row in fixed["findings"] if row["instance"] == victim.mark] == []
        victim.start()
        after.doctor(victim.environment, "--fix")
        after.assert_gone(victim)
        load.wait_for_answers(10)
    load.tally.judge(lambda failure: False)
    assert load.tally.wrong == []
    after.assert_sound(neighbour)


def test_doctor_of_a_neighbour_sweeps_the_dead_one_only(victim: Instance, neighbour: Instance) -> None:
    name = neighbour.deploy(ECHO)
    neighbour.call(name, 1).ok()
    kill_whole(victim)
    wait_until(lambda: not after.doctor(victim.environment)["running"], "it is dead")
    after.doctor(neighbour.environment, "--fix")
    assert victim.cgroups() == set()
    answer = neighbour.call(name, 2)
    assert (answer.ok(), answer.start) == (2, "warm")
