"""A sandbox made by hand from the plans of a real one, with some protections taken out: the switch is here, not in the code that serves.

`run` makes it as the launcher does (PID 1, its worker, the same executor), in a pid namespace of its own, and tries one attack in the
worker. With every protection in place it must be refused as a function is; with the right one out it must succeed, or the attack proves
nothing. The mount namespace can't be taken out: everything would happen to the host.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox import plan, seccomp
from sandbox.cgroup import Cgroup
from sandbox.kernel import constants as k
from sandbox.kernel import filesystem, links, process

ROOT: Final = Path(__file__).resolve().parents[2]
PAYLOAD: Final = ROOT / "tests/payloads/hostile/attack.py"
UID: Final = 1_900_000_011
DESCRIPTORS: Final = 256
TMP_MB, SHM_MB, INODES = 8, 4, 200

#: argv: directory of our code, directory of the payload. Standard input: the request. Every line on `out` is something told.
PROGRAM: Final = r"""
import base64, encodings.ascii, encodings.idna, json, os, socket, sys
sys.path[:0] = sys.argv[1:3]
import attack
from sandbox.kernel import process
from sandbox.launcher import executor
request = json.load(sys.stdin)
fds, out = request["fds"], request["out"]
filters = {name: base64.b64decode(text) for name, text in request["filters"].items()}

def tell(**what):
    os.write(out, json.dumps(what).encode() + b"\n")

def run(stage, fds):
    try:
        executor.run(request[stage], fds, filters)
    except executor.StepFailed as failed:
        tell(failed=stage + ": " + str(failed))
        os._exit(73)

def worker(init):
    run("worker", {**fds, "@init": init.fileno()})
    init.recv(1)  # PID 1 has dropped everything
    init.close()
    tell(told=attack.attempt(request["event"]))

if request["clone"]:
    process.unshare(request["clone"])
first = os.fork()
if first == 0:
    os.setsid()
    run("init", fds)
    ours, theirs = socket.socketpair()
    second = os.fork()
    if second == 0:
        try:
            ours.close()
            worker(theirs)
        except BaseException as error:
            tell(failed=repr(error))
        os._exit(0)
    theirs.close()
    run("map", {"@worker": ours.fileno()})
    run("drop", fds)
    ours.send(b"1")
    status = os.waitpid(second, 0)[1]
    if status:
        tell(told="signal %d" % (status & 127))
    os._exit(0)
os.waitpid(first, 0)
"""


@dataclass(slots=True)
class Stages:
    """What is run where; `clone` are the flags with which PID 1 is made."""

    init: plan.Plan
    worker: plan.Plan
    map: plan.Plan
    drop: plan.Plan
    clone: int = k.CLONE_NEWPID


def _drop(stages: Stages, *operations: str) -> None:
    for name in ("init", "worker", "map", "drop"):
        setattr(stages, name, [step for step in getattr(stages, name) if step.op not in operations])


def _user_namespace(stages: Stages) -> None:
    mapped = ("set_ids", (plan.USER_ID, plan.USER_ID))
    # nor its bounding set, which takes a capability that only a new namespace brings; it is empty since PID 1's plan
    dropped = ("unshare", "tell", "wait", "bounding_set")
    alone = [step for step in stages.worker if step.op not in dropped and (step.op, step.args) != mapped]
    stages.worker, stages.map = alone, []


def _ids(stages: Stages) -> None:
    stages.worker = [step for step in stages.worker if step.op != "set_ids"]


def _capabilities(stages: Stages) -> None:
    _drop(stages, "bounding_set")
    stages.worker = [step for step in stages.worker if step.op != "capabilities"]


def _no_new_privs(stages: Stages) -> None:
    stages.worker = [step for step in stages.worker if step.op != "no_new_privs"]


def _mount_flag(flag: int) -> Callable[[Stages], None]:
    def remove(stages: Stages) -> None:
        stages.init = [
            step._replace(args=(*step.args[:3], step.args[3] & ~flag, step.args[4])) if step.op == "mount" else step for step in stages.init
        ]

    return remove


def _namespace(flag: int, *operations: str) -> Callable[[Stages], None]:
    def remove(stages: Stages) -> None:
        _drop(stages, *operations)
        stages.init = [step._replace(args=(step.args[0] & ~flag,)) if step.op == "unshare" else step for step in stages.init]

    return remove


def _pid_namespace(stages: Stages) -> None:
    stages.clone = 0


def _root(stages: Stages) -> None:
    """The host's own tree: `Chamber` has left out the steps that enter the image. /mnt for the code; the mounts are still private."""
    stages.init = [step._replace(args=tuple("/mnt" if arg == plan.CODE_DIR else arg for arg in step.args)) for step in stages.init]
    private = [step for step in stages.init if step.op == "mount" and step.args[3] == k.MS_REC | k.MS_PRIVATE]
    assert private, "without this every mount of the plan would happen to the host"


def _closed_descriptors(stages: Stages) -> None:
    """The code's tree is not attached: its descriptor stays open."""
    stages.init = [step for step in stages.init if "@code" not in step.args and not (step.op == "mount" and step.args[1] == plan.CODE_DIR)]


def _dumpable(stages: Stages) -> None:
    stages.drop = [step._replace(args=(True,)) if step.op == "dumpable" else step for step in stages.drop]


def _limit(name: str) -> Callable[[Stages], None]:
    def remove(stages: Stages) -> None:
        stages.worker = [step for step in stages.worker if (step.op, step.args[:1]) != ("limit", (name,))]

    return remove


