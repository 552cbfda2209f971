"""Control groups without a kernel: detection from texts, the files both versions write, and the governor over a cgroup made up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.cgroup import Limits, files
from sandbox.cgroup.detect import delegated_subtree, hierarchies
from sandbox.cgroup.governor import LONGEST_RAISED_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS, STEP_BYTES, Governor, Watch
from sandbox.cgroup.v1 import V1Cgroup, V1Driver
from sandbox.cgroup.v2 import V2Cgroup, V2Driver

MB = 1024 * 1024

LEGACY = """\
23 0 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
HYBRID = LEGACY + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
UNIFIED = """\
23 0 254:0 / / rw,relatime - ext4 /dev/root rw
24 23 0:25 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""
V1_POINTS = {name: f"/sys/fs/cgroup/{name}" for name in ("memory", "freezer", "pids")} | {"cpu": "/sys/fs/cgroup/cpu,cpuacct"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LEGACY, (V1_POINTS, None)),
        (HYBRID, (V1_POINTS, "/sys/fs/cgroup/unified")),
        (UNIFIED, ({}, "/sys/fs/cgroup")),
        ("23 0 254:0 / / rw - ext4 /dev/root rw\n", ({}, None)),
        ("", ({}, None)),
    ],
    ids=["legacy", "hybrid", "unified", "none", "empty"],
)
def test_hierarchies_are_read_from_mountinfo(text: str, expected: Any) -> None:
    assert hierarchies(text) == expected


def test_a_mount_without_a_source_or_with_optional_fields_is_no_obstacle() -> None:
    odd = "50 23 0:40 / /mnt rw shared:1 master:2 propagate_from:3 - tmpfs  rw\n"
    assert hierarchies(odd + UNIFIED) == ({}, "/sys/fs/cgroup")


def test_this_machine_s_own_mountinfo_is_understood() -> None:
    v1, v2 = hierarchies(Path("/proc/self/mountinfo").read_text())
    assert all(os.path.isdir(point) for point in (*v1.values(), *([v2] if v2 else [])))


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"), [("cache", 5), ("total_cache", 9), ("rss", 7), ("cach", 0), ("total", 0), ("none", 0), ("last", 12)]
)
def test_a_key_is_found_whole_or_not_at_all(key: str, value: int) -> None:
    assert files.keyed("cache 5\nrss 7\ntotal_cache 9\nlast 12", key) == value


def test_a_key_that_only_ends_another_is_not_taken_for_it() -> None:
    assert files.keyed("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", "oom_kill") == 3
    assert files.keyed("oom_group_kill 8\noom_kill 2\n", "oom_kill") == 2
    assert files.keyed("", "oom_kill") == 0


def test_a_group_that_is_gone_has_no_children_and_no_processes(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert files.children(gone) == []
    assert files.processes(gone) == []
    files.remove_directory(gone)


def test_children_come_before_their_parents(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "d").mkdir()
    found = files.children(str(tmp_path))
    assert set(found) == {str(tmp_path / name) for name in ("a", "a/b", "a/b/c", "d")}
    assert found.index(str(tmp_path / "a/b/c")) < found.index(str(tmp_path / "a/b")) < found.index(str(tmp_path / "a"))


def failing_rmdir(times: int, number: int, real: Callable[[str], None]) -> Callable[[str], None]:
    left = [times]

    def rmdir(path: str) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        real(path)

    return rmdir


def test_a_busy_group_is_removed_when_the_kernel_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "g"
    group.mkdir()
    monkeypatch.setattr(os, "rmdir", failing_rmdir(3, errno.EBUSY, os.rmdir))
    files.remove_directory(str(group))
    assert not group.exists()


@pytest.mark.parametrize(("number", "patience"), [(errno.EBUSY, 0.0), (errno.EPERM, 5.0)])
def test_what_stays_busy_or_is_refused_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, patience: float) -> None:
    monkeypatch.setattr(os, "rmdir", failing_rmdir(1_000_000, number, os.rmdir))
    with pytest.raises(OSError, match=os.strerror(number)):
        files.remove_directory(str(tmp_path), patience)


def test_leftover_processes_are_killed_until_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(files, "processes", lambda path: [process.pid] if process.poll() is None else [])
    files.kill_processes(str(tmp_path), 5)
    assert process.wait(5) == -9


# ---- version 1 ---------------------------------------------------------------------------------------------------


V1_FILES = {
    "memory": {
        "memory.usage_in_bytes": "1048576",
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.max_usage_in_bytes": "0",
        "memory.stat": "cache 1\ntotal_cache 900\ntotal_shmem 300\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.force_empty": "",
    },
    "pids": {"pids.max": "max"},
    "cpu": {"cpu.shares": "1024", "cpu.cfs_quota_us": "-1"},
    "freezer": {"freezer.state": "THAWED"},
}


def populate(directory: Path, contents: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (directory / name).write_text(text)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(file name, value) in order, each also truncated and written as the kernel would take it."""
    done: list[tuple[str, str]] = []

    def write(path: str, value: str | int) -> None:
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        done.append((os.path.basename(path), str(value)))
        Path(path).write_text(str(value))

    monkeypatch.setattr(files, "write", write)
    return done


