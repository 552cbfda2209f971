"""The API as it is really served: gunicorn with our configuration and worker, sockets, signals. Nobody plays sandboxd but a stand-in."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-credential"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
CALL = "/v1/functions/hello/invocations"

#: The application with a sandboxd that sleeps as long as the event says and returns the event.
STAND_IN = """
import asyncio, base64, io, json, os, time, zipfile
from sandbox.settings import load
from sandbox.spec import Reply
from server.app import create_app
from server.errors import Conflict

class Client:
    connected = True
    on_change = staticmethod(lambda function_id: None)
    async def start(self): pass
    async def close(self): pass
    async def retire(self, function_id, generation): pass
    async def describe(self): return {"sandboxes": []}
    async def resolve(self, runtime): return {"image": "host", "runtime": runtime}
    def begin(self, spec, event, *, request_id, ended, hops=0):
        asyncio.get_running_loop().create_task(self.run(event, request_id)).add_done_callback(lambda task: ended(task.result()))
    async def run(self, event, request_id):
        value, began = json.loads(event), time.time()
        seconds = value.get("sleep", 0) if isinstance(value, dict) else 0
        await asyncio.sleep(seconds)
        with open(os.environ["ENDED"], "a") as file:
            file.write(request_id + "\\n")
        return Reply(request_id=request_id, start="warm", why_cold="", body=event, error=None, log=b"", started_at=began,
                     ended_at=time.time(), start_ms=0.1, run_ms=seconds * 1000 + 0.1, memory_bytes=1, sandbox="s", runtime="python3",
                     tree_dead=False)

def create():
    open(os.environ["ENDED"] + f"-booting-{os.getpid()}", "w").close()
    time.sleep(float(os.environ["BOOT_SECONDS"]))
    app = create_app(load(), client=Client())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.py", "")
    code = {"zip": base64.b64encode(out.getvalue()).decode()}
    try:
        app.services.functions.create({"name": "hello", "runtime": "python3", "handler": "index.main", "code": code})
    except Conflict:
        pass
    return app
"""


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


class Served:
    """One running gunicorn."""

    def __init__(self, home: Path, *, boot_seconds: float = 0) -> None:
        self.home, self.ended = home, home / "ended"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        (home / "stand_in.py").write_text(STAND_IN)
        (home / "state").mkdir()
        self.log = (home / "log").open("wb")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}
        environment |= {
            "HEARTH_CONFIG": os.devnull,
            "HEARTH_HOME": str(home),
            "HEARTH_LISTEN": f"127.0.0.1:{self.port}",
            "HEARTH_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "HEARTH_STOP_GRACE": "8",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{home}",
            "ENDED": str(self.ended),
            "BOOT_SECONDS": str(boot_seconds),
        }
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "server" / "gunicorn_conf.py"), "stand_in:create()"]
        self.process = subprocess.Popen(command, env=environment, cwd="/", stdout=self.log, stderr=self.log)
        if not boot_seconds:
            until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.logged()
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def logged(self) -> str:
        return (self.home / "log").read_text()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, {**AUTHORIZED, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def send(self, head: str, body: bytes = b"") -> socket.socket:
        """A request by hand; the connection stays open."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(f"{head}\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode() + body)
        return connection

    def calls_ended(self) -> list[str]:
        return self.ended.read_text().split() if self.ended.exists() else []

    def stop(self, seconds: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(15)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        running.log.close()


def head_of(connection: socket.socket) -> str:
    """What comes, up to the end of the headers."""
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    return data.decode()


def test_calls_bodies_and_records_over_a_real_connection(served: Served) -> None:
    connection = served.connect()
    connection.request("POST", CALL, b'{"a": 1}', AUTHORIZED)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b'{"a": 1}')
    connection.request("POST", CALL, iter([b'{"b"', b": ", b"2}"]), AUTHORIZED, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b'{"b": 2}')
    request_id = response.headers["X-Scf-Request-Id"]
    # Another connection may be another worker's: the record is found nevertheless, if the first writer of all has had time to start.
    for _ in range(6):
        status, body = served.request("GET", f"/v1/invocations/{request_id}?wait=1")
        assert (status, json.loads(body)["result"]) == (200, {"b": 2})
    connection.close()


