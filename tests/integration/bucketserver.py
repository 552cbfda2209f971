"""The bucket service as it is really served: gunicorn, its worker, a socket. Its keys and its functions' bindings are in a small module
that stands for the parts around it; what it makes of them is a real table in the same database."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
SECRET_ID, SECRET_KEY = "AKIDtest", "the-secret-of-the-test"
READER, READER_KEY = "AKIDreader", "the-secret-of-the-reader"
INVOKER, INVOKER_KEY = "AKIDinvoker", "the-secret-of-the-invoker"
OTHER, OTHER_KEY = "AKIDother", "the-secret-of-another-namespace"
CREDENTIAL_DIGEST = "ab" * 32

#: The events' table is in the same database and written in the same transaction, as the queue's is.
AROUND = """
import json, os
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, insert
from server.buckets.access import Pair
from server.buckets.app import create_app
from server.buckets.notices import Binding, TriggerNotices
from server.store.engine import open_database
from server.triggers.objects import parse_rule

TABLE = Table("told", MetaData(), Column("number", Integer, primary_key=True), Column("kind", String(10)), Column("function", String(60)),
              Column("caused_by", String(64)), Column("hops", Integer), Column("payload", Text))

class Secrets:
    def find(self, secret_id):
        return {pair.secret_id: pair for pair in (Pair(*values) for values in json.loads(os.environ["TEST_SECRETS"]))}.get(secret_id)

class Bindings:
    def of_bucket(self, connection, bucket):
        given = json.loads(os.environ["TEST_BINDINGS"]).get(bucket, [])
        return [Binding(name, "default", name, "$LATEST", parse_rule(rule)) for name, rule in given]

def put(connection, notice):
    connection.execute(insert(TABLE).values(kind="event", function=notice.function, caused_by=notice.caused_by, hops=notice.hops,
                                            payload=notice.payload.decode()))

def notices(settings):
    engine = open_database(settings)
    TABLE.create(engine, checkfirst=True)
    engine.dispose()
    return TriggerNotices(Bindings(), put, region=settings.region)

def create():
    return create_app(secrets=Secrets(), notices=notices)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


class BucketServer:
    """One running service; `start` again after `kill`. `bindings`: bucket → [(function, TriggerDesc)]."""

    def __init__(
        self, home: Path, *, bindings: dict[str, list[Any]] | None = None, prefix: list[str] | None = None, **settings: Any
    ) -> None:
        self.home, self.port, self.prefix = home, free_port(), prefix or []
        (home / "state").mkdir(parents=True, exist_ok=True)
        (home / "around.py").write_text(AROUND)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}
        secrets = [
            (SECRET_ID, SECRET_KEY, "all", ""),
            (READER, READER_KEY, "read", ""),
            (INVOKER, INVOKER_KEY, "invoke", ""),
            (OTHER, OTHER_KEY, "all", "other"),
        ]
        self.environment = environment | {
            "HEARTH_CONFIG": os.devnull,
            "HEARTH_HOME": str(home),
            "HEARTH_BUCKET_LISTEN": f"127.0.0.1:{self.port}",
            "HEARTH_TOKEN_SHA256": CREDENTIAL_DIGEST,
            "HEARTH_STOP_GRACE": "5",
            "TEST_SECRETS": json.dumps(secrets),
            "TEST_BINDINGS": json.dumps(bindings or {}),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{home}",
            **{f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.home / "state" / "hearth.db"

    def start(self) -> None:
        configuration = ROOT / "server" / "buckets" / "gunicorn_conf.py"
        command = [*self.prefix, sys.executable, "-m", "gunicorn", "-c", str(configuration), "around:create()"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, cwd="/", stdout=log, stderr=log, start_new_session=True)
        until(self.answers)

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.logged()
        try:
            return httpx.get(f"{self.url}/-/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def logged(self) -> str:
        return (self.home / "log").read_text()

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, and wait until none of them runs."""
        assert self.process is not None
        pids = self.workers()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pid in pids:
            with suppress(ChildProcessError):  # ours only where this is the first process of a container, or one that adopts
                os.waitpid(pid, 0)
        until(lambda: not any(_runs(pid) for pid in pids))

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        assert self.process.wait(20) == 0, self.logged()

    def data_files(self) -> set[str]:
        return {path.name for path in (self.home / "state" / "buckets" / "data").glob("*/*")}

    def workers(self) -> list[int]:
        assert self.process is not None
        return [int(word) for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether it is there, and not only unreaped: not every container's first process reaps orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
