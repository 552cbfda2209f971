"""Callers in threads: each call has a nonce, each answer is checked, nothing is forgotten.

right     the answer that belongs to the call
excused   an honest error of DESIGN section 9 (500, 503, 502 with 439, a lost connection), for which a fault of that time accounts
wrong     everything else, a reply of another call and an answer that never came above all
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.integration.instance import Answer, Instance
from tests.soak.functions import KINDS, Kind

CALL_SECONDS = 60.0
"""Far above what any call may take: no answer by then is a lost one."""
PAUSE_AFTER_ERROR_SECONDS = 0.05
CONCURRENCY = 200
"""Of each function: far more than there are callers, so that a 429 can only come from a place that was lost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that was not the function's. `status` 0: the connection was lost; `began` and `ended` are monotonic seconds."""

    kind: str
    status: int
    scf: int
    text: str
    began: float
    ended: float


Excuse = Callable[[Failure], bool]


@dataclass
class Tally:
    """What came of the calls. Lists and counters are only added to, under the lock."""

    right: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unknown: list[Failure] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, seconds it took) of calls of `echo`."""
    request_ids: list[tuple[str, int]] = field(default_factory=list)
    """(request id, SCF status) of right answers, for a look at their records."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answered(self) -> int:
        return self.right.total() + len(self.unknown) + len(self.wrong) + self.excused.total()

    def judge(self, excuse: Excuse) -> None:
        """Sort what is unknown into excused and wrong; callable again when more has come."""
        with self.lock:
            for failure in self.unknown:
                if excuse(failure):
                    self.excused[f"{failure.status}/{failure.scf}" if failure.status else "connection lost"] += 1
                else:
                    self.wrong.append(f"no fault accounts for {failure}")
            self.unknown.clear()


class Load:
    """`callers` threads that call until `stop`; made for a `with`. Functions are deployed at the start."""

    def __init__(self, instance: Instance, *, seed: int, callers: int, kinds: tuple[Kind, ...] = KINDS) -> None:
        self.tally = Tally()
        self._instance, self._seed, self._kinds = instance, seed, kinds
        self._stopping = threading.Event()
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(number,), name=f"caller-{number}") for number in range(callers)]
        self._token = (instance.home / "credential").read_text().strip()

    def __enter__(self) -> Load:
        for kind in self._kinds:
            self._instance.deploy(kind.code, name=kind.name, **{"timeout": 30, "concurrency": CONCURRENCY, **kind.configuration})
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Returns when the last call has its answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * CALL_SECONDS)
            assert not thread.is_alive(), f"{thread.name} never got its answer"

    def wait_for_answers(self, count: int, within_seconds: float = CALL_SECONDS) -> None:
        """Return after `count` further answers, whatever they are; AssertionError if they don't come."""
        wanted = self.tally.answered + count
        with self._more:
            assert self._more.wait_for(lambda: self.tally.answered >= wanted, within_seconds), "no answers come any more"

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-caller-{number}")
        weights = [kind.weight for kind in self._kinds]
        with self._connect() as client:
            while not self._stopping.is_set():
                kind = chance.choices(self._kinds, weights)[0]
                right = self._call(client, kind, f"{chance.getrandbits(128):032x}")
                with self._more:
                    self._more.notify_all()
                if not right:
                    self._stopping.wait(PAUSE_AFTER_ERROR_SECONDS)  # a refused client does not hammer

    def _connect(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._token}"}
        return httpx.Client(base_url=self._instance.url, headers=headers, timeout=CALL_SECONDS, trust_env=False)

    def _call(self, client: httpx.Client, kind: Kind, nonce: str) -> bool:
        began = time.monotonic()
        try:
            response = client.post(f"/v1/functions/{kind.name}/invocations{kind.query}", json={"nonce": nonce})
        except httpx.TransportError as error:
            return self._note_lost(kind, error, began)
        answer = Answer(response.status_code, response.headers, response.content, time.monotonic() - began)
        try:
            text = kind.wrong(nonce, answer)
        except (KeyError, ValueError, TypeError) as error:
            text = f"{answer.outcome}, malformed ({error!r}): {answer.content[:300]!r}"
        return self._note(kind, answer, text, began)

    def _note_lost(self, kind: Kind, error: httpx.TransportError, began: float) -> bool:
        ended = time.monotonic()
        with self.tally.lock:
            if isinstance(error, httpx.ReadTimeout):
                self.tally.wrong.append(f"{kind.name}: no answer within {ended - began:.0f} s")
            else:
                self.tally.unknown.append(Failure(kind.name, 0, 0, repr(error), began, ended))
        return False

    def _note(self, kind: Kind, answer: Answer, text: str, began: float) -> bool:
        tally, ended = self.tally, time.monotonic()
        with tally.lock:
            if not text:
                tally.right[kind.name] += 1
                tally.request_ids.append((answer.request_id, answer.scf))
                if kind.name == "echo":
                    tally.latencies.append((ended, answer.seconds))
            elif answer.status in (500, 503) or answer.outcome == (502, 439):
                tally.unknown.append(Failure(kind.name, *answer.outcome, text, began, ended))
            else:
                tally.wrong.append(f"{kind.name}: {text}")
        return not text
