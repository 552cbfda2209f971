"""From the installed service to invoked functions, their ends, and the ends of each of our processes; in the order they are written."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.instance import below, command_line, wait_until
from tests.vm.service import PATIENCE_SECONDS, UNITS, Service, cgroup_kind, doctor, is_active, journal, main_pid, run, show

pytestmark = [pytest.mark.requires("trial"), pytest.mark.shares_host]

#: Seconds that a call may take here: as many as a function can have. An emulated processor on a busy host needs them for a fork bomb.
LONGEST = 300
HELLO = """
    calls = 0
    def main_handler(event, context):
        global calls
        calls += 1
        return {"calls": calls, "event": event}
"""
GREEDY = """
    import os, time
    def main_handler(event, context):
        if event["do"] == "own":
            return len(bytearray(os.urandom(1 << 20)) * event["megabytes"])
        if event["do"] == "tmp":
            done, block = 0, os.urandom(1 << 20)
            try:
                with open("/tmp/file", "wb", 0) as file:
                    for _ in range(event["megabytes"]):
                        done += file.write(block)
            except OSError as error:
                return [done >> 20, error.errno]
            return [done >> 20, 0]
        if event["do"] == "sleep":
            time.sleep(event["seconds"])
        if event["do"] == "bomb":
            children = 0
            try:
                while True:
                    if os.fork() == 0:
                        time.sleep(600)
                        os._exit(0)
                    children += 1
            except OSError as error:
                return [children, error.errno]
