"""Events from outside, through a real `hearth up`: other stores' notifications over HTTP, and files of watched directories over kill -9."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.instance import HEARTH, Instance, leaving_nothing, wait_until
from tests.payloads.notifications import AMAZON, MINIO, RADOSGW, VERSITYGW, VERSITYGW_TEST

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event['Records'][0]\n"
FILES = 2000


@pytest.fixture(scope="module")
def watched() -> Iterator[Path]:
    """Where the unprivileged user may look: not below pytest's own directories."""
    path = Path(f"/tmp/hearth-watched-{os.getpid()}")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance], watched: Path) -> Iterator[Instance]:
    with leaving_nothing(start(watch_dirs=str(watched), watch_quiet_seconds=0.3, event_lease_seconds=2, restart_seconds=0.5)) as instance:
        yield instance


@pytest.fixture(scope="module")
def store(hearth: Instance) -> tuple[str, str]:
    """A source's name and secret."""
    made = hearth.request("POST", "/v1/sources", json={"name": "store"})
    assert made.status == 201 and made.headers["cache-control"] == "no-store"
    return "store", made.body["secret"]


def bound(hearth: Instance, name: str, config: dict[str, Any], kind: str = "cos") -> str:
    function = hearth.deploy(ECHO)
    answer = hearth.request("POST", f"/v1/functions/{function}/triggers", json={"name": name, "type": kind, "config": config})
    assert answer.status == 201, answer.content
    return function


def finished(hearth: Instance, function: str, count: int, within_seconds: float = 20.0) -> list[dict[str, Any]]:
    """What its calls returned, once there are so many."""

    def look() -> list[dict[str, Any]]:
        found = hearth.request("GET", f"/v1/functions/{function}/invocations?limit=100").body["invocations"]
        return [record for record in found if record["state"] == "succeeded"]

    wait_until(lambda: len(look()) >= count, f"{count} calls of {function}", within_seconds)
    return look()


@contextlib.contextmanager
def stranger(hearth: Instance) -> Iterator[httpx.Client]:
    """Who has no credential of ours."""
    with httpx.Client(base_url=hearth.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "bucket", "key"),
    [
        (MINIO, "photos", "in/ä b+c.jpg"),
        (VERSITYGW, "files", "a+b%20c d.txt"),
        (RADOSGW, "files", "a+b%20c d.txt"),
        (AMAZON, "files", "a b.txt"),
    ],
    ids=["minio", "versitygw", "radosgw", "amazon"],
)
def test_each_senders_notification_runs_the_function_once(hearth: Instance, body: Any, bucket: str, key: str) -> None:
    name = f"of-{os.urandom(4).hex()}"
    secret = hearth.request("POST", "/v1/sources", json={"name": name}).body["secret"]
    function = bound(hearth, "t", {"source": name, "bucket": bucket, "event": "cos:ObjectCreated:*"})
    path = f"/v1/notifications/{name}"
    basic = base64.b64encode(f"any:{secret}".encode()).decode()
    ways = [(path, f"Bearer {secret}"), (path, f"Basic {basic}"), (path, secret), (f"{path}/{secret}", "")]
    with stranger(hearth) as client:
        answers = [client.post(where, json=body, headers={"Authorization": how} if how else {}) for where, how in ways]
    assert {answer.status_code for answer in answers} == {200}
    assert len({tuple(answer.json()["request_ids"]) for answer in answers}) == 1  # the same record, sent four times
    (record,) = finished(hearth, function, 1)
    assert record["result"]["cos"]["cosObject"]["key"] == f"//{bucket}/{key}"
    assert (record["trigger"], record["source"], record["type"]) == ("t", "cos", "async")


