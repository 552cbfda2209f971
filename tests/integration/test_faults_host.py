"""The host fails: a full disk, no descriptors, control groups that can't be used, a clock that jumps. A clear error, and the service goes
on where it can, by itself when the fault is over."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.cgroup.detect import MOUNTINFO, hierarchies
from sandbox.kernel import constants as k
from sandbox.kernel import filesystem
from tests.integration.instance import HEARTH, Instance, leaving_nothing, packed, wait_until
from tests.soak import victims

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event\n"
SLEEPER = "import time\ndef main_handler(event, context):\n    time.sleep(event)\n    return event\n"
DISK_MB = 24


@pytest.fixture
def instance(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(restart_seconds=0.5)) as found:
        yield found


# Disk -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A tmpfs of DISK_MB at `path`, owned by the API's user, as `hearth up` would make the directory."""
    account = pwd.getpwnam("hearth")
    path.mkdir(parents=True)
    filesystem.mount("tmpfs", str(path), "tmpfs", k.MS_NOSUID, f"size={DISK_MB}m,mode=700,uid={account.pw_uid},gid={account.pw_gid}")
    try:
        yield path
    finally:
        filesystem.umount(str(path))


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"x" * size):
                    continue
            except OSError as error:
                assert error.errno == 28, error


def test_full_disk_refuses_what_must_be_stored_and_still_calls(host_image: Path, tmp_path: Path) -> None:
    hearth = Instance(tmp_path, host_image)
    with small_disk(hearth.home / "state") as state, leaving_nothing_mounted(hearth):
        name = hearth.deploy(ECHO)
        hearth.record(hearth.call(name, 1))
        fill(state / "filler")
        for number in range(20):
            assert hearth.call(name, number).ok() == number
        body = {
            "name": "more",
            "runtime": "python3",
            "handler": "index.main_handler",
            "code": {"zip": packed({"index.py": ECHO, "x": os.urandom(100_000)})},
        }
        refused = hearth.request("POST", "/v1/functions", json=body)
        assert refused.status == 507, (refused.status, refused.content)
        assert refused.body["code"] == "storage_full"
        assert hearth.request("GET", "/readyz").status == 200
        assert list((state / "code").glob(".tmp-*")) == []
        (state / "filler").unlink()
        assert hearth.request("POST", "/v1/functions", json=body).status == 201
        assert hearth.call("more", "again").ok() == "again"
        hearth.record(hearth.call(name, 2))


@contextmanager
def leaving_nothing_mounted(hearth: Instance) -> Iterator[None]:
    """`leaving_nothing` for an instance whose state directory is a mount of the test's own."""
    try:
        hearth.start()
        yield
        family = hearth.family()
        hearth.stop()
        own = f" {hearth.home / 'state'} "
        left = hearth.left(family)
        assert [line for line in left.pop("mounts", []) if own not in line] == []
        wait_until(lambda: not {key: value for key, value in hearth.left(family).items() if key != "mounts"}, "nothing is left", 3)
    finally:
        hearth.close()


# Descriptors ----------------------------------------------------------------------------------------------------------------


@contextmanager
def without_descriptors(pids: list[int], spare: int) -> Iterator[None]:
    """Each process may have only `spare` more than it has now."""
    before = {pid: _soft_limit(pid) for pid in pids}
    for pid in pids:
        _set_soft_limit(pid, psutil.Process(pid).num_fds() + spare)
    try:
        yield
    finally:
        for pid, soft in before.items():
            _set_soft_limit(pid, soft)


