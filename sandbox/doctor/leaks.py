"""What is left of instances on this host, by kind, and whose it is: a living instance uses it, a dead one leaked it.

Instances are told by what they mark: control groups `hearth-<instance>`, firewall tables `hearth_<instance>`, links `hth…`, the files in
their home and run directories, the HEARTH_HOME of their processes. An instance lives while its home's lock is held (`hearth up`, sandboxd)
or a process of it has only just started; a file that is being made has a lock of its maker's, which tells alone. A process that systemd
keeps is nobody's leftover, whether or not the rest of its instance runs: the API serves without sandboxd.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from sandbox.cgroup import detect, files
from sandbox.cgroup.detect import MOUNTINFO, hierarchies
from sandbox.daemon import recovery
from sandbox.doctor import codestore
from sandbox.doctor.model import Finding
from sandbox.errors import ConfigError
from sandbox.imaging import store
from sandbox.kernel import links, survey
from sandbox.kernel.survey import Mount, Process
from sandbox.network import forwarding, layout, nat, ruleset
from sandbox.settings import Settings, load

STARTING_SECONDS: Final = 10
UP_LOCK: Final = "lock"
GROUPS: Final = "control groups"
INHABITANTS: Final = "processes in them"
LINKS: Final = "links"
TABLES: Final = "firewall tables"
_RUNTIME: Final = frozenset({"sandbox.launcher", "sandbox.daemon"})
_PROGRAMS: Final = _RUNTIME | {
    "sandbox.confine",
    "server.app:create_app()",
    "server.events",
    "server.buckets",
    "server.buckets.app:create_app()",
}
_MARK: Final = re.compile(r"hearth-([0-9a-f]{8})")
_TABLE_MARK: Final = re.compile(rf"\S+ {ruleset.TABLE_PREFIX}([0-9a-f]{{8}})")


def findings(conf: Settings) -> list[Finding]:
    """Of this instance, then of the dead among the others."""
    alive = is_running(conf)
    found = [
        Finding(conf.instance, kind, tuple(items), leaked=not (alive and used))
        for kind, (look, used) in KINDS.items()
        if (items := look(conf, alive))
    ]
    for instance in dead_others(conf):
        others = {**_of_cgroups(conf, instance), **_of_network(instance)}
        found += [Finding(instance, kind, tuple(items), True) for kind, items in others.items() if items]
    return found


def _of_network(instance: str) -> dict[str, list[str]]:
    return {LINKS: links.names_with_prefix(layout.link_prefix(instance)), TABLES: nat.tables(instance)}


def _of_cgroups(conf: Settings, instance: str) -> dict[str, list[str]]:
    groups = cgroups(conf, instance)
    return {GROUPS: groups, INHABITANTS: _inhabitants(groups)}


def _inhabitants(groups: list[str]) -> list[str]:
    return [survey.describe(pid) for pid in sorted({pid for path in groups for pid in files.processes(path)})]


# Who lives ------------------------------------------------------------------------------------------------------------------


def is_running(conf: Settings) -> bool:
    """Whether this instance lives, or is just starting. An API that systemd keeps is no life: sandboxd has what can be left behind."""
    if any(_is_held(path) for path in (os.path.join(conf.home, UP_LOCK), recovery.lock_path(conf))):
        return True
    return any(_is_starting(process) for process in own_processes(conf))


def _is_starting(process: Process) -> bool:
    """On its way to a lock: for a while, or for as long as systemd gives it."""
    return not _RUNTIME.isdisjoint(process.argv) if is_kept(process) else process.age_seconds < STARTING_SECONDS


def is_kept(process: Process) -> bool:
    """Whether systemd started it, or its parent, and so ends it with the unit. systemd.exec(5): SYSTEMD_EXEC_PID is inherited further
    than that, through a terminal for example, but then it is some other process's number."""
    return process.environment.get("SYSTEMD_EXEC_PID", "") in (str(process.pid), str(process.parent))


def _is_held(path: str) -> bool:
    """Whether somebody has the flock(2) on it. Asked for shared, so that two doctors don't mistake each other for an owner."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def all_processes() -> list[Process]:
    """Launchers, sandboxds, APIs and their like of every instance; what is in sandboxes is found by its control group."""
    return survey.find_processes(lambda argv: not _PROGRAMS.isdisjoint(argv))


def own_processes(conf: Settings) -> list[Process]:
    return [process for process in all_processes() if instance_of(process) == conf.instance]


def orphans(conf: Settings) -> list[Process]:
    """Those of `own_processes` that nobody keeps; leftovers, where the instance does not live."""
    return [process for process in own_processes(conf) if not is_kept(process)]


def instance_of(process: Process) -> str:
    """The instance that a process of ours serves, "" if its settings can't be read."""
    try:
        return load(process.environment).instance
    except (ConfigError, OSError):
        return ""


def living_instances() -> set[str]:
    """By the locks that processes have open, and by processes on their way to a lock."""
    names = {UP_LOCK, os.path.basename(recovery.lock_path(Settings()))}
    # A file of that name elsewhere gives the mark of a directory that nobody serves, and does no harm.
    homes = {os.path.dirname(path) for path in survey.open_files(names)}
    return {Settings(home=home).instance for home in homes} | {instance_of(process) for process in all_processes()}


# Control groups -------------------------------------------------------------------------------------------------------------


