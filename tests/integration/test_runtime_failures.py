"""Every row of the table of failures (DESIGN section 9), provoked by real code.

HTTP status, SCF status, record, and what became of the sandbox.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.instance import Answer, Instance, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

KEPT, DESTROYED = "kept", "destroyed"

SWITCH = """
    import ctypes, os, signal, sys, time
    calls = []
    def main_handler(event, context):
        calls.append(event)
        do = event.get("do")
        if do == "raise":
            raise ValueError("boom")
        if do == "set":
            return {1, 2}
        if do == "exit":
            sys.exit(3)
        if do == "_exit":
            os._exit(5)
        if do == "segfault":
            ctypes.string_at(0)
        if do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "sleep":
            time.sleep(event["seconds"])
        if do == "big":
            return "x" * (6 * 1024 * 1024 + 1)
        if do == "memory":
            hog = bytearray(300 * 1024 * 1024)
            for page in range(0, len(hog), 4096):
                hog[page] = 1
        return len(calls)
"""


def assert_failed(hearth: Instance, answer: Answer, http: int, scf: int, *, ran: bool = True) -> dict[str, Any]:
    """Status, SCF's error JSON and record agree; the record."""
    assert answer.outcome == (http, scf), (answer.outcome, answer.content[:1000])
    body, record = answer.body, hearth.record(answer)
    assert (body["statusCode"], body["errorCode"], body["requestId"]) == (scf, -1, answer.request_id)
    assert (record["state"], record["status"], record["start"]) == ("failed", scf, answer.start)
    assert record["error"]["message"] == body["errorMessage"]
    assert b"worker.py" not in answer.content and b"hearth_worker" not in answer.content
    assert (record["run_ms"] > 0) == ran
    return record


def assert_afterwards(hearth: Instance, name: str, sandbox: str) -> None:
    """Whether the worker outlived the failure, by /v1/sandboxes and by the next call, which must be served either way."""
    alive = hearth.sandboxes(name)
    after = hearth.call(name, {})
    after.ok()
    if sandbox == KEPT:
        assert [row["state"] in ("idle", "frozen") for row in alive] == [True]
        assert (after.start, after.body) == ("warm", 3)
    else:
        assert alive == []
        assert (after.start, after.body) == ("cold", 1)


@pytest.mark.parametrize(
    ("do", "http", "scf", "sandbox", "message"),
    [
        ("raise", 502, 430, KEPT, "boom"),
        ("set", 502, 430, KEPT, "set"),
        ("big", 502, 407, KEPT, "limit"),
        ("exit", 502, 439, DESTROYED, "3"),
        ("_exit", 502, 439, DESTROYED, "5"),
        ("segfault", 502, 439, DESTROYED, ""),
        ("kill", 502, 439, DESTROYED, ""),
        ("memory", 502, 434, DESTROYED, "128"),
    ],
)
def test_a_call_that_fails(hearth: Instance, do: str, http: int, scf: int, sandbox: str, message: str) -> None:
    name = hearth.deploy(SWITCH, memory=128)
    assert hearth.call(name, {}).ok() == 1
    answer = hearth.call(name, {"do": do})
    assert answer.start == "warm"
    assert_failed(hearth, answer, http, scf)
    assert message in answer.body["errorMessage"] + answer.body.get("stackTrace", "")
    assert_afterwards(hearth, name, sandbox)


def test_the_first_call_may_fail_in_every_way_too(hearth: Instance) -> None:
    for do, scf in (("raise", 430), ("_exit", 439), ("segfault", 439), ("memory", 434)):
        name = hearth.deploy(SWITCH)
        answer = hearth.call(name, {"do": do})
        assert (answer.start, answer.scf) == ("cold", scf)
        hearth.call(name, {}).ok()


def test_a_handler_error_shows_the_user_s_frames_only(hearth: Instance) -> None:
    answer = hearth.call(hearth.deploy(SWITCH), {"do": "raise"})
    frames = [line.strip() for line in answer.body["stackTrace"].splitlines() if line.strip().startswith("File ")]
    assert frames == ['File "/var/user/index.py", line 8, in main_handler']
    assert answer.body["stackTrace"].rstrip().endswith("ValueError: boom")


def test_the_time_limit_is_433_and_takes_no_longer_than_itself(hearth: Instance) -> None:
    name = hearth.deploy(SWITCH, timeout=1)
    assert hearth.call(name, {}).ok() == 1
    answer = hearth.call(name, {"do": "sleep", "seconds": 30})
    record = assert_failed(hearth, answer, 504, 433)
    assert answer.body["errorMessage"] == "Invoking task timed out after 1 seconds"
    assert 1.0 <= answer.seconds < 2.0
    assert 1000 <= record["run_ms"] < 1500
    assert_afterwards(hearth, name, DESTROYED)


@pytest.mark.parametrize(
    ("files", "handler", "scf", "message"),
    [
        ({"index.py": "x = 1\n"}, "index.main_handler", 437, "main_handler"),
        ({"index.py": "main_handler = 7\n"}, "index.main_handler", 437, "main_handler"),
        ({"index.py": "import nowhere_to_be_found\n"}, "index.main_handler", 443, "nowhere_to_be_found"),
        ({"index.py": "def main_handler(:\n"}, "index.main_handler", 443, "SyntaxError"),
        ({"index.py": "raise KeyError('at import')\n"}, "index.main_handler", 443, "at import"),
    ],
)
def test_code_that_does_not_load(hearth: Instance, files: dict[str, str], handler: str, scf: int, message: str) -> None:
    name = hearth.deploy(files, handler=handler)
    for _ in range(2):  # the worker is not kept, and the second call says the same
        answer = hearth.call(name, {})
        assert answer.start == "cold"
        assert_failed(hearth, answer, 502, scf, ran=False)
        assert message in answer.body["errorMessage"] + answer.body.get("stackTrace", "")
        assert hearth.sandboxes(name) == []
    hearth.update(name, SWITCH)
    assert hearth.call(name, {}).ok() == 1


