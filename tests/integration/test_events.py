"""Asynchronous calls on a real instance: results, retries, beats, dead letters, cancelling, fairness, timers, two dispatchers."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sandbox.settings import load
from server.cli.up import confined
from server.store.times import epoch
from tests.integration.instance import Instance, leaving_nothing, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

INTERVAL = 0.5
ECHO = "def main_handler(event, context):\n    print('said')\n    return event\n"
FAILS = "def main_handler(event, context):\n    raise ValueError(event)\n"
SLEEPS = "import time\ndef main_handler(event, context):\n    time.sleep(event['seconds'])\n    return 'slept'\n"


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(event_retry_seconds=INTERVAL, event_ttl_seconds=600, restart_seconds=0.5)) as instance:
        yield instance


def send(hearth: Instance, name: str, event: Any = None, **headers: str) -> str:
    content = json.dumps({} if event is None else event).encode()
    answer = hearth.request("POST", f"/v1/functions/{name}/invocations", content=content, headers={"invokeType": "Event", **headers})
    assert answer.status == 202, answer.content
    return str(answer.body["request_id"])


def ended(hearth: Instance, request_id: str, within_seconds: float = 30) -> dict[str, Any]:
    record: dict[str, Any] = hearth.request("GET", f"/v1/invocations/{request_id}?wait={within_seconds:g}").body
    assert record["state"] not in ("queued", "running"), record
    return record


def configure(hearth: Instance, name: str, **settings: Any) -> None:
    answer = hearth.request("PUT", f"/v1/functions/{name}/event-config", json=settings)
    assert answer.status == 200, answer.content


def running(hearth: Instance, request_id: str) -> None:
    wait_until(lambda: hearth.request("GET", f"/v1/invocations/{request_id}").body["state"] == "running", "it runs", 20)


def test_an_event_runs_and_its_result_is_there_for_who_waits(hearth: Instance) -> None:
    name = hearth.deploy(ECHO)
    record = ended(hearth, send(hearth, name, {"a": [1, "ä"]}))
    assert (record["state"], record["status"], record["result"], record["log"]) == ("succeeded", 200, {"a": [1, "ä"]}, "said\n")
    assert (record["type"], record["source"], len(record["attempts"])) == ("async", "client", 1)
    assert hearth.records(name)[0]["request_id"] == record["request_id"]


def test_a_failing_function_is_tried_three_times_an_interval_apart_then_dead(hearth: Instance) -> None:
    name, audience = hearth.deploy(FAILS), hearth.deploy(ECHO)
    configure(hearth, name, dead_letter={"type": "function", "target": audience})
    record = ended(hearth, send(hearth, name, "boom"))
    assert (record["state"], record["status"], [attempt["status"] for attempt in record["attempts"]]) == ("failed", 430, [430] * 3)
    begun = [epoch(attempt["started_at"]) for attempt in record["attempts"]]
    assert all(later - earlier >= INTERVAL for earlier, later in pairwise(begun))
    told = wait_until(lambda: [row for row in hearth.records(audience) if row["state"] == "succeeded"], "the other function was told", 20)[
        0
    ]
    assert (told["source"], told["caused_by"], told["result"]["RequestId"]) == ("dead-letter", record["request_id"], record["request_id"])
    assert told["result"]["Body"]["ClientContext"] == '"boom"' and "ValueError: boom" in told["result"]["ErrorMessage"]


def test_retries_are_a_setting_of_the_function(hearth: Instance) -> None:
    name = hearth.deploy(FAILS)
    configure(hearth, name, retries=0)
    assert len(ended(hearth, send(hearth, name))["attempts"]) == 1
    missing = hearth.deploy(ECHO, handler="index.nobody")
    assert [attempt["status"] for attempt in ended(hearth, send(hearth, missing))["attempts"]] == [437] * 3


def test_a_throttled_event_keeps_its_beat_and_uses_up_no_attempt(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPS, concurrency=1, timeout=30)
    blocker = hearth.call_soon(name, {"seconds": 4 * INTERVAL})
    wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "the synchronous call runs")
    ids = [send(hearth, name, {"seconds": 0}) for _ in range(3)]
    records = [ended(hearth, request_id) for request_id in ids]
    assert blocker.result().ok() == "slept"
    for record in records:
        throttled, ran = record["attempts"][:-1], record["attempts"][-1]
        assert record["state"] == "succeeded" and ran["status"] == 200
        assert [attempt["status"] for attempt in throttled] in ([], [432])
    assert sum(attempt.get("count", 1) for record in records for attempt in record["attempts"] if attempt["status"] == 432) >= 2


def test_an_expired_event_reaches_the_dead_letters_and_runs_when_sent_again(start: Callable[..., Instance]) -> None:
    with leaving_nothing(start(event_retry_seconds=0.2, event_ttl_seconds=1)) as hearth:
        name = hearth.deploy(SLEEPS, concurrency=1, timeout=30)
        configure(hearth, name, dead_letter={"type": "file", "target": "lost"})
        blocker = hearth.call_soon(name, {"seconds": 3})
        wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "the synchronous call runs")
        record = ended(hearth, send(hearth, name, {"seconds": 0}))
        assert (record["state"], record["error"]["code"], record["status"]) == ("expired", "event_expired", 432)
        blocker.result().ok()
        (letter,) = hearth.request("GET", f"/v1/dead-letters?function={name}").body["dead_letters"]
        assert (letter["request_id"], letter["state"]) == (record["request_id"], "expired")
        path = hearth.home / "state" / "dead-letters" / "lost.jsonl"
        (line,) = wait_until(lambda: path.exists() and path.read_text().splitlines(), "the file has it", 10)
        assert json.loads(line)["RequestId"] == record["request_id"]
        again = hearth.request("POST", f"/v1/dead-letters/{record['request_id']}/resend")
        assert again.status == 202
        record = ended(hearth, again.body["request_id"])
        assert (record["state"], record["source"], record["caused_by"]) == ("succeeded", "resend", letter["request_id"])
        assert hearth.request("GET", "/v1/dead-letters").body["dead_letters"] == []


def test_a_dead_letter_is_posted_until_it_is_taken(hearth: Instance) -> None:
    bodies: list[Any] = []

    class Target(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(bodies) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    name = hearth.deploy(FAILS)
    with http.server.HTTPServer(("127.0.0.1", 0), Target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configure(hearth, name, retries=0, dead_letter={"type": "url", "target": f"http://127.0.0.1:{server.server_port}/x"})
        request_id = send(hearth, name)
        wait_until(lambda: hearth.request("GET", f"/v1/dead-letters/{request_id}").body.get("delivery") == "delivered", "it was taken", 20)
        server.shutdown()
    assert [body["RequestId"] for body in bodies] == [request_id] * 2


def test_cancelling_a_running_event_destroys_its_sandbox(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPS, timeout=100)
    request_id = send(hearth, name, {"seconds": 90})
    running(hearth, request_id)
    wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "its sandbox works")
    answer = hearth.request("DELETE", f"/v1/invocations/{request_id}")
    assert (answer.status, answer.body["state"], answer.body["status"]) == (200, "cancelled", 499)
    assert hearth.sandboxes(name) == [] and answer.seconds < 5


def test_an_event_of_a_deleted_function_fails_and_can_be_looked_at(hearth: Instance) -> None:
    name = hearth.deploy(ECHO)
    request_id = send(hearth, name, **{"X-Scf-Delay-Seconds": "1"})
    hearth.delete(name)
    record = ended(hearth, request_id)
    assert (record["state"], record["status"], len(record["attempts"])) == ("failed", 435, 1)
    assert hearth.request("GET", f"/v1/dead-letters/{request_id}").body["status"] == 435


def test_a_slow_functions_backlog_does_not_hold_up_another(hearth: Instance) -> None:
    slow, quick = hearth.deploy(SLEEPS, timeout=30, concurrency=3), hearth.deploy(ECHO)
    ended(hearth, send(hearth, quick))  # warm
    with ThreadPoolExecutor(16) as pool:
        backlog = list(pool.map(lambda _: send(hearth, slow, {"seconds": 20}), range(1000)))
    running(hearth, backlog[0])
    waits = [ended(hearth, send(hearth, quick))["queue_ms"] for _ in range(20)]
    print("waited ms", sorted(round(wait) for wait in waits))
    assert max(waits) < 1000
    hearth.delete(slow)


def test_a_timer_fires_with_scfs_event_and_rests_when_told(hearth: Instance) -> None:
    config = {"cron": "* * * * * * *", "argument": "hello"}
    name = hearth.deploy(ECHO, triggers=[{"name": "tick", "type": "timer", "config": config}])
    path = f"/v1/functions/{name}/triggers"
    records = wait_until(lambda: len(found := hearth.records(name)) >= 3 and found, "three ticks", 20)
    done = [ended(hearth, record["request_id"]) for record in records]
    events = [record["result"] for record in done]
    assert {(event["Type"], event["TriggerName"], event["Message"]) for event in events} == {("Timer", "tick", "hello")}
    assert len({event["Time"] for event in events}) == len(events)
    assert {(record["source"], record["trigger"]) for record in done} == {("timer", "tick")}
    assert hearth.request("PATCH", f"{path}/tick", json={"enabled": False}).body["next_at"] is None
    assert hearth.request("POST", path, json={"name": "b", "type": "timer", "config": config, "enabled": False}).status == 201
    assert hearth.request("POST", path, json={"name": "c", "type": "timer", "config": config}).status == 409
    assert hearth.request("DELETE", f"{path}/b").status == 204


def test_two_dispatchers_share_the_work_and_the_ticks(hearth: Instance) -> None:
    dispatcher = hearth.part("server.events")[0]
    environment = dict(line.split("=", 1) for line in Path(f"/proc/{dispatcher}/environ").read_text().split("\0") if "=" in line)
    command = confined(load(environment), "-m", "server.events")
    name = hearth.deploy(SLEEPS, concurrency=20)
    hearth.request("POST", f"/v1/functions/{name}/triggers", json={"name": "t", "type": "timer", "config": {"cron": "* * * * * * *"}})
    reader, writer = os.pipe()
    second = subprocess.Popen(command, env={**environment, "HEARTH_READY_FD": str(writer)}, pass_fds=[writer], stderr=subprocess.PIPE)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as ready:
            assert ready.readline() == b"ready\n", second.stderr and second.stderr.read().decode()[-2000:]
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda _: send(hearth, name, {"seconds": 0.1}), range(100)))
        records = [ended(hearth, request_id) for request_id in ids]
    finally:
        second.terminate()
        second.communicate(timeout=30)
    by = {attempt["dispatcher"] for record in records for attempt in record["attempts"]}
    assert len(by) == 2 and {record["state"] for record in records} == {"succeeded"}
    hearth.request("DELETE", f"/v1/functions/{name}/triggers/t")
    ticks = [
        record for record in hearth.request("GET", f"/v1/functions/{name}/invocations?limit=1000").body["invocations"] if record["trigger"]
    ]
    seconds = [int(epoch(record["created_at"])) for record in ticks]
    assert len(ticks) >= 2 and max(map(seconds.count, seconds)) <= 2  # a late one may share a second with the next, never three


def test_readiness_and_metrics_tell_of_the_dispatcher(hearth: Instance) -> None:
    name = hearth.deploy(ECHO)
    ended(hearth, send(hearth, name))
    wait_until(lambda: hearth.request("GET", "/readyz").body == {"status": "ok"}, "a dispatcher is there", 20)
    page = hearth.request("GET", "/metrics").content.decode()
    assert f'hearth_event_attempts_total{{function="{name}",outcome="succeeded",status="200"}} 1.0' in page
    assert "hearth_dispatcher_up 1.0" in page and "# TYPE hearth_events_queued gauge" in page
    os.kill(hearth.part("server.events")[0], 9)
    seen = wait_until(lambda: (found := hearth.request("GET", "/readyz")).body["status"] == "degraded" and found, "its absence shows")
    assert seen.status == 200 and "no dispatcher" in seen.body["reasons"][0]
    wait_until(lambda: hearth.request("GET", "/readyz").body["status"] == "ok", "it is there again", 30)
    assert ended(hearth, send(hearth, name))["state"] == "succeeded"


def test_a_timer_s_function_has_a_worker_before_its_first_tick(hearth: Instance) -> None:
    name = hearth.deploy("import time\ntime.sleep(1)\ndef main_handler(event, context):\n    return 1\n")
    tick = time.gmtime(time.time() + 8)
    cron = f"{tick.tm_sec} {tick.tm_min} {tick.tm_hour} * * * *"
    body = {"name": "soon", "type": "timer", "config": {"cron": cron, "zone": "UTC"}}
    assert hearth.request("POST", f"/v1/functions/{name}/triggers", json=body).status == 201
    record = wait_until(lambda: [row for row in hearth.records(name) if row["state"] == "succeeded"], "it has fired", 30)[0]
    assert (record["source"], record["start"]) == ("timer", "warm")