@pytest.fixture
def v1(tmp_path: Path) -> V1Cgroup:
    paths = {name: tmp_path / name for name in V1_FILES}
    for name, directory in paths.items():
        populate(directory, {**V1_FILES[name], "tasks": "", "cgroup.procs": ""})
    return V1Cgroup("s0", {name: str(path) for name, path in paths.items()})


def test_v1_limits_go_to_their_files(v1: V1Cgroup, writes: list[tuple[str, str]]) -> None:
    v1.set_limits(Limits(160 * MB, 1025, 102))
    assert dict(writes) == {
        "memory.limit_in_bytes": str(160 * MB),
        "memory.memsw.limit_in_bytes": str(160 * MB),
        "pids.max": "1025",
        "cpu.shares": "102",
        "cpu.cfs_quota_us": "-1",
    }


def test_v1_a_hard_cap_is_a_quota_of_the_hundred_milliseconds_period(v1: V1Cgroup, writes: list[tuple[str, str]]) -> None:
    v1.set_limits(Limits(160 * MB, 10, 1, 500))
    assert dict(writes)["cpu.cfs_quota_us"] == "50000"
    assert dict(writes)["cpu.shares"] == "2"  # the kernel's least


def test_v1_swap_and_memory_limit_move_in_the_order_the_kernel_takes(v1: V1Cgroup, writes: list[tuple[str, str]]) -> None:
    names = {"memory.limit_in_bytes": "limit", "memory.memsw.limit_in_bytes": "swap"}
    v1.set_memory_limit(100 * MB)  # lowered: the plain limit first, memsw may never be below it
    v1.set_memory_limit(200 * MB)  # raised: memsw first
    v1.set_memory_limit(150 * MB)
    assert [names[name] for name, _ in writes] == ["limit", "swap", "swap", "limit", "limit", "swap"]


def test_v1_without_swap_accounting_only_the_memory_limit_is_set(tmp_path: Path, writes: list[tuple[str, str]]) -> None:
    populate(tmp_path, {"memory.limit_in_bytes": "1", "memory.usage_in_bytes": "1"})
    V1Cgroup("s0", {"memory": str(tmp_path)}).set_memory_limit(5)
    assert writes == [("memory.limit_in_bytes", "5")]


def test_v1_figures_are_read(v1: V1Cgroup) -> None:
    assert (v1.memory_usage(), v1.file_cache(), v1.oom_kills()) == (MB, 600, 2)
    assert v1.empty()
    assert v1.kill() is False


def test_v1_the_peak_starts_anew_with_each_lease(v1: V1Cgroup, tmp_path: Path) -> None:
    fd = v1.open_peak()
    try:
        assert (tmp_path / "memory/memory.max_usage_in_bytes").read_text() == "0"
        (tmp_path / "memory/memory.max_usage_in_bytes").write_text("4096\n")
        assert v1.read_peak(fd) == 4096
    finally:
        os.close(fd)


def test_v1_freezing_and_thawing_write_the_state(v1: V1Cgroup, writes: list[tuple[str, str]]) -> None:
    v1.freeze()
    v1.thaw()
    assert writes == [("freezer.state", "FROZEN"), ("freezer.state", "THAWED")]


