"""A private instance: a home, a socket directory and a port of its own, below one temporary directory. Also the reference process."""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sandbox.settings import Settings, load
from tests.bench.http import Connection, Flock

ROOT = Path(__file__).resolve().parents[2]
HEARTH = ROOT / ".venv" / "bin" / "hearth"
IMAGES = Path("/var/lib/hearth/images")
REFERENCE = ("/usr/bin/python3", "-c", "pass")
STOP_SECONDS = 60

EMPTY = "def main_handler(event, context):\n    return 0\n"
SLEEPING = "import time\ndef main_handler(event, context):\n    time.sleep(event['seconds'])\n    return 0\n"
SPINNING = (
    "import time\ndef main_handler(event, context):\n    end = time.time() + event['seconds']\n    while time.time() < end:\n        pass\n"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def reference() -> float:
    """Seconds from spawn to end of `python3 -c pass`."""
    began = time.perf_counter()
    pid = os.posix_spawn(REFERENCE[0], REFERENCE, {"PATH": "/usr/bin:/bin"})
    os.waitpid(pid, 0)
    return time.perf_counter() - began


class Instance:
    """A running `hearth up`."""

    def __init__(self, environment: dict[str, str], process: subprocess.Popen[bytes]) -> None:
        self.environment = environment
        self.process = process
        self.settings: Settings = load({key: value for key, value in environment.items() if key.startswith("HEARTH_")})
        self.address = ("127.0.0.1", int(self.settings.listen.rpartition(":")[2]))
        self.token = self.settings.credential_path.read_text().strip()
        self._api = self.connect()
        self._names = 0

    def connect(self) -> Connection:
        return Connection(self.address, self.token)

    def flock(self, count: int) -> Flock:
        return Flock([self.connect() for _ in range(count)])

    def close(self) -> None:
        self._api.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._api.ask(method, path, body)

    def deploy(self, code: str = EMPTY, **configuration: Any) -> str:
        """A new function; its name."""
        self._names += 1
        name = f"bench-{os.getpid()}-{self.process.pid}-{self._names}"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as package:
            package.writestr("index.py", code)
        zipped = base64.b64encode(buffer.getvalue()).decode()
        asked = {"name": name, "runtime": "python3", "handler": "index.main_handler", "code": {"zip": zipped}, **configuration}
        self.ask("POST", "/v1/functions", asked)
        return name

    def invocation(self, name: str, event: bytes = b"{}") -> bytes:
        """The bytes of a call."""
        return self._api.request("POST", f"/v1/functions/{name}/invocations", event)

    def sandboxes(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "/v1/sandboxes")["sandboxes"])

    def processes(self) -> dict[str, psutil.Process]:
        """Ours by part: launcher, sandboxd, zygote."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            line = " ".join(process.cmdline())
            for part, mark in (("launcher", "sandbox.launcher"), ("sandboxd", "sandbox.daemon"), ("zygote", "zygote.py")):
                if mark in line or f"hearth-{part}" in line:
                    found.setdefault(part, process)
        return found


class Home:
    """The temporary directory; `life` after `life` may be run in it, so the image is made once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        home = directory / "home"
        home.mkdir(mode=0o755)
        if (IMAGES / "host").is_dir():
            shutil.copytree(IMAGES, home / "images", symlinks=True, copy_function=shutil.copy2)

    @contextmanager
    def life(self, **settings: Any) -> Iterator[Instance]:
        """A started instance with these settings; stopped at the end, whatever happened."""
        own = {
            "HEARTH_HOME": str(self._directory / "home"),
            "HEARTH_RUN": str(self._directory / "run"),
            "HEARTH_LISTEN": f"127.0.0.1:{free_port()}",
            "HEARTH_CONFIG": os.devnull,
            "HEARTH_BUCKET_LISTEN": "off",
            "HEARTH_LIMIT_FUNCTIONS": "100000",
            "HEARTH_LOG_LEVEL": "WARNING",
            **{f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()},
        }
        environment = {**{key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}, **own}
        process = self._up(environment)
        try:
            instance = Instance(environment, process)
            try:
                yield instance
            finally:
                instance.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)

    @staticmethod
    def _up(environment: dict[str, str]) -> subprocess.Popen[bytes]:
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as ready:
            process = subprocess.Popen(
                [str(HEARTH), "up", "--ready-fd", str(writer)], env=environment, pass_fds=[writer], stdout=subprocess.DEVNULL
            )
            os.close(writer)
            if ready.readline() != b"ready\n":
                raise RuntimeError(f"hearth up ended with {process.wait(STOP_SECONDS)}")
        return process


@contextmanager
def private_home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="hearth-bench-", ignore_cleanup_errors=True) as directory:
        yield Home(Path(directory))
