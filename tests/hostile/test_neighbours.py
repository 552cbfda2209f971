"""What one function can learn of another, or do to it: nothing. Networks have tests of their own.

Each attack leaves something in one function and looks for it in another; the control is that its own next call finds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest

from tests.hostile.attacks import numbers
from tests.hostile.chamber import PAYLOAD
from tests.integration.instance import Answer, Instance

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]


@dataclass(frozen=True, slots=True)
class Trace:
    """`leave` in one function, then `look` tells "through" where it is found."""

    name: str
    source: str
    leave: str
    look: str


TRACES = [
    Trace(
        "a file in /tmp",
        "mount_namespaces(7)",
        'open("/tmp/x", "w").close()',
        'told = "through" if os.path.exists("/tmp/x") else "none"',
    ),
    Trace(
        "a file in /dev/shm",
        "shm_overview(7)",
        'open("/dev/shm/x", "w").close()',
        'told = "through" if os.path.exists("/dev/shm/x") else "none"',
    ),
    Trace("a shared memory segment", "ipc_namespaces(7)", 'call("shmget", 77, 4096, 0o1666)', 'call("shmget", 77, 0, 0)\ntold = "through"'),
    Trace(
        "a message queue", "mq_overview(7)", 'call("mq_open", b"x", 0o102, 0o666, 0)', 'call("mq_open", b"x", 0, 0, 0)\ntold = "through"'
    ),
    Trace("a semaphore", "semget(2)", 'call("semget", 78, 1, 0o1666)', 'call("semget", 78, 0, 0)\ntold = "through"'),
    Trace(
        "a process",
        "pid_namespaces(7)",
        "child = os.fork()\nif child == 0:\n    time.sleep(60)\n    os._exit(0)",
        'told = "through" if len([p for p in os.listdir("/proc") if p.isdigit()]) > 2 else "none"',
    ),
    Trace(
        "an abstract socket",
        "unix(7)",
        'one = socket.socket(socket.AF_UNIX)\none.bind("\\0x")\none.listen(1)\nkept.append(one)',
        'socket.socket(socket.AF_UNIX).connect("\\0x")\ntold = "through"',
    ),
    Trace(
        "a port of the loopback",
        "network_namespaces(7)",
        'one = socket.socket()\none.bind(("127.0.0.1", 4711))\none.listen(1)\nkept.append(one)',
        'socket.create_connection(("127.0.0.1", 4711), 1)\ntold = "through"',
    ),
    Trace(
        "a module in the interpreter",
        "zygotes fork",
        'sys.modules["hostile_x"] = sys',
        'told = "through" if "hostile_x" in sys.modules else "none"',
    ),
    Trace("a patched library", "zygotes fork", "json.hostile = 1", 'told = "through" if hasattr(json, "hostile") else "none"'),
    Trace(
        "a variable of the environment",
        "environ(7)",
        'os.environ["HOSTILE"] = "1"',
        'told = "through" if "HOSTILE" in os.environ else "none"',
    ),
    Trace(
        "an environment that programs inherit",
        "proc(5) environ",
        'os.environ["HOSTILE"] = "1"',
        'told = "through" if b"HOSTILE" in subprocess.check_output(["/usr/bin/env"]) else "none"',
    ),
    Trace(
        "the state of random numbers",
        "random(3); fork",
        "import random\nrandom.seed(1)",
        'import random\nvalue = random.random()\nrandom.seed(1)\ntold = "through" if value == random.random() else "none"',
    ),
    Trace(
        "a signal that is ignored",
        "signal(7)",
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        'told = "through" if signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN else "none"',
    ),
    Trace(
        "a lower limit",
        "getrlimit(2)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))",
        'told = "through" if resource.getrlimit(resource.RLIMIT_NOFILE)[1] == 128 else "none"',
    ),
    Trace("a lower priority", "nice(2)", "os.nice(3)", 'told = "through" if os.nice(0) == 3 else "none"'),
    Trace("an umask", "umask(2)", "os.umask(0o77)", 'told = "through" if os.umask(0o22) == 0o77 else "none"'),
    Trace(
        "an affinity",
        "sched_setaffinity(2)",
        "os.sched_setaffinity(0, {0})",
        'told = "through" if len(os.sched_getaffinity(0)) == 1 else "none"',
    ),
    Trace("a directory to work in", "chdir(2)", 'os.chdir("/tmp")', 'told = "through" if os.getcwd() == "/tmp" else "none"'),
]


@pytest.fixture
def functions(hearth: Instance) -> Iterator[list[str]]:
    names = [hearth.deploy(PAYLOAD.read_text(), timeout=5) for _ in range(2)]
    yield names
    for name in names:
        hearth.delete(name)


def run(hearth: Instance, name: str, code: str) -> Answer:
    return hearth.call(name, {"code": code, "numbers": numbers(code)})


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_neighbour_does_not_find(hearth: Instance, functions: list[str], trace: Trace) -> None:
    one, other = functions
    assert run(hearth, other, trace.look).ok() != "through"
    assert run(hearth, one, trace.leave).ok() == "through"
    assert run(hearth, one, trace.look).ok() == "through", "the control"
    assert run(hearth, other, trace.look).ok() != "through"
    fresh = hearth.deploy(PAYLOAD.read_text(), timeout=5)
    assert run(hearth, fresh, trace.look).ok() != "through", "found by what was prepared"
    hearth.delete(fresh)


@pytest.mark.parametrize("trace", TRACES[:6], ids=lambda trace: trace.name)
def test_who_gets_the_same_uid_next_does_not_find(hearth: Instance, trace: Trace) -> None:
    """Slots, with their uid and cgroup, are used again."""
    seen: set[int] = set()
    for _ in range(12):
        name = hearth.deploy(PAYLOAD.read_text(), timeout=5)
        assert run(hearth, name, trace.look).ok() != "through"
        assert run(hearth, name, trace.leave).ok() == "through"
        (row,) = hearth.sandboxes(name)
        hearth.delete(name)
        if row["uid"] in seen:
            return
        seen.add(row["uid"])
    pytest.fail("no uid was used twice")


def test_two_workers_of_one_function_share_nothing_but_their_code(hearth: Instance) -> None:
    code = PAYLOAD.read_text() + '\ndef main_handler(event, context):\n    time.sleep(0.3)\n    fresh = not os.path.exists("/tmp/x")\n'
    name = hearth.deploy(code + '    open("/tmp/x", "w").close()\n    return [fresh, os.stat("/tmp").st_dev]\n', timeout=5)
    answers = [call.result().ok() for call in [hearth.call_soon(name) for _ in range(3)]]
    assert [fresh for fresh, _ in answers] == [True] * 3


def test_code_is_one_file_for_two_functions_and_neither_can_change_it(hearth: Instance, functions: list[str]) -> None:
    change = """
