"""The event queue's transactions, on SQLite and, unchanged, on a real PostgreSQL. Time is the test's to give."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.event import listen

from sandbox.settings import Settings
from server.errors import NotFound, QueueFull
from server.events import attempts
from server.events.deadletters import DeadLetters, message
from server.events.model import Event, EventSettings, NewEvent, Settlement
from server.events.policy import Verdict
from server.events.queue import EventQueue, put
from server.records.journal import Journal
from server.records.model import Filter
from server.store.engine import open_database, writing
from server.store.tables import firings, triggers
from server.triggers.timers import Timers
from tests.postgres import database

NOW = 1_800_000_000.0
LANE = "default/hello"
OTHER = "default/other"
PLAIN = EventSettings(retries=2, ttl=600)


@pytest.fixture
def settings(either_url: str, tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), database_url=either_url, limit_queued_events=50)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with database(settings) as engine:
        yield engine


@pytest.fixture
def queue(engine: Engine, settings: Settings) -> EventQueue:
    return EventQueue(engine, settings)


@pytest.fixture
def letters(engine: Engine, settings: Settings, queue: EventQueue) -> DeadLetters:
    return DeadLetters(engine, settings, queue)


def new(function: str = "hello", **changes: Any) -> NewEvent:
    return NewEvent(**{"namespace": "default", "function": function, "payload": b'{"\\u0000": "\xc3\xa4"}', **changes})


def accepted(queue: EventQueue, *batch: NewEvent, now: float = NOW) -> list[str]:
    answers = queue.accept(batch, now=now)
    assert all(isinstance(answer, str) for answer in answers)
    return [str(answer) for answer in answers]


def claimed(queue: EventQueue, wants: dict[str, int], *, owner: str = "d1", now: float = NOW, lease: float = 30) -> list[Event]:
    return queue.claim(wants, owner, now=now, lease_until=now + lease)


def finished(event: Event, *, outcome: str = "succeeded", status: int = 200, now: float = NOW) -> Settlement:
    record = {"state": "succeeded" if status == 200 else "failed", "started_at": now, "ended_at": now, "billed_ms": 5, "run_ms": 4.2}
    record |= {"start": "warm", "start_ms": 0.1, "memory_bytes": 7, "log": b"said", "result": b'{"a":1}' if status == 200 else None}
    record["error"] = None if status == 200 else {"code": "handler_error", "message": "no", "stack_trace": "line 1"}
    return attempts.settlement(event, PLAIN, record, status, Verdict(outcome), memory_mb=128, now=now)  # type: ignore[arg-type]


def test_an_event_runs_once_and_leaves_its_record(queue: EventQueue, engine: Engine) -> None:
    (request_id,) = accepted(queue, new(trigger="t", source="timer", caused_by="r0", hops=3))
    (event,) = claimed(queue, {LANE: 5}, now=NOW + 2)
    assert (event.request_id, event.payload, event.epoch, event.owner) == (request_id, new().payload, 1, "d1")
    assert claimed(queue, {LANE: 5}) == []
    assert queue.settle([finished(event, now=NOW + 3)]) == [True]
    assert queue.get(request_id) is None and queue.lanes() == []
    record = Journal(engine).get(request_id)
    assert record is not None
    assert (record["state"], record["type"], record["result"], record["log"]) == ("succeeded", "async", {"a": 1}, "said")
    assert (record["trigger"], record["source"], record["caused_by"], record["hops"]) == ("t", "timer", "r0", 3)
    assert record["queue_ms"] == 2000 and len(record["attempts"]) == 1
    assert [(row["calls"], row["billed_ms"]) for row in Journal(engine).usage(None, None, None)] == [(1, 5)]
    assert queue.outcomes() == [(LANE, "succeeded", 200, 1)]


def test_an_event_exists_only_with_the_callers_transaction(queue: EventQueue, engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as connection:
        put(connection, new())
        raise RuntimeError
    assert queue.search(Filter(), 10) == []
    with writing(engine) as connection:
        request_id = put(connection, new(request_id="mine"))
    assert request_id == "mine" and [event.request_id for event in queue.search(Filter(), 10)] == ["mine"]


def test_claims_are_by_function_in_order_and_not_before_time(queue: EventQueue) -> None:
    first, late, other, second = accepted(queue, new(), new(not_before=NOW + 100), new("other"), new())
    assert {(work.lane, work.due_at) for work in queue.lanes()} == {(LANE, NOW), (OTHER, NOW)}
    assert [event.request_id for event in claimed(queue, {LANE: 1, OTHER: 5})] == [first, other]
    assert [event.request_id for event in claimed(queue, {LANE: 5})] == [second]
    assert [(work.lane, work.due_at) for work in queue.lanes()] == [(LANE, NOW + 100)]
    assert [event.request_id for event in claimed(queue, {LANE: 5}, now=NOW + 100)] == [late]


def test_a_key_that_is_known_gives_the_first_id_for_its_function_alone(queue: EventQueue) -> None:
    first, again, other, another = accepted(
        queue, new(idempotency_key="k"), new(idempotency_key="k"), new("other", idempotency_key="k"), new(idempotency_key="l")
    )
    assert first == again and len({first, other, another}) == 3
    for event in claimed(queue, {LANE: 5, OTHER: 5}):
        queue.settle([finished(event)])
    assert accepted(queue, new(idempotency_key="k"), now=NOW + 10) == [first]  # also when it is over
    assert queue.forget_keys(NOW + 5) == 3
    assert accepted(queue, new(idempotency_key="k"), now=NOW + 20) != [first]


def test_a_full_queue_takes_what_fits_and_says_so_for_the_rest(queue: EventQueue) -> None:
    answers = queue.accept([new() for _ in range(60)], now=NOW)
    assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 50 + [True] * 10
    for event in claimed(queue, {LANE: 3}):
        queue.settle([finished(event)])
    answers = queue.accept([new() for _ in range(4)], now=NOW)
    assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 3 + [True]


def test_a_dispatcher_that_lost_its_lease_settles_nothing(queue: EventQueue, engine: Engine) -> None:
    (request_id,) = accepted(queue, new())
    (stale,) = claimed(queue, {LANE: 1}, owner="d1")
    assert queue.lost(now=NOW + 29, but="d2") == []
    assert queue.lost(now=NOW + 31, but="d1") == []  # its own are its own
    (lost,) = queue.lost(now=NOW + 31, but="d2")
    assert queue.settle([attempts.lost(lost, now=NOW + 31)]) == [True]
    (fresh,) = claimed(queue, {LANE: 1}, owner="d2", now=NOW + 31)
    assert (fresh.epoch, fresh.attempts[0]["dispatcher"], fresh.attempts[0]["error"]["code"]) == (2, "d1", "dispatcher_lost")
    assert queue.settle([finished(stale)]) == [False] and Journal(engine).get(request_id) is None
    assert queue.settle([finished(fresh)]) == [True]
    record = Journal(engine).get(request_id)
    assert record is not None and [attempt["dispatcher"] for attempt in record["attempts"]] == ["d1", "d2"]
    assert queue.settle([finished(fresh)]) == [False]  # what is settled is not settled again


def test_events_of_a_dead_dispatcher_are_lost_at_once(queue: EventQueue) -> None:
    accepted(queue, new())
    claimed(queue, {LANE: 1}, owner="d1")
    assert len(queue.lost(now=NOW, but="d2", dead=["d1"])) == 1 and queue.lost(now=NOW, but="d2", dead=["d3"]) == []


def test_a_beat_prolongs_leases_and_tells_what_is_still_ours(queue: EventQueue) -> None:
    kept, cancelled = accepted(queue, new(), new())
    claimed(queue, {LANE: 2})
    assert queue.cancel(cancelled, now=NOW) is not None
    assert queue.extend("d1", NOW + 300) == {kept: (1, False), cancelled: (1, True)}
    assert queue.to_cancel("d1") == [cancelled] and queue.to_cancel("d2") == []
    assert queue.lost(now=NOW + 299, but="d2") == [] and queue.extend("d2", NOW) == {}


def test_a_retry_waits_and_keeps_what_was_tried(queue: EventQueue) -> None:
    accepted(queue, new())
    (event,) = claimed(queue, {LANE: 1})
    again = finished(event, outcome="retried", status=430)
    again.due_at, again.tries = NOW + 60, 1
    assert queue.settle([again]) == [True]
    assert claimed(queue, {LANE: 1}, now=NOW + 59) == []
    (event,) = claimed(queue, {LANE: 1}, now=NOW + 60)
    assert (event.tries, event.epoch, [attempt["status"] for attempt in event.attempts]) == (1, 2, [430])
    assert queue.outcomes() == [(LANE, "retried", 430, 1)]


def test_a_waiting_event_is_cancelled_before_anybody_claims_it(queue: EventQueue, engine: Engine) -> None:
    (request_id,) = accepted(queue, new())
    event = queue.cancel(request_id, now=NOW)
    assert event is not None and event.owner == "cancel" and claimed(queue, {LANE: 1}) == []
    assert queue.settle([attempts.cancellation(event, PLAIN, now=NOW)]) == [True]
    record = Journal(engine).get(request_id)
    assert record is not None and (record["state"], record["status"]) == ("cancelled", 499)
    assert queue.cancel(request_id, now=NOW) is None


def test_a_cancelled_event_is_not_tried_again(queue: EventQueue) -> None:
    (request_id,) = accepted(queue, new())
    (event,) = claimed(queue, {LANE: 1})
    queue.cancel(request_id, now=NOW)
    assert queue.settle([finished(event, outcome="retried", status=430)]) == [False]
    assert (found := queue.get(request_id)) is not None and found.cancelled


def test_two_claimers_at_once_never_get_the_same_event(queue: EventQueue) -> None:
    accepted(queue, *(new() for _ in range(40)))
    got: dict[str, list[str]] = {"d1": [], "d2": []}
    start = threading.Barrier(2)

    def claim(owner: str) -> None:
        start.wait()
        while found := claimed(queue, {LANE: 3}, owner=owner):
            got[owner] += [event.request_id for event in found]

    threads = [threading.Thread(target=claim, args=(owner,)) for owner in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = got["d1"] + got["d2"]
    assert len(both) == len(set(both)) == 40


def test_depths_tell_what_waits_and_since_when(queue: EventQueue) -> None:
    accepted(queue, new(), new(), now=NOW)
    accepted(queue, new(), new("other"), now=NOW + 5)
    claimed(queue, {OTHER: 1}, now=NOW + 9)
    assert [(depth.lane, depth.queued, depth.running, depth.oldest) for depth in queue.depths()] == [(LANE, 3, 0, NOW), (OTHER, 0, 1, None)]


def test_functions_with_waiting_events_are_found_by_look_ups_alone(tmp_path: Path) -> None:
    """By SQLite's plan: or a backlog would slow every round."""
    engine = open_database(settings := Settings(home=str(tmp_path)))
    seen: list[tuple[str, Any]] = []
    listen(engine, "before_cursor_execute", lambda _connection, _cursor, statement, parameters, *_: seen.append((statement, parameters)))
    EventQueue(engine, settings).lanes()
    statement, parameters = next(one for one in seen if "RECURSIVE" in one[0])
    with engine.connect() as connection:
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))
    engine.dispose()
    assert "SCAN events" not in plan and plan.count("events_lane") == 3, plan


