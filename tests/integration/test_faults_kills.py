"""kill -9 of every part at random moments under load; HEARTH_SEED repeats a run. `scripts/soak --kills N` is the same for long."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from tests.integration.instance import Instance
from tests.soak import after
from tests.soak.kills import Readiness, kill_under_load
from tests.soak.load import Load
from tests.soak.victims import PARTS

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

KILLS = 40
WITHIN_SECONDS = 50.0


def test_random_kills_under_load_cost_no_wrong_answer_and_leave_nothing(start: Callable[..., Instance]) -> None:
    seed = int(os.environ.get("HEARTH_SEED") or secrets.randbits(32))
    print(f"HEARTH_SEED={seed}")
    hearth = start(restart_seconds=0.5)
    try:
        with Load(hearth, seed=seed, callers=6) as load, Readiness(hearth) as readiness:
            load.wait_for_answers(20)
            storm = kill_under_load(hearth, load, kills=KILLS, seed=seed, within_seconds=WITHIN_SECONDS)
            load.wait_for_answers(20)
        tally = load.tally
        tally.judge(storm.excuse)
        print(storm.describe(tally))
        assert tally.wrong == []
        assert tally.right.total() > 100
        assert len(storm.counted()) >= len(PARTS) - 2, "hardly any part was killed"
        assert readiness.refusals_in_calm(storm) == []
        assert readiness.hid(storm) == []
        after.assert_sound(hearth)
        after.assert_gone(hearth)
    finally:
        hearth.close()