def test_v1_joining_opens_one_descriptor_for_each_hierarchy(v1: V1Cgroup) -> None:
    joins = v1.open_join()
    try:
        assert set(joins) == {"@memory", "@pids", "@cpu", "@freezer"}
        assert all(os.readlink(f"/proc/self/fd/{fd}").endswith("/tasks") for fd in joins.values())
        assert not any(os.get_inheritable(fd) for fd in joins.values())
    finally:
        for fd in joins.values():
            os.close(fd)


def test_v1_without_memory_there_is_nothing_to_measure_and_nothing_fails(tmp_path: Path, writes: list[tuple[str, str]]) -> None:
    populate(tmp_path, {"pids.max": "max", "cgroup.procs": "12\n"})
    group = V1Cgroup("s0", {"pids": str(tmp_path)})
    group.set_limits(Limits(MB, 9, 2))
    group.set_memory_limit(5)
    group.freeze()
    group.force_empty()
    fd = group.open_peak()
    assert (group.memory_usage(), group.file_cache(), group.oom_kills(), group.read_peak(fd), group.empty()) == (0, 0, 0, 0, False)
    os.close(fd)
    assert writes == [("pids.max", "9")]


def test_v1_the_driver_makes_finds_and_sweeps_its_own_directories_only(tmp_path: Path) -> None:
    mounts = {name: str(tmp_path / name) for name in ("pids", "cpu")}
    driver = V1Driver(mounts, "abcd1234", "delegated/")
    assert driver.controllers == {"pids", "cpu"}
    assert driver.missing == {"memory", "freezer"}
    driver.create("s0")
    driver.create("s1")
    foreign = tmp_path / "pids/delegated/hearth-ffff0000/s0"
    foreign.mkdir(parents=True)
    assert set(driver.leftovers()) == {
        str(tmp_path / name / "delegated/hearth-abcd1234" / slot) for name in mounts for slot in ("s0", "s1", "")
    }
    assert driver.sweep() == 6
    assert driver.leftovers() == []
    assert foreign.is_dir()
    assert driver.sweep() == 0


# ---- version 2 ---------------------------------------------------------------------------------------------------


V2_FILES = {
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.freeze": "0",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "memory.current": "2097152",
    "memory.max": "max",
    "memory.high": "max",
    "memory.oom.group": "0",
    "memory.swap.max": "max",
    "memory.peak": "0",
    "memory.stat": "anon 5\nfile 900\nkernel 1\nshmem 300\n",
    "memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 9\n",
    "pids.max": "max",
    "cpu.weight": "100",
    "cpu.max": "max 100000",
}
ALL = frozenset({"memory", "pids", "cpu"})


@pytest.fixture
def v2(tmp_path: Path) -> V2Cgroup:
    populate(tmp_path / "s0", V2_FILES)
    return V2Cgroup(str(tmp_path / "s0"), ALL)


def test_v2_limits_go_to_their_files_without_swap(v2: V2Cgroup, writes: list[tuple[str, str]]) -> None:
    v2.set_limits(Limits(160 * MB, 1025, 102, 250))
    assert dict(writes) == {
        "memory.max": str(160 * MB),
        "memory.high": str(156 * MB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "1025",
        "cpu.weight": "4",
        "cpu.max": "25000 100000",
    }


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (1024, "39"), (262_144, "10000"), (1, "1")])
def test_v2_shares_become_weights_within_the_kernel_s_range(v2: V2Cgroup, writes: list[tuple[str, str]], shares: int, weight: str) -> None:
    v2.set_limits(Limits(MB, 1, shares))
    assert dict(writes)["cpu.weight"] == weight
    assert dict(writes)["cpu.max"] == "max 100000"


