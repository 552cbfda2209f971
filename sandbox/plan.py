"""A sandbox as data: ordered steps (operation, arguments, hint) that two small executors run.

The executor of `launcher/` runs them on the host side, the one in `guest/zygote.py` inside an image (Python 2.7 there). A plan is
JSON, so it can be sent, printed (`--debug`) and compared. A string that starts with "@" names a descriptor that comes beside the
plan.

    zygote    launcher's child: own mount and net namespaces, pivoted into the image, five capabilities, exec
    enter     PID 1 of a sandbox: cgroups first, then its namespaces
    mounts    PID 1 while its worker starts: /proc, /tmp, /dev/shm
    attach    PID 1 when the function is known: code at /var/user, layers at /opt
    worker    PID 1's child: limits, ids, its user namespace, no capability, the worker's system call filter
    map       PID 1 meanwhile: writes the ids of the worker's user namespace
    drop      PID 1 after attach: the same with PID 1's filter, and not dumpable

The filters themselves (seccomp.py) come beside the plan; `seccomp` names one.

Order is meaning: what depends on an earlier step says so on its line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sandbox.kernel import constants as k

GUEST_DIR: Final = "/var/runtime/hearth"
RESOLV_CONF: Final = "guest/resolv.conf"
CODE_DIR: Final = "/var/user"
LAYERS_DIR: Final = "/opt"

#: Whom a function sees itself as, inside its user namespace: SCF's user `qcloud`.
USER_ID: Final = 1000

#: The first child of PID 1 is the second process of its namespace, pid_namespaces(7).
WORKER_PID: Final = 2

#: What a zygote keeps: enough to make sandboxes, nothing to reach the host with.
ZYGOTE_CAPABILITIES: Final = (k.CAP_SYS_ADMIN, k.CAP_SETUID, k.CAP_SETGID, k.CAP_SETPCAP, k.CAP_KILL)

DEVICES: Final = ("null", "zero", "full", "random", "urandom")

#: Files of /proc that tell of the host or steer it; directories are covered by an empty read-only tmpfs.
MASKED_FILES: Final = (
    "kcore",
    "keys",
    "key-users",
    "timer_list",
    "sched_debug",
    "kmsg",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "sysrq-trigger",
    "latency_stats",
    "mounts_all",
)
MASKED_DIRECTORIES: Final = ("acpi", "scsi", "asound", "bus", "fs", "irq", "driver", "tty", "dynamic_debug")
READ_ONLY_IN_PROC: Final = ("sys",)

SECCOMP_HINT: Final = "the kernel refuses the filter: CONFIG_SECCOMP_FILTER, or net.core.bpf_jit_limit is used up"

_TMPFS = k.MS_NOSUID | k.MS_NODEV
_RO_BIND = k.MS_BIND | k.MS_REMOUNT | k.MS_RDONLY | k.MS_NOSUID


class Step(NamedTuple):
    """One operation. `hint` says what to look at when it fails."""

    op: str
    args: tuple[Any, ...]
    hint: str = ""

    def to_json(self) -> list[Any]:
        return [self.op, list(self.args), self.hint]


Plan = list[Step]


def describe(plan: Iterable[Step]) -> str:
    """Numbered lines, for people."""
    return "\n".join(f"{n:3} {s.op}({', '.join(map(repr, s.args))})" for n, s in enumerate(plan, 1))


def to_json(plan: Iterable[Step]) -> list[list[Any]]:
    return [step.to_json() for step in plan]


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs between sandboxes: sizes in MB, ids as the host counts them, names of the cgroup descriptors ("@memory")."""

    uid: int
    gid: int
    tmp_mb: int
    tmp_inodes: int
    shm_mb: int
    descriptors: int
    cgroups: tuple[str, ...]


