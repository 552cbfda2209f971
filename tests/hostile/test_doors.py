"""Every way out is shut, on Python 3 and 2.7: the attack is told so, nothing outside has changed, the next calls are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_python
from tests.hostile.attacks import Attack, host_state
from tests.hostile.chamber import OUTSIDE, PAYLOAD, Chamber
from tests.hostile.doors import DOORS
from tests.integration.instance import Instance, leaving_nothing

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance], python27_image: Path | None) -> Iterator[Instance]:
    with leaving_nothing(start(python27_image, prepared=1)) as instance:
        yield instance


@pytest.fixture(scope="module")
def functions(hearth: Instance) -> dict[str, str]:
    """A function of each way to be started: forked from a zygote, exec'd, and forked on Python 2.7."""
    code = PAYLOAD.read_text()
    made = {
        "forked": hearth.deploy(code, timeout=10),
        "exec'd": hearth.deploy(code, timeout=10, environment={"PYTHONHASHSEED": "7"}),
    }
    if find_python("2.7"):
        made["Python 2.7"] = hearth.deploy(code, timeout=10, runtime="Python2.7")
    return made


@pytest.fixture(scope="module")
def neighbour(hearth: Instance) -> str:
    return hearth.deploy("calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n")


@pytest.mark.parametrize("attack", DOORS, ids=lambda attack: attack.name)
def test_a_function_that(hearth: Instance, functions: dict[str, str], neighbour: str, facts: dict[str, Any], attack: Attack) -> None:
    before, calls = host_state(), hearth.call(neighbour).ok()
    told = {way: hearth.call(name, {**attack.event(facts), "tidy": True}).ok() for way, name in functions.items()}
    assert {way: answer for way, answer in told.items() if answer not in attack.told} == {}
    assert host_state() == before
    assert [hearth.call(name, {}).ok() for name in functions.values()] == ["served"] * len(functions)
    assert hearth.call(neighbour).ok() == calls + 1


@pytest.mark.parametrize("attack", DOORS, ids=lambda attack: attack.name)
def test_outside_it_works_that_one(chamber: Chamber, facts: dict[str, Any], attack: Attack) -> None:
    before = host_state()
    assert chamber.run(attack.event(facts), attack.without or OUTSIDE) in attack.outside
    assert host_state() == before
