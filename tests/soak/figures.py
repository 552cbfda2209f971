"""What may not grow: memory, descriptors, threads, mounts, cgroups, processes, the time a call takes. Windows are compared as ratios."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.instance import Instance, below
from tests.soak import victims
from tests.soak.load import Tally

WINDOWS = 8
RUN_UP = 2
"""Windows before the first that counts: caches, kept cgroups and arenas are then what they will be."""
SAMPLE_SECONDS = 0.5
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: How much more the later half may have than the earlier one: (ratio, and what lies within chance).
ALLOWED: dict[str, tuple[float, float]] = {
    "memory": (1.15, 4e6),
    "descriptors": (1.10, 16),
    "threads": (1.0, 4),
    "mounts": (1.0, 4),
    "cgroups": (1.15, 16),
    "processes": (1.15, 8),
    "zombies": (1.0, 4),
    "links": (1.0, 4),
    "latency": (3.0, 0.02),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one figure: the earlier and the later half."""

    name: str
    before: float
    after: float

    @property
    def too_much(self) -> bool:
        ratio, chance = ALLOWED[self.name.split(" ")[0]]
        return self.after > self.before * ratio + chance


class Watch:
    """Samples an instance while a load runs."""

    def __init__(self, hearth: Instance, tally: Tally) -> None:
        self._hearth, self._tally = hearth, tally
        self._windows: list[dict[str, list[float]]] = []
        self._clock = threading.Event()

    def run(self, seconds: float, *, say: Callable[[str], None] | None = None) -> None:
        """Sample for so long."""
        for number in range(WINDOWS):
            began = time.monotonic()
            samples: dict[str, list[float]] = {}
            while time.monotonic() < began + seconds / WINDOWS:
                for name, value in figures(self._hearth):
                    samples.setdefault(name, []).append(value)
                self._clock.wait(SAMPLE_SECONDS)  # the beat of the samples; nothing is waited for
            with self._tally.lock:
                took = sorted(taken for when, taken in self._tally.latencies if when >= began)
            samples["latency median"] = [took[len(took) // 2]] if took else []
            samples["latency 95 %"] = [took[len(took) * 95 // 100]] if took else []
            self._windows.append(samples)
            if say is not None:
                say(f"window {number + 1} of {WINDOWS}: {self._tally.answered} answers, {_short(samples)}")

    def growth(self) -> list[Growth]:
        """Medians of the halves, without the run-up; of latencies the best window of each, since a busy machine only ever adds."""
        counted = self._windows[RUN_UP:]
        halves = counted[: len(counted) // 2], counted[len(counted) // 2 :]
        found = []
        for name in sorted({name for window in counted for name in window}):
            typical: Callable[[list[float]], float] = min if name.startswith("latency") else statistics.median
            values = [[value for window in half for value in window.get(name, [])] for half in halves]
            if all(values):
                found.append(Growth(name, typical(values[0]), typical(values[1])))
        return found

    def grown(self) -> list[str]:
        return [f"{each.name}: {each.before:.4g} → {each.after:.4g}" for each in self.growth() if each.too_much]

    def describe(self) -> str:
        right = self._tally.right
        rows = "\n".join(f"  {each.name:<28}{each.before:>14,.4g}{each.after:>14,.4g}" for each in self.growth())
        head = f"{right.total()} right answers {dict(right)}, {len(self._tally.wrong)} wrong or lost"
        return f"{head}\n  {'':<28}{'earlier':>14}{'later':>14}\n{rows}"


def figures(hearth: Instance) -> Iterator[tuple[str, float]]:
    """(name, value) now; the name's first word is the kind. Of a part with several processes, the sum."""
    parts = {
        "up": [hearth.pid],
        "launcher": victims.launcher(hearth),
        "sandboxd": victims.sandboxd(hearth),
        "zygote": victims.zygote(hearth),
        "API": victims.master(hearth) + victims.api_worker(hearth),
    }
    for part, pids in parts.items():
        for kind, measure in (("memory", resident), ("descriptors", descriptors), ("threads", threads), ("mounts", mounts)):
            yield f"{kind} of {part}", sum(measure(pid) for pid in pids)
    yield "mounts of the host", mounts(os.getpid())
    yield "cgroups", len(hearth.cgroups())
    yield "processes", len(below(hearth.pid))
    yield "zombies", len(victims.zombies(hearth))
    yield "links", len(os.listdir("/sys/class/net"))


def resident(pid: int) -> int:
    """Bytes; shared pages included, proc_pid_statm(5)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def mounts(pid: int) -> int:
    return Path(f"/proc/{pid}/mountinfo").read_text().count("\n")


def _short(samples: dict[str, list[float]]) -> str:
    names = ("memory of sandboxd", "memory of API", "descriptors of sandboxd", "cgroups", "processes", "latency median")
    return ", ".join(f"{name} {statistics.median(samples[name]):.4g}" for name in names if samples.get(name))
