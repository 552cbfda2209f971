"""Events under kill -9 of every part; HEARTH_SEED repeats a run. `python -m tests.soak.events` is the same for ten thousand."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from tests.integration.instance import Instance
from tests.soak import after
from tests.soak.events import storm

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

EVENTS = 400


def test_no_acknowledged_event_is_lost_whatever_is_killed(start: Callable[..., Instance]) -> None:
    seed = int(os.environ.get("HEARTH_SEED") or secrets.randbits(32))
    print(f"HEARTH_SEED={seed}")
    hearth = start(restart_seconds=0.5, event_retry_seconds=0.3)
    try:
        outcome = storm(hearth, events=EVENTS, seed=seed)
        print(outcome.describe())
        assert outcome.wrong == [] and outcome.states == {"succeeded": EVENTS}
        assert len(set(outcome.acknowledged.values())) == EVENTS
        assert outcome.kills["dispatcher"] and outcome.kills.total() >= 3
        after.assert_sound(hearth)
        after.assert_gone(hearth)
    finally:
        hearth.close()
