"""A real `hearth up` with a home, a socket directory and a port of its own, and what the tests ask of it.

`Instance` owns the process, the HTTP client and a thread pool for simultaneous calls. It also knows how to find what it left on the host:
processes by their identity (pid and start time) or by its cgroups, cgroups, mounts and links by its mark.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[2]
HEARTH = ROOT / ".venv" / "bin" / "hearth"
CGROUPS = Path("/sys/fs/cgroup")
STOP_SECONDS = 30
PATIENCE_SECONDS = 10.0

Identity = tuple[int, str]
T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(probe: Callable[[], T], what: str, within_seconds: float = PATIENCE_SECONDS) -> T:
    """Ask until the answer is true; the answer. Fails with `what` and the last answer when it never is."""
    deadline = time.monotonic() + within_seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds} s: {what} (last answer: {answer!r})")
        time.sleep(0.01)
    return answer


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `scf` is X-Scf-Status, 0 where there is none; `start` is "cold", "warm" or ""."""

    status: int
    headers: httpx.Headers
    content: bytes
    seconds: float

    @property
    def scf(self) -> int:
        return int(self.headers.get("x-scf-status", 0))

    @property
    def start(self) -> str:
        return str(self.headers.get("x-scf-start", ""))

    @property
    def request_id(self) -> str:
        return self.headers.get("x-scf-request-id") or str(self.body.get("request_id", ""))

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def outcome(self) -> tuple[int, int]:
        """(HTTP status, SCF status)."""
        return self.status, self.scf

    def ok(self) -> Any:
        """The return value of a call that went well."""
        assert self.outcome == (200, 200), (self.outcome, self.content[:2000])
        return self.body


def packed(code: str | Mapping[str, str | bytes]) -> str:
    """Source text (as index.py) or files by name, as the base64 of a zip."""
    files: Mapping[str, str | bytes] = {"index.py": code} if isinstance(code, str) else code
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, textwrap.dedent(content) if isinstance(content, str) else content)
    return base64.b64encode(buffer.getvalue()).decode()


