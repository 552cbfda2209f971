"""Records, logs and usage: written behind, never lost on the way, whatever bytes they hold."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from sandbox.settings import Settings
from server.records import InvocationRecord, Recorder, new_record, process, recorder, writer
from server.records.journal import Journal
from server.records.process import WriterProcess
from server.store import epoch, open_database

NOW = 1795473180.123
DAY = "2026-11-23"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), keep_records=50, keep_records_days=30)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def records(engine: Engine, settings: Settings) -> Iterator[Recorder]:
    records = Recorder(engine, settings)
    records.start()
    yield records
    records.close()


@pytest.fixture
def waiting(engine: Engine, settings: Settings) -> Iterator[Recorder]:
    """A recorder whose thread runs only once the test starts it."""
    records = Recorder(engine, settings)
    yield records
    records.close()


def call(request_id: str = "r1", function: str = "hello", **fields: Any) -> dict[str, Any]:
    return new_record(request_id, function, **{"created_at": NOW, "started_at": NOW, "ended_at": NOW + 0.25, "start": "warm", **fields})


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    return condition()


def test_a_record_comes_back_in_the_shape_of_the_design(records: Recorder) -> None:
    records.put(
        call(result=b'{"a": [1, 2.5, null]}', log=b"hi\n", run_ms=12.5, billed_ms=13, memory_bytes=5, runtime="Python3.11"), memory_mb=128
    )
    records.flush()
    shown = records.get("r1")
    assert shown == {
        "request_id": "r1",
        "function": "hello",
        "namespace": "default",
        "qualifier": "$LATEST",
        "version": "$LATEST",
        "type": "sync",
        "trigger": None,
        "caused_by": None,
        "state": "succeeded",
        "status": 200,
        "result": {"a": [1, 2.5, None]},
        "error": None,
        "start": "warm",
        "why_cold": None,
        "created_at": "2026-11-23T22:33:00.123Z",
        "started_at": "2026-11-23T22:33:00.123Z",
        "ended_at": "2026-11-23T22:33:00.373Z",
        "queue_ms": 0,
        "start_ms": 0,
        "run_ms": 12.5,
        "billed_ms": 13,
        "memory_bytes": 5,
        "attempts": [],
        "log": "hi\n",
        "runtime": "Python3.11",
    }
    assert set(InvocationRecord.__annotations__) <= set(shown)


def test_a_record_is_there_before_it_is_written_and_looks_the_same(waiting: Recorder) -> None:
    waiting.put(call(result=b"[1]", log=b"\xff"))
    before = waiting.get("r1")
    waiting.start()
    assert waiting.flush()
    assert before is not None and waiting.get("r1") == before


def test_a_record_is_on_disk_within_a_moment_without_anybody_asking(records: Recorder, settings: Settings) -> None:
    records.put(call())
    with sqlite3.connect(settings.state_dir / "hearth.db", timeout=5) as other:
        assert eventually(lambda: other.execute("SELECT count(*) FROM invocations").fetchone() == (1,), 2)
    other.close()


def test_another_recorder_sees_it(records: Recorder, engine: Engine, settings: Settings) -> None:
    other = Recorder(engine, settings)
    assert other.get("r1") is None
    records.put(call())
    records.flush()
    assert other.get("r1") == records.get("r1")


@pytest.mark.parametrize("request_id", ["nothing", "", "a\0b", "\ud800"])
def test_what_is_not_there_is_none(records: Recorder, request_id: str) -> None:
    assert records.get(request_id) is None
    assert records.latest(request_id) == [] and records.logs(request_id) == []


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'"\\ud800"', "\ud800"),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'{"x": 1}, "status": 200, "y": {"z": 2}', "(not JSON)"),
        (b"[" * 100_000, "(not JSON)"),
        (b"\xff\xfe", "(not JSON)"),
        (b"", "(not JSON)"),
        (b"NaN", "(not JSON)"),
        (b"null", None),
        ("plain text", "plain text"),
        (None, None),
    ],
    ids=str,
)
def test_a_result_cannot_break_its_record(records: Recorder, body: Any, shown: Any) -> None:
    records.put(call(result=body, status=430))
    records.flush()
    record = records.get("r1")
    assert record is not None and record["result"] == shown and record["status"] == 430


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=st.binary(max_size=300) | st.text(st.characters(codec=None), max_size=100))
def test_any_log_is_kept(waiting: Recorder, log: bytes | str) -> None:
    raw = log if isinstance(log, bytes) else log.encode(errors="backslashreplace")
    row = call(log=log)
    waiting._journal.write([recorder.to_row(row)], [])
    record = waiting._journal.get("r1")
    assert record is not None and record["log"] == raw.decode(errors="backslashreplace")


def test_a_later_record_of_a_request_replaces_the_earlier(records: Recorder) -> None:
    records.put(call(state="running", ended_at=None))
    records.flush()
    running = records.get("r1")
    assert running is not None and running["state"] == "running" and running["ended_at"] is None
    records.put(call(state="failed", status=433))
    records.flush()
    assert [(shown["state"], shown["status"]) for shown in records.latest("hello")] == [("failed", 433)]
    assert [row["calls"] for row in records.usage()] == [1]


def test_the_latest_come_first_and_by_state(records: Recorder) -> None:
    for number in range(10):
        records.put(call(f"r{number}", state="failed" if number % 2 else "succeeded"))
    records.put(call("other", function="bye"))
    records.put(call("elsewhere", namespace="else"))
    assert [shown["request_id"] for shown in records.latest("hello", limit=3)] == ["r9", "r8", "r7"]
    assert [shown["request_id"] for shown in records.latest("hello", limit=3, state="succeeded")] == ["r8", "r6", "r4"]
    assert [shown["request_id"] for shown in records.latest("hello", "else")] == ["elsewhere"]


def test_lists_carry_the_tail_of_a_log_and_the_record_all_of_it(records: Recorder) -> None:
    records.put(call(log=b"x" * 10_000 + b"end"))
    assert records.latest("hello")[0]["log"] == "x" * 4093 + "end"
    whole = records.get("r1")
    assert whole is not None and len(whole["log"]) == 10_003


def test_logs_are_followed_by_cursor_without_gaps_or_repeats(records: Recorder) -> None:
    assert records.last_cursor() == 0
    for number in range(5):
        records.put(call(f"r{number}", log=f"line {number}\n"))
    first = records.logs("hello", limit=3)
    assert [entry["log"] for entry in first] == ["line 2\n", "line 3\n", "line 4\n"]
    assert first[0]["time"] == "2026-11-23T22:33:00.123Z" and first[0]["status"] == 200 and first[0]["request_id"] == "r2"
    cursor = first[-1]["cursor"]
    assert cursor == records.last_cursor() and records.logs("hello", after=cursor) == []
    for number in range(5, 9):
        records.put(call(f"r{number}"))
    records.flush()
    assert [entry["request_id"] for entry in records.logs("hello", after=cursor, limit=2)] == ["r5", "r6"]
    assert [entry["request_id"] for entry in records.logs("hello", after=cursor + 2, limit=9)] == ["r7", "r8"]


def test_a_follower_misses_nothing_of_two_writers(records: Recorder, engine: Engine, settings: Settings) -> None:
    second = Recorder(engine, settings)
    second.start()
    seen: list[str] = []
    done = threading.Event()

    def follow() -> None:
        cursor, last = 0, False
        while True:
            last = done.is_set()
            entries = records.logs("hello", after=cursor, limit=50)
            seen.extend(entry["request_id"] for entry in entries)
            cursor = entries[-1]["cursor"] if entries else cursor
            if last and not entries:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    for number in range(300):
        (records, second)[number % 2].put(call(f"r{number}"))
        if number % 40 == 0:
            assert records.flush() and second.flush()
    assert records.flush() and second.flush()
    done.set()
    follower.join()
    second.close()
    assert sorted(seen) == sorted(f"r{number}" for number in range(300))


def test_close_writes_what_is_left(engine: Engine, settings: Settings) -> None:
    records = Recorder(engine, Settings(home=settings.home))
    records.start()
    for number in range(3000):
        records.put(call(f"r{number}"))
    records.close()
    records.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*), max(seq) FROM invocations")).one() == (3000, 3000)
    records.put(call("late"))
    assert records.dropped == 1


def test_put_does_not_wait_for_a_busy_database(records: Recorder, settings: Settings) -> None:
    records.put(call("r0"))
    records.flush()
    blocker = sqlite3.connect(settings.state_dir / "hearth.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for number in range(1, 500):
        records.put(call(f"r{number}"))
    assert time.monotonic() - started < 1
    found = records.get("r499")
    assert found is not None and found["request_id"] == "r499"
    assert not records.flush(timeout=0.1)
    blocker.execute("COMMIT")
    blocker.close()
    assert records.flush() and records.dropped == 0
    assert records.last_cursor() == 500


def test_a_full_queue_counts_what_it_drops(waiting: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING", 3)
    for number in range(5):
        waiting.put(call(f"r{number}"))
    assert waiting.dropped == 2
    waiting.start()
    assert waiting.flush() and waiting.last_cursor() == 3
    assert eventually(lambda: "records dropped count=2" in caplog.text)


def test_large_records_fill_the_queue_too(waiting: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_BYTES", 100_000)
    for number in range(5):
        waiting.put(call(f"r{number}", log=b"x" * 60_000))
    assert waiting.dropped == 3
    waiting.start()


def test_one_bad_record_does_not_hold_up_the_others(waiting: Recorder) -> None:
    for number in range(20):
        waiting.put(call(f"r{number}"))
    waiting.put({"request_id": "no shape"})
    waiting.put(call("no time", created_at=None))
    waiting.put(call("no name", function="\ud800"))
    waiting.put(call("odd", error={"x": {1, 2}}))
    waiting.start()
    assert waiting.flush()
    assert waiting.dropped == 3 and waiting.last_cursor() == 21
    odd = waiting.get("odd")
    assert odd is not None and odd["error"] == {"x": "{1, 2}"}


def test_a_write_that_fails_is_tried_again(
    records: Recorder, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE invocations RENAME TO hidden"))
    records.put(call())
    assert eventually(lambda: "writing records failed" in caplog.text)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO invocations"))
    assert records.flush() and records.dropped == 0
    assert records.latest("hello")[0]["request_id"] == "r1"


# -- the writer's process ----------------------------------------------------------------------------------------------


@pytest.fixture
def remote(engine: Engine, settings: Settings) -> Iterator[Recorder]:
    """A recorder whose records are written by a process of its own."""
    remote = Recorder(engine, settings, WriterProcess(settings))
    remote.start()
    yield remote
    remote.close()


def pid_of(remote: Recorder) -> int:
    assert remote._process is not None and remote._process._process is not None
    return remote._process._process.pid


def test_another_process_writes_what_is_put(remote: Recorder) -> None:
    remote.put(call(log=b"\xff\x00said"), memory_mb=128)
    remote.put({"request_id": "no shape"})
    assert remote.flush(30)
    assert remote.latest("hello")[0]["log"] == "\\xff\x00said"
    assert (remote.dropped, remote.usage()[0]["calls"]) == (1, 1)
    assert pid_of(remote) != os.getpid()


def test_a_writer_that_is_killed_is_started_anew_and_loses_nothing(remote: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RETRY_SECONDS", 0.01)
    remote.put(call("r1"))
    assert remote.flush(30)
    first = pid_of(remote)
    os.kill(first, signal.SIGKILL)
    remote.put(call("r2"))
    assert remote.flush(30)
    assert pid_of(remote) != first
    assert [shown["request_id"] for shown in remote.latest("hello")] == ["r2", "r1"] and remote.dropped == 0


def test_the_writer_ends_with_its_recorder(remote: Recorder) -> None:
    remote.put(call())
    assert remote.flush(30)
    pid = pid_of(remote)
    remote.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_batch_that_comes_again_counts_once(engine: Engine) -> None:
    items = [(call("r1"), 1024), (call("r2", state="queued", started_at=None, ended_at=None), 1024)]
    own = writer.Writer(Journal(engine), lambda: False)
    assert own.write(items) == 0
    assert own.write([*items, (call("r2"), 1024)], again=True) == 0
    journal = Journal(engine)
    assert [row["calls"] for row in journal.usage(None, None, None)] == [2]
    assert journal.known(["r1", "r2", "r3"]) == {"r1": "succeeded", "r2": "succeeded"}


# -- retention ---------------------------------------------------------------------------------------------------------


def test_only_the_newest_records_are_kept(records: Recorder) -> None:
    for number in range(120):
        records.put(call(f"r{number}", created_at=time.time()))
    records.flush()
    assert records.prune() == 70
    assert [shown["request_id"] for shown in records.latest("hello", limit=100)] == [f"r{number}" for number in range(119, 69, -1)]
    assert records.prune() == 0


def test_old_records_go(records: Recorder) -> None:
    for number, age_days in enumerate([40, 31, 29, 0]):
        records.put(call(f"r{number}", created_at=time.time() - age_days * 86_400))
    records.flush()
    assert records.prune() == 2
    assert [shown["request_id"] for shown in records.latest("hello")] == ["r3", "r2"]


def test_a_busy_function_does_not_wait_an_hour_for_pruning(records: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1200):
        records.put(call(f"r{number}", created_at=time.time()))
    assert records.flush()
    assert eventually(lambda: len(records.latest("hello", limit=1000)) == 50)


# -- usage -------------------------------------------------------------------------------------------------------------


def test_usage_sums_calls_by_function_and_day(records: Recorder) -> None:
    records.put(call("a", billed_ms=1760), memory_mb=256)  # SCF's own example: 0.44 GBs
    records.put(call("b", billed_ms=1000, state="failed", status=433), memory_mb=1024)
    records.put(call("c", started_at=None, state="failed", status=432), memory_mb=256)
    records.put(call("d", started_at=None, state="failed", status=500), memory_mb=256)
    records.put(call("e", function="bye", billed_ms=1), memory_mb=128)
    records.put(call("f", ended_at=NOW + 86_400, billed_ms=500), memory_mb=2048)
    assert records.usage() == [
        {
            "namespace": "default",
            "function": "bye",
            "day": DAY,
            "calls": 1,
            "failures": 0,
            "throttled": 0,
            "gb_seconds": 0.000125,
            "billed_ms": 1,
        },
        {
            "namespace": "default",
            "function": "hello",
            "day": DAY,
            "calls": 2,
            "failures": 1,
            "throttled": 1,
            "gb_seconds": pytest.approx(1.44),
            "billed_ms": 2760,
        },
        {
            "namespace": "default",
            "function": "hello",
            "day": "2026-11-24",
            "calls": 1,
            "failures": 0,
            "throttled": 0,
            "gb_seconds": 1.0,
            "billed_ms": 500,
        },
    ]


def test_usage_of_several_batches_and_recorders_adds_up(records: Recorder, engine: Engine, settings: Settings) -> None:
    second = Recorder(engine, settings)
    second.start()
    for number in range(60):
        (records, second)[number % 2].put(call(f"r{number}", billed_ms=100), memory_mb=1024)
        if number % 20 == 0:
            records.flush()
    second.close()
    (row,) = records.usage()
    assert (row["calls"], row["billed_ms"]) == (60, 6000) and row["gb_seconds"] == pytest.approx(6.0)


def test_usage_is_asked_for_by_days_and_namespace(records: Recorder) -> None:
    for day in (22, 23, 24):
        records.put(call(f"d{day}", ended_at=epoch(f"2026-11-{day}T12:00:00Z")))
    records.put(call("x", namespace="other"))
    assert [row["day"] for row in records.usage(from_day="2026-11-23", namespace="default")] == ["2026-11-23", "2026-11-24"]
    assert [row["day"] for row in records.usage(to_day="2026-11-22")] == ["2026-11-22"]
    assert [row["day"] for row in records.usage("2026-11-23", "2026-11-23", "other")] == ["2026-11-23"]


def test_usage_outlives_its_records(records: Recorder) -> None:
    records.put(call(created_at=time.time() - 90 * 86_400, ended_at=NOW))
    records.flush()
    assert records.prune() == 1
    assert [row["calls"] for row in records.usage()] == [1]
