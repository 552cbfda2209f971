"""Cold starts: one at a time from a prepared sandbox, one at a time beyond those, and twenty at once. All against `python3 -c pass`."""

from __future__ import annotations

import statistics
import time

from tests.bench.instance import Home, Instance, reference
from tests.bench.rows import Row, quantile

#: Long enough for the prepared sandboxes to be full again, and for the machine to be quiet.
PAUSE_SECONDS = 0.12
BURST = 20


def prepared(instance: Instance, count: int) -> Row:
    """A new function for each call; the last ones deployed are called long after, so that nothing of the deployment is left to do."""
    return _one_by_one(instance, count, "cold start, prepared sandbox", must=0.5, aim=0.15)


def beyond_prepared(home: Home, count: int) -> Row:
    with home.life(prepared=0) as instance:
        warm_up(instance)
        return _one_by_one(instance, count, "cold start, fork from the zygote", must=1.0, aim=0.35)


def warm_up(instance: Instance) -> None:
    """A few calls that count for nothing: the zygote is there afterwards, and every lazy import of the API."""
    connection = instance.connect()
    for _ in range(4):
        answer = connection.call(instance.invocation(instance.deploy()))
        if answer.status != 200:
            raise RuntimeError(f"a call failed: {answer.status} {answer.body[:500]!r}")
        time.sleep(PAUSE_SECONDS)
    connection.close()


def _one_by_one(instance: Instance, count: int, name: str, *, must: float, aim: float) -> Row:
    functions = [instance.deploy() for _ in range(count)]
    connection = instance.connect()
    connection.ask("GET", "/v1/functions?limit=1")  # the connection has been accepted
    calls, references, starts = [], [], []
    for function in functions:
        time.sleep(PAUSE_SECONDS)
        references.append(reference())
        time.sleep(PAUSE_SECONDS)
        answer = connection.call(instance.invocation(function))
        calls.append(answer.seconds)
        starts.append(answer.start)
    connection.close()
    if starts != ["cold"] * count:
        raise RuntimeError(f"{name}: not every call was a cold start: {starts}")
    measured, wanted = statistics.median(calls) * 1000, statistics.median(references) * 1000
    return Row(
        name=name,
        measured=f"{measured:.2f} ms of {wanted:.2f} ms",
        value=measured / wanted,
        must=must,
        aim=aim,
        details={"calls": count, "p50_ms": measured, "p90_ms": quantile(calls, 0.9) * 1000, "reference_ms": wanted},
    )


def simultaneous(instance: Instance, rounds: int) -> Row:
    """Twenty calls of one new function at the same moment; the slowest of each round, median of the rounds."""
    flock = instance.flock(BURST)
    slowest, references, cold = [], [], []
    for connection in flock.connections:
        connection.ask("GET", "/v1/functions?limit=1")
    for _ in range(rounds):
        raw = instance.invocation(instance.deploy(concurrency=BURST))
        time.sleep(PAUSE_SECONDS * 3)
        references.append(reference())
        time.sleep(PAUSE_SECONDS)
        answers = flock.burst(raw, BURST)
        if any(answer.status != 200 for answer in answers):
            raise RuntimeError(f"a call of the burst failed: {[answer.status for answer in answers]}")
        slowest.append(max(answer.seconds for answer in answers))
        cold.append(sum(answer.start == "cold" for answer in answers))
    flock.close()
    measured, wanted = statistics.median(slowest) * 1000, statistics.median(references) * 1000
    return Row(
        name=f"{BURST} simultaneous cold calls, slowest",
        measured=f"{measured:.1f} ms of {wanted:.2f} ms",
        value=measured / wanted,
        must=8.0,
        aim=3.0,
        details={"rounds": rounds, "slowest_ms": [round(value * 1000, 2) for value in slowest], "cold": cold, "reference_ms": wanted},
    )
