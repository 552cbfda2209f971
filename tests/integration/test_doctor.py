"""`hearth doctor` on the real host: an instance that runs, one that was killed, a dead stranger. All under a cgroup root of the test's own,
so that nothing of anybody else is judged or swept."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox.cgroup import detect, files
from sandbox.cgroup.detect import MOUNTINFO, hierarchies
from sandbox.kernel import constants as k
from sandbox.kernel import filesystem
from sandbox.network import layout
from sandbox.settings import Settings
from tests.integration.instance import HEARTH, Instance, wait_until

pytestmark = pytest.mark.requires("root", "user", "cgroup", "memcg", "pids", "freezer")

STRANGER = "deadbeef"


@pytest.fixture
def cgroup_root() -> Iterator[str]:
    """A directory in each hierarchy, gone afterwards."""
    name = f"hearth-doctor-{secrets.token_hex(4)}"
    v1, v2 = hierarchies(Path(MOUNTINFO).read_text())
    places = {*(v1.values() if "memory" in v1 else [v2 or ""])}
    for place in places:
        Path(place, name).mkdir()
    yield name
    for place in places:
        left = [*files.children(f"{place}/{name}"), f"{place}/{name}"]
        for path in left:
            files.kill_processes(path)
            files.remove_directory(path)


@pytest.fixture
def conf(tmp_path: Path, cgroup_root: str) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    return Settings(home=str(home), run=str(tmp_path / "run"), cgroup_root=cgroup_root)


@pytest.fixture
def instance(start: Callable[..., Instance], cgroup_root: str) -> Iterator[Instance]:
    found = start(cgroup_root=cgroup_root)
    try:
        yield found
    finally:
        found.close()


def environment_of(conf: Settings) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}
    return kept | {"HEARTH_HOME": conf.home, "HEARTH_RUN": conf.run, "HEARTH_CGROUP_ROOT": conf.cgroup_root}


def run(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(HEARTH), "doctor", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def doctor(environment: dict[str, str], *options: str) -> dict[str, Any]:
    """The JSON report; its verdict is the exit status."""
    done = run(environment, "--json", *options)
    data: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if data["ok"] else 1), done.stderr
    return data


def found(data: dict[str, Any], *, leaked: bool) -> dict[tuple[str, str], list[str]]:
    return {(row["instance"], row["kind"]): row["items"] for row in data["findings"] if row["leaked"] is leaked}


def states(data: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in data["checks"]}


def test_host_that_can_run_hearth_gets_every_promise_and_the_honest_rest(conf: Settings) -> None:
    done = run(environment_of(conf))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything promised is here\nnothing is left behind\n" in done.stdout
    assert "looked for control groups (0), processes in them (0), links (0), " in done.stdout
    assert states(doctor(environment_of(conf)))["layers merged at /opt"] == "ok"


def test_missing_capability_is_seen_by_trying(conf: Settings) -> None:
    code = "from sandbox.kernel import process, constants as k; import os, sys; process.limit_bounding_set(frozenset({5, 6, 7, 8}))"
    code += "; os.execv(sys.executable, [sys.executable, '-m', 'sandbox.admin', 'doctor', '--json'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment_of(conf), cwd=HEARTH.parents[2], capture_output=True, text=True, timeout=60, check=False)
    data = json.loads(done.stdout)
    assert done.returncode == 1
    assert (states(data)["root's privileges"], states(data)["files of its own"], states(data)["processes of its own"]) == ("missing",) * 3


def test_credential_that_others_can_read_fails(conf: Settings) -> None:
    credential = conf.credential_path
    credential.write_text("secret\n")
    credential.chmod(0o600)
    assert doctor(environment_of(conf))["ok"]
    credential.chmod(0o644)
    assert states(doctor(environment_of(conf)))["credential is a secret"] == "missing"


def test_living_instance_leaks_nothing_and_is_not_touched_by_fix(instance: Instance, conf: Settings) -> None:
    name = instance.deploy("def main_handler(event, context):\n    return event\n")
    instance.call(name, 1).ok()
    data = doctor(instance.environment)
    assert (data["ok"], data["running"]) == (True, True)
    used = found(data, leaked=False)
    kinds = {kind for _, kind in used} - {"links", "firewall tables"}  # where this machine has the network nat
    assert {"control groups", "processes in them", "processes", "sockets"} == kinds
    for environment in (instance.environment, environment_of(conf)):  # its own doctor, and that of another home beside it
        assert doctor(environment, "--fix")["ok"]
        answer = instance.call(name, 2)
        assert (answer.ok(), answer.start) == (2, "warm")


def test_killed_instance_is_counted_and_fixed(instance: Instance) -> None:
    instance.call(instance.deploy("def main_handler(event, context):\n    return event\n"), 1).ok()
    family = instance.family()
    for title in ("hearth up", "sandbox.launcher", "sandbox.daemon", "gunicorn"):
        for pid in instance.part(title):
            os.kill(pid, signal.SIGSTOP)  # so that none of them can clean up after another
    for pid, _ in family - instance.confined():
        with suppress(ProcessLookupError):  # it went with its parent
            os.kill(pid, signal.SIGKILL)
    assert instance.process is not None
    instance.process.wait(10)
    wait_until(lambda: not doctor(instance.environment)["running"], "the instance is dead")
    leaked = found(doctor(instance.environment), leaked=True)
    assert leaked[instance.mark, "control groups"]
    assert leaked[instance.mark, "sockets"] == [str(instance.run / "sandboxd.sock"), str(instance.run / "stage")]
    data = doctor(instance.environment, "--fix")
    assert (data["ok"], data["findings"]) == (True, [])
    assert any(line.startswith("removed control groups: ") for line in data["fixed"])
    instance.assert_nothing_left(family)


def test_dead_stranger_is_listed_and_swept_with_its_processes(conf: Settings) -> None:
    group = detect(STRANGER, conf.cgroup_root).create("s0")
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        for fd in group.open_join().values():
            os.write(fd, str(sleeper.pid).encode())
            os.close(fd)
        data = doctor(environment_of(conf))
        assert not data["ok"]
        leaked = found(data, leaked=True)
        assert leaked[STRANGER, "processes in them"] == [f"{sleeper.pid} sleep"]
        assert set(found(doctor(environment_of(conf), "--fix"), leaked=True)) == set()
        assert sleeper.wait(5) == -signal.SIGKILL
    assert detect(STRANGER, conf.cgroup_root).leftovers() == []


def test_strange_instance_whose_lock_is_held_is_left_alone(conf: Settings, tmp_path: Path) -> None:
    other = Settings(home=str(tmp_path / "other"))
    Path(other.home).mkdir()
    driver = detect(other.instance, conf.cgroup_root)
    driver.create("s0")
    with open(Path(other.home) / "sandboxd.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert doctor(environment_of(conf), "--fix")["ok"]
        assert driver.leftovers()
    assert found(doctor(environment_of(conf)), leaked=True).keys() == {(other.instance, "control groups")}


def test_images_of_dead_makers_are_swept_and_one_being_made_is_not(conf: Settings) -> None:
    dead, alive = conf.images_dir / ".tmp-dead-1", conf.images_dir / ".tmp-alive-2"
    for path in (dead, alive):
        path.mkdir(parents=True)
    fd = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        leaked = found(doctor(environment_of(conf)), leaked=True)
        assert leaked == {(conf.instance, "unfinished or unused images"): [".tmp-dead-1"]}
        assert doctor(environment_of(conf), "--fix")["ok"]
        assert (dead.exists(), alive.exists()) == (False, True)
    finally:
        os.close(fd)


def test_mount_of_an_image_on_the_host_is_found_and_undone(conf: Settings, tmp_path: Path) -> None:
    source, target = conf.images_dir / "host" / "root", tmp_path / "elsewhere"
    source.mkdir(parents=True)
    target.mkdir()
    filesystem.mount(str(source), str(target), None, k.MS_BIND)
    try:
        assert found(doctor(environment_of(conf)), leaked=True) == {(conf.instance, "mounts on the host"): [str(target)]}
    finally:
        data = doctor(environment_of(conf), "--fix")
    assert data["fixed"] == ["removed mounts: 1"]
    assert found(data, leaked=True) == {}


def test_everything_a_dead_instance_can_leave_is_counted_by_kind_and_fixed(conf: Settings) -> None:
    package, credential, socket_file = conf.code_dir / ".tmp-dead", Path(conf.home) / ".credential-dead", conf.socket_path
    package.mkdir(parents=True)
    (package / "half").write_text("x")
    (conf.code_dir / ".lock").touch()
    credential.write_text("half")
    (Path(conf.run) / "stage").mkdir(parents=True)
    socket_file.touch()
    (conf.images_dir / ".tmp-dead").mkdir(parents=True)
    detect(conf.instance, conf.cgroup_root).create("s0")
    link = f"{layout.link_prefix(conf.instance)}0"
    subprocess.run(["ip", "link", "add", link, "type", "bridge"], check=True)
    try:
        before = doctor(environment_of(conf))
        after = doctor(environment_of(conf), "--fix")
    finally:
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
    left = {kind: count for kind, count in before["leaks"].items() if count}
    groups = left.pop("control groups")
    assert groups >= 2
    assert left == {
        "links": 1,
        "sockets": 2,
        "unfinished credentials": 1,
        "unfinished or unused images": 1,
        "unfinished code packages": 1,
    }
    assert before["leaked"] == groups + 6
    assert after["leaked"] == 0
    assert set(after["leaks"].values()) == {0}
    assert not any(os.path.lexists(path) for path in (package, credential, socket_file, Path(conf.run) / "stage"))
