"""Create and destroy, thousands of times: nothing may grow. Through sandboxd's client: the way over HTTP is measured elsewhere."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sandbox.client import Client
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from tests.bench.instance import Instance
from tests.bench.rows import Row

CGROUPS = Path("/sys/fs/cgroup")
AT_ONCE = 4
#: Cycles before the first look: kept cgroups, caches and arenas are what they will be from then on.
RUN_UP = 1_000
SETTLE_SECONDS = 15.0
#: Of resident memory: an allocator's arenas move by that much without anything being lost.
RSS_SLACK_BYTES = 3 * 1024 * 1024
#: Groups of a few slots that wait to be used again; how many depends on how the calls fell together. A leak would be hundreds.
CGROUPS_SLACK = 16
PARTS = ("launcher", "sandboxd")

Count = dict[str, int]


def churn(instance: Instance, count: int) -> Row:
    """Every call is of a newer generation: a cold start for it, the end of the worker of the one before."""
    digest = _package(instance)
    before, after, seconds = asyncio.run(_cycles(instance, digest, count))
    grown = {name: after[name] - before[name] for name in before if after[name] - before[name] > _slack(name)}
    per_second = count / seconds
    text = ", ".join(f"{name} {before[name]}→{after[name]}" for name in grown) or f"{per_second:.0f}/s, nothing grew"
    details = {"before": before, "after": after, "per_second": per_second}
    return Row(
        name=f"create + destroy {count:,} sandboxes, what grew", measured=text, value=len(grown), unit="", must=0, aim=0, details=details
    )


def _slack(name: str) -> int:
    return CGROUPS_SLACK if name == "cgroups" else RSS_SLACK_BYTES if name.startswith("rss") else 0


def _package(instance: Instance) -> str:
    """The digest of an empty function's code in the store."""
    name = instance.deploy()
    described = instance.ask("GET", f"/v1/functions/{name}")
    digests = {path.name for path in instance.settings.code_dir.iterdir()}
    found = [word for word in json.dumps(described).replace('"', " ").split() if word in digests]
    return found[0] if found else sorted(digest for digest in digests if len(digest) == 64)[0]


async def _cycles(instance: Instance, digest: str, count: int) -> tuple[Count, Count, float]:
    client = Client(instance.settings)
    await client.start()
    try:
        numbers = iter(range(1, RUN_UP + count + 1))
        await _run(client, instance.settings, digest, [next(numbers) for _ in range(RUN_UP)])
        before = await _quiet(instance)
        began = time.monotonic()
        await _run(client, instance.settings, digest, list(numbers))
        seconds = time.monotonic() - began
        return before, await _quiet(instance), seconds
    finally:
        await client.close()


async def _run(client: Client, settings: Settings, digest: str, numbers: list[int]) -> None:
    waiting = iter(numbers)

    async def one(lane: int) -> None:
        spec = _spec(lane, digest, settings)
        for number in waiting:
            reply = await client.invoke(replace(spec, generation=number), b"{}", request_id=f"churn-{number}")
            if reply.error is not None or reply.start != "cold":
                raise RuntimeError(f"cycle {number}: {reply.start}, {reply.error}")

    await asyncio.gather(*(one(lane) for lane in range(AT_ONCE)))
    for lane in range(AT_ONCE):
        await client.retire(f"churn-{lane}", numbers[-1] + 1)


def _spec(lane: int, digest: str, settings: Settings) -> FunctionSpec:
    return FunctionSpec(
        function_id=f"churn-{lane}",
        generation=0,
        name=f"churn-{lane}",
        namespace="default",
        version="$LATEST",
        runtime="python3",
        handler="index.main_handler",
        code=digest,
        memory_mb=settings.default_memory_mb,
        timeout_seconds=10,
        init_timeout_seconds=65,
        concurrency=1,
        tmp_mb=settings.default_tmp_mb,
    )


async def _quiet(instance: Instance) -> Count:
    """Counts that have stopped moving: the refill and the last ends are over."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last: Count = {}
    while True:
        await asyncio.sleep(0.5)
        gc.collect()
        now = dict(_counts(instance))
        stable = {name: value for name, value in now.items() if not name.startswith("rss")}
        if stable == last or time.monotonic() > deadline:
            return now
        last = stable


def _counts(instance: Instance) -> Iterator[tuple[str, int]]:
    processes = instance.processes()
    for part in PARTS:
        yield f"descriptors of {part}", processes[part].num_fds()
        yield f"rss of {part}", processes[part].memory_info().rss
        yield f"mounts of {part}", len(Path(f"/proc/{processes[part].pid}/mountinfo").read_text().splitlines())
        yield f"threads of {part}", processes[part].num_threads()
    yield "processes", len(processes["launcher"].children(recursive=True))
    yield "cgroups", sum(1 for _ in CGROUPS.glob(f"**/hearth-{instance.settings.instance}/*/"))
    yield "links", len(list(Path("/sys/class/net").iterdir()))
