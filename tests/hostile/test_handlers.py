"""Handlers that do their worst to their own interpreter, their processes and their link.

A clear status each time, the next call is served, the neighbours notice nothing. The control is the same function without the attack.
Sources: behaviours 15 and 16 of what hurts the users of comparable systems (snekbox, OpenLambda, Fn, LocalStack), signal(7), exit(3).
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.instance import Answer, Instance, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

COUNTER = "calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """`code` runs in the handler when the event asks for it. `scf` are the statuses that it may come to; a thread that `lingers` takes the
    next event of its own function away, too."""

    name: str
    code: str
    scf: tuple[int, ...]
    log: str = ""
    lingers: bool = False


FIND_LINK = """
    link = next(fd for fd in range(3, 64) if is_socket(fd))
"""

ATTACKS = [
    Attack("floods stdout", "for _ in range(3000): print('y' * 9999)", (200,), "log cut here"),
    Attack("prints a line of 10 MB", "sys.stdout.write('z' * (10 << 20) + chr(10))", (200,), "log cut here"),
    Attack("writes invalid UTF-8", "os.write(1, bytes(range(256)) * 8); os.write(2, b'\\xff\\xfe')", (200,), "\\xff"),
    Attack("leaves with os._exit(0)", "os._exit(0)", (439,)),
    Attack("leaves with os._exit(77)", "os._exit(77)", (439,)),
    Attack("leaves with sys.exit", "sys.exit(4)", (439,)),
    Attack("raises KeyboardInterrupt", "raise KeyboardInterrupt", (430, 439)),
    Attack("raises GeneratorExit", "raise GeneratorExit", (430, 439)),
    Attack("raises what cannot be shown", "class E(Exception):\n    def __str__(self): os._exit(1)\nraise E()", (430, 439)),
    Attack("reads address 0", "ctypes.string_at(0)", (439,)),
    Attack("aborts", "os.abort()", (439,)),
    Attack("closes descriptors 0 to 1000", "os.closerange(0, 1000)", (439,)),
    Attack("closes stdout and stderr", "os.close(1); os.close(2)", (200,)),
    Attack("kills every process it can see", "os.kill(-1, 9)", (200, 430, 439)),
    Attack("kills its process group", "os.killpg(0, 9)", (439,)),
    Attack("kills PID 1", "[os.kill(1, n) for n in (15, 2, 9)]", (200, 430, 439)),
    Attack("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)", (433,)),
    Attack(
        "ignores every signal", "[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]\nwhile True: pass", (433,)
    ),
    Attack("sleeps in C past its time", "ctypes.CDLL(None).sleep(60)", (433,)),
    Attack("holds the GIL past its time", "ctypes.PyDLL(None).sleep(60)", (433,)),
    Attack("sets an alarm that kills it later", "signal.setitimer(signal.ITIMER_REAL, 0.05)", (200,)),
    Attack("returns twice by fork", "os.fork()", (200, 439)),
    Attack("lets a child return for it", "if os.fork(): time.sleep(60)", (200, 433, 439)),
    Attack("answers by itself, then again", FIND_LINK + "    frame(link, {'op': 'result', 'id': context['request_id']}, b'1')", (200, 439)),
    Attack(
        "reads from its link",
        FIND_LINK + "    threading.Thread(target=os.read, args=(link, 9999), daemon=True).start()",
        (200,),
        lingers=True,
    ),
    Attack("shuts its link down", FIND_LINK + "    socket.socket(fileno=os.dup(link)).shutdown(socket.SHUT_RDWR)", (439,)),
    Attack("makes its link non-blocking", FIND_LINK + "    os.set_blocking(link, False)\n    return 'x' * 3000000", (200, 439)),
    Attack("replaces sys.stdout", "sys.stdout = sys.stderr = None", (200,)),
    Attack("replaces sys.stdout by what raises", "class S:\n    def __getattr__(self, n): raise SystemExit(9)\nsys.stdout = S()", (200,)),
    Attack("deletes the builtins", "import builtins\nfor n in list(vars(builtins)): delattr(builtins, n)", (200, 430, 439)),
    Attack("empties sys.modules", "sys.modules.clear()", (200, 430, 439)),
    Attack(
        "patches json and os", "import json\njson.dumps = json.loads = os.read = os.write = os._exit = os.fstat = None", (200, 430, 439)
    ),
    Attack("recurses for ever", "def f(): f()\nf()", (430,)),
    Attack("lowers the recursion limit", "sys.setrecursionlimit(30)", (200, 430)),
    Attack("raises the recursion limit and recurses", "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", (430, 434, 439)),
    Attack("starts a thread that outlives the reply", "threading.Thread(target=time.sleep, args=(600,)).start()", (200,)),
    Attack("returns what cannot be encoded", "a = []; a.append(a); return a", (430,)),
    Attack("returns an object whose keys raise", "class D(dict):\n    def items(self): os._exit(3)\nreturn D(a=1)", (200, 430, 439)),
    Attack("changes directory and removes what it can", "import shutil; os.chdir('/'); shutil.rmtree('/', ignore_errors=True)", (200,)),
]

HEAD = """
import ctypes, json, os, signal, socket, stat, struct, sys, threading, time
kept, calls = [], []
def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
def frame(link, head, body=b''):
    raw = json.dumps(head).encode()
    os.write(link, struct.pack('!II', len(raw), len(body)) + raw + body)