def cgroups(conf: Settings, instance: str) -> list[str]:
    """Directories of an instance, deepest first; none where there are no control groups at all (`checks` says so)."""
    try:
        return detect(instance, recovery.cgroup_root(conf)).leftovers()
    except (ConfigError, OSError):
        return []


def dead_others(conf: Settings) -> list[str]:
    """Instances that have control groups or firewall tables here and no living process we can see, without this one."""
    names = {name for root in {"", recovery.cgroup_root(conf)} for name in _group_names(root)}
    marked = {match[1] for name in names if (match := _MARK.fullmatch(name))}
    marked |= {match[1] for name in nat.tables() if (match := _TABLE_MARK.fullmatch(name))}
    marked -= {conf.instance}
    living = living_instances() if marked else set()
    return sorted(instance for instance in marked - living if not _has_foreigners(conf, instance))


def _group_names(root: str) -> Iterator[str]:
    with open(MOUNTINFO) as file:
        v1, v2 = hierarchies(file.read())
    for place in {*v1.values(), *([v2] if v2 else [])}:
        try:
            yield from os.listdir(os.path.join(place, root.strip("/")))
        except FileNotFoundError:
            continue  # no instance has used this hierarchy yet


def _has_foreigners(conf: Settings, instance: str) -> bool:
    """Whether a process of another pid namespace is in there (its number is 0 to us): its owner may live where we can't see."""
    return any(0 in files.processes(path) for path in cgroups(conf, instance))


def _described(found: list[Process]) -> list[str]:
    return [survey.describe(process.pid) for process in found]


# Files and mounts of this instance --------------------------------------------------------------------------------------------


def run_files(conf: Settings, *, alive: bool) -> list[Path]:
    """The socket and the stage of a sandboxd; `alive` is whether ours lives.

    If it doesn't and somebody listens, they are another instance's that shares the run directory, and none is returned.
    """
    if not alive and survey.is_listening(str(conf.socket_path)):
        return []
    paths = [conf.socket_path, Path(conf.run) / "stage"]
    return [path for path in paths if os.path.lexists(path)]


def credential_files(conf: Settings) -> list[Path]:
    """Credentials of which the writing was cut short."""
    return sorted([*Path(conf.home).glob(".credential-*"), *Path(conf.home).glob(f".{conf.secrets_key_path.name}-*")])


def host_mounts(conf: Settings, mounts: list[Mount]) -> list[Mount]:
    """Mounts at, or of, something below our images, code or run directory, newest first: a sandbox's stay in its own namespace.

    A directory of ours that is itself a mount is the operator's choice, as is everything above it.
    """
    ours = [os.path.realpath(path) for path in (conf.images_dir, conf.code_dir, conf.run)]
    sources = [source for path in ours if (source := _within(mounts, path))]

    def leaked(mount: Mount) -> bool:
        at = any(mount.target.startswith(f"{path}/") for path in ours)
        # "/" is below nothing: it is a whole disk, mounted where its operator wants it
        return at or any(
            mount.device == device and mount.root != "/" and mount.root.startswith(f"{root.rstrip('/')}/") for device, root in sources
        )

    return [mount for mount in reversed(mounts) if leaked(mount)]


def _within(mounts: list[Mount], path: str) -> tuple[str, str] | None:
    """(device, path within its file system) of a directory of this mount namespace; None in a chroot whose mount is not listed."""
    above = [mount for mount in mounts if path == mount.target or path.startswith(f"{mount.target.rstrip('/')}/")]
    if not above:
        return None
    nearest = max(above, key=lambda mount: len(mount.target))
    rest = os.path.relpath(path, nearest.target)
    return nearest.device, os.path.normpath(os.path.join(nearest.root, rest))


# What is counted --------------------------------------------------------------------------------------------------------------

Look = Callable[[Settings, bool], list[str]]
"""(settings, whether the instance lives) → names of what there is."""

#: Each kind of thing that can be left: how to find it, and whether a living instance has such things in use. Its removal is in `sweep`.
KINDS: Final[dict[str, tuple[Look, bool]]] = {
    GROUPS: (lambda conf, _: cgroups(conf, conf.instance), True),
    INHABITANTS: (lambda conf, _: _inhabitants(cgroups(conf, conf.instance)), True),
    LINKS: (lambda conf, _: _of_network(conf.instance)[LINKS], True),
    TABLES: (lambda conf, _: _of_network(conf.instance)[TABLES], True),
    "processes": (lambda conf, alive: _described(own_processes(conf) if alive else orphans(conf)), True),
    "sockets": (lambda conf, alive: [str(path) for path in run_files(conf, alive=alive)], True),
    "unfinished credentials": (lambda conf, _: [str(path) for path in credential_files(conf)], True),
    "mounts on the host": (lambda conf, _: [mount.target for mount in host_mounts(conf, survey.mounts())], False),
    "unfinished or unused images": (lambda conf, _: store.leftovers(conf.images_dir), False),
    "unfinished code packages": (lambda conf, _: codestore.leftovers(conf), False),
    "links that forward for nobody": (lambda conf, _: forwarding.leftovers(), False),
}


def counts(found: Collection[Finding]) -> dict[str, int]:
    """How many of each kind are leaked, the kinds without any included."""
    return {kind: sum(len(finding.items) for finding in found if finding.leaked and finding.kind == kind) for kind in KINDS}