# -- dead letters ----------------------------------------------------------------------------------------------------------


def dead(queue: EventQueue, settings: EventSettings = PLAIN) -> str:
    (request_id,) = accepted(queue, new(source="timer", trigger="t"))
    (event,) = claimed(queue, {LANE: 1})
    record = {"state": "failed", "error": {"code": "handler_error", "message": "no", "stack_trace": "line 1"}, "ended_at": NOW}
    assert queue.settle([attempts.settlement(event, settings, record, 430, Verdict("failed"), memory_mb=0, now=NOW)]) == [True]
    return request_id


def test_a_dead_letter_is_sent_again_by_the_commit_that_takes_it_away(queue: EventQueue, letters: DeadLetters) -> None:
    request_id = dead(queue)
    (letter,) = letters.search(LANE)
    assert letter == letters.get(request_id) and letters.search(OTHER) == [] and letters.count() == {LANE: 1}
    again = queue.get(letters.resend(request_id))
    assert again is not None and (again.payload, again.source, again.caused_by, again.trigger) == (new().payload, "resend", request_id, "t")
    for gone in (letters.get, letters.resend, letters.purge):
        with pytest.raises(NotFound):
            gone(request_id)


def test_dead_letters_are_purged_one_by_one_by_function_or_by_age(queue: EventQueue, letters: DeadLetters) -> None:
    first, second = dead(queue), dead(queue)
    letters.purge(first)
    assert letters.purge_all(OTHER) == 0 and letters.purge_all(before=NOW) == 0
    assert [letter.request_id for letter in letters.search()] == [second]
    assert letters.purge_all(before=NOW + 1) == 1


