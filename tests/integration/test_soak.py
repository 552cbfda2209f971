"""A minute of the soak: mixed functions, every answer checked, nothing grows. `scripts/soak --minutes N` is the same for long."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from tests.integration.instance import Instance
from tests.soak import after
from tests.soak.figures import Watch
from tests.soak.load import Load

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

SECONDS = 44.0
RECORDS_LOOKED_AT = 50


def test_nothing_grows_under_a_minute_of_mixed_load_and_every_answer_is_right(start: Callable[..., Instance]) -> None:
    seed = int(os.environ.get("HEARTH_SEED") or secrets.randbits(32))
    print(f"HEARTH_SEED={seed}")
    hearth = start()
    try:
        with Load(hearth, seed=seed, callers=4) as load:
            watch = Watch(hearth, load.tally)
            watch.run(SECONDS)
        load.tally.judge(lambda failure: False)  # nothing excuses an error here
        print(watch.describe())
        assert load.tally.wrong == []
        assert all(load.tally.right[kind] for kind in ("echo", "exiting", "late", "greedy", "raising"))
        assert watch.grown() == []
        for request_id, scf in load.tally.request_ids[-RECORDS_LOOKED_AT:]:
            assert hearth.record(request_id)["status"] == scf
        after.assert_sound(hearth)
        after.assert_gone(hearth)
    finally:
        hearth.close()
