"""`python -m tests.soak.events --events 10000`: events accepted under load while our processes are killed at random; none may be lost.

Callers send with an idempotency key until they get 202, as a careful client would. Afterwards every acknowledged id must have a record that
says it succeeded. An event may have run more than once: each further attempt is in its record with what became of the one before it.
"""

from __future__ import annotations

import argparse
import random
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.integration.instance import Instance, wait_until
from tests.soak.victims import kill_one

CODE = "import time\ndef main_handler(event, context):\n    time.sleep(event['seconds'])\n    return event['number']\n"
VICTIMS = ("dispatcher", "dispatcher", "API", "API worker", "API worker", "sandboxd", "launcher", "worker")
FUNCTIONS = 3
SENDERS = 6
DRAIN_SECONDS = 300.0
PATIENCE_SECONDS = 120.0
NO_PAUSE = 0.2
"""The share of kills after which the next one comes at once."""


@dataclass
class Outcome:
    """`acknowledged`: number → request id. `repeated`: why an attempt was followed by another."""

    seed: int
    acknowledged: dict[int, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def describe(self) -> str:
        return (
            f"seed {self.seed}: {len(self.acknowledged)} acknowledged, {dict(self.states)}, killed {dict(self.kills)}, "
            f"{self.repeated.total()} attempts repeated {dict(self.repeated)}, {self.seconds:.1f} s"
        )


def storm(hearth: Instance, *, events: int, seed: int, per_kill: int = 25, say: Callable[[str], None] = print) -> Outcome:
    """Send so many while killing, one kill about every `per_kill` events; returns once all are over. AssertionError where one never is."""
    outcome, chance, began = Outcome(seed), random.Random(seed), time.monotonic()
    names = [hearth.deploy(CODE, concurrency=10) for _ in range(FUNCTIONS)]
    numbers, lock = iter(range(events)), threading.Lock()

    def send() -> None:
        token = (hearth.home / "credential").read_text().strip()
        with httpx.Client(base_url=hearth.url, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False) as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                outcome.acknowledged[number] = accepted(client, names[number % FUNCTIONS], number, f"{seed}-{number}")

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        victim = chance.choice(VICTIMS)
        if kill_one(hearth, victim, chance) is not None:
            outcome.kills[victim] += 1
        if chance.random() >= NO_PAUSE:
            wanted = len(outcome.acknowledged) + chance.randrange(1, 2 * per_kill)
            wait_until(
                lambda wanted=wanted: len(outcome.acknowledged) >= min(events, wanted) or not any(s.is_alive() for s in senders),
                "more events are acknowledged",
                PATIENCE_SECONDS,
            )
    for sender in senders:
        sender.join()
    say(f"{events} acknowledged after {time.monotonic() - began:.1f} s and {outcome.kills.total()} kills, draining")
    judge(hearth, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def accepted(client: httpx.Client, name: str, number: int, key: str) -> str:
    """The event's id; sent again until somebody acknowledges it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            event = {"number": number, "seconds": 0.01}
            headers = {"invokeType": "Event", "Idempotency-Key": key}
            answer = client.post(f"/v1/functions/{name}/invocations", json=event, headers=headers)
            if answer.status_code == 202:
                return str(answer.json()["request_id"])
        except httpx.TransportError:
            answer = None
        assert time.monotonic() < deadline, f"nobody takes event {number}: {answer and answer.text}"
        time.sleep(0.05)


def judge(hearth: Instance, outcome: Outcome) -> None:
    wait_until(lambda: ready(hearth), "everything serves again", PATIENCE_SECONDS)
    deadline = time.monotonic() + DRAIN_SECONDS
    for number, request_id in sorted(outcome.acknowledged.items()):
        record = ended(hearth, request_id, deadline)
        outcome.states[record["state"]] += 1
        attempts = record["attempts"]
        for attempt in attempts[:-1]:
            outcome.repeated[attempt["error"]["code"]] += attempt.get("count", 1)
        if record["state"] != "succeeded" or record["result"] != number:
            outcome.wrong.append(record)


def ready(hearth: Instance) -> bool:
    try:
        return bool(hearth.request("GET", "/readyz").body == {"status": "ok"})
    except httpx.TransportError:
        return False


def ended(hearth: Instance, request_id: str, deadline: float) -> dict[str, Any]:
    while True:
        answer = hearth.request("GET", f"/v1/invocations/{request_id}?wait=20")
        assert answer.status == 200, f"{request_id} is lost: {answer.content!r}"
        record: dict[str, Any] = answer.body
        if record["state"] not in ("queued", "running"):
            return record
        assert time.monotonic() < deadline, f"it does not end: {record}"


def main() -> None:
    from tests.integration.fixtures import build_image

    parser = argparse.ArgumentParser(prog="python -m tests.soak.events", description="Kill under a load of events, and count.")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hearth-events-") as folder:
        image = build_image(Path(folder) / "image", "host")
        hearth = Instance(Path(folder) / "instance", image, restart_seconds=0.5, event_retry_seconds=0.5)
        try:
            outcome = storm(hearth.start(), events=options.events, seed=options.seed)
        finally:
            hearth.close()
    print(outcome.describe())
    raise SystemExit(1 if outcome.wrong else 0)


if __name__ == "__main__":
    main()
