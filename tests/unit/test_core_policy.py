"""Pure policy: admission, keep-alive, slots, plans as data, environments, what sandboxd checks again, layers."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sandbox import environment, keepalive, plan
from sandbox.codestore import CodeStore
from sandbox.daemon.checks import checked_spec
from sandbox.errors import ImageError, LaunchError, NoCapacity
from sandbox.kernel import constants as k
from sandbox.layers import Layers
from sandbox.settings import Settings
from sandbox.slots import KEPT_FREE, MAX_SLOTS, Slots
from sandbox.spec import FunctionSpec

SPEC = FunctionSpec(
    function_id="f-1",
    generation=3,
    name="hello",
    namespace="default",
    version="7",
    runtime="Python3.6",
    handler="index.main",
    code="0123456789abcdef" * 4,
    memory_mb=256,
    timeout_seconds=2.5,
    environment={"OWN": "1"},
)


# ---- keep-alive --------------------------------------------------------------------------------------------------


@dataclass
class Idle:
    name: str
    idle_since: float


WORKERS = [Idle("young", 90.0), Idle("old", 10.0), Idle("middle", 50.0)]


def test_workers_expire_when_they_were_idle_for_the_whole_time() -> None:
    assert [w.name for w in keepalive.expired(WORKERS, now=100.0, keep_alive_seconds=50.0)] == ["old", "middle"]
    assert keepalive.expired(WORKERS, now=100.0, keep_alive_seconds=90.1) == []


def test_the_longest_unused_go_first() -> None:
    assert [w.name for w in keepalive.least_valuable(WORKERS, 2)] == ["old", "middle"]
    assert len(keepalive.least_valuable(WORKERS, 9)) == 3


def test_provisioned_workers_are_spared_those_used_last_of_each_key() -> None:
    idle = {"a": WORKERS, "b": [Idle("other", 1.0)], "c": [Idle("third", 2.0)]}
    assert [w.name for w in keepalive.dispensable(idle, {"a": 2, "c": 1})] == ["young", "other"]
    assert [w.name for w in keepalive.dispensable(idle, {"a": 9})] == ["other", "third"]
    assert len(keepalive.dispensable(idle, {})) == 5


# ---- slots -------------------------------------------------------------------------------------------------------


class FakeCgroup:
    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[str] = []
        self.fails: set[str] = set()
        self.kills = 0

    def __getattr__(self, name: str) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            if name in self.fails:
                raise OSError(errno.EIO, "made to fail")

        return call

    def oom_kills(self) -> int:
        return self.kills


class FakeDriver:
    def __init__(self) -> None:
        self.made: list[FakeCgroup] = []
        self.fails = False

    def create(self, name: str) -> FakeCgroup:
        if self.fails:
            raise OSError(errno.ENOSPC, "no room")
        self.made.append(FakeCgroup(name))
        return self.made[-1]


def slots() -> tuple[Slots, FakeDriver]:
    driver = FakeDriver()
    return Slots(driver, 5000), driver  # type: ignore[arg-type]


def test_no_two_slots_in_use_share_number_uid_or_cgroup() -> None:
    table, _ = slots()
    taken = [table.take() for _ in range(20)]
    assert len({slot.index for slot in taken}) == len({slot.uid for slot in taken}) == len({slot.cgroup.name for slot in taken}) == 20
    assert all(slot.uid == 5000 + slot.index and slot.cgroup.name == f"s{slot.index}" for slot in taken)
    assert table.used == 20


def test_a_slot_given_back_is_emptied_thawed_and_used_again() -> None:
    table, driver = slots()
    slot = table.take()
    driver.made[0].kills = 4
    table.give_back(slot)
    assert driver.made[0].calls == ["thaw", "force_empty"]
    assert table.take() is slot
    assert slot.oom_kills == 4  # what the last user was killed for is not the next one's
    assert len(driver.made) == 1


def test_a_cgroup_that_cannot_be_emptied_is_removed_and_its_number_used_anew() -> None:
    table, driver = slots()
    slot = table.take()
    driver.made[0].fails = {"force_empty"}
    table.give_back(slot)
    assert driver.made[0].calls[-1] == "remove"
    again = table.take()
    assert again.index == slot.index
    assert again.cgroup is driver.made[1]  # type: ignore[comparison-overlap]
    assert table.used == 1


def test_only_so_many_free_cgroups_are_kept() -> None:
    table, driver = slots()
    taken = [table.take() for _ in range(KEPT_FREE + 3)]
    for slot in taken:
        table.give_back(slot)
    assert sum("remove" in made.calls for made in driver.made) == 3
    table.close()
    assert all(made.calls.count("remove") == 1 for made in driver.made)
    assert table.used == 0


def test_a_cgroup_that_cannot_be_made_uses_up_no_number() -> None:
    table, driver = slots()
    driver.fails = True
    for _ in range(3):
        with pytest.raises(OSError, match="no room"):
            table.take()
    driver.fails = False
    assert (table.take().index, table.take().index, table.used) == (0, 1, 2)


def test_when_every_uid_is_in_use_there_is_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.slots.MAX_SLOTS", 3)
    table, _ = slots()
    taken = [table.take() for _ in range(3)]
    with pytest.raises(NoCapacity, match="3 sandboxes exist"):
        table.take()
    table.give_back(taken[1])
    assert table.take() is taken[1]
    assert MAX_SLOTS == 0x2000  # the distance between two instances' ranges in settings.first_uid


# ---- plans -------------------------------------------------------------------------------------------------------


SHAPE = plan.Shape(uid=7001, gid=7001, tmp_mb=512, tmp_inodes=1000, shm_mb=64, descriptors=1024, cgroups=("@memory", "@pids"))
ZYGOTE = plan.zygote_plan("/images/x/root", "/run/stage", {"guest/worker.py": "print"}, ("@memory",))
PLANS = {
    "zygote": ZYGOTE,
    "enter": plan.enter_plan(SHAPE),
    "mounts": plan.mounts_plan(SHAPE),
    "attach": plan.attach_plan(layers=True, tmp_mb=64),
    "worker": plan.worker_plan(SHAPE),
    "map": plan.map_plan(SHAPE),
    "drop": plan.drop_plan(SHAPE),
}


def place(steps: plan.Plan, op: str, matching: Callable[[tuple[Any, ...]], bool] = lambda _: True) -> int:
    """The index of the one step that matches."""
    found = [index for index, step in enumerate(steps) if step.op == op and matching(step.args)]
    assert len(found) == 1, (op, found)
    return found[0]


def test_cgroups_are_joined_before_their_namespace_is_made() -> None:
    steps = PLANS["enter"]
    assert place(steps, "join_cgroups") < place(steps, "unshare", lambda args: bool(args[0] & k.CLONE_NEWCGROUP))


def test_every_namespace_but_pid_and_user_is_entered_by_pid_1() -> None:
    steps = PLANS["enter"]
    flags = steps[place(steps, "unshare")].args[0]
    assert flags == k.CLONE_NEWNS | k.CLONE_NEWUTS | k.CLONE_NEWIPC | k.CLONE_NEWCGROUP
    assert steps[place(steps, "setns")].args == ("@net", k.CLONE_NEWNET)


@pytest.mark.parametrize("name", ["enter", "zygote"])
def test_mounts_are_private_before_anything_is_mounted(name: str) -> None:
    steps = PLANS[name]
    first = next(index for index, step in enumerate(steps) if step.op == "mount")
    assert steps[first].args == (None, "/", None, k.MS_REC | k.MS_PRIVATE, None)
    assert place(steps, "unshare") < first


def test_proc_is_mounted_before_it_is_masked() -> None:
    steps = PLANS["mounts"]
    mounted = place(steps, "mount", lambda args: args[1] == "/proc")
    assert all(index > mounted for index, step in enumerate(steps) if step.op.startswith("mask_") or step.op == "read_only")


def test_ids_change_before_dumpable_is_decided() -> None:
    for name in ("worker", "drop"):
        assert max(ids(PLANS[name])) < place(PLANS[name], "dumpable")


def ids(steps: plan.Plan) -> list[int]:
    return [index for index, step in enumerate(steps) if step.op == "set_ids"]


def test_the_user_namespace_is_entered_last_by_a_uid_of_the_sandbox_s_own_and_empties_what_came_with_it() -> None:
    steps = PLANS["worker"]
    outside, inside = ids(steps)
    entered = place(steps, "unshare", lambda args: args == (k.CLONE_NEWUSER,))
    assert (steps[outside].args, steps[inside].args) == ((7001, 7001), (plan.USER_ID, plan.USER_ID))
    assert outside < entered < place(steps, "tell") < place(steps, "wait") < inside < place(steps, "bounding_set")
    assert place(steps, "bounding_set") < place(steps, "capabilities")
    assert all(step.op != "mount" for step in steps[entered:])
    assert [step.op for step in PLANS["map"]] == ["wait", "map_ids", "tell"]
    assert PLANS["map"][1].args == (plan.WORKER_PID, plan.USER_ID, 7001, 7001)


def test_capabilities_go_after_what_needs_them() -> None:
    for name in ("worker", "drop"):
        assert max(ids(PLANS[name])) < place(PLANS[name], "capabilities") < place(PLANS[name], "no_new_privs")
    assert place(ZYGOTE, "bounding_set") < place(ZYGOTE, "capabilities") == len(ZYGOTE) - 1
    shape = plan.Shape(1, 1, 1, 1, 1, 64, ())
    assert [step.op for step in plan.exec_plan(shape, [], layers=False)][-2:] == ["bounding_set", "seccomp"]


def test_nothing_is_left_to_user_code() -> None:
    for name in ("worker", "drop"):
        assert PLANS[name][place(PLANS[name], "capabilities")].args == ([],)
        assert PLANS[name][ids(PLANS[name])[0]].args == (7001, 7001)


def test_pid_1_is_closed_to_the_worker_and_the_worker_is_open_to_itself() -> None:
    assert PLANS["drop"][place(PLANS["drop"], "dumpable")].args == (False,)
    assert PLANS["worker"][place(PLANS["worker"], "dumpable")].args == (True,)


def test_the_system_call_filter_is_the_last_step_and_each_process_has_its_own() -> None:
    for name, wanted in (("worker", "worker"), ("drop", "init")):
        assert PLANS[name][-1].op == "seccomp"
        assert PLANS[name][-1].args == (wanted,)
        assert place(PLANS[name], "no_new_privs") < len(PLANS[name]) - 1


def test_host_paths_are_used_only_before_the_root_is_changed() -> None:
    changed = place(ZYGOTE, "pivot_root")
    assert all("/run/stage" not in str(step.args) and "/images/x" not in str(step.args) for step in ZYGOTE[changed + 1 :])
    assert all(place(ZYGOTE, "clone_tree", lambda args, n=name: args[1] == n) < changed for name in ("@dev", "@guest", "@rehearsal"))  # type: ignore[misc]


def test_every_attached_tree_was_cloned_and_ends_read_only() -> None:
    for step in [step for step in ZYGOTE if step.op == "move_mount"]:
        assert place(ZYGOTE, "clone_tree", lambda args, n=step.args[0]: args[1] == n) < ZYGOTE.index(step)  # type: ignore[misc]
        remount = ZYGOTE[place(ZYGOTE, "mount", lambda args, where=step.args[1]: args[1] == where)]  # type: ignore[misc]
        assert remount.args[3] & (k.MS_REMOUNT | k.MS_RDONLY) == k.MS_REMOUNT | k.MS_RDONLY
    root = ZYGOTE[place(ZYGOTE, "mount", lambda args: args[1] == "/images/x/root" and args[0] is None)]
    assert root.args[3] & (k.MS_REMOUNT | k.MS_RDONLY | k.MS_NODEV | k.MS_NOSUID) == k.MS_REMOUNT | k.MS_RDONLY | k.MS_NODEV | k.MS_NOSUID


def test_tmp_has_its_size_its_owner_and_no_privilege() -> None:
    source, target, kind, flags, options = PLANS["mounts"][place(PLANS["mounts"], "mount", lambda args: args[1] == "/tmp")].args
    assert (source, target, kind) == ("tmpfs", "/tmp", "tmpfs")
    assert flags == k.MS_NOSUID | k.MS_NODEV
    assert options == "size=512m,nr_inodes=1000,mode=1777,uid=7001,gid=7001"


def test_attaching_does_only_what_is_asked() -> None:
    attach, read_only = plan.attach_plan(layers=False, tmp_mb=None)
    assert attach == plan.Step("move_mount", ("@code", "/var/user"))
    assert read_only.args[1] == "/var/user" and read_only.args[3] & k.MS_RDONLY and read_only.args[3] & k.MS_REMOUNT
    assert [step.op for step in PLANS["attach"]] == ["move_mount", "mount", "move_mount", "mount", "mount"]
    assert PLANS["attach"][4].args[4] == "size=64m"


def test_the_five_capabilities_of_a_zygote() -> None:
    assert set(plan.ZYGOTE_CAPABILITIES) == {k.CAP_SYS_ADMIN, k.CAP_SETUID, k.CAP_SETGID, k.CAP_SETPCAP, k.CAP_KILL}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_is_json_and_can_be_printed(name: str) -> None:
    steps = PLANS[name]
    sent = json.loads(json.dumps(plan.to_json(steps)))
    assert [(op, tuple(args), hint) for op, args, hint in sent] == [(s.op, s.args, s.hint) for s in steps]
    lines = plan.describe(steps).splitlines()
    assert len(lines) == len(steps)
    assert lines[0].split() == ["1", *f"{steps[0].op}({', '.join(map(repr, steps[0].args))})".split()]


# ---- environment -------------------------------------------------------------------------------------------------


def test_a_function_sees_its_own_variables_and_scf_s() -> None:
    seen = environment.for_function(SPEC, "ap-local", "en_US.UTF8")
    assert seen["OWN"] == "1"
    assert (seen["SCF_FUNCTIONNAME"], seen["SCF_NAMESPACE"], seen["SCF_FUNCTIONVERSION"]) == ("hello", "default", "7")
    assert (seen["TENCENTCLOUD_REGION"], seen["PYTHONPATH"]) == ("ap-local", "/var/user:/opt")
    assert seen["LANG"] == seen["LC_ALL"] == "en_US.UTF8"


def test_own_variables_win_over_general_ones_and_not_over_scf_s() -> None:
    own = {"TZ": "Asia/Shanghai", "PYTHONPATH": "/var/user/lib", "SCF_FUNCTIONNAME": "other", "TENCENTCLOUD_REGION": "moon"}
    seen = environment.for_function(replace(SPEC, environment=own), "ap-local", "C.UTF-8")
    assert (seen["TZ"], seen["PYTHONPATH"], seen["SCF_FUNCTIONNAME"], seen["TENCENTCLOUD_REGION"]) == (
        "Asia/Shanghai",
        "/var/user/lib",
        "hello",
        "ap-local",
    )


def test_an_interpreter_starts_without_a_path_into_the_package() -> None:
    plain = environment.for_exec("C.UTF-8")
    assert "PYTHONPATH" not in plain
    assert plain == {**environment.BASE, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    assert environment.for_exec("C.UTF-8", SPEC) == {**plain, "OWN": "1"}


def test_making_environments_leaves_the_base_alone() -> None:
    before = dict(environment.BASE)
    environment.for_exec("C", SPEC)["X"] = "1"
    environment.for_function(SPEC, "r", "C")["X"] = "1"
    environment.for_exec("C")["X"] = "1"
    assert before == environment.BASE


def test_the_context_has_scf_s_fields_and_units() -> None:
    context = environment.context(SPEC, "ap-local")
    assert (context["memory_limit_in_mb"], context["time_limit_in_ms"]) == (256, 2500)
    assert (context["function_name"], context["function_version"], context["namespace"]) == ("hello", "7", "default")
    assert json.loads(context["environment"]) == {"OWN": "1", "SCF_NAMESPACE": "default"}


def test_the_locale_is_scf_s_where_the_image_has_it(tmp_path: Path) -> None:
    locales = tmp_path / "usr/lib/locale"
    assert environment.locale_of(str(tmp_path)) == "C.UTF-8"
    locales.mkdir(parents=True)
    assert environment.locale_of(str(tmp_path)) == "C.UTF-8"
    (locales / "locale-archive").write_bytes(b"....de_DE.utf8....")
    assert environment.locale_of(str(tmp_path)) == "C.UTF-8"
    (locales / "locale-archive").write_bytes(b"....en_US.utf8....")
    assert environment.locale_of(str(tmp_path)) == "en_US.UTF8"
    (locales / "locale-archive").unlink()
    (locales / "en_US.utf8").mkdir()
    assert environment.locale_of(str(tmp_path)) == "en_US.UTF8"


def test_the_locale_of_an_old_library_is_not_one_that_it_does_not_know(tmp_path: Path) -> None:
    library = tmp_path / "usr/lib64/libc-2.17.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert environment.locale_of(str(tmp_path)) == "en_US.UTF8"
    (tmp_path / "usr/lib/locale/C.utf8").mkdir(parents=True)
    assert environment.locale_of(str(tmp_path)) == "C.UTF-8"


# ---- what sandboxd checks again ----------------------------------------------------------------------------------


CONF = Settings()


def test_a_sound_specification_passes_unchanged() -> None:
    assert checked_spec(SPEC.to_json(), CONF) == SPEC
    assert checked_spec(json.loads(json.dumps(SPEC.to_json())), CONF) == SPEC


def test_a_function_is_its_own_family_and_a_version_its_function_s() -> None:
    assert checked_spec({**SPEC.to_json(), "family": ""}, CONF).family == "f-1" == SPEC.family
    assert checked_spec({**SPEC.to_json(), "family": "f-0"}, CONF).family == "f-0"


def test_the_bounds_themselves_pass() -> None:
    edge = {"memory_mb": CONF.limit_memory_mb, "tmp_mb": CONF.limit_tmp_mb, "timeout_seconds": CONF.limit_timeout_seconds, "concurrency": 0}
    assert checked_spec(SPEC.to_json() | edge, CONF).tmp_mb == CONF.limit_tmp_mb


BAD: list[tuple[str, Any]] = [
    *(
        (name, bad)
        for name in ("function_id", "name", "namespace", "version", "runtime", "handler", "code")
        for bad in ("", 5, None, "x" * 513)
    ),
    *(("family", bad) for bad in (5, None, "x" * 513)),
    *(
        (name, bad)
        for name in ("generation", "memory_mb", "tmp_mb", "timeout_seconds", "init_timeout_seconds", "concurrency")
        for bad in (-1, "1", None, True)
    ),
    *((name, bad) for name in ("quota_epoch", "reserved_mb", "unreserved_mb") for bad in (-1, "1", True, 1.5, 1 << 60, [])),
    ("quota_epoch", None),
    ("family", 5),
    ("family", "x" * 513),
    ("memory_mb", CONF.limit_memory_mb + 1),
    ("tmp_mb", CONF.limit_tmp_mb + 1),
    ("tmp_mb", 0),
    ("timeout_seconds", CONF.limit_timeout_seconds + 1),
    ("timeout_seconds", float("nan")),
    ("timeout_seconds", float("inf")),
    ("init_timeout_seconds", 301),
    ("concurrency", CONF.limit_concurrency + 1),
    ("generation", (1 << 53) + 1),
    ("code", "../../../../etc/passwd"),
    ("code", "."),
    ("code", "a" * 15),
    ("code", "A" * 64),
    ("code", "a" * 64 + "\n"),
    ("code", "a" * 32 + "/" + "b" * 32),
    ("layers", ["../x"]),
    ("layers", [5]),
    ("layers", 5),
    ("layers", [f"{n:064x}" for n in range(6)]),
    ("layers", "abc"),
    ("environment", []),
    ("environment", {"A": 1}),
    ("environment", {"A": "x\0y"}),
    ("environment", {"A\0": "x"}),
    ("environment", {"A=B": "x"}),
    ("environment", {"": "x"}),
    ("privileged", True),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={str(value)[:20]!r}" for name, value in BAD])
def test_a_field_out_of_its_bounds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(LaunchError, match="specification") as caught:
        checked_spec(SPEC.to_json() | {name: value}, CONF)
    assert caught.value.stage == "request"


@pytest.mark.parametrize("data", [None, [], 5, "text", {}, [["a", 1]], {"function_id": "x"}])
def test_what_is_no_specification_is_refused(data: Any) -> None:
    with pytest.raises(LaunchError, match="specification"):
        checked_spec(data, CONF)


# ---- layers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A state directory with an empty code store."""
    conf = Settings(home=str(tmp_path))
    conf.code_dir.mkdir(parents=True)
    return conf.code_dir


def mounted(store: Path, *digests: str) -> int | None:
    return Layers(CodeStore(Settings(home=str(store.parents[1])))).mount(digests)


def test_a_function_without_layers_needs_no_mount(store: Path) -> None:
    assert mounted(store) is None


@pytest.mark.parametrize("digest", ["abcdef0123456789", "..", "a/b", ""])
def test_a_layer_that_is_not_there_is_named(store: Path, digest: str) -> None:
    with pytest.raises(ImageError, match=r"layer abcdef012345 is not in the store|is not a layer digest"):
        mounted(store, "f" * 64, digest)


def test_a_layer_is_not_looked_for_behind_a_link(store: Path) -> None:
    (store / ("f" * 64)).symlink_to("/etc")
    with pytest.raises(ImageError, match="symbolic"):
        mounted(store, "f" * 64)