def root_steps(root: str, stage: str, files: dict[str, str]) -> Plan:
    """Enter the image at `root`: everything that needs host paths happens below the tmpfs at `stage`, is cloned into detached
    trees, and attached after pivot_root, when every path resolves inside the image. `files` is text by place below the stage;
    RESOLV_CONF among them also covers the image's /etc/resolv.conf."""
    steps = [
        # mount_namespaces(7): nothing we mount may reach the host, nor the host's mounts us
        Step("mount", (None, "/", None, k.MS_REC | k.MS_PRIVATE, None), "needs CAP_SYS_ADMIN"),
        Step("mount", ("tmpfs", stage, "tmpfs", _TMPFS | k.MS_NOEXEC, "size=4m,mode=755"), "the stage directory must exist"),
        Step("mkdir", (f"{stage}/dev", 0o755)),
        Step("mkdir", (f"{stage}/dev/shm", 0o755)),
        Step("mkdir", (f"{stage}/guest", 0o755)),
        Step("mkdir", (f"{stage}/rehearsal", 0o755)),
    ]
    for name in DEVICES:
        steps += [
            Step("write_file", (f"{stage}/dev/{name}", "", 0o666)),
            Step("mount", (f"/dev/{name}", f"{stage}/dev/{name}", None, k.MS_BIND, None), "the host lacks this device"),
        ]
    links = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    steps += [Step("symlink", (target, f"{stage}/dev/{name}")) for name, target in links.items()]
    steps += [Step("write_file", (f"{stage}/{path}", text, 0o444)) for path, text in files.items()]
    steps += [Step("clone_tree", (f"{stage}/{name}", f"@{name}")) for name in ("dev", "guest", "rehearsal")]
    steps += [
        Step("mount", (root, root, None, k.MS_BIND, None), "the image is gone: hearth image ls"),
        Step("mount", (None, root, None, _RO_BIND | k.MS_NODEV, None)),
        Step("pivot_root", (root,)),  # from here on paths are the image's own
        Step("move_mount", ("@dev", "/dev"), "the image has no /dev: import it again"),
        Step("mount", (None, "/dev", None, _RO_BIND | k.MS_NOEXEC, None)),
        Step("move_mount", ("@guest", GUEST_DIR), "the image has no mount point for the guest program: import it again"),
        Step("mount", (None, GUEST_DIR, None, _RO_BIND | k.MS_NODEV, None)),
        Step("move_mount", ("@rehearsal", CODE_DIR), "the image has no /var/user: import it again"),
        Step("mount", (None, CODE_DIR, None, _RO_BIND | k.MS_NODEV, None)),
    ]
    if RESOLV_CONF in files:
        source, target = f"{GUEST_DIR}/{RESOLV_CONF.rpartition('/')[2]}", "/etc/resolv.conf"
        steps += [
            Step("mount", (source, target, None, k.MS_BIND, None), "the image has no /etc/resolv.conf: import it again"),
            Step("mount", (None, target, None, _RO_BIND | k.MS_NODEV, None)),
        ]
    return steps


def zygote_plan(root: str, stage: str, files: dict[str, str], cgroups: tuple[str, ...]) -> Plan:
    """Host side, up to the exec of the interpreter. It stays root inside, with five capabilities."""
    return [
        Step("join_cgroups", cgroups),
        Step("unshare", (k.CLONE_NEWNS | k.CLONE_NEWNET | k.CLONE_NEWIPC | k.CLONE_NEWUTS,), "needs CAP_SYS_ADMIN"),
        *root_steps(root, stage, files),
        Step("die_with_parent", ()),
        Step("bounding_set", (list(ZYGOTE_CAPABILITIES),)),
        Step("capabilities", (list(ZYGOTE_CAPABILITIES),)),  # after the bounding set, which needs SETPCAP of the old set
    ]


def enter_plan(shape: Shape) -> Plan:
    """PID 1 of a sandbox, already in its pid namespace: everything that the worker must inherit. It is forked next, and starts up while
    PID 1 goes on with `mounts_plan`: they share the mount namespace, and `map_plan` lets it go on only when that is complete."""
    return [
        # before CLONE_NEWCGROUP: the cgroup we are in then becomes the namespace's root
        Step("join_cgroups", shape.cgroups, "the sandbox's cgroup is gone"),
        Step("unshare", (k.CLONE_NEWNS | k.CLONE_NEWUTS | k.CLONE_NEWIPC | k.CLONE_NEWCGROUP,)),
        Step("setns", ("@net", k.CLONE_NEWNET)),
        Step("mount", (None, "/", None, k.MS_REC | k.MS_PRIVATE, None)),
        Step("sethostname", ("sandbox",)),
        Step("umask", (0o022,)),
    ]