def test_v2_figures_are_read(v2: V2Cgroup, tmp_path: Path) -> None:
    assert (v2.name, v2.memory_usage(), v2.file_cache(), v2.oom_kills(), v2.empty()) == ("s0", 2 * MB, 600, 3, False)
    (tmp_path / "s0/cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert v2.empty()


def test_v2_the_limit_rises_before_its_brake_and_falls_after_it(v2: V2Cgroup, writes: list[tuple[str, str]]) -> None:
    v2.set_memory_limit(100 * MB)
    v2.set_memory_limit(200 * MB)
    v2.set_memory_limit(150 * MB)
    assert [name for name, _ in writes] == ["memory.max", "memory.high", "memory.max", "memory.high", "memory.high", "memory.max"]
    assert writes[-1] == ("memory.max", str(150 * MB))


def test_v2_a_limit_below_what_is_used_is_refused_as_v1_refuses_it(v2: V2Cgroup, writes: list[tuple[str, str]], tmp_path: Path) -> None:
    """The kernel would take it, and kill."""
    v2.set_memory_limit(100 * MB)
    (tmp_path / "s0/memory.current").write_text(str(80 * MB))
    with pytest.raises(OSError, match="busy") as raised:
        v2.set_memory_limit(50 * MB)
    assert raised.value.errno == errno.EBUSY
    assert (tmp_path / "s0/memory.max").read_text() == str(100 * MB)
    assert writes[-1] == ("memory.high", str(46 * MB))
    (tmp_path / "s0/memory.current").write_text(str(20 * MB))
    v2.set_memory_limit(50 * MB)
    assert writes[-1] == ("memory.max", str(50 * MB))


def test_v2_what_never_changes_is_written_once(v2: V2Cgroup, writes: list[tuple[str, str]]) -> None:
    for _ in range(3):
        v2.set_limits(Limits(160 * MB, 10, 2))
    assert [name for name, _ in writes].count("memory.swap.max") == 1
    assert [name for name, _ in writes].count("memory.oom.group") == 1


def test_v2_a_peak_that_can_be_reset_is_known_exactly(v2: V2Cgroup, tmp_path: Path) -> None:
    fd = v2.open_peak()
    try:
        assert v2.knows_peak
        (tmp_path / "s0/memory.peak").write_text("4096\n")
        assert v2.read_peak(fd) == 4096
    finally:
        os.close(fd)


def test_v2_a_peak_of_the_whole_life_tells_of_a_call_that_passed_it(v2: V2Cgroup, tmp_path: Path) -> None:
    """Before 6.12, where writing to it is an error though root may open it so."""
    peak, current = tmp_path / "s0/memory.peak", tmp_path / "s0/memory.current"
    peak.write_text("50000\n")
    peak.chmod(0o444)
    current.write_text("20000\n")
    fd = v2.open_peak()
    try:
        assert not v2.knows_peak
        assert v2.read_peak(fd) == 20_000  # not higher than ever: what is used now
        peak.chmod(0o644)
        peak.write_text("70000\n")
        assert v2.read_peak(fd) == 70_000
        v2.reset_peak(fd)
        assert v2.read_peak(fd) == 20_000
        assert peak.read_text() == "70000\n"
    finally:
        os.close(fd)


def test_v2_killing_is_one_write_where_the_kernel_has_it(v2: V2Cgroup, writes: list[tuple[str, str]], tmp_path: Path) -> None:
    assert v2.kill() is True
    assert writes == [("cgroup.kill", "1")]
    (tmp_path / "s0/cgroup.kill").unlink()
    assert v2.kill() is False


def test_v2_without_a_peak_counter_it_was_at_least_what_is_used_now(v2: V2Cgroup, tmp_path: Path) -> None:
    (tmp_path / "s0/memory.peak").unlink()
    fd = v2.open_peak()
    assert (v2.read_peak(fd), v2.knows_peak) == (2 * MB, False)
    os.close(fd)


def test_v2_a_gone_group_is_empty(tmp_path: Path) -> None:
    assert V2Cgroup(str(tmp_path / "gone"), ALL).empty()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINVAL])