def test_a_dead_letter_has_scfs_form(queue: EventQueue, letters: DeadLetters) -> None:
    request_id = dead(queue)
    shown = message(letters.get(request_id))
    assert (shown["RequestId"], shown["ErrorCode"], shown["ErrorMessage"]) == (request_id, -1, "line 1")
    body = shown["Body"]
    assert (body["RequestSource"], body["FunctionName"], body["Qualifier"], body["RequestId"]) == (
        "TRIGGER_TIMER",
        "hello",
        "$LATEST",
        request_id,
    )
    assert body["ClientContext"].encode() == new().payload and body["TimeStampForInvoker"] == str(int(NOW * 1000))


def test_a_letter_for_a_function_becomes_one_event_there(queue: EventQueue, letters: DeadLetters) -> None:
    request_id = dead(queue, EventSettings(2, 600, "function", "other"))
    (letter,) = letters.take_pending(10, now=NOW)
    assert letters.take_pending(10, now=NOW) == []
    letters.hand_to_function(letter)
    letters.hand_to_function(letter)  # another dispatcher that also thought it was its to deliver
    (event,) = queue.search(Filter("default", "other"), 10)
    assert (event.source, event.caused_by, event.hops) == ("dead-letter", request_id, 1)
    assert letters.get(request_id).delivery == "delivered"


