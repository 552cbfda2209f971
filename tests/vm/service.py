"""The installed service as a test sees it: `Instance` without a life of its own, since systemd has that, and what only systemd knows."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.integration.instance import CGROUPS, Instance, wait_until

HOME, RUN = Path("/var/lib/hearth"), Path("/run/hearth")
#: Measured by tests/machines/start when the machine booted: how many times slower than a real processor this one is.
SLOWNESS = int(os.environ.get("HEARTH_TRIAL_SLOWNESS", "1"))
PATIENCE_SECONDS = max(60.0, 12.0 * SLOWNESS)
#: More than the longest call takes with its end.
ANSWER_SECONDS = 420.0
#: A service's PATH need not have /usr/local/bin.
HEARTH = "/usr/local/bin/hearth"
UNITS = ("hearth.target", "hearth-api.socket", "hearth-api.service", "hearth-sandboxd.service", "hearth-dispatcher.service")


def run(*command: str, check: bool = True) -> str:
    """Its standard output; with `check`, both outputs in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class Service(Instance):
    """Made anew for each test: a test may have restarted anything."""

    def __init__(self) -> None:
        self.home, self.run = HOME, RUN
        self.port = 9000
        self.url = f"http://127.0.0.1:{self.port}"
        self.mark = hashlib.sha256(os.path.realpath(HOME).encode()).hexdigest()[:8]
        self.process = None
        self.environment = dict(os.environ)
        self._names = itertools.count(time.time_ns() // 1_000_000)  # an earlier test's Service has made some
        self._threads = ThreadPoolExecutor(16)
        token = (HOME / "credential").read_text().strip()
        self._client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER_SECONDS, trust_env=False
        )

    def cgroups(self) -> set[Path]:
        tops = {Path(folder) / f"hearth-{self.mark}" for folder, names, _ in os.walk(CGROUPS) if f"hearth-{self.mark}" in names}
        return {Path(folder) for top in tops for folder, _, _ in os.walk(top)}

    def ready(self) -> None:
        """Wait until every part serves."""

        def answers() -> bool:
            try:
                return self.request("GET", "/readyz").status == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "the service is ready", PATIENCE_SECONDS)

    def ensure(self, name: str, code: str, **configuration: Any) -> str:
        """A function of that name, whichever test or boot made it."""
        if self.request("GET", f"/v1/functions/{name}").status == 404:
            self.deploy(code, name=name, **configuration)
        return name


def main_pid(unit: str) -> int:
    return int(run("systemctl", "show", "-P", "MainPID", unit))


def show(unit: str, name: str) -> str:
    return run("systemctl", "show", "-P", name, unit)


def is_active(unit: str) -> bool:
    return run("systemctl", "is-active", unit, check=False) == "active"


def doctor(*options: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run(HEARTH, "doctor", "--json", *options, check=False))
    return report


def journal(*match: str) -> list[dict[str, Any]]:
    """Entries of this boot."""
    return [json.loads(line) for line in run("journalctl", "-b", "-o", "json", "--no-pager", *match).splitlines()]


def cgroup_kind() -> str:
    """Which kind of control groups this machine was booted with."""
    if (CGROUPS / "cgroup.controllers").exists():
        return "unified"
    return "hybrid" if (CGROUPS / "unified").exists() else "legacy"