def test_who_has_no_secret_is_told_nothing(hearth: Instance, store: tuple[str, str]) -> None:
    name, secret = store
    with stranger(hearth) as client:
        for path, headers in [
            (f"/v1/notifications/{name}", {}),
            (f"/v1/notifications/{name}", {"Authorization": f"Bearer {secret}x"}),
            (f"/v1/notifications/{name}/wrong", {}),
            ("/v1/notifications/nobody", {"Authorization": f"Bearer {secret}"}),
            (f"/v1/notifications/nobody/{secret}", {}),
            ("/v1/notifications/n%2f..", {"Authorization": f"Bearer {secret}"}),
        ]:
            assert client.post(path, json=AMAZON, headers=headers).status_code in (401, 404), path
        assert client.get("/v1/sources", headers={"Authorization": f"Bearer {secret}"}).status_code == 401
        assert client.post("/v1/notifications/", headers={"Authorization": f"Bearer {secret}"}).status_code in (401, 404)
    assert hearth.request("POST", "/v1/notifications/nobody", json=AMAZON).status == 404
    assert hearth.request("POST", f"/v1/notifications/{name}", json=AMAZON).status == 200


def test_probes_and_tests_are_answered_and_what_is_wrong_is_said(hearth: Instance, store: tuple[str, str]) -> None:
    name, secret = store
    path = f"/v1/notifications/{name}/{secret}"
    with stranger(hearth) as client:
        assert client.head(f"/v1/notifications/{name}").status_code == 200
        for content in (b"", b"\n", json.dumps(VERSITYGW_TEST).encode()):
            answer = client.post(path, content=content)
            assert (answer.status_code, answer.json()) == (200, {"records": 0, "ignored": 0, "request_ids": []})
        assert client.post(path, content=b"{").json()["code"] == "invalid_json"
        wrong = copy.deepcopy(AMAZON)
        del wrong["Records"][0]["s3"]["bucket"]["name"]
        answer = client.post(path, json=wrong)
        assert answer.status_code == 400 and "Records[0].s3.bucket.name" in answer.json()["detail"]
        assert client.post(path, content=b" " * (1024 * 1024 + 1)).status_code == 413


