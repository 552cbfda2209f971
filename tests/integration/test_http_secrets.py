"""What must not be told: the credential, events, results and environments in no log, error, process table or foreign record.

Everything runs at DEBUG, the wordiest it can be. Every secret is a word of its own, looked for wherever something was written.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.instance import Instance, identify, leaving_nothing, wait_until
from tests.integration.wire import exchange

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

#: Ends in every way that a call can end; what it prints and returns holds the event.
HANDLER = """
import os, sys, time
def main_handler(event, context):
    print(event, os.environ.get("PASSWORD"))
    if event["end"] == "raise": raise ValueError(event["secret"])
    if event["end"] == "exit": os._exit(3)
    if event["end"] == "timeout": time.sleep(9)
    if event["end"] == "memory": return len(b"x" * (1 << 30))
    if event["end"] == "object": return object()
    return event
"""
BROKEN = "import os\nraise RuntimeError(os.environ['PASSWORD'])\n"


def word(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def wordy(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(log_level="DEBUG")) as instance:
        yield instance


def processes(instance: Instance) -> list[Path]:
    return [Path(f"/proc/{pid}") for pid, born in sorted(instance.family()) if identify(pid) == (pid, born)]


def said(instance: Instance) -> str:
    """All that the instance's processes have written."""
    return instance.log.read_text(errors="replace")


def token_of(instance: Instance) -> str:
    return (instance.home / "credential").read_text().strip()


def test_nothing_of_a_call_gets_into_a_log(wordy: Instance) -> None:
    password, event = word("password"), word("event")
    configuration = {"environment": {"PASSWORD": password}, "timeout": 1, "memory": 128}
    name = wordy.deploy(HANDLER, **configuration)
    broken = wordy.deploy(BROKEN, **configuration)
    exec_started = wordy.deploy(HANDLER, **{**configuration, "environment": {"PASSWORD": password, "MALLOC_ARENA_MAX": "1"}})
    answers = [wordy.call(name, {"secret": event, "end": end}) for end in ("raise", "exit", "timeout", "memory", "object", "return")]
    answers += [wordy.call(broken, {"secret": event}), wordy.call(exec_started, {"secret": event, "end": "return"})]
    assert {answer.scf for answer in answers} == {200, 430, 433, 434, 439, 443}
    assert event in json.dumps(wordy.record(answers[5])["result"]), "the positive control: the call had the secret"
    assert password in wordy.record(answers[5])["log"]
    for wrong in (f'{{"{event}": ', f'"{event}', event):
        assert wordy.call(name, raw=wrong.encode()).status == 400
    assert "DEBUG" in said(wordy)
    for secret in (password, event):
        assert secret not in said(wordy)


def test_the_credential_is_told_nowhere(wordy: Instance) -> None:
    token, guessed = token_of(wordy), word("guess")
    paths = ["/v1/functions", "/v1/functions/x", f"/v1/{token}", f"/v1/usage?from={token}", "/healthz", "/metrics"]
    for given in (token, guessed, f"{token}x", token.upper(), token[:-1]):
        for scheme in ("Bearer", "bearer", "Basic", "Token", ""):
            for path in paths:
                request = (
                    f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {scheme} {given}\r\nX-Api-Key: {given}\r\nConnection: close\r\n\r\n"
                )
                (answer,) = exchange(wordy, request.encode())
                right = scheme.lower() == "bearer" and given == token
                assert right or answer.status == 401 or path in ("/healthz", "/metrics"), (scheme, path, answer)
                shown = path.count(token)  # a 404 and a 400 say the path and the value that the client has sent
                assert str(answer).count(given) <= shown
    malformed = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\0\r\n\r\n"
    (answer,) = exchange(wordy, malformed.encode())
    assert answer.status == 400 and token not in str(answer)
    for secret in (token, guessed):
        assert secret not in said(wordy)


def test_no_process_shows_a_secret_to_others(wordy: Instance) -> None:
    """/proc/PID/cmdline is everybody's to read. The environment is its user's, and even there the credential has no business."""
    token, password = token_of(wordy), word("password")
    name = wordy.deploy(HANDLER, environment={"PASSWORD": password})
    assert wordy.call(name, {"end": "return", "secret": ""}).ok()
    family = processes(wordy)
    assert len(family) > 6
    for process in family:
        line = (process / "cmdline").read_bytes() + (process / "comm").read_bytes()
        environment = (process / "environ").read_bytes()
        assert token.encode() not in line + environment, line
        assert password.encode() not in line, line
        mode = (process / "environ").stat().st_mode & 0o777
        assert mode == 0o400, f"{line!r}: {mode:o}"
    for process in family:
        command = ["cat", f"{process}/environ"]
        done = subprocess.run(command, user="nobody", group="nogroup", extra_groups=[], capture_output=True)
        assert done.returncode != 0 and not done.stdout, process


def test_what_is_on_disk_is_for_its_owner(wordy: Instance) -> None:
    assert (wordy.home / "credential").stat().st_mode & 0o777 == 0o600
    state = wordy.home / "state"
    assert state.stat().st_mode & 0o007 == 0
    for path in state.glob("hearth.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def sql(instance: Instance, statement: str) -> None:
    """Do this to the database of the running service, from outside."""
    with closing(sqlite3.connect(instance.home / "state" / "hearth.db", timeout=10)) as database:
        database.execute(statement)
        database.commit()


def test_a_failing_database_says_no_values(wordy: Instance) -> None:
    """A column vanishes under the running service: an error, and neither answer nor log has what was to be written."""
    password = word("password")
    name = wordy.deploy(HANDLER)
    sql(wordy, "ALTER TABLE functions RENAME COLUMN description TO gone")
    try:
        change = wordy.request("PATCH", f"/v1/functions/{name}", json={"environment": {"PASSWORD": password}})
        question = wordy.request("GET", f"/v1/functions/{name}")
    finally:
        sql(wordy, "ALTER TABLE functions RENAME COLUMN gone TO description")
    for answer in (change, question):
        assert answer.status == 503 and answer.headers["content-type"] == "application/problem+json"
        assert password.encode() not in answer.content and b"sqlite" not in answer.content.lower()
    assert password not in said(wordy)
    assert wordy.request("GET", f"/v1/functions/{name}").status == 200


def test_a_record_that_the_database_refuses_is_not_logged_with_its_values(wordy: Instance) -> None:
    result = word("result")
    name = wordy.deploy(HANDLER)
    sql(wordy, "CREATE TRIGGER no BEFORE INSERT ON invocations BEGIN SELECT RAISE(ABORT, 'no'); END")
    try:
        assert wordy.call(name, {"end": "return", "secret": result}).ok()["secret"] == result
        wait_until(lambda: "record refused" in said(wordy), "the refusal is logged")
    finally:
        sql(wordy, "DROP TRIGGER no")
    assert result not in said(wordy)