def test_v2_reclaiming_less_than_asked_is_no_failure(v2: V2Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (tmp_path / "s0/memory.reclaim").write_text("")

    def refuse(path: str, value: str | int) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(files, "write", refuse)
    v2.force_empty()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A v2 tree at `tmp_path` whose groups have their files from the beginning; what was written, relative to it."""
    contents = {"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "cgroup.procs": ""}
    populate(tmp_path, contents)
    done: list[tuple[str, str]] = []
    real_makedirs = os.makedirs

    def makedirs(path: str, exist_ok: bool = False) -> None:
        missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
        real_makedirs(path, exist_ok=exist_ok)
        for folder in missing:
            populate(folder, contents)

    monkeypatch.setattr(os, "makedirs", makedirs)
    monkeypatch.setattr(files, "remove_directory", lambda path: subprocess.run(["rm", "-r", path], check=True))
    monkeypatch.setattr(files, "write", lambda path, value: done.append((os.path.relpath(path, tmp_path), str(value))))
    return done


def test_v2_the_driver_enables_its_controllers_downwards_once(tmp_path: Path, tree: list[tuple[str, str]]) -> None:
    driver = V2Driver(str(tmp_path), "abcd1234")
    driver.create("s0")
    driver.create("s1")
    assert tree == [
        ("cgroup.subtree_control", "+cpu +memory +pids"),
        ("hearth-abcd1234/cgroup.subtree_control", "+cpu +memory +pids"),
    ]
    assert (driver.controllers, driver.missing, driver.root) == (ALL, frozenset(), "")
    assert driver.sweep() == 3
    assert driver.leftovers() == []


def test_v2_only_what_is_not_enabled_yet_is_enabled(tmp_path: Path, tree: list[tuple[str, str]]) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("memory pids io\n")
    V2Driver(str(tmp_path), "abcd1234", "/a/b/").create("s0")
    assert tree == [
        ("cgroup.subtree_control", "+cpu"),
        *((f"{folder}/cgroup.subtree_control", "+cpu +memory +pids") for folder in ("a", "a/b", "a/b/hearth-abcd1234")),
    ]


def test_v2_in_a_delegated_subtree_our_own_processes_go_into_a_leaf_first(tmp_path: Path, tree: list[tuple[str, str]]) -> None:
    service = tmp_path / "system.slice/hearth.service"
    os.makedirs(str(service))
    (service / "cgroup.procs").write_text("41\n42\n")
    for folder in (tmp_path, service.parent):
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    driver = V2Driver(str(tmp_path), "abcd1234", "system.slice/hearth.service", delegated=True)
    driver.create("s0")
    here = "system.slice/hearth.service"
    assert tree == [
        (f"{here}/runtime/cgroup.procs", "41"),
        (f"{here}/runtime/cgroup.procs", "42"),
        (f"{here}/cgroup.subtree_control", "+cpu +memory +pids"),
        (f"{here}/hearth-abcd1234/cgroup.subtree_control", "+cpu +memory +pids"),
    ]
    assert set(map(os.path.basename, driver.leftovers())) == {"s0", "hearth-abcd1234"}


def test_v2_elsewhere_others_processes_stay_where_they_are(tmp_path: Path, tree: list[tuple[str, str]]) -> None:
    (tmp_path / "cgroup.procs").write_text("41\n")
    V2Driver(str(tmp_path), "abcd1234").create("s0")
    assert not any("cgroup.procs" in name for name, _ in tree)


def test_v2_a_place_that_does_not_exist_has_nothing_left_and_can_be_made(tmp_path: Path, tree: list[tuple[str, str]]) -> None:
    driver = V2Driver(str(tmp_path), "abcd1234", "gone/since")
    assert (driver.leftovers(), driver.sweep(), driver.controllers) == ([], 0, ALL)
    driver.create("s0")
    assert (tmp_path / "gone/since/hearth-abcd1234/s0").is_dir()


@pytest.mark.parametrize(
    ("own", "marked", "expected"),
    [
        ("0::/system.slice/hearth.service\n", ["system.slice/hearth.service"], "system.slice/hearth.service"),
        ("0::/system.slice/hearth.service/runtime\n", ["system.slice/hearth.service"], "system.slice/hearth.service"),
        ("0::/system.slice/hearth.service\n", [], ""),
        ("0::/\n", [""], ""),
        ("4:memory:/x\n0::/a/b\n", ["a"], "a"),
        ("4:memory:/x\n", [], ""),
    ],
    ids=["the service", "its leaf", "not delegated", "the root", "hybrid", "legacy"],
)
def test_the_delegated_subtree_is_found_by_systemd_s_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, marked: list[str], expected: str
) -> None:
    def getxattr(path: str, name: str) -> bytes:
        if name == "trusted.delegate" and os.path.relpath(path, tmp_path) in marked:
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert delegated_subtree(str(tmp_path), own) == expected


def test_v2_what_the_host_lacks_is_told(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    assert V2Driver(str(tmp_path), "x").missing == {"memory", "pids"}


# ---- governor ----------------------------------------------------------------------------------------------------


class Memory:
    """A cgroup made up: what is charged to it, and the limits it was given. `refuses` makes lowering fail with that errno."""

    name = "s0"

    def __init__(self) -> None:
        self.usage = 0
        self.cache = 0
        self.limits: list[int] = []
        self.refuses = 0
        self.fails = 0
        self.looked = threading.Event()

    def memory_usage(self) -> int:
        self.looked.set()
        if self.fails:
            raise OSError(self.fails, os.strerror(self.fails))
        return self.usage

    def file_cache(self) -> int:
        return self.cache

    def set_memory_limit(self, size_bytes: int) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        self.limits.append(size_bytes)


class Filesystem:
    def __init__(self, used: int) -> None:
        self.f_frsize, self.f_blocks = 1, 1 << 40
        self.f_bfree = self.f_blocks - used


@pytest.fixture
def tmp_used(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes in the sandbox's /tmp."""
    used = {"bytes": 0}
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Filesystem(used["bytes"]))
    return used