def main_handler(event, context):
    calls.append(1)
    if event.get('attack'):
        return attack(event, context)
    return 'served'
def attack(event, context):
"""


def armed(attack: Attack) -> str:
    return HEAD + textwrap.indent(textwrap.dedent(attack.code), "    ") + "\n    return 'done'\n"


@pytest.fixture(scope="module")
def neighbour(hearth: Instance) -> Iterator[str]:
    name = hearth.deploy(COUNTER, concurrency=1)
    hearth.call(name).ok()
    yield name
    hearth.delete(name)


def assert_untouched(hearth: Instance, neighbour: str) -> None:
    (before,) = hearth.sandboxes(neighbour)
    answer = hearth.call(neighbour)
    assert (answer.ok(), answer.start) == (before["calls"] + 1, "warm")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_handler_that(hearth: Instance, neighbour: str, attack: Attack) -> None:
    name = hearth.deploy(armed(attack), timeout=1)
    assert hearth.call(name, {}).ok() == "served"
    answer = hearth.call(name, {"attack": True})
    assert answer.scf in attack.scf, (answer.scf, answer.content[:1500])
    assert answer.seconds < 3
    assert attack.log in hearth.record(answer)["log"]
    assert len(hearth.record(answer)["log"]) < 5 << 20
    if attack.lingers:
        stolen = (hearth.call(name, {}).scf for _ in range(5))
        assert next((scf for scf in stolen if scf != 200), 433) in (433, 439)
    for _ in range(2):
        assert hearth.call(name, {}).ok() == "served"
    assert_untouched(hearth, neighbour)
    hearth.delete(name)


IMPORTS = [
    Attack("never ends", "while True: pass", (450,)),
    Attack("exits with sys.exit", "import sys\nsys.exit(3)", (439, 443)),
    Attack("exits with os._exit", "import os\nos._exit(0)", (439,)),
    Attack("reads address 0", "import ctypes\nctypes.string_at(0)", (439,)),
    Attack("allocates without end", "hog = []\nwhile True: hog.append(bytearray(b'x' * (1 << 20)))", (434,)),
    Attack(
        "answers before it is asked", armed(Attack("", FIND_LINK + "    frame(link, {'op': 'loaded'})", ())) + "attack({}, {})", (200, 439)
    ),
    Attack(
        "claims a result while it loads",
        armed(Attack("", FIND_LINK + "    frame(link, {'op': 'result', 'id': ''}, b'1')", ())) + "attack({}, {})",
        (439,),
    ),
]


@pytest.mark.parametrize("attack", IMPORTS, ids=lambda attack: attack.name)
def test_an_import_that(hearth: Instance, neighbour: str, attack: Attack) -> None:
    code = attack.code if "def main_handler" in attack.code else attack.code + "\ndef main_handler(event, context): pass\n"
    name = hearth.deploy(code, init_timeout=3)
    answer = hearth.call(name, {})
    assert answer.scf in attack.scf, (answer.scf, answer.content[:1500])
    hearth.update(name, COUNTER)
    assert hearth.call(name).ok() == 1
    assert_untouched(hearth, neighbour)
    hearth.delete(name)


def test_a_frame_sent_after_the_reply_costs_the_worker_not_the_next_call(hearth: Instance) -> None:
    late = FIND_LINK + "    threading.Timer(0.05, frame, (link, {'op': 'result', 'id': 'next'}, b'1')).start()"
    name = hearth.deploy(armed(Attack("", late, ())))
    assert hearth.call(name, {"attack": True}).ok() == "done"
    time.sleep(0.2)  # the frame is sent behind our back
    answer = hearth.call(name, {})
    assert (answer.ok(), answer.start) == ("served", "cold")


# What outlives a reply --------------------------------------------------------------------------------------------------------

DAEMONS = """
    import ctypes, os, time
    def name_myself(mark):
        ctypes.CDLL(None).prctl(15, mark.encode(), 0, 0, 0)
    def main_handler(event, context):
        for n in range(event.get("daemons", 0)):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    name_myself(event["mark"])
                    time.sleep(600)
                os._exit(0)
            os.wait()
        time.sleep(event.get("seconds", 0))
        return "done"
