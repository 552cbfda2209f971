"""One plan, two executors: the host's and the guest's do the same, fail the same, and a creation that fails at any step leaves nothing.

Plans run in programs of their own, in new namespaces; what they come to is compared from outside.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import plan, seccomp
from sandbox.cgroup import Cgroup, Driver, detect
from sandbox.kernel import constants as k
from sandbox.kernel import filesystem
from sandbox.launcher import executor

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "sandbox/guest"
UID = 1_900_000_007
FAILED = 73

pytestmark = pytest.mark.requires("root")

#: Both programs: argv is (directory of our code, JSON of {"steps", "fds", "filters"}). They print the state of the process after the plan,
#: or {"index", "op", "errno", "path", "hint"} of the step that failed.
STATE = r"""
import base64, ctypes, json, os, resource, socket, sys
request = json.loads(sys.argv[2])
before = dict((name, os.readlink("/proc/self/ns/" + name)) for name in ("mnt", "uts", "ipc", "cgroup", "net", "user"))
fds = dict((str(name), fd) for name, fd in request["fds"].items())

def lines(path):
    with open(path) as file:
        return file.read().splitlines()

def state():
    wanted = ("Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp")
    status = dict(line.split(":", 1) for line in lines("/proc/self/status") if line.split(":")[0] in wanted)
    mounts = []
    for line in lines("/proc/self/mountinfo"):
        left, right = line.split(" - ", 1)
        mounts.append([left.split()[3:6], right.split(" ", 2)])  # ids and peer groups differ from one namespace to the next
    umask = os.umask(0)
    os.umask(umask)
    limits = dict((name, resource.getrlimit(getattr(resource, "RLIMIT_" + name))) for name in ("CORE", "NOFILE", "NPROC", "AS"))
    changed = sorted(name for name in before if os.readlink("/proc/self/ns/" + name) != before[name])
    libc = ctypes.CDLL(None, use_errno=True)
    refused = [libc.unshare(0), ctypes.get_errno(), libc.syscall(ctypes.c_long(435), 0, 0), ctypes.get_errno()]  # clone3
    return {"status": status, "mounts": mounts, "hostname": socket.gethostname(), "umask": umask, "limits": limits, "changed": changed,
            "cgroups": sorted(line.split(":", 1)[1] for line in lines("/proc/self/cgroup")), "left": sorted(fds), "refused": refused,
            "maps": [lines("/proc/self/uid_map")[0].split(), lines("/proc/self/gid_map")[0].split()]}
"""

HOST_PROGRAM = (
    STATE
    + r"""
sys.path.insert(0, sys.argv[1])
from sandbox.launcher import executor
try:
    executor.run(request["steps"], fds, {name: base64.b64decode(text) for name, text in request["filters"].items()})
except executor.StepFailed as failed:
    print(json.dumps({"index": failed.index, "op": failed.op, "errno": failed.errno, "path": failed.path, "hint": failed.hint}))
    sys.exit(73)
print(json.dumps(state()))
"""
)

GUEST_PROGRAM = (
    STATE
    + r"""
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import zygote
zygote.load_filters(request["filters"])
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
child = os.fork()
if child == 0:
    zygote.run("init", request["steps"], fds, theirs.fileno())
    theirs.send(json.dumps(state()).encode("utf-8"))
    os._exit(0)
theirs.close()
told = json.loads(ours.recv(1 << 20).decode("utf-8"))
status = os.waitpid(child, 0)[1] >> 8
if status == 73:
    word, index, op = told["step"].split()
    assert (told["op"], told["stage"], word) == ("error", "init", "step"), told
    told = {"index": int(index), "op": op, "errno": told["errno"], "path": told["path"], "hint": told["hint"]}
print(json.dumps(told))
sys.exit(status)
"""
)

OPERATIONS_PROGRAM = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import zygote
print(json.dumps(sorted(zygote.OPERATIONS)))
"""

PYTHON27 = next((str(path) for path in sorted(Path("/root/.pyenv/versions").glob("2.7.*/bin/python"))), "python2.7")


FILTERS = seccomp.to_json(seccomp.compile_filters())


