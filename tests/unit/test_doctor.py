"""What the doctor concludes from what it sees: mounts, locks, half-made packages, the exit status, the printed report."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.doctor import codestore, host, leaks, report, state
from sandbox.doctor.model import Check, Finding, Report
from sandbox.kernel import features, survey
from sandbox.settings import Settings

OK = Check("kernel", "kernel", "Linux 5.10", "ok", "6.1")
WEAKER = Check("host", "descriptors", "RLIMIT_NOFILE", "weaker", "limit 256", "no more than 64 sandboxes at once")
MISSING = Check("kernel", "memory limit", "controller memory", "missing", "not mounted", "no memory limit")
LATER = Check("later", "system call filter", "seccomp", "later", "the host has it", "not filtered")
IN_USE = Finding("aaaaaaaa", "control groups", ("/sys/fs/cgroup/memory/hearth-aaaaaaaa",), leaked=False)
LEAKED = Finding("bbbbbbbb", "control groups", tuple(f"group{n}" for n in range(7)), leaked=True)


def made(*checks: Check, findings: tuple[Finding, ...] = (), fixed: tuple[str, ...] = ()) -> Report:
    return Report("aaaaaaaa", "/var/lib/hearth", True, checks, findings, fixed)


@pytest.fixture
def conf(tmp_path: Path) -> Settings:
    found = Settings(home=str(tmp_path / "home"), run=str(tmp_path / "run"))
    found.code_dir.mkdir(parents=True)
    Path(found.run).mkdir()
    (found.code_dir / ".lock").touch()
    return found


def mountinfo(*lines: tuple[str, str, str]) -> list[survey.Mount]:
    """From (device, root, target)."""
    return survey.parse_mounts("".join(f"30 1 {device} {root} {target} rw,relatime - ext4 /dev/vda rw\n" for device, root, target in lines))


# -- the verdict


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (made(OK), True),
        (made(OK, WEAKER, LATER), True),
        (made(OK, MISSING), False),
        (made(OK, findings=(IN_USE,)), True),
        (made(OK, findings=(IN_USE, LEAKED)), False),
    ],
)
def test_only_a_missing_guarantee_or_a_leak_fails(found: Report, expected: bool) -> None:
    assert found.ok is expected


def test_plain_report_names_what_is_weaker_and_what_leaked() -> None:
    text = "\n".join(report.plain(made(OK, MISSING, findings=(IN_USE, LEAKED))))
    assert "missing memory limit" in text
    assert "no memory limit" in text
    assert "in use  this instance: 1 control groups\n" in text
    assert "leaked  dead instance bbbbbbbb: 7 control groups: group0, group1, group2, group3, group4, and 2 more" in text
    assert "1 of 2 guarantees can't be given here" in text
    assert "7 things are left behind: hearth doctor --fix" in text


def test_plain_report_says_that_nothing_is_left() -> None:
    assert report.plain(made(OK, WEAKER, LATER))[-2:] == ["everything promised is here", "nothing is left behind"]


def test_json_report_carries_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(made(MISSING, findings=(LEAKED,), fixed=("removed links: 1",)), as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert (data["ok"], data["missing"], data["leaked"], data["running"]) == (False, 1, 7, True)
    assert data["checks"][0]["state"] == "missing"
    assert data["findings"][0]["items"][0] == "group0"
    assert data["fixed"] == ["removed links: 1"]


def test_piped_report_has_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(made(OK, MISSING, findings=(LEAKED,)), as_json=False)
    assert "\x1b" not in capsys.readouterr().out


# -- checks


@pytest.mark.parametrize(
    ("release", "expected"), [("6.18.44-fc", "ok"), ("5.10.0-27-amd64", "ok"), ("5.4.0", "missing"), ("4.19", "missing")]
)
def test_kernel_older_than_5_10_is_not_enough(release: str, expected: str) -> None:
    assert host._kernel(release).state == expected


def test_descriptor_limit_tells_how_many_sandboxes_it_allows() -> None:
    few, many = host._descriptors(1024, may_raise=False), host._descriptors(1_048_576, may_raise=True)
    assert (few.state, many.state) == ("weaker", "ok")
    assert "320 sandboxes" in few.found
    assert "no CAP_SYS_RESOURCE" in few.found


def test_directory_that_others_can_write_is_missing_a_guarantee(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert state._directory("d", tmp_path, os.getuid(), "w").state == "ok"
    assert state._directory("d", tmp_path, os.getuid() + 1, "w").state == "missing"
    tmp_path.chmod(0o777)
    assert state._directory("d", tmp_path, os.getuid(), "w").state == "missing"
    assert state._directory("d", tmp_path / "none", os.getuid(), "w").state == "ok"  # before the first start


def test_broken_default_image_is_told_from_one_not_built_yet(conf: Settings) -> None:
    assert state._image(conf).state == "ok"
    broken = conf.images_dir / "host"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    assert state._image(conf).state == "missing"
    assert state._image(Settings(home=conf.home, default_image="centos7")).state == "missing"


def raising() -> None:
    raise OSError(errno.EPERM, "no")


def killing() -> None:
    os.kill(os.getpid(), 9)


def failing() -> None:
    raise RuntimeError("a probe's own mistake")


def test_probe_in_a_child_tells_its_errno() -> None:
    assert features.tried(lambda: None) == 0
    assert features.tried(raising) == errno.EPERM
    assert features.tried(killing) == errno.ETIMEDOUT
    assert features.tried(failing) != 0


# -- whose it is


def test_lock_held_by_somebody_means_alive(conf: Settings) -> None:
    lock = Path(conf.home) / "sandboxd.lock"
    assert not leaks.is_running(conf)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert leaks.is_running(conf)
        assert conf.instance in leaks.living_instances()
    assert not leaks.is_running(conf)
    assert conf.instance not in leaks.living_instances()


def test_process_is_known_by_the_home_in_its_environment(conf: Settings) -> None:
    def process(**environment: str) -> survey.Process:
        return survey.Process(2, 1, 0.0, ("python", "-m", "sandbox.daemon"), environment)

    assert leaks.instance_of(process(HEARTH_HOME=conf.home, HEARTH_CONFIG="/dev/null")) == conf.instance
    assert leaks.instance_of(process(HEARTH_CONFIG="/dev/null")) == Settings().instance
    assert leaks.instance_of(process(HEARTH_WORKERS="none", HEARTH_CONFIG="/dev/null")) == ""


def test_shell_with_our_home_in_its_environment_is_not_ours(conf: Settings) -> None:
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    environment = {**os.environ, "HEARTH_HOME": conf.home}
    for word, expected in (("sandbox.launcher", 1), ("sandbox.launcher.notes", 0)):
        with subprocess.Popen([sys.executable, "-c", code, word], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert len(leaks.own_processes(conf)) == expected
            assert leaks.is_running(conf) is bool(expected)  # just started: on its way to the lock


@pytest.mark.parametrize(
    ("program", "parent_is_kept", "running"),
    [("server.app:create_app()", False, False), ("server.app:create_app()", True, False), ("sandbox.launcher", False, True)],
)
def test_process_that_systemd_keeps_is_no_leftover(conf: Settings, program: str, parent_is_kept: bool, running: bool) -> None:
    # systemd.exec(5) sets it to the number of what it starts; gunicorn's workers are that one's children
    python = f"{sys.executable} -c 'import sys; print(1, flush=True); sys.stdin.read()' \"$PROGRAM\""
    script = f"export SYSTEMD_EXEC_PID=$$; {python}; true" if parent_is_kept else f"SYSTEMD_EXEC_PID=$$ exec {python}"
    environment = {**os.environ, "HEARTH_HOME": conf.home, "PROGRAM": program}
    with subprocess.Popen(["sh", "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert len(leaks.own_processes(conf)) == 1
        assert leaks.orphans(conf) == []
        assert leaks.is_running(conf) is running


def test_socket_of_another_that_shares_the_directory_is_not_ours(conf: Settings) -> None:
    (Path(conf.run) / "stage").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(conf.socket_path))
        sock.listen()
        assert leaks.run_files(conf, alive=False) == []
        assert leaks.run_files(conf, alive=True) == [conf.socket_path, Path(conf.run) / "stage"]
    assert leaks.run_files(conf, alive=False) == [conf.socket_path, Path(conf.run) / "stage"]


def test_half_made_package_is_its_makers_until_it_dies(conf: Settings) -> None:
    for name in (".tmp-dead", ".tmp-alive", "0123456789abcdef"):
        (conf.code_dir / name / "root").mkdir(parents=True)
    (conf.code_dir / ".tmp-link").symlink_to("/")
    fd = os.open(conf.code_dir / ".tmp-alive", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert codestore.leftovers(conf) == [".tmp-dead"]
    assert codestore.sweep(conf) == 1
    assert sorted(os.listdir(conf.code_dir)) == [".lock", ".tmp-alive", ".tmp-link", "0123456789abcdef"]
    os.close(fd)
    assert codestore.sweep(conf) == 1


def test_code_store_that_is_a_link_is_not_followed(conf: Settings, tmp_path: Path) -> None:
    other = tmp_path / "other"
    conf.code_dir.rename(other)
    (other / ".tmp-precious").mkdir()
    conf.code_dir.symlink_to(other)
    assert codestore.leftovers(conf) == [f"{conf.code_dir}: {os.strerror(errno.ELOOP)}"]
    with pytest.raises(OSError, match="symbolic links"):
        codestore.sweep(conf)
    assert (other / ".tmp-precious").is_dir()


# -- mounts


def test_mounts_below_our_directories_are_leaks_and_the_operators_own_are_not(conf: Settings) -> None:
    images, run = os.path.realpath(conf.images_dir), os.path.realpath(conf.run)
    mounts = mountinfo(
        ("254:0", "/", "/"),
        ("254:1", "/data", os.path.realpath(conf.home)),
        ("254:2", "/", images),
        ("254:2", "/host/root", f"{images}/host/root"),
        ("0:50", "/", f"{run}/stage"),
        ("254:2", "/host/root", "/mnt/elsewhere"),
        ("254:0", "/host/root", "/mnt/of\\040another\\040device"),
        ("254:1", "/data/state/code/abc", "/mnt/code"),
    )
    assert [mount.target for mount in leaks.host_mounts(conf, mounts)] == [
        "/mnt/code",
        "/mnt/elsewhere",
        f"{run}/stage",
        f"{images}/host/root",
    ]


def test_mount_points_are_unescaped() -> None:
    assert mountinfo(("0:1", "/", "/mnt/a\\040b\\134c"))[0].target == "/mnt/a b\\c"


@pytest.mark.parametrize(
    ("pattern", "state"),
    [("core", "ok"), ("", "ok"), ("|/usr/share/apport/apport -p%p", "weaker"), ("@@/run/systemd/coredump.socket", "weaker")],
)
def test_a_core_handler_of_the_host_is_a_weaker_guarantee(pattern: str, state: str) -> None:
    assert host._core_dumps(pattern).state == state