def _tmpfs_option(name: str) -> Callable[[Stages], None]:
    def remove(stages: Stages) -> None:
        def cut(step: plan.Step) -> plan.Step:
            if step.op != "mount" or step.args[1] not in ("/tmp", "/dev/shm"):
                return step
            options = [option for option in step.args[4].split(",") if not option.startswith(name)]
            return step._replace(args=(*step.args[:4], ",".join(options)))

        stages.init = [cut(step) for step in stages.init]

    return remove


#: Each protection by name, and how a plan loses it.
PROTECTIONS: Final[dict[str, Callable[[Stages], None]]] = {
    "seccomp": lambda stages: _drop(stages, "seccomp"),
    "user namespace": _user_namespace,
    "unprivileged ids": _ids,
    "capabilities": _capabilities,
    "no_new_privs": _no_new_privs,
    "nosuid": _mount_flag(k.MS_NOSUID),
    "nodev": _mount_flag(k.MS_NODEV),
    "read-only mounts": _mount_flag(k.MS_RDONLY),
    "masks": lambda stages: _drop(stages, "mask_file", "mask_directory"),
    "read-only /proc/sys": lambda stages: _drop(stages, "read_only"),
    "pid namespace": _pid_namespace,
    "net namespace": lambda stages: _drop(stages, "setns"),
    "ipc namespace": _namespace(k.CLONE_NEWIPC),
    "uts namespace": _namespace(k.CLONE_NEWUTS, "sethostname"),  # both: else the host would get our name
    "cgroup namespace": _namespace(k.CLONE_NEWCGROUP),
    "image as root": _root,
    "cgroup limits": lambda stages: _drop(stages, "join_cgroups"),
    "closed descriptors": _closed_descriptors,
    "dumpable": _dumpable,
    "core limit": _limit("CORE"),
    "descriptor limit": _limit("NOFILE"),
    "size of /tmp": _tmpfs_option("size="),
    "inodes of /tmp": _tmpfs_option("nr_inodes="),
}

#: Root with every capability in the image, in namespaces of its own so that the host is left alone: the outside of a positive control.
_KEPT_OUTSIDE: Final = ("pid namespace", "net namespace", "ipc namespace", "uts namespace", "image as root", "closed descriptors")
OUTSIDE: Final = tuple(name for name in PROTECTIONS if name not in _KEPT_OUTSIDE)


@dataclass(frozen=True)
class Chamber:
    """What chambers are made from: an image, a directory for the stage, one for code, a cgroup with limits."""

    image: Path
    stage: Path
    code: Path
    cgroup: Cgroup
    filters: dict[str, str]

    def run(self, event: dict[str, Any], without: Iterable[str] = ()) -> str:
        """What the attack tells. Raises AssertionError where no worker could be made."""
        with ExitStack() as stack:
            fds = self._descriptors(stack, tuple(without))
            stages = self._stages(tuple(name for name in fds if name not in ("@code", "@net")), without)
            reader, writer = os.pipe()
            stack.callback(os.close, reader)
            request: dict[str, Any] = {name: plan.to_json(getattr(stages, name)) for name in ("init", "worker", "map", "drop")}
            request |= {"clone": stages.clone, "fds": fds, "filters": self.filters, "out": writer, "event": event}
            command = [sys.executable, "-c", PROGRAM, str(ROOT), str(PAYLOAD.parent)]
            try:
                done = subprocess.run(
                    command,
                    input=json.dumps(request).encode(),
                    pass_fds=[*fds.values(), writer],
                    capture_output=True,
                    timeout=60,
                    check=False,
                    cwd="/",
                )
            finally:
                os.close(writer)
            with os.fdopen(os.dup(reader), "rb") as told:
                lines = [json.loads(line) for line in told]
        assert lines and "told" in lines[0], (lines, done.stderr.decode()[-2000:])
        return str(lines[0]["told"])

    def _descriptors(self, stack: ExitStack, without: tuple[str, ...]) -> dict[str, int]:
        fds = self.cgroup.open_join()
        fds["@net"] = _new_net_namespace() if "net namespace" not in without else os.open("/proc/self/ns/net", os.O_RDONLY)
        fds["@code"] = filesystem.clone_tree(str(self.code))
        for fd in fds.values():
            stack.callback(os.close, fd)
        return fds

    def _stages(self, cgroups: tuple[str, ...], without: Iterable[str]) -> Stages:
        own = plan.Shape(UID, UID, TMP_MB, INODES, SHM_MB, DESCRIPTORS, cgroups)
        files = {"guest/worker.py": "", "rehearsal/hearth_rehearsal.py": ""}
        root = [] if "image as root" in without else plan.root_steps(str(self.image / "root"), str(self.stage), files)
        stages = Stages(plan.exec_plan(own, root, layers=False), plan.worker_plan(own), plan.map_plan(own), plan.drop_plan(own))
        for name in without:
            PROTECTIONS[name](stages)
        return stages


def _new_net_namespace() -> int:
    """A namespace with only a loopback, by a thread that ends in it: unshare(2) moves the calling thread alone."""
    made: list[int] = []

    def make() -> None:
        process.unshare(k.CLONE_NEWNET)
        links.bring_up_loopback()
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def compiled_filters() -> dict[str, str]:
    return {name: base64.b64encode(program).decode() for name, program in seccomp.compile_filters().items()}