@dataclass(frozen=True)
class Side:
    """One of the two executors and the interpreter it runs on."""

    name: str
    python: str
    program: str
    path: Path

    def run(self, steps: plan.Plan, fds: dict[str, int]) -> tuple[int, dict[str, Any]]:
        """(exit status, what the program printed)."""
        request = json.dumps({"steps": plan.to_json(steps), "fds": fds, "filters": FILTERS})
        command = [self.python, "-s", "-c", self.program, str(self.path), request]
        done = subprocess.run(command, pass_fds=list(fds.values()), capture_output=True, timeout=30, check=False, cwd="/")
        assert done.stdout, (done.returncode, done.stderr.decode())
        return done.returncode, json.loads(done.stdout)


HOST = Side("host", sys.executable, HOST_PROGRAM, ROOT)
GUEST3 = Side("guest", "/usr/bin/python3", GUEST_PROGRAM, GUEST)
GUEST27 = Side("guest27", PYTHON27, GUEST_PROGRAM, GUEST)
GUESTS = [pytest.param(GUEST3, id="python3"), pytest.param(GUEST27, id="python2.7", marks=pytest.mark.requires("python2.7"))]
SIDES = [pytest.param(HOST, id="host"), *GUESTS]


@contextlib.contextmanager
def mapper(own: plan.Shape) -> Iterator[int]:
    """PID 1's part of a user namespace, played from outside: a descriptor for `@init`; who tells on it gets its maps."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.settimeout(20)

    def serve() -> None:
        data, ((_, _, credentials),), _, _ = ours.recvmsg(1, socket.CMSG_SPACE(12))
        assert data == b"1"
        wait, write, tell = plan.to_json(plan.map_plan(own))
        assert (wait[0], tell[0]) == ("wait", "tell")
        executor.run([[write[0], [struct.unpack("3i", credentials)[0], *write[1][1:]], ""]], {}, {})
        ours.send(b"1")

    with ours, theirs, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        yield theirs.fileno()
        served.result(20)


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = detect(f"t{os.getpid() & 0xFFFFFF:07x}")
    yield driver
    assert driver.sweep() <= len(driver.controllers), "something was left in a cgroup's directory"


@pytest.fixture
def cgroup(driver: Driver) -> Iterator[Cgroup]:
    cgroup = driver.create("s0")
    yield cgroup
    assert cgroup.empty()
    cgroup.remove()


def shape(joins: dict[str, int]) -> plan.Shape:
    return plan.Shape(uid=UID, gid=UID, tmp_mb=7, tmp_inodes=1000, shm_mb=3, descriptors=333, cgroups=tuple(joins))


def state_after(side: Side, cgroup: Cgroup, code: Path) -> dict[str, Any]:
    """The plans that run inside an image, one behind the other as in a worker, on `side`."""
    fds = cgroup.open_join()
    directory = os.open(code, os.O_PATH | os.O_DIRECTORY)
    fds["@net"] = os.open("/proc/self/ns/net", os.O_RDONLY)
    fds["@code"] = filesystem.clone_tree_read_only(directory)
    own = shape({name: fd for name, fd in fds.items() if name not in ("@net", "@code")})
    # /mnt stands for /var/user, which a host has not
    attach = [
        step._replace(args=tuple("/mnt" if arg == plan.CODE_DIR else arg for arg in step.args))
        for step in plan.attach_plan(layers=False, tmp_mb=9)
    ]
    # a zygote empties its bounding set and installs the base filter once for all sandboxes, an exec'd one by its own plan: here they
    # are steps of the test's
    steps = [*plan.enter_plan(own), *plan.mounts_plan(own), *attach, plan.Step("bounding_set", ([],)), plan.Step("seccomp", ("base",))]
    try:
        with mapper(own) as init:
            status, state = side.run([*steps, *plan.worker_plan(own)], {**fds, "@init": init})
    finally:
        for fd in (*fds.values(), directory):
            os.close(fd)
    assert status == 0, state
    return state


@pytest.mark.requires("cgroup")
@pytest.mark.parametrize("guest", GUESTS)
def test_both_executors_bring_a_process_to_the_same_state(guest: Side, cgroup: Cgroup, tmp_path: Path) -> None:
    host, inside = (state_after(side, cgroup, tmp_path) for side in (HOST, guest))
    for name in host:
        assert host[name] == inside[name], name


@pytest.mark.requires("cgroup")
@pytest.mark.parametrize("side", SIDES)
def test_the_state_is_the_one_the_plan_names(side: Side, cgroup: Cgroup, tmp_path: Path) -> None:
    state = state_after(side, cgroup, tmp_path)
    status = {name: value.split() for name, value in state["status"].items()}
    assert status["Uid"] == status["Gid"] == [str(plan.USER_ID)] * 4
    assert status["Groups"] == []
    assert state["maps"] == [[str(plan.USER_ID), str(UID), "1"]] * 2
    assert all(int(status[name][0], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"] == ["1"]
    assert (state["hostname"], state["umask"], state["changed"]) == ("sandbox", 0o022, ["cgroup", "ipc", "mnt", "user", "uts"])
    assert state["limits"]["CORE"] == [0, 0]
    assert state["limits"]["NOFILE"] == [333, 333]
    assert status["Seccomp"] == ["2"]  # SECCOMP_MODE_FILTER
    assert state["refused"] == [-1, errno.EPERM, -1, errno.ENOSYS]
    assert state["left"] == ["@init"]  # every descriptor of the plan was used and closed; this one says `ready` later
    joined = [line for line in state["cgroups"] if line.split(":")[0] in ("memory", "pids", "freezer", "cpu", "")]
    assert all(line.endswith(":/") for line in joined if line.split(":")[0]), "not at the root of its cgroup namespace"


@pytest.mark.requires("cgroup")
@pytest.mark.parametrize("side", SIDES)
def test_mounts_are_there_with_size_and_flags(side: Side, cgroup: Cgroup, tmp_path: Path) -> None:
    mounts = {
        where: (flags.split(","), kind, options.split(","))
        for (_, where, flags), (kind, _, options) in state_after(side, cgroup, tmp_path)["mounts"]
    }
    assert mounts["/tmp"][1] == "tmpfs"
    assert {"rw", "nosuid", "nodev"} <= set(mounts["/tmp"][0])
    assert "size=9216k" in mounts["/tmp"][2]
    assert f"uid={UID}" in mounts["/tmp"][2]
    assert "size=3072k" in mounts["/dev/shm"][2]
    assert {"ro", "nosuid", "nodev"} <= set(mounts["/mnt"][0])
    assert {"nosuid", "nodev", "noexec"} <= set(mounts["/proc"][0])
    assert "ro" in mounts["/proc/sys"][0]
    masked = {f"/proc/{name}" for name in (*plan.MASKED_FILES, *plan.MASKED_DIRECTORIES) if os.path.exists(f"/proc/{name}")}
    assert masked
    assert masked <= set(mounts)


# ---- failing -----------------------------------------------------------------------------------------------------


UNSHARE = plan.Step("unshare", (k.CLONE_NEWNS | k.CLONE_NEWUTS,))
POWERLESS = plan.Step("capabilities", ([],))
MISSING = "/no/such/place"

#: (what comes before, the step that fails, errno, path); "@null" is /dev/null, opened for reading.
FAILING: list[tuple[list[plan.Step], plan.Step, int, str]] = [
    ([], plan.Step("join_cgroups", ("@null",), "the cgroup is gone"), errno.EBADF, ""),
    ([], plan.Step("unshare", (1,), "h"), errno.EINVAL, ""),
    ([], plan.Step("setns", ("@null", k.CLONE_NEWNET), "h"), errno.EINVAL, ""),
    ([UNSHARE], plan.Step("mount", ("none", MISSING, "tmpfs", 0, None), "needs a place"), errno.ENOENT, MISSING),
    ([UNSHARE], plan.Step("mount", ("none", "/mnt", "nosuchfs", 0, None), "h"), errno.ENODEV, "/mnt"),
    ([UNSHARE], plan.Step("move_mount", ("@null", MISSING), "h"), errno.ENOENT, MISSING),
    ([UNSHARE], plan.Step("mask_file", ("/mnt",), "h"), errno.ENOTDIR, "/mnt"),
    ([UNSHARE, POWERLESS], plan.Step("mask_directory", ("/mnt",), "h"), errno.EPERM, "/mnt"),
    ([UNSHARE], plan.Step("read_only", (MISSING,), "h"), errno.ENOENT, MISSING),
    ([UNSHARE], plan.Step("sethostname", ("x" * 100,), "h"), errno.EINVAL, ""),
    ([POWERLESS], plan.Step("bounding_set", ([],), "needs CAP_SETPCAP"), errno.EPERM, ""),
    ([POWERLESS], plan.Step("capabilities", ([k.CAP_SYS_ADMIN],), "h"), errno.EPERM, ""),
    ([POWERLESS], plan.Step("set_ids", (UID, UID), "h"), errno.EPERM, ""),
    ([], plan.Step("map_ids", (1, plan.USER_ID, UID, UID), "h"), errno.EPERM, ""),  # the host's PID 1 has its maps
    ([], plan.Step("tell", ("@null",), "h"), errno.EBADF, ""),
    ([], plan.Step("wait", ("@null",), "it ended"), errno.EPIPE, ""),
    ([POWERLESS], plan.Step("seccomp", ("worker",), "needs no_new_privs"), errno.EACCES, ""),
    ([plan.Step("limit", ("NOFILE", 100)), POWERLESS], plan.Step("limit", ("NOFILE", -1), "h"), 0, ""),
]
NEVER_FAIL = {"umask", "no_new_privs", "dumpable"}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("before", "step", "number", "path"), FAILING, ids=[f"{n}-{case[1].op}" for n, case in enumerate(FAILING)])
def test_a_step_that_fails_is_told_with_its_index_errno_and_path(
    side: Side, before: list[plan.Step], step: plan.Step, number: int, path: str
) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        status, told = side.run([*before, step, plan.Step("umask", (0,))], {"@null": fd})
    finally:
        os.close(fd)
    expected = {"index": len(before) + 1, "op": step.op, "errno": number, "path": path, "hint": step.hint}
    assert (status, told) == (FAILED, expected)


def guest_operations(python: str) -> set[str]:
    return set(json.loads(subprocess.check_output([python, "-s", "-c", OPERATIONS_PROGRAM, str(GUEST)], timeout=30)))


def test_every_operation_of_the_guest_is_made_to_fail_or_cannot() -> None:
    assert {case[1].op for case in FAILING} | NEVER_FAIL == guest_operations("/usr/bin/python3")


@pytest.mark.parametrize("guest", GUESTS)
def test_the_guest_knows_only_what_the_host_knows(guest: Side) -> None:
    assert guest_operations(guest.python) <= set(executor.OPERATIONS)


def test_each_side_knows_every_operation_of_the_plans_it_is_given() -> None:
    own = shape({"@cgroup": 0})
    inside = [
        *plan.enter_plan(own),
        *plan.mounts_plan(own),
        *plan.attach_plan(layers=True, tmp_mb=1),
        *plan.drop_plan(own),
        *plan.worker_plan(own),
        *plan.map_plan(own),
    ]
    outside = plan.zygote_plan("/x", "/y", {"guest/worker.py": ""}, ("@cgroup",))
    assert {step.op for step in inside} <= guest_operations("/usr/bin/python3")
    assert {step.op for step in (*inside, *outside)} <= set(executor.OPERATIONS)


# ---- the creation sweep ------------------------------------------------------------------------------------------

#: Stands in the launcher's place: takes one request as the launcher does, and prints what the sandbox told.
LAUNCHER_PROGRAM = r"""
import json, os, sys
sys.path.insert(0, sys.argv[1])
from sandbox.kernel import sockets
from sandbox.launcher import __main__ as launcher
request, fds = json.loads(sys.argv[2]), json.loads(sys.argv[3])
ours, theirs = sockets.seqpacket_pair()
names = [*fds, "@control"]
namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
launcher._serve({**request, "fds": names}, [*fds.values(), theirs.detach()], ours, namespace)
told = []
ours.settimeout(20)
while data := ours.recv(65536):
    told.append(json.loads(data))  # until PID 1 is gone: its worker has nothing to exec and ends by itself