def test_an_event_of_six_megabytes_passes_and_a_larger_one_is_answered_413(served: Served) -> None:
    fits = b'"' + b"x" * (6 * 2**20 - 2) + b'"'
    assert served.request("POST", CALL, fits) == (200, fits)
    for body in (b"x" * (6 * 2**20 + 1), b"x" * (8 * 2**20)):
        assert served.request("POST", CALL, body)[0] == 413
        # Without a Content-Length: the size is known only when it has come.
        assert served.request("POST", CALL, (body[n : n + 65536] for n in range(0, len(body), 65536)))[0] == 413
    assert len(served.calls_ended()) == 1


def test_a_wrong_credential_is_answered_though_a_large_body_follows(served: Served) -> None:
    assert served.request("PUT", "/v1/functions/hello/code", b"x" * 4_000_000, {"Authorization": "Bearer wrong"})[0] == 401


def test_a_client_that_leaves_in_the_middle_of_its_event_runs_nothing(served: Served) -> None:
    served.send(f"POST {CALL} HTTP/1.1", b"Content-Length: 10\r\n\r\n{}").close()
    served.send(f"POST {CALL} HTTP/1.1", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n").close()
    assert served.request("POST", CALL, b"{}")[0] == 200
    time.sleep(0.2)
    assert len(served.calls_ended()) == 1


def test_a_client_that_leaves_does_not_end_its_call(served: Served) -> None:
    # Past the three seconds after which gunicorn cancels the request.
    body = b'{"sleep": 4}'
    connection = served.send(f"POST {CALL} HTTP/1.1", f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(0.3)
    connection.close()
    (request_id,) = until(served.calls_ended)
    record = json.loads(served.request("GET", f"/v1/invocations/{request_id}?wait=5")[1])
    assert (record["status"], record["state"]) == (499, "succeeded")


def test_a_stop_lets_running_calls_end_and_waits_for_no_idle_connection_and_no_follower(served: Served) -> None:
    idle = served.send("GET /healthz HTTP/1.1", b"\r\n")
    assert "200" in head_of(idle)
    follower = served.send("GET /v1/functions/hello/logs?follow=1 HTTP/1.1", b"\r\n")
    assert "text/event-stream" in head_of(follower)
    body = b'{"sleep": 2}'
    call = served.send(f"POST {CALL} HTTP/1.1", f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(0.3)
    began = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - began < 6
    assert head_of(call).startswith("HTTP/1.1 200")
    for connection in (idle, follower, call):
        connection.close()


def test_a_stop_while_workers_start_is_heeded_at_once(tmp_path: Path) -> None:
    starting = Served(tmp_path, boot_seconds=2)
    try:
        until(lambda: len(list(tmp_path.glob("ended-booting-*"))) == 2)
        began = time.monotonic()
        assert starting.stop() == 0
        assert time.monotonic() - began < 5
    finally:
        starting.process.kill()
        starting.process.wait()
        starting.log.close()


def test_the_records_of_the_last_moment_are_written_at_a_stop(served: Served) -> None:
    assert served.request("POST", CALL, b"{}")[0] == 200
    (request_id,) = served.calls_ended()
    served.stop()
    from sandbox.settings import Settings
    from server.records import Recorder
    from server.store import open_database

    settings = Settings(home=str(served.home))
    engine = open_database(settings)
    try:
        assert Recorder(engine, settings).get(request_id) is not None
    finally:
        engine.dispose()


def test_metrics_sum_the_workers(served: Served) -> None:
    for _ in range(10):
        assert served.request("POST", CALL, b"{}")[0] == 200
    for _ in range(4):
        assert (
            'hearth_invocations_total{function="hello",namespace="default",status="200",version="$LATEST"} 10.0'
            in served.request("GET", "/metrics")[1].decode()
        )


def test_malformed_requests_are_4xx_and_the_service_lives(served: Served) -> None:
    for line in ("GET /v1/functions?\xff HTTP/1.1", "GET /v1/\x00 HTTP/1.1", "BREW / HTTP/1.1", "GET /v1/functions/%ff%00 HTTP/1.1"):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=10)
        connection.sendall(f"{line}\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode("latin1"))
        answer = head_of(connection)
        connection.close()
        assert answer.startswith("HTTP/1.1 4"), (line, answer)
    assert served.request("GET", "/healthz")[0] == 200
    assert "Traceback" not in served.logged()


def test_a_service_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HEARTH_CONFIG": os.devnull,
        "HEARTH_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "HEARTH_LISTEN": "127.0.0.1:0",
    }
    environment.pop("HEARTH_TOKEN_SHA256", None)
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "server" / "gunicorn_conf.py"), "server.app:create_app()"]
    (tmp_path / "state").mkdir()
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, timeout=30)
    assert done.returncode == 3 and b"no credential" in done.stderr and b"Traceback" not in done.stderr
