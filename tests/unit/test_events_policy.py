"""Who runs next, what is tried again, when a timer ticks: pure rules, with the test's own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from sandbox import errors
from sandbox.settings import Settings
from server.errors import FAILURES, BadRequest
from server.events.lanes import Lanes, Needs
from server.events.policy import CALLER_ERRORS, CANCELLED, FUNCTION_ERRORS, Verdict, expired, judge
from server.triggers import cron

NOW, DEADLINE = 1000.0, 1600.0
BERLIN = ZoneInfo("Europe/Berlin")


def judged(status: int, *, tries: int = 0, now: float = NOW) -> Verdict:
    return judge(status, tries=tries, now=now, deadline=DEADLINE, retries=2, interval_seconds=60)


@pytest.mark.parametrize("status", [430, 433, 434, 437, 439, 443, 446, 450])
def test_errors_of_the_function_are_tried_twice_more_an_interval_apart(status: int) -> None:
    assert judged(status) == Verdict("retried", 1060, 1)
    assert judged(status, tries=1, now=1590) == Verdict("retried", 1650, 2)  # its age does not take a retry away
    assert judged(status, tries=2) == Verdict("failed")
    assert not expired(status, now=1650, deadline=DEADLINE)


@pytest.mark.parametrize("status", [429, 432, 449, 500])
def test_shortages_use_up_no_retry_until_the_event_is_too_old(status: int) -> None:
    assert judged(status, tries=2) == Verdict("retried", 1060, 2)
    assert judged(status, now=1590) == Verdict("retried", DEADLINE, 0)
    assert judged(status, now=DEADLINE) == Verdict("expired")
    assert expired(status, now=DEADLINE, deadline=DEADLINE) and not expired(status, now=1599, deadline=DEADLINE)
    assert expired(None, now=DEADLINE, deadline=DEADLINE)


@pytest.mark.parametrize("status", [400, 401, 404, 406, 435, 436, 441, 442])
def test_errors_of_the_caller_are_not_tried_again(status: int) -> None:
    assert judged(status) == Verdict("failed")


def test_an_end_is_an_end() -> None:
    assert (judged(200), judged(CANCELLED)) == (Verdict("succeeded"), Verdict("cancelled"))


def test_every_error_of_the_runtime_is_in_one_class_on_purpose() -> None:
    kinds = {
        kind: "function" if row.scf in FUNCTION_ERRORS else "caller" if row.scf in CALLER_ERRORS else "ours"
        for kind, row in FAILURES.items()
    }
    own = {kind for kind, of in kinds.items() if of == "function"}
    assert own == set(errors.leaves(errors.InvocationFailed)) - {errors.EventInvalid, errors.Cancelled}
    assert {kind for kind, of in kinds.items() if of == "caller"} == {errors.EventInvalid, errors.RuntimeNotFound}


# -- sharing ---------------------------------------------------------------------------------------------------------------


def lanes(**settings: float) -> Lanes:
    return Lanes(Settings(**{"event_slots": 16, "event_share_percent": 80.0, "event_retry_seconds": 60.0, **settings}))  # type: ignore[arg-type]


def test_a_function_leaves_room_for_synchronous_calls() -> None:
    assert lanes().share_out({"a": Needs(10, 128), "b": Needs(1, 128)}, NOW) == {"a": 8, "b": 1}


def test_a_backlog_never_takes_the_places_that_others_need() -> None:
    shares = lanes()
    assert shares.share_out({"slow": Needs(1000, 128)}, NOW) == {"slow": 12}
    for _ in range(12):
        shares.begin("slow", 128)
    assert shares.share_out({"slow": Needs(1000, 128), "quick": Needs(20, 128)}, NOW) == {"quick": 1}
    shares.end("slow", 128)
    assert shares.share_out({"slow": Needs(1000, 128)}, NOW) == {"slow": 1}


def test_functions_share_alike_and_the_longest_waiting_comes_first() -> None:
    shares = lanes(event_slots=4)
    needs = {lane: Needs(20, 128) for lane in "abcdef"}
    first = shares.share_out(needs, NOW)
    assert len(first) == 4 and set(first.values()) == {1}
    second = shares.share_out(needs, NOW)  # as if nothing ran any more
    assert set("abcdef") - set(first) <= set(second)


def test_memory_is_shared_too_but_one_call_may_always_try() -> None:
    shares = lanes()
    shares.capacity_mb = 1000
    assert shares.share_out({"a": Needs(20, 256)}, NOW) == {"a": 3}
    assert shares.share_out({"a": Needs(20, 2048)}, NOW) == {"a": 1}


def test_a_refused_function_pauses_and_goes_on() -> None:
    shares = lanes()
    shares.pause("a", NOW)
    assert shares.share_out({"a": Needs(2, 128), "b": Needs(2, 128)}, NOW + 0.9) == {"b": 1}
    assert shares.pauses_end(NOW + 0.9) == NOW + 1
    assert shares.share_out({"a": Needs(2, 128)}, NOW + 1.1) == {"a": 1}


# -- cron ------------------------------------------------------------------------------------------------------------------


def ticks(expression: str, after: str, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    found, moment = [], datetime.fromisoformat(after).replace(tzinfo=UTC).timestamp()
    while len(found) < count and (tick := cron.parse(expression).next_tick(moment, zone)) is not None:
        found.append(f"{datetime.fromtimestamp(tick, UTC):%m-%dT%H:%M:%S}")
        moment = tick
    return found


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("*/5 * * * * * *", ["11-25T03:00:05", "11-25T03:00:10"]),
        ("0 0 2 1 * * *", ["11-30T18:00:00", "12-31T18:00:00"]),  # two o'clock of the first in UTC+8
        ("0 15 10 * * MON-FRI *", ["11-26T02:15:00", "11-27T02:15:00", "11-30T02:15:00"]),
        ("0 */30 9-17 * * * *", ["11-25T03:30:00", "11-25T04:00:00"]),
        ("0 0 12 * * WED *", ["11-25T04:00:00", "12-02T04:00:00"]),
        ("0 0 12 * * 0 *", ["11-29T04:00:00"]),  # 0 is Sunday
        ("0 1/10 * * * * *", ["11-25T03:01:00", "11-25T03:11:00"]),
        ("0 0 0 27 * 1 *", ["11-26T16:00:00", "11-29T16:00:00"]),  # day and week: either
        ("*/5 * * * *", ["11-25T03:05:00", "11-25T03:10:00"]),
        ("0 0 0 ? 1,MAR * 2027", ["12-31T16:00:00", "01-01T16:00:00"]),
        ("0 0 0 1 1 * 2020", []),
        ("0 0 0 30 2 * *", []),
    ],
)
def test_scfs_expressions(expression: str, found: list[str]) -> None:
    assert ticks(expression, "2026-11-25T03:00:00", max(1, len(found)), ZoneInfo("Asia/Shanghai")) == found


@pytest.mark.parametrize(
    "wrong", ["", "* * *", "61 * * * * * *", "* * * * * 8 *", "*/0 * * * *", "@daily", "H * * * *", "a b c d e", "* " * 200]
)
def test_other_expressions_are_refused(wrong: str) -> None:
    with pytest.raises(BadRequest, match="is no cron expression"):
        cron.parse(wrong)


def test_the_clock_goes_forward() -> None:
    """29 March 2026, 01:00 UTC: two o'clock becomes three."""
    assert ticks("0 30 2 * * * *", "2026-03-27T12:00:00", 3) == ["03-28T01:30:00", "03-29T01:00:00", "03-30T00:30:00"]
    assert ticks("0 */30 * * * * *", "2026-03-29T00:00:00", 3) == ["03-29T00:30:00", "03-29T01:00:00", "03-29T01:30:00"]
    # two times that don't exist are one tick; three o'clock is it too
    assert ticks("0 */20 2-3 * * * *", "2026-03-29T00:00:00", 4) == ["03-29T01:00:00", "03-29T01:20:00", "03-29T01:40:00", "03-30T00:00:00"]