pid, status = os.waitpid(-1, 0)
try:
    os.waitpid(-1, os.WNOHANG)
    alone = False
except ChildProcessError:
    alone = True
print(json.dumps({"told": told, "exit": os.waitstatus_to_exitcode(status), "alone": alone, "mounts": open("/proc/self/mountinfo").read()}))
"""


@dataclass(frozen=True)
class Bench:
    """What an exec'd sandbox is made from: an image that is only directories, its stage, and a cgroup."""

    root: Path
    stage: Path
    code: Path
    cgroup: Cgroup

    def request(self, joins: dict[str, int]) -> dict[str, list[plan.Step]]:
        """As factory.ExecFactory builds it."""
        own = shape(joins)
        root = plan.root_steps(str(self.root), str(self.stage), {"guest/worker.py": "", "rehearsal/hearth_rehearsal.py": ""})
        init = plan.exec_plan(own, root, layers=False)
        return {"init": init, "worker": plan.worker_plan(own), "map": plan.map_plan(own), "drop": plan.drop_plan(own)}

    def launch(self, steps: dict[str, list[plan.Step]], joins: dict[str, int]) -> dict[str, Any]:
        directory = os.open(self.code, os.O_PATH | os.O_DIRECTORY)
        worker, theirs = socket.socketpair()
        log, writing = os.pipe()
        fds = {**joins, "@net": os.open("/proc/self/ns/net", os.O_RDONLY), "@code": filesystem.clone_tree_read_only(directory)}
        fds |= {"@null": os.open("/dev/null", os.O_RDWR), "@worker": theirs.fileno(), "@log": writing}
        request: dict[str, Any] = {name: plan.to_json(part) for name, part in steps.items()}
        request |= {"op": "exec", "filters": FILTERS, "argv": ["/no/interpreter"], "environment": {}, "directory": plan.CODE_DIR}
        try:
            command = [sys.executable, "-c", LAUNCHER_PROGRAM, str(ROOT), json.dumps(request), json.dumps(fds)]
            done = subprocess.run(command, pass_fds=list(fds.values()), capture_output=True, timeout=60, check=False, cwd="/")
            assert done.returncode == 0, done.stderr.decode()
            return dict(json.loads(done.stdout))
        finally:
            worker.close()
            theirs.detach()
            for fd in (*fds.values(), directory, log):
                os.close(fd)