def mounts_plan(shape: Shape) -> Plan:
    """PID 1 inside the image: /proc of its pid namespace, /tmp and /dev/shm."""
    tmp = f"size={shape.tmp_mb}m,nr_inodes={shape.tmp_inodes},mode=1777,uid={shape.uid},gid={shape.gid}"
    shm = f"size={shape.shm_mb}m,nr_inodes=4096,mode=1777,uid={shape.uid},gid={shape.gid}"
    steps = [Step("mount", ("proc", "/proc", "proc", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC, None))]
    steps += [Step("mask_file", (f"/proc/{name}",)) for name in MASKED_FILES]
    steps += [Step("mask_directory", (f"/proc/{name}",)) for name in MASKED_DIRECTORIES]
    steps += [Step("read_only", (f"/proc/{name}",)) for name in READ_ONLY_IN_PROC]
    steps += [Step("mount", ("tmpfs", "/tmp", "tmpfs", _TMPFS, tmp)), Step("mount", ("tmpfs", "/dev/shm", "tmpfs", _TMPFS, shm))]
    return steps


def exec_plan(shape: Shape, root: Plan, *, layers: bool) -> Plan:
    """PID 1 of a sandbox that is exec'd, from the host's root directory to the function's code in its place."""
    last = [
        Step("bounding_set", ([],)),
        Step("seccomp", ("base",), SECCOMP_HINT),  # after the last mount and bounding_set; a zygote's forks have it from their zygote
    ]
    return [*enter_plan(shape), *root, *mounts_plan(shape), *attach_plan(layers=layers, tmp_mb=None), *last]


def attach_plan(*, layers: bool, tmp_mb: int | None) -> Plan:
    """Give the sandbox its function. `tmp_mb` only where it differs from what was mounted."""
    steps = []
    for name, directory in (("@code", CODE_DIR), *((("@layers", LAYERS_DIR),) if layers else ())):
        # read-only already where the kernel has mount_setattr (5.12); before that, this makes it so, ahead of any user code
        steps += [Step("move_mount", (name, directory)), Step("mount", (None, directory, None, _RO_BIND | k.MS_NODEV, None))]
    if tmp_mb is not None:
        steps.append(Step("mount", (None, "/tmp", None, k.MS_REMOUNT | _TMPFS, f"size={tmp_mb}m")))
    return steps


def drop_plan(shape: Shape) -> Plan:
    """PID 1 once nothing is left to do as root: the sandbox's uid, no capability, closed to the worker beside it."""
    return [
        Step("set_ids", (shape.uid, shape.gid)),  # the bounding set is empty already: a zygote's own is, `exec_plan` ends with it
        Step("capabilities", ([],)),
        Step("no_new_privs", ()),  # before seccomp, which needs it of a process without capabilities
        Step("dumpable", (False,)),  # after set_ids, which resets it to suid_dumpable
        Step("seccomp", ("init",), SECCOMP_HINT),  # last: it allows no more than waiting; after no_new_privs
    ]


def worker_plan(shape: Shape) -> Plan:
    """The worker, forked from PID 1: user code will run with what is left after this.

    Its user namespace comes last of all namespaces: the mounts belong to one in which it is nobody, and root is not mapped in its own.
    `map_plan` is PID 1's half of it.
    """
    return [
        Step("limit", ("CORE", 0)),
        Step("limit", ("NOFILE", shape.descriptors)),
        Step("set_ids", (shape.uid, shape.gid)),  # before the user namespace, whose owner it makes us
        Step("unshare", (k.CLONE_NEWUSER,), "user namespaces are off: sysctl user.max_user_namespaces"),
        Step("tell", ("@init",)),
        Step("wait", ("@init",), "PID 1 could not write the maps"),
        Step("set_ids", (USER_ID, USER_ID)),
        Step("bounding_set", ([],)),  # a new user namespace comes with every capability
        Step("capabilities", ([],)),
        Step("no_new_privs", ()),  # before seccomp, which needs it of a process without capabilities
        Step("dumpable", (True,)),  # else /proc/self belongs to root and ordinary programs fail there
        Step("seccomp", ("worker",), SECCOMP_HINT),  # last: it refuses what the steps before it do; after no_new_privs
    ]


def map_plan(shape: Shape) -> Plan:
    """PID 1, between forking the worker and anything else: user_namespaces(7) lets only one outside write more than one's own id."""
    return [
        Step("wait", ("@worker",), "the worker ended"),
        Step("map_ids", (WORKER_PID, USER_ID, shape.uid, shape.gid), "needs CAP_SETUID and CAP_SETGID"),
        Step("tell", ("@worker",)),
    ]
