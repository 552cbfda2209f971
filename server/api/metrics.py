"""Prometheus figures. Each HTTP worker counts for itself; a scrape sums all of them and asks sandboxd for its own.

With several workers the counts live in files below PROMETHEUS_MULTIPROC_DIR, which gunicorn's configuration sets before the client
library is imported; without it (one process, tests) they live in memory. Calls are counted into them some at a time: one by one that
took 4 % of what a warm call costs an HTTP worker.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.events.model import Depth
from server.functions.model import Function

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
THROTTLED: Final = 432
RUN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
COLD_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1, 5, 30, 300)
_FUNCTION: Final = ("namespace", "function", "version")
#: How long a call waits to be counted; a scrape waits longer, for every worker's.
COUNT_SECONDS: Final = 0.05
SCRAPE_SECONDS: Final = 0.06
#: The files are mapped: a page for which the disk has no room costs the process its life (SIGBUS, mmap(2)). So long calls wait in memory.
ROOM_BYTES: Final = 1024 * 1024
LOOK_AGAIN_SECONDS: Final = 1.0
MOST_WAITING: Final = 50_000
#: As sandboxd spells them; all are shown, so that a series never vanishes.
LEASED: Final = "leased"
STATES: Final = ("creating", "prepared", "specialising", LEASED, "idle", "frozen", "closing")
#: The one figure among sandboxd's counters that may fall.
DESCRIPTORS: Final = "descriptors"


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the database says of events, of all machines that share it."""

    depths: Sequence[Depth]
    outcomes: Sequence[tuple[str, str, int, int]]
    dead_letters: Mapping[str, int]
    dispatcher: bool


class Durations(Histogram):
    """A histogram that takes many observations at the price of one."""

    def observe_all(self, seconds: Iterable[float]) -> None:
        """`observe` each, with one write for each bucket that got some."""
        seconds = list(seconds)
        for bucket, count in Tally(bisect_left(self._upper_bounds, value) for value in seconds).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(seconds))


class Metrics:
    """One process's counts, and the page that shows everybody's.

    `later(seconds, callback)` has calls counted together; without it each is counted at once.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        self._later = later
        self._waiting: list[tuple[tuple[str, str, str], int, float | None, float | None]] = []
        self._registry = CollectorRegistry()
        self._invocations = Counter(
            "hearth_invocations", "Calls by function and SCF status, refused ones too", [*_FUNCTION, "status"], registry=self._registry
        )
        self._throttled = Counter(
            "hearth_throttled", "Calls refused for the function's concurrency limit", _FUNCTION, registry=self._registry
        )
        self._duration = Durations(
            "hearth_invocation_duration_seconds",
            "From the event's hand-over to the result",
            _FUNCTION,
            registry=self._registry,
            buckets=RUN_BUCKETS,
        )
        self._cold = Durations(
            "hearth_cold_start_seconds",
            "From the call to the event's hand-over, cold starts",
            registry=self._registry,
            buckets=COLD_BUCKETS,
        )

    def count(self, function: Function, status: int, *, run_seconds: float | None, cold_start_seconds: float | None) -> None:
        """One call. `run_seconds` is None where nothing ran."""
        labels = (function.namespace, function.name, function.version)
        self._waiting.append((labels, status, run_seconds, cold_start_seconds))
        if self._later is None:
            self.write()
        elif len(self._waiting) == 1:
            self._later(COUNT_SECONDS, self.write)

    def write(self) -> None:
        """Count what waits; where the disk is full, later. The oldest of very many are not counted."""
        if self._later is not None and not _has_room():
            del self._waiting[:-MOST_WAITING]
            self._later(LOOK_AGAIN_SECONDS, self.write)
            return
        waiting, self._waiting = self._waiting, []
        ran = defaultdict(list)
        for labels, _, run_seconds, _ in waiting:
            if run_seconds is not None:
                ran[labels].append(run_seconds)
        for (labels, status), calls in Tally((call[0], call[1]) for call in waiting).items():
            self._invocations.labels(*labels, str(status)).inc(calls)
            if status == THROTTLED:
                self._throttled.labels(*labels).inc(calls)
        for labels, seconds in ran.items():
            self._duration.labels(*labels).observe_all(seconds)
        self._cold.observe_all(seconds for *_, seconds in waiting if seconds is not None)

    def render(self, runtime: dict[str, Any] | None, dropped_records: int, backlog: Backlog | None = None) -> bytes:
        """The page; `runtime` is sandboxd's description, None while it is away. Reads files: call it in a thread."""
        registry = self._registry
        if DIRECTORY in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(_Snapshot(runtime, dropped_records, backlog))
        return generate_latest(registry) + generate_latest(now)