class Instance:
    """`start` returns once every part serves; `stop` asserts exit status 0; `close` is for a fixture's end, whatever happened."""

    def __init__(self, folder: Path, *built_images: Path, **settings: Any) -> None:
        self.home, self.run = folder / "home", folder / "run"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        images = self.home / "images"
        images.mkdir(parents=True)
        for image in built_images:
            shutil.copytree(image, images / image.name, symlinks=True, copy_function=os.link)
        own: dict[str, Any] = {"home": self.home, "run": self.run, "listen": f"127.0.0.1:{self.port}", "limit_functions": 1000}
        own |= {"bucket_listen": "off", **settings}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}
        self.environment = kept | {f"HEARTH_{key.upper()}": str(value) for key, value in own.items()}
        self.mark = hashlib.sha256(os.path.realpath(self.home).encode()).hexdigest()[:8]
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "up.log"
        self._names = itertools.count()
        self._client: httpx.Client | None = None
        self._threads = ThreadPoolExecutor(32)

    # -- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> Instance:
        if self._client is not None:
            self._client.close()  # connections to a former life
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as ready, self.log.open("ab") as log:
            command = [str(HEARTH), "up", "--ready-fd", str(writer)]
            self.process = subprocess.Popen(
                command, env=self.environment, pass_fds=[writer], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            os.close(writer)
            if ready.readline() != b"ready\n":
                raise AssertionError(f"hearth up ended with {self.process.wait(10)}: {self.log.read_text()[-3000:]}")
        token = (self.home / "credential").read_text().strip()
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
            limits=httpx.Limits(max_connections=64),
        )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        assert self.process.wait(STOP_SECONDS) == 0, self.log.read_text()[-3000:]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._client is not None:
            self._client.close()
        self._threads.shutdown()

    # -- functions ----------------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **options: Any) -> Answer:
        assert self._client is not None
        began = time.monotonic()
        response = self._client.request(method, path, **options)
        return Answer(response.status_code, response.headers, response.content, time.monotonic() - began)

    def deploy(self, code: str | Mapping[str, str | bytes], *, name: str = "", **configuration: Any) -> str:
        """Create a function; its name."""
        name = name or f"f{next(self._names)}-{threading.get_native_id()}"
        wanted = {"name": name, "runtime": "python3", "handler": "index.main_handler", "code": {"zip": packed(code)}, **configuration}
        answer = self.request("POST", "/v1/functions", json=wanted)
        assert answer.status == 201, answer.content
        return name

    def update(self, name: str, code: str | Mapping[str, str | bytes]) -> None:
        answer = self.request("PUT", f"/v1/functions/{name}/code", json={"code": {"zip": packed(code)}})
        assert answer.status == 200, answer.content

    def delete(self, name: str) -> None:
        answer = self.request("DELETE", f"/v1/functions/{name}")
        assert answer.status in (200, 204), answer.content

    # -- calls --------------------------------------------------------------------------------------------------------------

    def call(self, name: str, event: Any = None, *, query: str = "", raw: bytes | None = None) -> Answer:
        content = raw if raw is not None else b"" if event is None else json.dumps(event).encode()
        headers = {"Content-Type": "application/json"}
        return self.request("POST", f"/v1/functions/{name}/invocations{query}", content=content, headers=headers)

    def call_soon(self, name: str, event: Any = None) -> Future[Answer]:
        """The same in a thread of its own."""
        return self.soon(self.call, name, event)

    def soon(self, work: Callable[..., Answer], *arguments: Any, **options: Any) -> Future[Answer]:
        """Any request in a thread of its own."""
        return self._threads.submit(functools.partial(work, *arguments, **options))

    def record(self, answer: Answer | str) -> dict[str, Any]:
        """The record of a call, which is written behind the reply."""
        request_id = answer if isinstance(answer, str) else answer.request_id
        assert request_id

        def find() -> dict[str, Any] | None:
            found = self.request("GET", f"/v1/invocations/{request_id}")
            return found.body if found.status == 200 else None

        return wait_until(find, f"a record of {request_id}") or {}

    def records(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.request("GET", f"/v1/functions/{name}/invocations?limit=100").body["invocations"]
        return found

    def sandboxes(self, name: str) -> list[dict[str, Any]]:
        """The living sandboxes of a function."""
        return [row for row in self.request("GET", "/v1/sandboxes").body["sandboxes"] if row["function"] == name]

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.request("GET", "/v1/sandboxes").body["counters"]
        return counters

    # -- the host -----------------------------------------------------------------------------------------------------------

    def cgroups(self) -> set[Path]:
        """Every cgroup that carries this instance's mark, and those below it; any of them may go while we look (os.walk bears that)."""
        tops = [*CGROUPS.glob(f"*/hearth-{self.mark}"), *CGROUPS.glob(f"hearth-{self.mark}")]
        return {Path(folder) for top in tops for folder, _, _ in os.walk(top)}

    def confined(self) -> set[Identity]:
        """Processes in our cgroups: zygotes, and every PID 1, worker and whatever it started."""
        found = set()
        for path in self.cgroups():
            try:
                pids = (path / "cgroup.procs").read_text().split()
            except OSError:
                continue  # it has just been removed
            found |= {identity for pid in pids if (identity := identify(int(pid)))}
        return found

    def family(self) -> set[Identity]:
        """`hearth up`, everything below it, everything in its cgroups."""
        return below(self.pid) | self.confined()

    def part(self, title: str) -> list[int]:
        """Pids below `hearth up` whose command line contains `title`."""
        return [pid for pid, _ in sorted(below(self.pid)) if title in command_line(pid)]

    def left(self, family: set[Identity]) -> dict[str, list[str]]:
        """What remains of this instance: living ones of `family`, cgroups, mounts, links, named only where there is something."""
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.home.parent) in line]
        found = {
            "processes": [f"{pid} {command_line(pid)}" for pid, born in family if identify(pid) == (pid, born)],
            "cgroups": sorted(map(str, self.cgroups())),
            "mounts": mounts,
            "links": [name for name in os.listdir("/sys/class/net") if name.startswith(f"hth{self.mark[:5]}")],
            "sockets": sorted(str(path) for path in self.run.glob("*") if path.suffix == ".sock" or path.name == "stage"),
        }
        return {kind: names for kind, names in found.items() if names}

    def assert_nothing_left(self, family: set[Identity]) -> None:
        deadline = time.monotonic() + 3.0  # an orphan's last moment belongs to the host's PID 1
        while left := self.left(family):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


@contextmanager
def leaving_nothing(instance: Instance) -> Iterator[Instance]:
    """At the end it must stop in order and leave nothing on the host, whatever was done to it."""
    try:
        yield instance
        family = instance.family()
        instance.stop()
        instance.assert_nothing_left(family)
    finally:
        instance.close()


def identify(pid: int) -> Identity | None:
    """(pid, start time): the two stay with a process for life. None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else (pid, fields[19])


def below(pid: int) -> set[Identity]:
    """A process and its descendants."""
    found, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        if identity := identify(one):
            found.add(identity)
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