def test_the_clock_goes_back() -> None:
    """25 October 2026, 01:00 UTC: three o'clock becomes two."""
    assert ticks("0 30 2 * * * *", "2026-10-24T12:00:00", 2) == ["10-25T00:30:00", "10-26T01:30:00"]
    hours = ["10-25T00:00:00", "10-25T00:30:00", "10-25T01:00:00", "10-25T01:30:00", "10-25T02:00:00"]
    assert ticks("0 */30 * * * * *", "2026-10-24T23:45:00", 5) == hours
    assert ticks("0 */30 2-3 * * * *", "2026-10-24T23:45:00", 4) == ["10-25T00:00:00", "10-25T00:30:00", "10-25T02:00:00", "10-25T02:30:00"]


def test_years_without_a_tick_are_passed() -> None:
    assert ticks("0 0 12 29 2 * *", "2026-03-01T00:00:00", 3) == ["02-29T11:00:00"] * 3


def test_the_latest_tick_before_now() -> None:
    at = datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp()
    daily = cron.parse("0 0 3 * * * *")
    assert daily.last_tick(at - 40 * 86_400, at, BERLIN) == datetime(2026, 5, 5, 1, tzinfo=UTC).timestamp()
    assert daily.last_tick(at - 3600, at, BERLIN) is None
    assert daily.last_tick(at - 86_400, at - 11 * 3600, BERLIN) == at - 11 * 3600  # the bound itself