def test_a_delivery_is_tried_ten_times(queue: EventQueue, letters: DeadLetters) -> None:
    request_id, now = dead(queue, EventSettings(2, 600, "url", "http://x")), NOW
    for _ in range(10):
        (letter,) = letters.take_pending(10, now=now)
        letters.not_delivered([letter], now=now)
        now += 60
    assert letters.take_pending(10, now=now) == [] and letters.get(request_id).delivery == "failed"


# -- timers ----------------------------------------------------------------------------------------------------------------


def timer(engine: Engine, expression: str = "0 * * * * * *", next_at: float | None = NOW, **changes: Any) -> None:
    values = {
        "trigger_id": "t1",
        "function_id": "f1",
        "namespace": "default",
        "function": "hello",
        "name": "tick",
        "type": "timer",
        "config": json.dumps({"cron": expression, "argument": "hi", "zone": "UTC"}),
        "qualifier": "$LATEST",
        "enabled": True,
        "description": "",
        "next_at": next_at,
        "created_at": NOW,
        "updated_at": NOW,
        **changes,
    }
    with writing(engine) as connection:
        connection.execute(insert(triggers).values(values))


def ticks(engine: Engine) -> list[float]:
    with engine.connect() as connection:
        return list(connection.execute(select(firings.c.tick).order_by(firings.c.tick)).scalars())