@pytest.fixture
def told() -> list[Watch]:
    return []


@pytest.fixture
def watch(tmp_path: Path, told: list[Watch], tmp_used: dict[str, int]) -> Iterator[Watch]:
    watch = Watch(
        cgroup=Memory(),  # type: ignore[arg-type]
        own_limit=128 * MB,
        headroom=32 * MB,
        tmp_path=str(tmp_path),
        over=told.append,
        kernel_limit=160 * MB,
    )
    yield watch
    watch.close()


def memory(watch: Watch) -> Memory:
    assert isinstance(watch.cgroup, Memory)
    return watch.cgroup


def test_a_small_function_is_looked_at_seldom_and_its_limit_stays(watch: Watch) -> None:
    memory(watch).usage = 10 * MB
    assert SHORTEST_SECONDS <= watch.look() <= LONGEST_SECONDS
    assert memory(watch).limits == []
    assert watch.own_peak == 10 * MB


def test_the_limit_is_raised_ahead_by_what_is_in_tmp(watch: Watch, tmp_used: dict[str, int], told: list[Watch]) -> None:
    tmp_used["bytes"] = 400 * MB
    memory(watch).usage = 410 * MB
    assert watch.look() <= LONGEST_RAISED_SECONDS
    assert memory(watch).limits == [(128 + 400 + 32) * MB]
    assert (watch.tmp_peak, watch.own_peak, told) == (400 * MB, 10 * MB, [])


def test_the_limit_is_lowered_when_files_are_deleted(watch: Watch, tmp_used: dict[str, int]) -> None:
    tmp_used["bytes"] = 400 * MB
    watch.look()
    tmp_used["bytes"] = 0
    watch.look()
    assert memory(watch).limits == [560 * MB, 160 * MB]
    assert watch.tmp_peak == 400 * MB


def test_what_former_calls_left_in_tmp_counts_from_the_beginning(watch: Watch) -> None:
    assert replace(watch, tmp_bytes=300 * MB).tmp_peak == 300 * MB


def test_a_call_too_short_for_a_look_is_settled_at_its_end(watch: Watch, tmp_used: dict[str, int]) -> None:
    tmp_used["bytes"], memory(watch).cache = 30 * MB, 2 * MB
    watch.settle()
    assert (watch.tmp_bytes, watch.tmp_peak, watch.file_cache, watch.looks) == (30 * MB, 30 * MB, 2 * MB, 1)


def test_a_sandbox_that_is_ending_is_not_settled(watch: Watch) -> None:
    watch.tmp_path = "/proc/self/no-such-directory"
    watch.settle()
    assert (watch.tmp_bytes, watch.looks) == (0, 0)


def test_a_small_change_of_tmp_moves_nothing(watch: Watch, tmp_used: dict[str, int]) -> None:
    tmp_used["bytes"] = STEP_BYTES - 1
    watch.look()
    assert memory(watch).limits == []