@pytest.fixture
def bench(cgroup: Cgroup, tmp_path: Path) -> Bench:
    root, stage, code = tmp_path / "root", tmp_path / "stage", tmp_path / "code"
    for directory in (stage, code, *(root / name for name in ("dev", "proc", "tmp", "opt", "var/user", "var/runtime/hearth"))):
        directory.mkdir(parents=True)
    return Bench(root, stage, code, cgroup)


def launch_with(bench: Bench, stage: str, place: int | None) -> tuple[dict[str, Any], int]:
    """Launch with a step put in at `place` of one stage's plan that cannot succeed; (what came of it, steps of that stage)."""
    joins = bench.cgroup.open_join()
    steps = bench.request(joins)
    count = len(steps[stage])
    if place is not None:
        steps[stage].insert(place, plan.Step("mount", ("none", MISSING, "tmpfs", 0, None), f"at {place}"))
    return bench.launch(steps, joins), count


def nothing_left(bench: Bench, outcome: dict[str, Any]) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    assert outcome["alone"], "a child is left"
    assert bench.cgroup.empty(), "a process is left in the cgroup"
    for text in (mounts, outcome["mounts"]):
        assert str(bench.stage.parent) not in text, "a mount is left on the host"
    assert os.listdir(bench.stage) == os.listdir(bench.root / "dev") == [], "a file is left on the host"


@pytest.mark.requires("cgroup")
@pytest.mark.parametrize("stage", ["init", "worker", "map", "drop"])
def test_a_creation_that_fails_at_any_step_leaves_nothing(bench: Bench, stage: str) -> None:
    whole, count = launch_with(bench, stage, None)
    assert [told["op"] for told in whole["told"] if told["op"] == "error"] == ["error"], whole["told"]  # there is no interpreter to exec
    assert {(told["stage"], told["step"], told["errno"]) for told in whole["told"] if told["op"] == "error"} == {
        ("worker", "exec", errno.ENOENT)
    }
    nothing_left(bench, whole)
    for place in range(count + 1):
        outcome, _ = launch_with(bench, stage, place)
        errors = [told for told in outcome["told"] if told["op"] == "error" and told["stage"] == stage and told["step"] != "exec"]
        assert [(told["step"], told["path"], told["hint"]) for told in errors] == [(f"step {place + 1} mount", MISSING, f"at {place}")]
        assert errors[0]["errno"] in (errno.ENOENT, errno.EPERM)
        # whether PID 1 was still waiting for the worker's user namespace depends on how far the worker came
        assert outcome["exit"] in ({0, FAILED} if stage == "worker" else {FAILED})
        nothing_left(bench, outcome)
