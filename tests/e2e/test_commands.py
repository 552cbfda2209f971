"""The README's own commands, on a real instance with a home, a socket directory and a port of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[2]
HEARTH = ROOT / ".venv" / "bin" / "hearth"
START_SECONDS = 120  # the first start builds the image

pytestmark = pytest.mark.requires("root", "user", "memcg")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Instance:
    environment: dict[str, str]

    def hearth(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(HEARTH), *arguments]
        return subprocess.run(command, env=self.environment, input=input, capture_output=True, text=True, timeout=120, check=False)

    def up(self) -> subprocess.Popen[bytes]:
        """Start it and return once every part serves."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as ready:
            process = subprocess.Popen([str(HEARTH), "up", "--ready-fd", str(writer)], env=self.environment, pass_fds=[writer])
            os.close(writer)
            if ready.readline() != b"ready\n":
                raise AssertionError(f"hearth up ended with {process.wait(10)}")
        return process


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a directory of mode 0700, as mktemp -d makes them; shared, so that the image is built once."""
    home = tmp_path_factory.mktemp("private")
    home.chmod(0o700)
    return home / "home"


@pytest.fixture
def instance(home: Path, tmp_path: Path) -> Instance:
    own = {"HEARTH_HOME": str(home), "HEARTH_RUN": str(tmp_path / "run"), "HEARTH_LISTEN": f"127.0.0.1:{free_port()}"}
    return Instance({**os.environ, **own})


@pytest.fixture
def running(instance: Instance) -> Iterator[Instance]:
    process = instance.up()
    try:
        yield instance
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_run_once_shows_a_cold_and_a_warm_call_and_exits_0(instance: Instance) -> None:
    command = [str(ROOT / "scripts" / "run"), "--once"]
    result = subprocess.run(command, env=instance.environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    starts = [line.split(" ")[0] for line in lines if " · status 200 · " in line]
    assert starts == ["cold", "warm"]
    assert sum('"hello, world"' in line for line in lines) == 2
    assert any(line.startswith("again: curl ") for line in lines)


def test_run_refuses_what_it_does_not_know(instance: Instance) -> None:
    command = [str(ROOT / "scripts" / "run"), "--twice"]
    assert subprocess.run(command, env=instance.environment, capture_output=True, timeout=10, check=False).returncode == 2


def test_the_quick_start_of_the_readme_works(running: Instance, tmp_path: Path) -> None:
    (tmp_path / "greet").mkdir()
    (tmp_path / "greet" / "index.py").write_text(
        'def main_handler(event, context):\n    print("greeting", event["name"])\n    return "hello, " + event["name"]\n'
    )
    deployed = running.hearth("deploy", "greet", str(tmp_path / "greet"), "--memory", "128", "--timeout", "5")
    assert deployed.returncode == 0, deployed.stderr
    called = running.hearth("invoke", "greet", "-d", '{"name": "world"}', "--tail")
    assert (called.returncode, called.stdout, called.stderr) == (0, '"hello, world"\n', "greeting world\n")
    sandboxes = json.loads(running.hearth("ps", "--json").stdout)
    assert [row["function"] for row in sandboxes if row.get("function")] == ["greet"]
    assert "greeting world" in running.hearth("logs", "greet").stdout
    assert running.hearth("rm", "greet").returncode == 0
    assert running.hearth("invoke", "greet").returncode == 2


def test_a_function_that_raises_is_exit_1_with_its_own_stack_only(running: Instance, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def main_handler(event, context):\n    raise ValueError('boom')\n")
    assert running.hearth("deploy", "bad", str(tmp_path / "bad.py")).returncode == 0
    called = running.hearth("invoke", "bad")
    assert called.returncode == 1
    assert "status 430" in called.stderr
    assert "line 2" in called.stderr
    assert "worker.py" not in called.stderr
    running.hearth("rm", "bad")


def test_a_new_handler_and_its_file_are_deployed_together(running: Instance, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"def main(event, context):\n    return '{name}'\n")
    assert running.hearth("deploy", "turn", str(tmp_path / "one.py"), "--handler", "one.main").returncode == 0
    updated = running.hearth("deploy", "turn", str(tmp_path / "two.py"), "--handler", "two.main")
    assert updated.returncode == 0, updated.stderr
    assert running.hearth("invoke", "turn").stdout == '"two"\n'
    running.hearth("rm", "turn")


def test_buckets_come_and_go_by_the_command(running: Instance) -> None:
    port = int(running.environment["HEARTH_LISTEN"].rpartition(":")[2]) + 2
    assert running.hearth("bucket", "create", "photos-1250000000").returncode == 0
    assert running.hearth("bucket", "create", "photos-1250000000").returncode == 2
    pair = json.loads(running.hearth("bucket", "key", "--json").stdout)
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=pair["secret_id"],
        aws_secret_access_key=pair["secret_key"],
        region_name="local",
    )
    client.put_object(Bucket="photos-1250000000", Key="a/ü ?", Body=b"12345")
    client.close()
    listed = json.loads(running.hearth("bucket", "ls", "photos-1250000000", "--json").stdout)
    assert [(row["key"], row["size"]) for row in listed] == [("a/ü ?", 5)]
    assert running.hearth("bucket", "rm", "photos-1250000000").returncode == 2
    assert running.hearth("bucket", "rm", "--force", "photos-1250000000").returncode == 0
    assert "photos-1250000000" not in [row["name"] for row in json.loads(running.hearth("bucket", "ls", "--json").stdout)]


def test_an_object_calls_a_function_and_its_record_says_so(running: Instance, tmp_path: Path) -> None:
    (tmp_path / "index.py").write_text("def main_handler(event, context):\n    return event['Records'][0]\n")
    assert running.hearth("deploy", "thumb", str(tmp_path / "index.py")).returncode == 0
    config = json.dumps({"bucket": "pics-1250000000", "event": "cos:ObjectCreated:*", "filter": {"Suffix": ".jpg"}})
    added = running.hearth("trigger", "add", "thumb", "pics", "--type", "cos", "--config", config)
    assert added.returncode == 0, added.stderr
    overlapping = json.dumps({"bucket": "pics-1250000000", "event": "cos:ObjectCreated:Put"})
    refused = running.hearth("trigger", "add", "thumb", "again", "--type", "cos", "--config", overlapping)
    assert (refused.returncode, "takes some of the same events" in refused.stderr) == (2, True)
    pair = json.loads(running.hearth("keys", "create", "--json").stdout)
    port = int(running.environment["HEARTH_LISTEN"].rpartition(":")[2]) + 2
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=pair["secret_id"],
        aws_secret_access_key=pair["secret_key"],
        region_name="local",
    )
    client.create_bucket(Bucket="pics-1250000000")
    client.put_object(Bucket="pics-1250000000", Key="a/b.txt", Body=b"no")
    client.put_object(Bucket="pics-1250000000", Key="a/ü.jpg", Body=b"12345", Metadata={"mykey": "v"})
    url, token = f"http://{running.environment['HEARTH_LISTEN']}", running.hearth("token").stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + 60
    found: list[dict[str, Any]] = []
    while not found or found[0]["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, found
        found = httpx.get(f"{url}/v1/functions/thumb/invocations", headers=headers, trust_env=False).json()["invocations"]
    assert [(record["state"], record["source"], record["trigger"]) for record in found] == [("succeeded", "cos", "pics")]
    record = httpx.get(f"{url}/v1/invocations/{found[0]['request_id']}", headers=headers, trust_env=False).json()
    stored = record["result"]["cos"]["cosObject"]
    assert (stored["key"], stored["size"], stored["meta"]["x-cos-meta-mykey"]) == ("/1250000000/pics/a/ü.jpg", 5, "v")
    running.hearth("keys", "revoke", pair["secret_id"])
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client.list_buckets()
    client.close()


def test_a_second_instance_on_the_same_home_is_refused(running: Instance) -> None:
    second = Instance({**running.environment, "HEARTH_LISTEN": f"127.0.0.1:{free_port()}"}).hearth("up")
    assert second.returncode == 1
    assert "another hearth serves" in second.stderr


def test_a_taken_port_is_one_clear_line(instance: Instance) -> None:
    with socket.create_server(("127.0.0.1", int(instance.environment["HEARTH_LISTEN"].rpartition(":")[2]))):
        result = instance.hearth("up")
    assert result.returncode == 1
    assert "cannot listen on" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_stopping_exits_0_and_leaves_no_process_of_it(instance: Instance, number: signal.Signals) -> None:
    process = instance.up()
    family = descendants(process.pid)
    assert len(family) >= 4  # launcher, sandboxd, gunicorn and a worker of it
    process.send_signal(number)
    assert process.wait(30) == 0
    assert family & {identity(path)[1:] for path in Path("/proc").glob("[0-9]*")} == set()


def identity(process: Path) -> tuple[int, int, str]:
    """(parent's pid, pid, start time) of an entry in /proc; the last two stay with a process for life."""
    try:
        # proc(5): the name in brackets may hold anything, the fields behind it start with the state.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0, ""
    return int(fields[1]), int(process.name), fields[19]


def descendants(pid: int) -> set[tuple[int, str]]:
    everybody = [identity(path) for path in Path("/proc").glob("[0-9]*")]
    family, found = {pid}, set[tuple[int, str]]()
    while fresh := {(own, start) for parent, own, start in everybody if parent in family} - found:
        found |= fresh
        family |= {own for own, _ in fresh}
    return found