def _soft_limit(pid: int) -> int:
    """RLIMIT_NOFILE of a process, from proc_pid_limits(5)."""
    (line,) = (line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files"))
    return int(line.split()[3])


def _set_soft_limit(pid: int, most: int) -> None:
    """As its own user and group: for another's even root needs CAP_SYS_RESOURCE, prlimit(2)."""
    process = psutil.Process(pid)
    command = ["prlimit", f"--pid={pid}", f"--nofile={most}:"]
    subprocess.run(command, user=process.uids().real, group=process.gids().real, extra_groups=[], check=True)


@pytest.mark.parametrize("spare", [0, 1, 3, 7, 12])
def test_sandboxd_without_descriptors_answers_and_recovers(instance: Instance, spare: int) -> None:
    name = instance.deploy(SLEEPER, timeout=10)
    instance.call(name, 0).ok()
    pids = victims.sandboxd(instance)
    with without_descriptors(pids, spare):
        calls = [instance.call_soon(name, 0.3) for _ in range(12)]
        outcomes = {call.result(60).outcome for call in calls}
        assert outcomes <= {(200, 200), (500, 500), (503, 449), (503, 500)}
        assert outcomes != {(200, 200)}, "the limit did not bite"
    assert victims.sandboxd(instance) == pids, "it went on by itself"
    wait_until(lambda: instance.call(name, 0).status == 200, "calls are served again")
    full = [instance.call_soon(name, 0.3) for _ in range(12)]
    assert [call.result(60).outcome for call in full] == [(200, 200)] * 12
    wait_until(lambda: len([row for row in instance.sandboxes("") if row["state"] == "prepared"]) >= 2, "sandboxes are prepared again")
    wait_until(lambda: not [row for row in instance.sandboxes(name) if row["state"] not in ("idle", "frozen")], "every place is given back")


@pytest.mark.parametrize("spare", [0, 3])
def test_api_without_descriptors_answers_and_recovers(instance: Instance, spare: int) -> None:
    name = instance.deploy(SLEEPER, timeout=20)
    instance.call(name, 0).ok()
    pids = victims.api_worker(instance)
    running = instance.call_soon(name, 5)
    wait_until(lambda: [row for row in instance.sandboxes(name) if row["state"] == "leased"], "one runs")
    with ExitStack() as stack:
        headers = {"Authorization": f"Bearer {(instance.home / 'credential').read_text().strip()}"}
        clients = [httpx.Client(base_url=instance.url, headers=headers, timeout=60, trust_env=False) for _ in range(12)]
        for client in clients:  # connected before there is no room for a connection
            stack.enter_context(client)
            assert client.get("/readyz").status_code == 200
        with without_descriptors(pids, spare):
            path = f"/v1/functions/{name}/invocations"
            calls = [stack.enter_context(ThreadPoolExecutor(1)).submit(client.post, path, content=b"0.3") for client in clients]
            statuses = [call.result(60).status_code for call in calls]
            assert set(statuses) <= {200, 503} and 503 in statuses, statuses
        assert running.result(60).ok() == 5, "what runs goes on"
    assert victims.api_worker(instance) == pids
    full = [instance.call_soon(name, 0.3) for _ in range(12)]
    assert [call.result(60).outcome for call in full] == [(200, 200)] * 12
    wait_until(lambda: not [row for row in instance.sandboxes(name) if row["state"] not in ("idle", "frozen")], "every place is given back")


# Control groups -------------------------------------------------------------------------------------------------------------


def up_in(hearth: Instance, preparation: str) -> subprocess.CompletedProcess[str]:
    """`hearth up` in a mount namespace in which `preparation` has been run."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{preparation}\nexec "$@"', "sh", str(HEARTH), "up"]
    return subprocess.run(command, env=hearth.environment, capture_output=True, text=True, timeout=60, check=False)


def places() -> dict[str, str]:
    v1, v2 = hierarchies(Path(MOUNTINFO).read_text())
    return v1 if "memory" in v1 else {"all": v2 or ""}


@pytest.fixture
def idle(host_image: Path, tmp_path: Path) -> Iterator[Instance]:
    hearth = Instance(tmp_path, host_image)
    yield hearth
    hearth.close()


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line, no trace of Python's, exit status 1."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_read_only_control_groups_are_one_clear_line(idle: Instance) -> None:
    preparation = "\n".join(f"mount -o remount,bind,ro {place}" for place in sorted(set(places().values())))
    refused(up_in(idle, preparation), "Read-only", "/sys/fs/cgroup")
    idle.assert_nothing_left(set())


@pytest.mark.requires("cgroup1")
@pytest.mark.parametrize("controller", ["memory", "pids"])
def test_missing_controller_of_a_promised_limit_is_one_clear_line(idle: Instance, controller: str) -> None:
    refused(up_in(idle, f"umount {places()[controller]}"), f"no {controller} control group")
    idle.assert_nothing_left(set())


def test_no_control_groups_at_all_are_one_clear_line(idle: Instance) -> None:
    every = {*places().values(), *([hierarchies(Path(MOUNTINFO).read_text())[1]] if hierarchies(Path(MOUNTINFO).read_text())[1] else [])}
    refused(up_in(idle, "\n".join(f"umount {place}" for place in sorted(every))), "control group")


# Clock ----------------------------------------------------------------------------------------------------------------------

JUMPING = """import time
_real = time.time
def _shifted():
    with open({path!r}) as file:
        return _real() + float(file.read())
time.time = _shifted
"""


@pytest.fixture
def clock(start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Instance, Callable[[float], None]]]:
    """An instance of which every process reads a wall clock that the test sets, and the setting of it (CLOCK_REALTIME has no namespace)."""
    with tempfile.TemporaryDirectory(prefix="hearth-clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shift = folder / "shift"

        def jump(seconds: float) -> None:
            fresh = folder / "fresh"
            fresh.write_text(str(seconds))
            fresh.chmod(0o644)
            fresh.replace(shift)

        jump(0)
        (folder / "sitecustomize.py").write_text(JUMPING.format(path=str(shift)))
        monkeypatch.setenv("PYTHONPATH", name)
        with leaving_nothing(start(freeze_after_seconds=0.1)) as hearth:
            yield hearth, jump


@pytest.mark.parametrize("days", [400, -400])
def test_wall_clock_that_jumps_changes_no_limit_and_loses_no_warmth(clock: tuple[Instance, Callable[[float], None]], days: int) -> None:
    hearth, jump = clock
    name = hearth.deploy(SLEEPER, timeout=1)
    assert [call.result().ok() for call in [hearth.call_soon(name, 0.3) for _ in range(2)]] == [0.3] * 2
    running = hearth.call_soon(name, 0.6)
    wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "the call runs")
    jump(days * 86_400)
    assert running.result().ok() == 0.6
    # The one that ran is frozen in time, so the house has been kept since the jump; the one that was idle was not too old for it.
    wait_until(lambda: [row["state"] for row in hearth.sandboxes(name)] == ["frozen"] * 2, "both workers stay, frozen")
    after = hearth.call(name, 0)
    assert (after.ok(), after.start) == (0, "warm")
    late = hearth.call(name, 30)
    assert late.outcome == (504, 433)
    assert 1 <= late.seconds < 6
    record = hearth.record(hearth.call(name, 0.1))
    assert 100 <= record["run_ms"] < 5_000
    assert record["started_at"] <= record["ended_at"]
    assert record["started_at"][:4] != hearth.record(running.result())["started_at"][:4], "the clock did not jump"
    assert hearth.request("GET", "/readyz").status == 200