"""


@pytest.fixture
def hearth() -> Iterator[Service]:
    service = Service()
    service.ready()
    yield service
    service.close()


def test_every_unit_is_up_and_said_so_itself() -> None:
    assert [unit for unit in UNITS if not is_active(unit)] == []
    assert show("hearth-sandboxd.service", "StatusErrno") == "0"
    assert int(show("hearth-sandboxd.service", "WatchdogTimestampMonotonic")) > 0


def test_a_function_answers_cold_and_warm(hearth: Service) -> None:
    name = hearth.ensure("hello", HELLO, timeout=LONGEST)
    first, second = hearth.call(name, {"a": 1}), hearth.call(name, {"a": 2})
    assert (first.start, first.ok()) == ("cold", {"calls": 1, "event": {"a": 1}})
    assert (second.start, second.ok()) == ("warm", {"calls": 2, "event": {"a": 2}})
    assert int(second.headers["x-scf-memory-bytes"]) > 1 << 20


def test_the_sandboxes_limits_are_where_the_kernel_has_them(hearth: Service) -> None:
    groups = {path.name: path for path in hearth.cgroups() if path.name.startswith("s")}
    assert groups
    if cgroup_kind() == "unified":
        assert "/system.slice/hearth-sandboxd.service/hearth-" in str(next(iter(groups.values())))
        (group, *_) = [path for path in groups.values() if (path / "cgroup.procs").read_text()]
        limit = int((group / "memory.max").read_text())
        assert limit == (128 + 32) << 20
        assert int((group / "memory.high").read_text()) == limit - (4 << 20)
        assert (group / "memory.oom.group").read_text() == "1\n"
        assert (group / "pids.max").read_text() == "1025\n"
        # no internal processes: our own live in a leaf beside the sandboxes' groups
        service = Path("/sys/fs/cgroup/system.slice/hearth-sandboxd.service")
        assert (service / "cgroup.procs").read_text() == ""
        assert str(main_pid("hearth-sandboxd.service")) in (service / "runtime" / "cgroup.procs").read_text().split()
    else:
        assert any("/memory/hearth-" in str(path) for path in hearth.cgroups())


def test_too_much_memory_is_434_and_the_next_call_is_served(hearth: Service) -> None:
    name = hearth.ensure("greedy", GREEDY, timeout=LONGEST)
    assert hearth.call(name, {"do": "own", "megabytes": 60}).ok() == 60 << 20
    assert hearth.call(name, {"do": "own", "megabytes": 400}).outcome == (502, 434)
    assert hearth.sandboxes(name) == []
    assert hearth.call(name, {"do": "own", "megabytes": 60}).ok() == 60 << 20


def test_a_full_tmp_is_an_error_of_the_write_and_no_memory_of_the_function(hearth: Service) -> None:
    name = hearth.ensure("greedy", GREEDY, timeout=LONGEST)
    answer = hearth.call(name, {"do": "tmp", "megabytes": 600})
    assert answer.ok() == [512, 28]
    assert int(answer.headers["x-scf-memory-bytes"]) < 128 << 20


def test_a_timeout_is_433_and_nothing_of_the_call_lives(hearth: Service) -> None:
    name = hearth.deploy(GREEDY, timeout=2, init_timeout=LONGEST)
    assert hearth.call(name, {"do": "sleep", "seconds": 100}).outcome == (504, 433)
    assert hearth.sandboxes(name) == []


def test_a_fork_bomb_meets_its_limit_and_the_next_call_is_served(hearth: Service) -> None:
    name = hearth.deploy(GREEDY, timeout=LONGEST, init_timeout=LONGEST, memory=1024)
    children, error = hearth.call(name, {"do": "bomb"}).ok()
    assert 900 < children < 1024
    assert error == 11
    hearth.delete(name)
    assert hearth.call(hearth.ensure("hello", HELLO, timeout=LONGEST), {}).outcome == (200, 200)


def test_doctor_finds_everything_promised_and_nothing_left() -> None:
    report = doctor()
    assert report["leaked"] == 0, report["findings"]
    assert report["running"]
    assert [check["name"] for check in report["checks"] if check["state"] == "missing"] == []


@pytest.mark.long
def test_a_reload_of_the_api_drops_no_request_and_no_warm_worker(hearth: Service) -> None:
    hello, slow = hearth.ensure("hello", HELLO, timeout=LONGEST), hearth.ensure("greedy", GREEDY, timeout=LONGEST)
    hearth.call(hello, {}).ok()
    workers = below(main_pid("hearth-api.service"))
    running = hearth.call_soon(slow, {"do": "sleep", "seconds": 10})
    wait_until(lambda: [row for row in hearth.sandboxes(slow) if row["state"] == "leased"], "the slow call runs", PATIENCE_SECONDS)
    run("systemctl", "reload", "hearth-api.service")
    answers = [hearth.call(hello, {}) for _ in range(5)]
    assert [(answer.outcome, answer.start) for answer in answers] == [((200, 200), "warm")] * 5
    assert running.result().outcome == (200, 200)
    assert is_active("hearth-api.service")
    wait_until(lambda: len(below(main_pid("hearth-api.service")) & workers) <= 1, "the old workers have gone", PATIENCE_SECONDS)
    assert hearth.call(hello, {}).start == "warm"


def test_a_killed_api_comes_back_and_the_warm_workers_are_still_there(hearth: Service) -> None:
    name = hearth.ensure("hello", HELLO, timeout=LONGEST)
    hearth.call(name, {}).ok()
    pid = main_pid("hearth-api.service")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: main_pid("hearth-api.service") not in (0, pid), "another API", PATIENCE_SECONDS)
    hearth.ready()
    assert hearth.call(name, {}).start == "warm"


@pytest.mark.parametrize("title", ["sandbox.daemon", pytest.param("sandbox.launcher", marks=pytest.mark.long)])
def test_a_killed_runtime_comes_back_and_serves(hearth: Service, title: str) -> None:
    name = hearth.ensure("hello", HELLO, timeout=LONGEST)
    hearth.call(name, {}).ok()
    main = main_pid("hearth-sandboxd.service")
    (victim,) = [pid for pid, _ in below(main) if f"-m {title}" in command_line(pid)]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: main_pid("hearth-sandboxd.service") not in (0, main), "another runtime", PATIENCE_SECONDS)
    hearth.ready()
    answer = hearth.call(name, {})
    assert (answer.start, answer.ok()["calls"]) == ("cold", 1)
    assert doctor()["leaked"] == 0


@pytest.mark.long
def test_a_runtime_that_hangs_is_ended_by_the_watchdog_and_another_serves(hearth: Service) -> None:
    name = hearth.ensure("hello", HELLO, timeout=LONGEST)
    hearth.call(name, {}).ok()
    main = main_pid("hearth-sandboxd.service")
    (victim,) = [pid for pid, _ in below(main) if "-m sandbox.daemon" in command_line(pid)]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: main_pid("hearth-sandboxd.service") not in (0, main), "another runtime", PATIENCE_SECONDS)
    assert not Path(f"/proc/{victim}").exists()
    assert [entry for entry in journal("-u", "hearth-sandboxd.service") if "Watchdog timeout" in str(entry["MESSAGE"])]
    hearth.ready()
    answer = hearth.call(name, {})
    assert (answer.start, answer.ok()["calls"]) == ("cold", 1)
    assert doctor()["leaked"] == 0


@pytest.mark.long
def test_doctor_leaves_an_api_alone_whose_runtime_is_stopped(hearth: Service) -> None:
    run("systemctl", "stop", "hearth-sandboxd.service")
    family = below(main_pid("hearth-api.service"))
    try:
        report = doctor("--fix")
        assert (report["leaked"], report["running"]) == (0, False), report["findings"]
        assert below(main_pid("hearth-api.service")) == family
        assert hearth.request("GET", "/healthz").status == 200
    finally:
        run("systemctl", "start", "hearth-sandboxd.service")
    hearth.ready()


def test_the_journal_has_what_our_processes_say_as_entries_of_their_own() -> None:
    (entry, *_) = [entry for entry in journal("SYSLOG_IDENTIFIER=hearth-sandboxd") if str(entry["MESSAGE"]).startswith("ready: ")]
    assert (entry["PRIORITY"], entry["_SYSTEMD_UNIT"]) == ("6", "hearth-sandboxd.service")
    assert entry["LOGGER"]


@pytest.mark.long
def test_wrong_settings_are_one_line_each_and_stop_the_start(hearth: Service) -> None:
    path = Path("/etc/hearth/hearth.toml")
    good = path.read_text()
    try:
        path.write_text(good + '\nworkers = "many"\nnonsense = 1\nkeep_alive_seconds = -5\n')
        assert run("systemctl", "restart", "hearth-sandboxd.service", check=False) == ""
        assert not is_active("hearth-sandboxd.service")
        said = [str(entry["MESSAGE"]) for entry in journal("-u", "hearth-sandboxd.service")]
        for wanted in ("unknown setting 'nonsense'", "workers: 'many' is not a int", "keep_alive_seconds: -5.0 is out of range"):
            assert [line for line in said if wanted in line], said[-20:]
        assert not [line for line in said if "Traceback" in line]
    finally:
        path.write_text(good)
        run("systemctl", "reset-failed", "hearth-sandboxd.service")
        run("systemctl", "start", "hearth-sandboxd.service")
    hearth.ready()


def test_a_stop_leaves_nothing_and_a_start_serves_again(hearth: Service) -> None:
    name = hearth.ensure("hello", HELLO, timeout=LONGEST)
    hearth.call(name, {}).ok()
    family = hearth.confined()
    run("systemctl", "stop", "hearth.target")
    # systemctl waits for the target alone, whose parts stop after it
    wait_until(lambda: not [unit for unit in UNITS if is_active(unit)], "every part has stopped", PATIENCE_SECONDS)
    hearth.assert_nothing_left(family)
    report = doctor()
    assert (report["leaked"], report["running"]) == (0, False), report["findings"]
    run("systemctl", "start", "hearth.target")
    hearth.ready()
    assert hearth.call(name, {}).start == "cold"