def test_two_dispatchers_fire_a_tick_once(engine: Engine, settings: Settings, queue: EventQueue) -> None:
    timer(engine)
    start, fired = threading.Barrier(4), []

    def fire() -> None:
        timers = Timers(engine, settings)
        start.wait()
        for second in range(0, 301, 5):
            fired.append(timers.fire_due(NOW + second)[0])

    threads = [threading.Thread(target=fire) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(fired) == 6 and ticks(engine) == [NOW + 60 * minute for minute in range(6)]
    found = queue.search(Filter(), 50)
    assert len(found) == 6 and {(event.source, event.trigger) for event in found} == {("timer", "tick")}
    assert found[-1].payload == b'{"Type":"Timer","TriggerName":"tick","Time":"2027-01-15T08:00:00Z","Message":"hi"}'


@pytest.mark.parametrize(
    ("expression", "late", "fired"),
    [
        ("* * * * * * *", 5, [NOW + second for second in range(6)]),  # a dispatcher that was busy leaves no tick out
        ("0 * * * * * *", 200, [NOW + 180]),  # it was away: the latest one
        ("0 0 * * * * *", 290, [NOW]),
        ("0 0 * * * * *", 310, []),  # too old to catch up with
    ],
)
def test_what_was_missed_fires_by_the_rule(engine: Engine, settings: Settings, expression: str, late: float, fired: list[float]) -> None:
    timer(engine, expression)
    Timers(engine, settings).fire_due(NOW + late)
    assert ticks(engine) == fired
    Timers(engine, settings).fire_due(NOW + late)
    assert ticks(engine) == fired


def test_a_timer_tells_how_long_until_its_next_tick(engine: Engine, settings: Settings) -> None:
    timers = Timers(engine, settings)
    assert timers.fire_due(NOW) == (0, 60.0)
    timer(engine)
    assert timers.fire_due(NOW - 7) == (0, 7.0) and timers.fire_due(NOW) == (1, 60.0)
    assert [found.name for found in timers.upcoming(NOW + 50, 10)] == ["tick"] and timers.upcoming(NOW + 10, 10) == []
    assert timers.forget_firings(NOW + 90_000) == 1


def test_a_disabled_timer_rests(engine: Engine, settings: Settings) -> None:
    timer(engine, enabled=False)
    assert Timers(engine, settings).fire_due(NOW + 5)[0] == 0


def test_an_event_keeps_its_routing_key(engine: Engine, queue: EventQueue) -> None:
    with writing(engine) as connection:
        put(connection, NewEvent(namespace="default", function="hello", payload=b"1", routing_key={"user": "ä"}), now=NOW)
        put(connection, NewEvent(namespace="default", function="hello", payload=b"2"), now=NOW)
    found = queue.claim({LANE: 2}, "me", now=NOW, lease_until=NOW + 30)
    assert [event.routing_key for event in found] == [{"user": "ä"}, {}]


def test_an_event_after_too_many_others_is_over_without_a_run_and_tells_no_other_function(queue: EventQueue, engine: Engine) -> None:
    with writing(engine) as connection:
        put(connection, NewEvent(namespace="default", function="hello", payload=b"1", hops=17), now=NOW)
    (event,) = queue.claim({LANE: 1}, "me", now=NOW, lease_until=NOW + 30)
    for kind, target, left in (("function", "other", ("none", "none")), ("file", "lost", ("file", "pending"))):
        over = attempts.too_many_hops(event, EventSettings(2, 600, kind, target), now=NOW)  # type: ignore[arg-type]
        assert over.record is not None and over.dead is not None and over.outcome == "failed"
        assert (over.record["error"]["code"], over.record["started_at"], over.record["hops"]) == ("too_many_hops", None, 17)
        assert len(over.record["attempts"]) == 1 and (over.dead["target_type"], over.dead["delivery"]) == left
    assert queue.settle([over]) == [True] and queue.get(event.request_id) is None