def test_a_package_without_the_handler_s_file_is_refused_at_deployment(hearth: Instance) -> None:
    with pytest.raises(AssertionError, match="other"):
        hearth.deploy(SWITCH, name="no-such-file", handler="other.main_handler")
    assert hearth.request("GET", "/v1/functions/no-such-file").status == 404


def test_loading_longer_than_its_limit_is_450(hearth: Instance) -> None:
    name = hearth.deploy("import time\ntime.sleep(60)\ndef main_handler(event, context): pass\n", init_timeout=3, timeout=1)
    answer = hearth.call(name, {})
    record = assert_failed(hearth, answer, 504, 450, ran=False)
    assert 3.0 <= answer.seconds < 4.0
    assert record["start_ms"] >= 3000
    assert hearth.sandboxes(name) == []


def test_loading_time_is_not_run_time(hearth: Instance) -> None:
    name = hearth.deploy("import time\ntime.sleep(1.2)\ndef main_handler(event, context):\n    return 1\n", timeout=1)
    answer = hearth.call(name, {})
    answer.ok()
    record = hearth.record(answer)
    assert record["start_ms"] >= 1200
    assert record["run_ms"] < 500


def test_an_event_over_the_limit_is_406_and_runs_nothing(hearth: Instance) -> None:
    name = hearth.deploy(SWITCH)
    assert hearth.call(name, {}).ok() == 1
    answer = hearth.call(name, raw=b'"' + b"x" * (6 * 1024 * 1024) + b'"')
    assert (answer.status, answer.body["scf_status"]) == (413, 406)
    assert hearth.call(name, {}).ok() == 2


def test_the_largest_event_and_reply_come_through(hearth: Instance) -> None:
    name = hearth.deploy("def main_handler(event, context):\n    return event\n", memory=256)
    event = "x" * (6 * 1024 * 1024 - 2)
    assert hearth.call(name, event).ok() == event


@pytest.mark.parametrize("raw", [b"{", b"nope", b'{"a": NaN}', b"\xff\xfe", b'{"a": 1} x', b"[" * 100_000])
def test_an_event_that_is_not_json_is_400_and_runs_nothing(hearth: Instance, raw: bytes) -> None:
    name = hearth.deploy(SWITCH)
    assert hearth.call(name, {}).ok() == 1
    answer = hearth.call(name, raw=raw)
    assert (answer.status, answer.body["scf_status"]) == (400, 400)
    assert hearth.call(name, {}).ok() == 2


def test_an_unknown_function_and_an_unknown_qualifier_are_404(hearth: Instance) -> None:
    missing = hearth.call("nobody-made-it", {})
    assert (missing.status, missing.body["scf_status"]) == (404, 435)
    unknown = hearth.call(hearth.deploy(SWITCH), {}, query="?qualifier=7")
    assert (unknown.status, unknown.body["scf_status"]) == (404, 442)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic dTpw", "Bearer"])
def test_a_bad_credential_is_401(hearth: Instance, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    answer = httpx.post(f"{hearth.url}/v1/functions/x/invocations", headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["scf_status"], answer.headers["x-scf-status"]) == (401, 401, "401")


def test_a_machine_without_room_answers_449_at_once(start: Callable[..., Instance]) -> None:
    small = start(capacity_mb=200)
    try:
        name = small.deploy(SWITCH, timeout=5)
        running = small.call_soon(name, {"do": "sleep", "seconds": 1})
        wait_until(lambda: [row for row in small.sandboxes(name) if row["state"] == "leased"], "the call runs")
        refused = small.call(name, {})
        assert (refused.status, refused.body["scf_status"]) == (503, 449)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.seconds < 0.5
        record = small.record(refused)
        assert (record["status"], record["start"], record["started_at"]) == (449, None, None)
        running.result().ok()
        small.call(name, {}).ok()
    finally:
        small.close()


def test_a_client_that_leaves_stops_nothing_and_its_record_says_499(hearth: Instance) -> None:
    name = hearth.deploy(SWITCH)
    assert hearth.call(name, {}).ok() == 1
    event = json.dumps({"do": "sleep", "seconds": 0.5}).encode()
    token = (hearth.home / "credential").read_text().strip()
    head = f"POST /v1/functions/{name}/invocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Length: {len(event)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hearth.port)) as client:
        client.sendall(head.encode() + event)
        wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "the call runs")
    gone = wait_until(lambda: [row for row in hearth.records(name) if row["status"] == 499], "a record with 499")
    assert gone[0]["result"] == 2
    assert gone[0]["run_ms"] >= 500
    after = hearth.call(name, {})
    assert (after.ok(), after.start) == (3, "warm")


def test_without_sandboxd_a_call_is_503_and_later_calls_are_served_again(start: Callable[..., Instance]) -> None:
    instance = start()
    try:
        name = instance.deploy(SWITCH)
        instance.call(name, {}).ok()
        (launcher,) = instance.part("sandbox.launcher")
        sandboxd = instance.part("sandbox.daemon") or instance.part("sandboxd")
        os.kill(sandboxd[0], signal.SIGSTOP)  # so that nothing is there to answer while the launcher is replaced
        os.kill(launcher, signal.SIGKILL)
        away = wait_until(lambda: answer if (answer := instance.call(name, {})).status == 503 else None, "503 while it is away")
        assert away is not None
        assert away.body["scf_status"] == 500
        assert int(away.headers["retry-after"]) >= 1
        wait_until(lambda: instance.call(name, {}).status == 200, "calls are served again", 15)
    finally:
        instance.close()
