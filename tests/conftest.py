"""What every suite shares: what the machine offers, the order of the suites, the check for leaks, and no undeclared skips in CI.

`@pytest.mark.requires("root", "python2.7")` skips with a reason where the machine lacks something. In CI (CI=true) a skip that came
about in any other way is a failure.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: The image and the instances, which integration/ and hostile/ share, and a database server.
pytest_plugins = ["tests.integration.fixtures", "tests.postgres"]

SUITES = ("unit", "integration", "hostile", "e2e")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CGROUPS = Path("/sys/fs/cgroup")
LEAK_PATIENCE_SECONDS = 5.0
DECLARED = "machine lacks "


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in a shell's background: `hearth up` would leave it ignored, as it should, and no test could press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What the machine offers ----------------------------------------------------------------------------------------------------


def controllers() -> set[str]:
    """The cgroup controllers that can be used here, v1 or v2."""
    v2 = CGROUPS / "cgroup.controllers"
    names = set(v2.read_text().split()) if v2.exists() else set()
    return names | {part for entry in CGROUPS.iterdir() if entry.is_dir() for part in entry.name.split(",")}


def find_python(version: str) -> str | None:
    """An interpreter `version` ("2.7", "3.6") in a version manager's directory or in PATH, and None without one."""
    found_there = sorted(Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python{version}")) if os.geteuid() == 0 else []
    # the manager's directory first: what it has in PATH is a shim, which may stand for nothing
    return str(found_there[-1]) if found_there else shutil.which(f"python{version}")


def is_mounted_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY


def reaches_pypi() -> bool:
    """Whether pip gets a package that nothing needs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10", "--dest", folder, "six"]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def can_nat() -> bool:
    """Whether veth, bridge and nftables work here, by the doctor's own trial."""
    from sandbox.doctor import network
    from sandbox.settings import Settings

    return next(iter(network.checks(Settings()))).state == "ok"


CAPABILITIES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "cgroup": lambda: os.geteuid() == 0 and any(is_mounted_writable(path) for path in (CGROUPS / "memory", CGROUPS) if path.exists()),
    "cgroup1": lambda: (CGROUPS / "memory" / "tasks").exists(),
    "cgroup2": lambda: (CGROUPS / "cgroup.controllers").exists(),
    "memcg": lambda: "memory" in controllers(),
    "pids": lambda: "pids" in controllers(),
    "freezer": lambda: "freezer" in controllers() or (CGROUPS / "cgroup.controllers").exists(),
    "overlay": lambda: "overlay" in Path("/proc/filesystems").read_text().split(),
    "python.h": lambda: Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    "userns": lambda: Path("/proc/self/ns/user").exists(),
    "postgresql": lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and importlib.util.find_spec("psycopg") is not None,
    "pypi": reaches_pypi,
    # HEARTH_TEST_WHEELS: a directory with every file that rootfs/sdks/ pins, for a machine whose tests have no network
    "sdks": lambda: bool(os.environ.get("HEARTH_TEST_WHEELS")) or reaches_pypi(),
    "descriptors": lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 16_000,
    "nft": lambda: os.geteuid() == 0 and can_nat(),
    "psi": lambda: Path("/proc/pressure/memory").exists() and os.geteuid() == 0,
    "trial": lambda: os.environ.get("HEARTH_TRIAL") == "1",  # inside a machine of scripts/vm
    "user": lambda: any(line.startswith("hearth:") for line in Path("/etc/passwd").read_text().splitlines()),
}


@functools.cache
def lacks(need: str) -> bool:
    """Whether the machine lacks `need`: a name above, `pythonX.Y`, or `tool:NAME` for a program in PATH."""
    if need in CAPABILITIES:
        return not CAPABILITIES[need]()
    if match := re.fullmatch(r"python(\d)\.?(\d+)", need):
        return find_python(f"{match[1]}.{match[2]}") is None
    if need.startswith("tool:"):
        return shutil.which(need[5:]) is None
    raise ValueError(f"nobody knows how to find out about {need!r}; add it to CAPABILITIES")


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = sorted({need for mark in item.iter_markers("requires") for need in mark.args if lacks(need)})
    if missing:
        pytest.skip(DECLARED + ", ".join(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if DECLARED not in reason:
            report.outcome, report.longrepr = "failed", f"{item.nodeid}: a skip that requires() did not declare: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick suites first; within each the order stays random."""
    items.sort(key=lambda item: SUITES.index(suite_of(item)) if suite_of(item) in SUITES else len(SUITES))


def suite_of(item: pytest.Item) -> str:
    path = item.path
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


# Leaks ----------------------------------------------------------------------------------------------------------------------


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


def mounts() -> set[str]:
    # Columns 4 and 5: what is mounted where. The ids differ from one reading to the next when a namespace is made.
    return {" ".join(line.split()[3:5]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def cgroups() -> set[str]:
    """Every cgroup of ours, by the prefix that all of them carry."""
    found = set()
    for folder, names, _ in os.walk(CGROUPS):
        found |= {f"{folder}/{name}" for name in names if name.startswith("hearth")}
        if folder.count("/") > CGROUPS.as_posix().count("/") + 3:
            names.clear()
    return found


def links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def children() -> set[str]:
    """Processes whose parent is this one, the dead among them that nobody reaped included."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
        except FileNotFoundError:
            continue  # a thread that has just ended
    return found


PROBES: dict[str, Callable[[], set[str]]] = {
    "descriptors": descriptors,
    "mounts": mounts,
    "cgroups": cgroups,
    "links": links,
    "children": children,
}


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Outside unit/: descriptors, mounts, cgroups, links and children are after each test what they were before it."""
    if suite_of(request.node) not in SUITES[1:] or request.node.get_closest_marker("shares_host"):
        yield
        return
    before = {name: probe() for name, probe in PROBES.items()}
    yield
    gc.collect()
    deadline = time.monotonic() + LEAK_PATIENCE_SECONDS
    while left := {name: sorted(new) for name, probe in PROBES.items() if (new := probe() - before[name])}:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {left}")
        time.sleep(0.05)  # the kernel removes namespaces and cgroups in its own time
