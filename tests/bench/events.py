"""Events: how many a second are acknowledged, against bare commits on the same disk; how long from acceptance to start."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.instance import Instance
from tests.bench.rows import Row, quantile

SENDERS = 16
EVENT = b'{"a": 1}'


def bare_commits_a_second(folder: Path, seconds: float) -> float:
    """One row a commit, WAL, synchronous=FULL: what a single careful writer gets from this disk."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (id INTEGER PRIMARY KEY, payload BLOB)"):
        connection.execute(statement)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        connection.execute("INSERT INTO t (payload) VALUES (?)", (EVENT,))
        count += 1
    taken = time.monotonic() - began
    connection.close()
    return count / taken


def accepted_a_second(instance: Instance, name: str, seconds: float) -> float:
    counts, until = [0] * SENDERS, time.monotonic() + seconds

    def send(at: int) -> None:
        connection = instance.connect()
        raw = connection.request("POST", f"/v1/functions/{name}/invocations?invokeType=Event&delaySeconds=3600", EVENT)
        while time.monotonic() < until:
            answer = connection.call(raw)
            assert answer.status == 202, answer.body
            counts[at] += 1
        connection.close()

    began = time.monotonic()
    senders = [threading.Thread(target=send, args=(at,)) for at in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return sum(counts) / (time.monotonic() - began)


def events(instance: Instance, *, seconds: float, starts: int) -> list[Row]:
    name = instance.deploy()
    with tempfile.TemporaryDirectory(dir=instance.settings.home) as folder:
        bare = bare_commits_a_second(Path(folder), seconds)
    accepted = accepted_a_second(instance, name, seconds)
    waits, ends = [], []
    for _ in range(starts):
        began = time.perf_counter()
        request_id = instance.ask("POST", f"/v1/functions/{name}/invocations?invokeType=Event", {})["request_id"]
        record = instance.ask("GET", f"/v1/invocations/{request_id}?wait=30")
        ends.append((time.perf_counter() - began) * 1000)
        waits.append(record["queue_ms"] + record["start_ms"])
    start, end = (quantile(values, 0.5) for values in (waits, ends))
    return [
        Row(
            name="events accepted, durable",
            measured=f"{accepted:.0f} events/s from {SENDERS} senders, {bare:.0f} bare commits/s",
            value=accepted / bare,
            at_least=True,
        ),
        Row(
            name="event, acceptance to start",
            measured=f"p50 {start:.1f} ms, p95 {quantile(waits, 0.95):.1f} ms; from sending to its result {end:.1f} ms",
            value=start,
            unit="ms",
        ),
    ]