def test_a_full_queue_refuses_so_that_the_sender_tries_again(start: Callable[..., Instance]) -> None:
    with leaving_nothing(start(limit_queued_events=1)) as small:
        secret = small.request("POST", "/v1/sources", json={"name": "store"}).body["secret"]
        function = bound(small, "t", {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"})
        body = copy.deepcopy(AMAZON)
        body["Records"].append(copy.deepcopy(AMAZON["Records"][0]))
        body["Records"][1]["s3"]["object"]["sequencer"] = "2"
        answer = small.request("POST", "/v1/notifications/store", json=body, headers={"Authorization": f"Bearer {secret}"})
        assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "queue_full", "1")
        assert small.records(function) == []


def test_sources_by_the_command_line(hearth: Instance) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run([HEARTH, *arguments], env=hearth.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout

    made = json.loads(run("source", "create", "cli", "--description", "x", "--json"))
    assert json.loads(run("source", "renew", "cli", "--json"))["secret"] != made["secret"]
    assert "cli" in run("source", "ls")
    function = hearth.deploy(ECHO)
    config = json.dumps({"source": "cli", "bucket": "Some.Bucket", "event": "cos:ObjectRemove:*"})
    run("trigger", "add", function, "t", "--type", "cos", "--config", config)
    run("source", "rm", "cli", status=2)
    run("trigger", "rm", function, "t")
    run("source", "rm", "cli")


# -- directories ----------------------------------------------------------------------------------------------------------------


def events_of(hearth: Instance, function: str) -> Counter[tuple[str, str]]:
    """How often a call that succeeded was told of each file: all of the journal, which the API gives a page at a time."""
    with contextlib.closing(sqlite3.connect(f"file:{hearth.home}/state/hearth.db?mode=ro", uri=True, timeout=15)) as database:
        rows = database.execute("SELECT result FROM invocations WHERE function = ? AND state = 'succeeded'", (function,)).fetchall()
    told = [json.loads(row[0]) for row in rows]
    return Counter((one["event"]["eventName"], os.path.basename(one["cos"]["cosObject"]["key"])) for one in told)


def made_folder(watched: Path, name: str) -> Path:
    (folder := watched / name).mkdir(mode=0o755)
    return folder


def test_a_file_that_comes_runs_the_function(hearth: Instance, watched: Path) -> None:
    folder = made_folder(watched, "plain")
    function = bound(hearth, "d", {"path": str(folder), "filter": {"Suffix": ".txt"}}, "directory")
    (folder / "a.txt").write_text("hello")
    (folder / "b.png").write_text("no")
    (record,) = finished(hearth, function, 1)
    told = record["result"]
    assert (told["cos"]["cosObject"]["key"], told["cos"]["cosObject"]["size"]) == (f"{folder}/a.txt", 5)
    assert (told["event"]["eventName"], record["source"], record["trigger"]) == ("cos:ObjectCreated:Put", "directory", "d")


def test_only_allowed_and_readable_directories_get_a_trigger(hearth: Instance, watched: Path) -> None:
    (closed := watched / "closed").mkdir(mode=0o700)
    function = hearth.deploy(ECHO)
    for path, word in ((closed, "permission denied"), (watched.parent, "may not be watched"), (watched / "none", "no such file")):
        body = {"name": "d", "type": "directory", "config": {"path": str(path)}}
        answer = hearth.request("POST", f"/v1/functions/{function}/triggers", json=body)
        assert answer.status == 400 and word in answer.body["detail"], answer.content


def kill_dispatcher(hearth: Instance, number: signal.Signals = signal.SIGKILL) -> int:
    (pid,) = wait_until(lambda: [one for one in hearth.part("server.events") if "confine" not in command(one)], "a dispatcher")
    os.kill(pid, number)
    return pid


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def test_no_file_is_lost_and_none_invented_over_kills_of_the_dispatcher(hearth: Instance, watched: Path) -> None:
    folder = made_folder(watched, "kills")
    function = bound(hearth, "d", {"path": str(folder)}, "directory")
    names = [f"{number:04}" for number in range(300)]
    (folder / names[0]).write_text("it is watched by now")
    finished(hearth, function, 1)
    for number, name in enumerate(names[1:]):
        (folder / name).write_text(name)
        if number in (50, 120, 200):
            kill_dispatcher(hearth)
    expected = {("cos:ObjectCreated:Put", name) for name in names}
    wait_until(lambda: events_of(hearth, function).keys() >= expected, "every file's call", 90)
    assert events_of(hearth, function).keys() == expected


def test_thousands_of_files_that_came_while_all_was_down_are_told(start: Callable[..., Instance], watched: Path) -> None:
    folder = made_folder(watched, "down")
    instance = start(watch_dirs=str(watched), watch_quiet_seconds=0.3)
    try:
        function = bound(instance, "d", {"path": str(folder)}, "directory")
        (folder / "first").write_text("1")
        finished(instance, function, 1)
        instance.stop()
        for number in range(FILES):
            (folder / str(number)).write_text("n")
        instance.start()
        wait_until(lambda: events_of(instance, function).total() >= FILES + 1, f"{FILES} calls", 120)
        assert set(events_of(instance, function).values()) == {1}
        assert events_of(instance, function).total() == FILES + 1
        instance.stop()
    finally:
        instance.close()


def test_a_dispatcher_that_stood_still_takes_its_directory_back_or_leaves_it(hearth: Instance, watched: Path) -> None:
    """SIGSTOP: more happens meanwhile than the kernel keeps."""
    folder = made_folder(watched, "still")
    function = bound(hearth, "d", {"path": str(folder)}, "directory")
    (folder / "first").write_text("1")
    finished(hearth, function, 1)
    pid = kill_dispatcher(hearth, signal.SIGSTOP)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most + 10):
        (folder / ("x", "y")[number % 2]).write_text("")
    (folder / "last").write_text("2")
    os.kill(pid, signal.SIGCONT)
    expected = {("cos:ObjectCreated:Put", name) for name in ("first", "x", "y", "last")}
    wait_until(lambda: events_of(hearth, function).keys() >= expected, "every file's call", 30)
    assert "inotify has dropped events" in hearth.log.read_text()
    assert set(events_of(hearth, function).values()) == {1}