def _has_room() -> bool:
    if DIRECTORY not in os.environ:
        return True
    disk = os.statvfs(os.environ[DIRECTORY])
    return disk.f_bavail * disk.f_frsize >= ROOM_BYTES


class _Snapshot(Collector):
    """What sandboxd says of this moment."""

    def __init__(self, runtime: dict[str, Any] | None, dropped_records: int, backlog: Backlog | None) -> None:
        self._runtime, self._dropped, self._backlog = runtime, dropped_records, backlog

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("hearth_runtime_up", "Whether sandboxd answers", value=int(self._runtime is not None))
        yield GaugeMetricFamily("hearth_records_dropped", "Records the answering worker could not write", value=self._dropped)
        if self._runtime is not None:
            yield from _of_runtime(self._runtime)
        if self._backlog is not None:
            yield from _of_events(self._backlog)


def _of_events(backlog: Backlog) -> Iterator[Metric]:
    yield GaugeMetricFamily("hearth_dispatcher_up", "Whether a dispatcher runs on this machine", value=int(backlog.dispatcher))
    queued = GaugeMetricFamily("hearth_events_queued", "Events that wait, by function", labels=["function"])
    running = GaugeMetricFamily("hearth_events_running", "Events that run, by function", labels=["function"])
    oldest = GaugeMetricFamily("hearth_events_oldest_seconds", "Age of the longest waiting event, by function", labels=["function"])
    now = time.time()
    for depth in backlog.depths:
        function = [depth.lane.partition("/")[2]]
        queued.add_metric(function, depth.queued)
        running.add_metric(function, depth.running)
        oldest.add_metric(function, 0.0 if depth.oldest is None else max(0.0, now - depth.oldest))
    yield from (queued, running, oldest)
    attempts = CounterMetricFamily(
        "hearth_event_attempts", "Attempts of events by function, what became of them, SCF status", labels=["function", "outcome", "status"]
    )
    for lane, outcome, status, count in backlog.outcomes:
        attempts.add_metric([lane.partition("/")[2], outcome, str(status)], count)
    yield attempts
    dead = GaugeMetricFamily("hearth_dead_letters", "Dead letters, by function", labels=["function"])
    for lane, count in backlog.dead_letters.items():
        dead.add_metric([lane.partition("/")[2]], count)
    yield dead


def _of_runtime(runtime: dict[str, Any]) -> Iterator[Metric]:
    sandboxes = runtime.get("sandboxes", [])
    found = [sandbox.get("state") for sandbox in sandboxes]
    by_state = GaugeMetricFamily("hearth_sandboxes", "Sandboxes by state", labels=["state"])
    for state in STATES:
        by_state.add_metric([state], found.count(state))
    yield by_state
    yield GaugeMetricFamily("hearth_running", "Calls running now", value=found.count(LEASED))
    memory = sum(sandbox.get("memory_bytes") or 0 for sandbox in sandboxes)
    yield GaugeMetricFamily("hearth_sandbox_memory_bytes", "Memory of all sandboxes, as measured", value=memory)
    capacity = GaugeMetricFamily("hearth_capacity", "Admission's figures, by name", labels=["figure"])
    for name, value in _numbers(runtime.get("capacity")):
        capacity.add_metric([name], value)
    yield capacity
    counters = CounterMetricFamily("hearth_runtime_events", "sandboxd's counters, by name", labels=["event"])
    for name, value in _numbers(runtime.get("counters")):
        if name == DESCRIPTORS:
            yield GaugeMetricFamily("hearth_runtime_descriptors", "Descriptors that sandboxd has open", value=value)
        else:
            counters.add_metric([name], value)
    yield counters


def _numbers(values: Any) -> Iterator[tuple[str, float]]:
    for name, value in (values or {}).items():
        if isinstance(value, (int, float)):
            yield str(name), float(value)
