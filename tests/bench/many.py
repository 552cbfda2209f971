"""Many sandboxes at once: what an idle worker adds, how many can be alive, what they cost; refusals while a limit's calls run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.bench.http import Flock
from tests.bench.instance import SLEEPING, SPINNING, Instance
from tests.bench.rows import Row, quantile

MEGABYTE = 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup")
BATCH = 100
FEW = 50
LIMIT = 20
FROZEN_SECONDS = 30.0


def many(instance: Instance, count: int) -> list[Row]:
    """`FEW` idle workers for their memory, then up to `count`; each is called again at the end and has to be the same warm worker."""
    sandboxd = instance.processes()["sandboxd"]
    flock = instance.flock(BATCH)
    try:
        before = psutil.virtual_memory().available
        functions = [_fill(instance, flock, FEW)]
        _wait_frozen(instance, FEW)
        memory = _memory_row(instance, before, psutil.virtual_memory().available)
        descriptors, alive = sandboxd.num_fds(), FEW
        while alive < count:
            batch = min(BATCH, count - alive)
            functions.append(_fill(instance, flock, batch))
            alive += batch
        _wait_frozen(instance, count)
        each = (sandboxd.num_fds() - descriptors) / (count - FEW)
        warm = sum(_again(instance, flock, *function) for function in functions)
    finally:
        flock.close()
    alive_row = Row(
        name="sandboxes alive at once", measured=f"{warm} of {count} answered again", value=warm, unit="", must=count, at_least=True
    )
    return [
        *memory,
        alive_row,
        Row(
            name="descriptors of sandboxd per sandbox",
            measured=f"{sandboxd.num_fds()} with {count} alive",
            value=each,
            unit="",
            must=3.0,
            aim=3.0,
        ),
    ]


def _fill(instance: Instance, flock: Flock, count: int) -> tuple[str, int]:
    """`count` workers of one new function: so many calls at once, which last until every one has its worker."""
    name = instance.deploy(SLEEPING, concurrency=BATCH, timeout=30)
    answers = flock.burst(instance.invocation(name, b'{"seconds": 4}'), count)
    starts = [answer.start if answer.status == 200 else answer.status for answer in answers]
    if starts != ["cold"] * count:
        raise RuntimeError(f"{count} calls at once were not {count} cold starts: {sorted(set(map(str, starts)))}")
    return name, count


def _again(instance: Instance, flock: Flock, name: str, count: int) -> int:
    answers = flock.burst(instance.invocation(name, b'{"seconds": 1}'), count)
    return sum(answer.status == 200 and answer.start == "warm" for answer in answers)


def _wait_frozen(instance: Instance, count: int) -> None:
    deadline = time.monotonic() + FROZEN_SECONDS
    while sum(row["state"] == "frozen" for row in instance.sandboxes()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not {count} frozen workers after {FROZEN_SECONDS:g} s")
        time.sleep(0.5)


def _memory_row(instance: Instance, before: int, after: int) -> list[Row]:
    """Kernel memory is part of a cgroup's usage; what it charges to nobody shows in the host's figure, with everybody's noise."""
    frozen = {row["id"] for row in instance.sandboxes() if row["state"] == "frozen"}
    used = [usage for name, usage in _usages(instance.settings.instance) if name in frozen]
    charged, host = sum(used) / len(used) / MEGABYTE, (before - after) / FEW / MEGABYTE
    return [
        Row(
            name="memory one idle worker adds, kernel included",
            measured=f"mean of {len(used)} cgroups",
            value=charged,
            unit="MB",
            must=6.0,
            aim=2.0,
            details={"largest_mb": max(used) / MEGABYTE},
        ),
        Row(
            name="  the same by the host's MemAvailable", measured=f"{(before - after) / MEGABYTE:.0f} MB for {FEW}", value=host, unit="MB"
        ),
    ]


def _usages(instance_id: str) -> Iterator[tuple[str, int]]:
    for name in ("memory.usage_in_bytes", "memory.current"):
        for path in CGROUPS.glob(f"**/hearth-{instance_id}/*/{name}"):
            yield path.parent.name, int(path.read_text())


def refusals(instance: Instance, count: int) -> list[Row]:
    """429 while the limit's calls run: sleeping ones (the bound), and ones that fight for the CPU (told)."""
    return [
        _refused(instance, count, SLEEPING, "429 while 20 calls run, p99", must=10.0),
        _refused(instance, count, SPINNING, "  the same while they spin", must=None),
    ]


def _refused(instance: Instance, count: int, code: str, name: str, *, must: float | None) -> Row:
    function = instance.deploy(code, concurrency=LIMIT, timeout=30)
    raw = instance.invocation(function, b'{"seconds": 6}')
    flock, connection = instance.flock(LIMIT), instance.connect()
    try:
        for running in flock.connections:
            running.send(raw)
        while (running_now := sum(row["function"] == function and row["state"] == "leased" for row in instance.sandboxes())) < LIMIT:
            time.sleep(0.1)
        answers = [connection.call(raw) for _ in range(count)]
        statuses = {answer.status for answer in answers}
        if statuses != {429}:
            raise RuntimeError(f"{name}: {running_now} calls ran, answers were {sorted(statuses)}")
        ended = [running.receive().status for running in flock.connections]
    finally:
        connection.close()
        flock.close()
    times = [answer.seconds * 1000 for answer in answers]
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    details = {"count": count, "p50_ms": p50, "max_ms": max(times), "held": sorted(set(ended)), "cpus": os.cpu_count()}
    return Row(name=name, measured=f"p50 {p50:.2f} ms, round trip", value=p99, unit="ms", must=must, aim=must, details=details)