"""


def named(mark: str) -> list[int]:
    """Processes of this name anywhere on the host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == mark:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_after_a_timeout_the_whole_tree_is_gone_before_the_reply(hearth: Instance) -> None:
    name, mark = hearth.deploy(DAEMONS, timeout=1), f"dmn-{os.getpid()}a"
    call = hearth.call_soon(name, {"daemons": 5, "mark": mark, "seconds": 60})
    wait_until(lambda: len(named(mark)) == 5, "the daemons run")
    answer = call.result()
    assert named(mark) == []
    assert answer.outcome == (504, 433)


def test_daemons_that_outlive_a_reply_stay_in_their_sandbox_and_go_with_it(hearth: Instance) -> None:
    name, mark = hearth.deploy(DAEMONS), f"dmn-{os.getpid()}b"
    assert hearth.call(name, {"daemons": 5, "mark": mark}).ok() == "done"
    assert len(named(mark)) == 5
    assert hearth.call(name, {}).start == "warm"
    hearth.delete(name)
    wait_until(lambda: named(mark) == [], "they are gone with the function")


def test_daemons_of_a_worker_that_exits_are_gone_before_the_reply(hearth: Instance) -> None:
    code = textwrap.dedent(DAEMONS) + "    os._exit(1)\n"
    code = code.replace('    return "done"\n', "")
    name, mark = hearth.deploy(code), f"dmn-{os.getpid()}c"
    answer = hearth.call(name, {"daemons": 5, "mark": mark})
    assert named(mark) == []
    assert answer.outcome == (502, 439)


def test_a_worker_that_dies_while_idle_is_not_given_to_a_call(hearth: Instance) -> None:
    code = "import os, threading\ndef main_handler(event, context):\n    threading.Timer(0.05, os._exit, (1,)).start()\n    return 1\n"
    name = hearth.deploy(code)
    hearth.call(name).ok()
    wait_until(lambda: hearth.sandboxes(name) == [], "the worker is gone")
    answer = hearth.call(name)
    assert (answer.ok(), answer.start) == (1, "cold")
    hearth.delete(name)


def test_a_fork_bomb_stays_below_its_limit_and_ends_with_its_call(hearth: Instance, neighbour: str) -> None:
    name = hearth.deploy(
        """
        import os, time
        def main_handler(event, context):
            if not event.get("bomb"):
                return "served"
            while True:
                try:
                    os.fork()
                except OSError:
                    time.sleep(0.05)
        """,
        timeout=2,
        memory=1024,
    )
    before = hearth.confined()
    call = hearth.call_soon(name, {"bomb": True})
    most = 0
    while not call.done():
        most = max(most, len(hearth.confined()) - len(before))
        time.sleep(0.1)  # the bomb needs the machine too
    assert call.result().scf in (433, 434, 439)
    assert 100 < most <= 1030
    assert hearth.call(name, {}).ok() == "served"
    assert_untouched(hearth, neighbour)
    wait_until(lambda: len(hearth.confined()) < 100, "its processes are gone")


def test_a_second_reply_is_never_taken_for_the_next_call_s(hearth: Instance) -> None:
    """A worker that writes an answer ahead of time must not have it taken as the answer to a later event."""
    forge = FIND_LINK + "    frame(link, {'op': 'result', 'id': context['request_id']}, b'\"forged\"')"
    name = hearth.deploy(armed(Attack("", forge, ())), timeout=1)
    hearth.call(name, {"attack": True})
    bodies = [answer.content for answer in (call_until_served(hearth, name) for _ in range(4))]
    assert bodies == [b'"served"'] * 4


def call_until_served(hearth: Instance, name: str) -> Answer:
    answer = hearth.call(name, {})
    return answer if answer.scf == 200 else hearth.call(name, {})