def test_own_memory_over_the_limit_is_told_once(watch: Watch, told: list[Watch]) -> None:
    memory(watch).usage = 129 * MB
    watch.look()
    watch.look()
    assert told == [watch]
    assert watch.exceeded


def test_memory_of_exactly_the_limit_is_allowed(watch: Watch, told: list[Watch]) -> None:
    memory(watch).usage = 128 * MB
    watch.look()
    assert told == []


def test_files_in_tmp_and_page_cache_are_not_the_function_s_own(watch: Watch, tmp_used: dict[str, int], told: list[Watch]) -> None:
    tmp_used["bytes"] = 300 * MB
    memory(watch).usage = 300 * MB + 100 * MB + 60 * MB
    memory(watch).cache = 100 * MB
    watch.look()
    assert told == []
    assert watch.own_peak == 60 * MB


def test_filling_deleting_and_then_allocating_is_over(watch: Watch, tmp_used: dict[str, int], told: list[Watch]) -> None:
    tmp_used["bytes"] = 400 * MB
    memory(watch).usage = 410 * MB
    watch.look()
    tmp_used["bytes"] = 0
    memory(watch).usage = 160 * MB
    watch.look()
    assert told == [watch]


def test_a_limit_that_cannot_be_lowered_yet_is_tried_again(watch: Watch, tmp_used: dict[str, int]) -> None:
    tmp_used["bytes"] = 400 * MB
    watch.look()
    tmp_used["bytes"] = 0
    memory(watch).refuses = errno.EBUSY
    watch.look()
    assert watch.kernel_limit == 560 * MB
    memory(watch).refuses = 0
    watch.look()
    assert watch.kernel_limit == 160 * MB


def test_another_refusal_is_told(watch: Watch, tmp_used: dict[str, int]) -> None:
    tmp_used["bytes"] = 400 * MB
    memory(watch).refuses = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        watch.look()


def test_close_to_the_limit_looks_come_fast(watch: Watch) -> None:
    memory(watch).usage = 159 * MB
    assert watch.look() == SHORTEST_SECONDS


@pytest.fixture
def governor() -> Iterator[Governor]:
    governor = Governor()
    governor.start()
    yield governor
    governor.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_governor_finds_who_is_over(governor: Governor, watch: Watch, told: list[Watch]) -> None:
    governor.watch(watch)
    assert memory(watch).looked.wait(5)
    assert told == []
    memory(watch).usage = 200 * MB
    wait_for(lambda: told == [watch])


def test_after_unwatch_nobody_looks_and_the_descriptor_is_closed(governor: Governor, watch: Watch) -> None:
    governor.watch(watch)
    wait_for(lambda: watch.looks > 0)
    governor.unwatch(watch)
    looks, other = watch.looks, Memory()
    assert watch._tmp_fd == -1
    last = Watch(cgroup=other, own_limit=1 << 40, headroom=MB, tmp_path="/tmp", over=lambda _: None, kernel_limit=1 << 40)  # type: ignore[arg-type]
    governor.watch(last)
    wait_for(lambda: last.looks > 3)  # the entry of the first was due long before
    governor.unwatch(last)
    assert watch.looks == looks


@pytest.mark.parametrize("number", [errno.ESRCH, errno.ENODEV, errno.ENOENT])
def test_a_sandbox_that_is_gone_is_forgotten_and_the_others_are_looked_at(
    governor: Governor, watch: Watch, tmp_path: Path, number: int
) -> None:
    memory(watch).fails = number
    governor.watch(watch)
    other = Memory()
    second = Watch(cgroup=other, own_limit=1 << 40, headroom=MB, tmp_path=str(tmp_path), over=lambda _: None, kernel_limit=1 << 40)  # type: ignore[arg-type]
    governor.watch(second)
    wait_for(lambda: watch.looks > 0 and second.looks > 2)
    assert watch.looks == 1
    governor.unwatch(second)
    governor.unwatch(watch)


def test_a_governor_that_stops_leaves_no_thread() -> None:
    governor = Governor()
    governor.start()
    governor.stop()
    assert "governor" not in [thread.name for thread in threading.enumerate()]