me, other = "/var/user/index.py", "/var/user/x"
for act, arguments in (
    (open, (me, "a")), (os.chmod, (me, 0o777)), (os.unlink, (me,)), (os.rename, (me, other)), (os.symlink, ("/etc", other)),
    (os.mkdir, ("/var/user/__pycache__",)), (os.utime, (me, None)), (os.truncate, (me, 0)), (os.link, (me, other)),
):
    try:
        act(*arguments)
        kept.append(act)
    except EnvironmentError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
told = "changed" if kept else "refused"
"""
    one, other = functions
    assert run(hearth, one, change).ok() == "refused"
    assert hearth.call(other, {}).ok() == "served"


def test_a_flood_of_cold_starts_leaves_a_neighbour_its_warm_worker(hearth: Instance) -> None:
    """Everything prepared is used up and more is asked for; the neighbour's worker is its own."""
    neighbour = hearth.deploy("calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n")
    hearth.call(neighbour).ok()
    greedy = hearth.deploy("import time\ndef main_handler(event, context):\n    time.sleep(0.2)\n", concurrency=8, timeout=30)
    flood: list[Future[Answer]] = [hearth.call_soon(greedy) for _ in range(24)]
    served = [hearth.call(neighbour) for _ in range(5)]
    assert {one.result().scf for one in flood} <= {200, 432}
    assert [(one.ok(), one.start) for one in served] == [(count, "warm") for count in range(2, 7)]
    assert max(one.seconds for one in served) < 2


def test_the_pids_uids_and_counters_of_a_function_do_not_tell_of_others(hearth: Instance, functions: list[str]) -> None:
    code = "told = repr([os.getpid(), os.getuid(), os.getppid(), os.getpgrp(), sorted(os.listdir('/dev')), os.listdir('/tmp')])"
    one, other = functions
    first = run(hearth, one, code).ok()
    for _ in range(5):
        run(hearth, one, "told = None").ok()
    assert run(hearth, other, code).ok() == first


def test_the_host_s_user_is_not_one_of_ours(hearth: Instance, functions: list[str]) -> None:
    run(hearth, functions[0], "told = None").ok()
    (row,) = hearth.sandboxes(functions[0])
    assert row["uid"] not in (0, 1000, os.getuid())
