"""Warm calls at eight connections, latency and throughput, against the bare echo in turns.

wrk(1) makes the load where it is installed, a small epoll client in a process of its own elsewhere; both sides get the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.http import Connection
from tests.bench.instance import ROOT, Instance, free_port
from tests.bench.rows import Row, quantile

CONNECTIONS = 8
EVENT = b'{"name":"bench","value":1}'
TOKEN = "0" * 43
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

Load = tuple[float, float]


@contextmanager
def echo_server(instance: Instance) -> Iterator[tuple[str, int]]:
    """gunicorn with our configuration file, its own ASGI worker class and the echo."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-echo-") as directory:
        port = free_port()
        environment = {**instance.environment, "HEARTH_HOME": directory, "HEARTH_LISTEN": f"127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "server" / "gunicorn_conf.py"), "-k", "asgi", "tests.bench.echo:app"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT)
        try:
            _wait_for(("127.0.0.1", port))
            yield "127.0.0.1", port
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: kept-alive connections are not waited for
            process.wait(20)


def _wait_for(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = Connection(address, TOKEN)
            connection.call(connection.request("POST", "/echo", EVENT))
            connection.close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def warm(instance: Instance, *, rounds: int, seconds: float) -> list[Row]:
    name = instance.deploy(concurrency=CONNECTIONS * 2)
    path = f"/v1/functions/{name}/invocations"
    ours, theirs = [], []
    with echo_server(instance) as echo:
        _load(instance.address, path, instance.token, 1.0)
        _load(echo, "/echo", TOKEN, 1.0)
        for _ in range(rounds):
            theirs.append(_load(echo, "/echo", TOKEN, seconds))
            ours.append(_load(instance.address, path, instance.token, seconds))
    p50, echo_p50 = (statistics.median(load[0] for load in loads) * 1000 for loads in (ours, theirs))
    rate, echo_rate = (statistics.median(load[1] for load in loads) for loads in (ours, theirs))
    details = {
        "connections": CONNECTIONS,
        "rounds": rounds,
        "client": "wrk" if shutil.which("wrk") else "python",
        "all": ours,
        "echo": theirs,
    }
    return [
        Row(
            name=f"warm call, p50 at {CONNECTIONS} connections",
            measured=f"{p50:.2f} ms of {echo_p50:.2f} ms",
            value=p50 / echo_p50,
            must=4.0,
            aim=1.8,
            details=details,
        ),
        Row(
            name="warm throughput",
            measured=f"{rate:.0f}/s of {echo_rate:.0f}/s",
            value=rate / echo_rate,
            must=0.25,
            aim=0.6,
            at_least=True,
            details=details,
        ),
    ]


def _load(address: tuple[str, int], path: str, token: str, seconds: float) -> Load:
    """(p50 in seconds, requests a second). Raises RuntimeError if one was not answered with 200."""
    return _wrk(address, path, token, seconds) if shutil.which("wrk") else _python(address, path, token, seconds)


def _wrk(address: tuple[str, int], path: str, token: str, seconds: float) -> Load:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'\nwrk.body = '{EVENT.decode()}'\nwrk.headers['Authorization'] = 'Bearer {token}'\n")
        script.write("wrk.headers['Content-Type'] = 'application/json'\n")
        script.flush()
        url = f"http://{address[0]}:{address[1]}{path}"
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", "-s", script.name, url]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: .*", said):
        raise RuntimeError(f"{path}: {bad[0]}")
    latency, rate = re.search(r"50%\s+([\d.]+)(us|ms|s)", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    if latency is None or rate is None:
        raise RuntimeError(f"wrk said something else: {said[:500]}")
    return float(latency[1]) * _UNITS[latency[2]], float(rate[1])


def _python(address: tuple[str, int], path: str, token: str, seconds: float) -> Load:
    command = [sys.executable, "-m", "tests.bench.warm", "--port", str(address[1]), "--path", path, "--seconds", str(seconds)]
    said = subprocess.run(command, input=token, capture_output=True, text=True, check=True, timeout=seconds + 60, cwd=ROOT).stdout
    p50, rate = json.loads(said)
    return float(p50), float(rate)


def client() -> None:
    """The epoll client: eight connections, the next request when the answer is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    token = Path("/dev/stdin").read_text()
    selector = selectors.DefaultSelector()
    connections = [Connection(("127.0.0.1", options.port), token) for _ in range(CONNECTIONS)]
    raw = connections[0].request("POST", options.path, EVENT)
    for connection in connections:
        selector.register(connection.sock, selectors.EVENT_READ, connection)
        connection.send(raw)
    latencies: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + options.seconds:
        for key, _ in selector.select(began + options.seconds - now):
            answer = key.data.receive()
            if answer.status != 200:
                sys.exit(f"{options.path}: status {answer.status}")
            latencies.append(answer.seconds)
            key.data.send(raw)
    os.write(1, json.dumps([quantile(latencies, 0.5), len(latencies) / (time.perf_counter() - began)]).encode())


if __name__ == "__main__":
    client()
