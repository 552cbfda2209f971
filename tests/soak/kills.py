"""A storm: processes of every part killed at random moments under load, until so many are dead.

Each kill is an excuse for the errors that it explains, from the moment of the kill until the part serves again; an error outside is wrong.
Readiness is watched all the time: it may not say 503 in calm, and not 200 while there is no runtime.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.integration.instance import Identity, Instance, identify, wait_until
from tests.soak.load import Failure, Load, Tally
from tests.soak.victims import PARTS, deal, is_frozen, kill_one

RECOVERY_SECONDS = 30.0
GRACE_SECONDS = 3.0
"""After /readyz is 200 on every connection: an API worker's own pause before it connects to the runtime again is up to 1 s."""
NO_PAUSE = 0.25
"""The share of kills after which the next one comes before anything has recovered."""
READY_IN_A_ROW = 6
"""Readiness on new connections, which the kernel deals out among the API workers."""

CONNECTION, OURS, EXITED = "connection", "500 or 503", "502 of a dead process"
EXCUSES: dict[str, frozenset[str]] = {
    "sandboxd": frozenset({OURS}),
    "launcher": frozenset({OURS}),
    "zygote": frozenset({OURS}),
    "API": frozenset({CONNECTION, OURS}),
    "API worker": frozenset({CONNECTION, OURS}),
    "dispatcher": frozenset(),  # synchronous calls don't notice
    "init": frozenset({OURS, EXITED}),
    "worker": frozenset({OURS, EXITED}),
}


@dataclass
class Kill:
    """`at` and `over` are monotonic seconds; `over` is infinite until the part serves again."""

    part: str
    victim: Identity
    at: float
    over: float = float("inf")

    def excuses(self, failure: Failure) -> bool:
        sort = CONNECTION if not failure.status else EXITED if failure.status == 502 else OURS
        return sort in EXCUSES[self.part] and failure.ended >= self.at and failure.began <= self.over


@dataclass
class Storm:
    """What has been done, and what came of it."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    recoveries: list[tuple[float, str]] = field(default_factory=list)
    """(seconds from a kill until everything served again, what had been killed)."""
    missed: int = 0

    def excuse(self, failure: Failure) -> bool:
        return any(kill.excuses(failure) for kill in self.kills)

    def counted(self) -> Counter[str]:
        return Counter(kill.part for kill in self.kills)

    def describe(self, tally: Tally) -> str:
        spans = sorted(self.recoveries) or [(0.0, "nothing")]
        (median, _), (slowest, parts) = spans[len(spans) // 2], spans[-1]
        return (
            f"seed {self.seed}: {len(self.kills)} kills {dict(self.counted())}; {tally.right.total()} right {dict(tally.right)}, "
            f"{tally.excused.total()} honest errors {dict(tally.excused)}, {len(tally.wrong)} wrong or lost; "
            f"recovered in {median:.2f} s (median), {slowest:.2f} s (slowest, {parts})"
        )


def kill_under_load(
    hearth: Instance, load: Load, *, kills: int, seed: int, within_seconds: float, say: Callable[[str], None] | None = None
) -> Storm:
    """Kill `kills` processes. Returns when everything serves again; the load goes on. AssertionError where something does not recover."""
    storm, chance = Storm(seed), random.Random(f"{seed}-kills")
    deadline = time.monotonic() + within_seconds
    waiting: list[Kill] = []
    parts = deal(chance)
    while len(storm.kills) < kills and time.monotonic() < deadline:
        load.wait_for_answers(chance.randrange(1, 12))
        part, at = next(parts), time.monotonic()
        victim = kill_one(hearth, part, chance)
        if victim is None:
            storm.missed += 1  # it is away because of an earlier kill
            continue
        storm.kills.append(Kill(part, victim, at))
        waiting.append(storm.kills[-1])
        if chance.random() >= NO_PAUSE:
            recover(hearth, storm, waiting)
        if say is not None and len(storm.kills) % 25 == 0:
            say(f"{len(storm.kills)} kills, {load.tally.answered} answers, {len(load.tally.wrong)} wrong")
    recover(hearth, storm, waiting)
    return storm


def recover(hearth: Instance, storm: Storm, waiting: list[Kill]) -> None:
    """Wait until what was killed is gone and everything serves; the excuses end. What is frozen dies when it is thawed, and waits on."""
    began = min((kill.at for kill in waiting), default=time.monotonic())
    wait_until(lambda: not any(is_alive(kill) and not is_frozen(kill.victim[0]) for kill in waiting), "the killed are dead")
    wait_until(lambda: whole(hearth), f"everything serves again after {[kill.part for kill in waiting]}", RECOVERY_SECONDS)
    now = time.monotonic()
    dead = [kill for kill in waiting if not is_alive(kill)]
    if dead:
        storm.recoveries.append((now - began, ", ".join(kill.part for kill in dead)))
    for kill in dead:
        kill.over = now + GRACE_SECONDS
    waiting[:] = [kill for kill in waiting if kill not in dead]


def is_alive(kill: Kill) -> bool:
    return identify(kill.victim[0]) == kill.victim


def whole(hearth: Instance) -> bool:
    """Whether every part is there and every API worker calls itself ready."""
    there = all(PARTS[part][0](hearth) for part in ("launcher", "sandboxd", "zygote", "API", "dispatcher"))
    workers = PARTS["API worker"][0](hearth)
    return there and len(workers) >= 2 and all(readiness(hearth) == 200 for _ in range(READY_IN_A_ROW))


def readiness(hearth: Instance) -> int:
    """The status of /readyz on a new connection, 0 where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", hearth.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Readiness:
    """Asks all the time in a thread of its own: (when asked, when answered, status), monotonic seconds."""

    def __init__(self, hearth: Instance) -> None:
        self.seen: list[tuple[float, float, int]] = []
        self._hearth, self._stopping = hearth, threading.Event()
        self._thread = threading.Thread(target=self._run, name="readiness")

    def __enter__(self) -> Readiness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            asked = time.monotonic()
            status = readiness(self._hearth)
            self.seen.append((asked, time.monotonic(), status))

    def refusals_in_calm(self, storm: Storm) -> list[tuple[float, float, int]]:
        """Times at which it was not 200 though nothing had been killed that explains it."""
        parts = ("sandboxd", "launcher", "API", "API worker")
        spans = [(kill.at, kill.over) for kill in storm.kills if kill.part in parts]
        return [seen for seen in self.seen if seen[2] != 200 and not any(at <= seen[1] and seen[0] <= over for at, over in spans)]

    def hid(self, storm: Storm) -> list[str]:
        """Ends of the runtime during which it never said so: the next one comes no sooner than half a second later."""
        ends = [kill for kill in storm.kills if kill.part in ("sandboxd", "launcher")]
        refused = [asked for asked, _, status in self.seen if status != 200]
        return [f"{kill.part} at {kill.at:.3f}" for kill in ends if not any(kill.at <= asked <= kill.over for asked in refused)]
