"""The guest program as a plain subprocess, under every interpreter this machine has."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sandbox.protocol import GUEST_PROTOCOL, FrameReader, encode_frame

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "sandbox/guest/worker.py"
REHEARSAL = ROOT / "sandbox/guest/rehearsal"
PAYLOADS = ROOT / "tests/payloads/guest"
WAIT_SECONDS = 20

WANTED = ("2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def find_interpreters() -> dict[str, str]:
    """Version → binary: pyenv's own and the system's."""
    found = {"system": "/usr/bin/python3"} if os.path.exists("/usr/bin/python3") else {}
    for binary in sorted(Path("/root/.pyenv/versions").glob("[23].*/bin/python")):
        found[".".join(binary.parts[4].split(".")[:2])] = str(binary)
    return found


INTERPRETERS = find_interpreters()


def each_interpreter() -> list[Any]:
    names = ["system", *WANTED]
    needs = {name: pytest.mark.requires("tool:/usr/bin/python3" if name == "system" else f"python{name}") for name in names}
    return [pytest.param(INTERPRETERS.get(name, ""), id=name, marks=[] if name in INTERPRETERS else [needs[name]]) for name in names]


class Guest:
    """One worker process at the other end of a socket pair, and all it wrote to stdout and stderr."""

    def __init__(self, interpreter: str, *, program: list[str] | None = None) -> None:
        self.interpreter = interpreter
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WAIT_SECONDS)
        self.output, writing = os.pipe()
        with theirs:
            fd = theirs.fileno()
            environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
            command = [interpreter, "-sEB", *(program or [str(WORKER)]), str(fd)]
            self.process = subprocess.Popen(
                command, pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, cwd="/"
            )
        os.close(writing)
        self.frames = FrameReader(64 * 1024 * 1024)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame; EOFError at the end."""
        data = b""
        while (frame := self.frames.feed(data)) is None:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
        return frame

    def ask(self, head: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        self.socket.sendall(encode_frame(head, body))
        return self.receive()

    def load(
        self, handler: str, root: Path | str, *, reply_bytes: int = 6291456, context: dict[str, Any] | None = None, **environment: str
    ) -> dict[str, Any]:
        assert self.receive()[0]["op"] == "hello"
        head = {
            "op": "load",
            "handler": handler,
            "code_root": str(root),
            "environment": environment,
            "context": context or {},
            "limits": {"reply_bytes": reply_bytes},
        }
        return self.ask(head)[0]

    def invoke(self, event: Any, **context: Any) -> tuple[dict[str, Any], Any]:
        """(head, return value or None) for a call."""
        head, body = self.ask({"op": "invoke", "id": "r-1", "context": context}, orjson.dumps(event))
        assert head["id"] == "r-1"
        return head, orjson.loads(body) if body else None

    def call(self, do: str, **event: Any) -> Any:
        """The return value of tests/payloads/guest/many.py's `do`."""
        head, value = self.invoke({"do": do, **event})
        assert head["op"] == "result", head
        return value

    def fail(self, do: str, **event: Any) -> dict[str, Any]:
        head, _ = self.invoke({"do": do, **event})
        assert head["op"] == "failed", head
        return head

    def send_last(self, do: str, **event: Any) -> int:
        """Make a call that must not be answered; the process's exit status."""
        self.socket.sendall(encode_frame({"op": "invoke", "id": "r-1", "context": {}}, orjson.dumps({"do": do, **event})))
        with pytest.raises((EOFError, ConnectionResetError)):
            self.receive()
        return self.process.wait(WAIT_SECONDS)

    def written(self, until: bytes = b"") -> bytes:
        """What it wrote so far; with `until`, waits for that."""
        text = b""
        while select.select([self.output], [], [], WAIT_SECONDS if until and until not in text else 0)[0]:
            data = os.read(self.output, 65536)
            text += data
            if not data:
                break
        return text

    def close(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_SECONDS)
        os.close(self.output)


@pytest.fixture(params=each_interpreter(), scope="module")
def interpreter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def guest(interpreter: str) -> Iterator[Guest]:
    guest = Guest(interpreter)
    yield guest
    guest.close()


@pytest.fixture(scope="module")
def many(interpreter: str) -> Iterator[Guest]:
    """One worker for all the calls after which a worker is kept: each of them is also a test that the one before did no harm."""
    guest = Guest(interpreter)
    assert guest.load("many.main", PAYLOADS, GIVEN="v\u00e9") == {"op": "loaded"}
    yield guest
    assert guest.process.poll() is None
    guest.close()


@pytest.fixture
def fresh(guest: Guest) -> Guest:
    """A worker of its own with many.main loaded, for calls that break it."""
    assert guest.load("many.main", PAYLOADS) == {"op": "loaded"}
    guest.written(until=b"loading")
    return guest


def is_python2(interpreter: str) -> bool:
    return "/2.7" in interpreter


# ---- greeting and loading ------------------------------------------------------------------------------------------


def test_hello_names_protocol_version_and_pid(guest: Guest) -> None:
    head, body = guest.receive()
    version = subprocess.check_output([guest.interpreter, "-sEB", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"])
    assert head == {"op": "hello", "protocol": GUEST_PROTOCOL, "python": version.decode().strip(), "pid": guest.process.pid}
    assert body == b""


def load_source(guest: Guest, root: Path, handler: str, **files: str) -> dict[str, Any]:
    for name, source in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source)
    return guest.load(handler, root)


@pytest.mark.parametrize(
    "handler", ["nowhere.main", "index.absent", "index.number", "index", "", "../index.main", "index.", ".main", "a..b.c"]
)
def test_missing_handler_is_handler_not_found(guest: Guest, tmp_path: Path, handler: str) -> None:
    head = load_source(guest, tmp_path, handler, index="number = 5\n")
    assert (head["op"], head["code"], head["trace"]) == ("load_failed", "handler_not_found", "")
    assert head["message"]
    assert str(WORKER.parent) not in head["message"]


def test_missing_code_directory_is_a_failed_load(guest: Guest, tmp_path: Path) -> None:
    head = guest.load("index.main", tmp_path / "nothing")
    assert (head["op"], head["code"], head["message"]) == ("load_failed", "handler_not_found", "code directory: No such file or directory")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_third_module\n", "no_such_third_module"),
        ("from index import main\n", "main"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def main(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("raise ValueError(b'\\xff' * 1000000)\n", "ValueError"),
    ],
)
def test_module_that_fails_is_user_code_error_with_the_users_frames_only(guest: Guest, tmp_path: Path, source: str, message: str) -> None:
    head = load_source(guest, tmp_path, "index.main", index=source)
    assert (head["op"], head["code"]) == ("load_failed", "user_code_error")
    assert message in head["message"]
    assert head["trace"].startswith("Traceback (most recent call last):\n")
    assert "index.py" in head["trace"] and "worker.py" not in head["trace"] and "importlib" not in head["trace"]
    assert len(head["trace"]) < 70000


def test_import_loop_between_the_users_modules_is_named(guest: Guest, tmp_path: Path) -> None:
    head = load_source(guest, tmp_path, "index.main", index="from other import x\n", other="from index import main\nx = 1\n")
    assert head["code"] == "user_code_error"
    assert "other.py" in head["trace"] and "main" in head["message"]


@pytest.mark.parametrize(
    ("handler", "module"), [("pkg/index.main", "pkg.index"), ("./pkg/index.main", "pkg.index"), ("loose/index.main", "loose.index")]
)
def test_handler_may_lie_in_a_directory_with_or_without_init(guest: Guest, handler: str, module: str) -> None:
    assert guest.load(handler, PAYLOADS) == {"op": "loaded"}
    assert guest.invoke({})[1] == module


@pytest.mark.parametrize("name", ["worker", "zygote", "json", "logging", "traceback", "hearth_rehearsal"])
def test_users_file_wins_over_a_loaded_module_of_the_same_name(guest: Guest, tmp_path: Path, name: str) -> None:
    source = "def main(event, context):\n    return __name__, event['n'] / 0 if 'n' in event else 7\n"
    assert load_source(guest, tmp_path, f"{name}.main", **{name: source}) == {"op": "loaded"}
    assert guest.invoke({})[1] == [name, 7]
    assert "ZeroDivisionError" in guest.invoke({"n": 1})[0]["trace"]


def test_layer_free_imports_beside_the_handler_work(guest: Guest, tmp_path: Path) -> None:
    assert load_source(guest, tmp_path, "index.main", index="import lib\nmain = lib.main\n", lib="def main(e, c):\n    return 'lib'\n") == {
        "op": "loaded"
    }
    assert guest.invoke({})[1] == "lib"


def test_import_that_forks_answers_once(guest: Guest, tmp_path: Path) -> None:
    source = "import os\nchild = os.fork()\nif child:\n    os.waitpid(child, 0)\ndef main(e, c):\n    return os.getpid()\n"
    assert load_source(guest, tmp_path, "index.main", index=source) == {"op": "loaded"}
    assert guest.invoke({})[1] == guest.process.pid


# ---- calls ---------------------------------------------------------------------------------------------------------


def test_the_context_of_load_reaches_every_call_anew_with_its_request_id(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "index.py").write_text("def main(event, context):\n    before = dict(context)\n    context.clear()\n    return before\n")
    assert guest.load("index.main", tmp_path, context={"function_name": "f", "environ": "A=1"}) == {"op": "loaded"}
    for number in ("r-1", "r-2"):
        _, body = guest.ask({"op": "invoke", "id": number}, b"{}")
        assert orjson.loads(body) == {"function_name": "f", "environ": "A=1", "request_id": number}
    _, body = guest.ask({"op": "invoke", "id": "r-3", "context": {"environ": "A=2"}}, b"{}")
    assert orjson.loads(body) == {"function_name": "f", "environ": "A=2", "request_id": "r-3"}


def test_event_and_context_arrive_and_the_value_returns(many: Guest) -> None:
    event = {"do": "answer", "text": "\u4e2d\u00e9\U0001f600", "list": [1, 2.5, None, True, {"a": []}], "big": 2**53}
    context = {"request_id": "r-1", "memory_limit_in_mb": 128, "environ": "A=1;B=x=y"}
    assert many.invoke(event, **context)[1] == {"event": event, "context": context}


def test_module_state_is_kept_between_calls(many: Guest) -> None:
    first = many.call("count")
    assert many.call("count") == first + 1


def test_environment_is_the_functions_and_the_calls(many: Guest) -> None:
    event = {"do": "environment", "names": ["GIVEN", "PER_CALL", "OTHER", "NONE"]}
    _, value = many.invoke(event, environ="PER_CALL=1;OTHER=\u00e9=2;;broken;=x;NUL=a\0b")
    assert value == ["v\u00e9", "1", "\u00e9=2", None]
    assert many.invoke(event, environ="PER_CALL=2")[1][1] == "2"


def test_surroundings_show_the_users_directories_and_nothing_of_ours(many: Guest) -> None:
    where = many.call("where")
    assert "__file__" not in where.pop("main")
    assert where == {"cwd": str(PAYLOADS), "path": [str(PAYLOADS), "/opt"], "argv": [""], "name": "many", "known": []}


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("decimal", "Decimal is not serializable"),
        ("set", "set is not serializable"),
        ("object", "object is not serializable"),
        ("nan", "NaN and Infinity are not serializable"),
        ("infinity", "NaN and Infinity are not serializable"),
        ("circle", "it contains itself"),
        ("deep", "it is nested too deeply"),
        ("key", "keys must be str, int, float, bool or None, not tuple"),
        ("surrogate", "str holds a lone surrogate"),
    ],
)
def test_value_that_json_cannot_hold_is_named(many: Guest, of: str, message: str) -> None:
    head = many.fail("value", of=of)
    assert (head["code"], head["message"], head["trace"]) == ("handler_error", f"return value is not JSON: {message}", "")


def test_bytes_are_no_json(many: Guest) -> None:
    reason = "str is not UTF-8 text" if is_python2(many.interpreter) else "bytes is not serializable"
    assert many.fail("value", of="bytes")["message"] == f"return value is not JSON: {reason}"


@pytest.mark.parametrize(
    ("of", "value"),
    [("none", None), ("keys", {"1": 1, "null": 2, "2.5": 4, "k": 5}), ("text", ["\u4e2d", "\u00e9"]), ("huge", "x" * 70000)],
)
def test_value_that_json_holds_returns(many: Guest, of: str, value: Any) -> None:
    answered = many.call("value", of=of)
    if of == "keys":
        answered.pop("true", None)  # True and 1 are one key in Python
        value["1"] = answered["1"]
    assert answered == value


def test_exception_shows_the_users_frames_only(many: Guest) -> None:
    head = many.fail("fail")
    lines = head["trace"].splitlines()
    assert (head["code"], head["message"]) == ("handler_error", "user code exception caught")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(", in main") and str(PAYLOADS / "many.py") in lines[1]
    assert lines[-1].startswith("ZeroDivisionError: ")
    assert "worker.py" not in head["trace"]


def test_chained_exception_shows_both_without_our_frames(many: Guest) -> None:
    trace = many.fail("chain")["trace"]
    assert "KeyError: 'second'" in trace and "worker.py" not in trace
    assert is_python2(many.interpreter) or ("ZeroDivisionError" in trace and "During handling" in trace)


def test_exception_from_the_users_class_while_encoding_is_the_users(many: Guest) -> None:
    head, value = many.invoke({"do": "value", "of": "trap"})
    # The C encoder of some versions reads a dict past its methods.
    assert value == {"a": 1} or "KeyError" in head["trace"]


@pytest.mark.parametrize(
    ("of", "text"),
    [
        ("mute", "Mute"),
        ("leaver", "Leaver"),
        ("interrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError"),
        ("huge", "bytes left out"),
        ("control", "bytes left out"),
        ("surrogate", "ValueError"),
        ("bytes", "ValueError"),
        ("generator", "GeneratorExit"),
        ("base", "BaseException: base"),
    ],
)
def test_hostile_exception_is_reported_and_the_worker_kept(many: Guest, of: str, text: str) -> None:
    head = many.fail("raise_", of=of)
    assert (head["code"], head["message"]) == ("handler_error", "user code exception caught")
    assert text in head["trace"] and "many.py" in head["trace"] and "worker.py" not in head["trace"]
    assert len(head["trace"].encode()) < 66000


@pytest.mark.parametrize(("do", "text"), [("recurse", "recursion"), ("old_style", "old_style"), ("low_limit", "many.py")])
def test_strange_failures_are_handler_errors(fresh: Guest, do: str, text: str) -> None:
    head = fresh.fail(do)
    assert head["code"] == "handler_error"
    assert text in head["trace"]
    assert fresh.call("count") == 1


def test_event_nested_too_deeply_is_event_invalid(many: Guest) -> None:
    head, _ = many.ask({"op": "invoke", "id": "1", "context": {}}, b"[" * 200000 + b"]" * 200000)
    assert (head["op"], head["code"], head["message"]) == ("failed", "event_invalid", "event is not JSON: it is nested too deeply")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nope"])
def test_event_that_is_no_json_is_event_invalid(many: Guest, body: bytes) -> None:
    head, _ = many.ask({"op": "invoke", "id": "1", "context": {}}, body)
    assert (head["op"], head["code"], head["id"]) == ("failed", "event_invalid", "1")


def test_reply_over_its_limit_is_refused_with_both_sizes(guest: Guest) -> None:
    assert guest.load("many.main", PAYLOADS, reply_bytes=70001) == {"op": "loaded"}
    head = guest.fail("value", of="huge")
    assert (head["code"], head["message"]) == ("reply_too_large", "return value of 70002 bytes, limit 70001")
    assert guest.call("count") == 1


def test_six_megabytes_go_both_ways(many: Guest) -> None:
    text = "\u4e2d" * 2000000
    assert many.call("answer", text=text)["event"]["text"] == text


# ---- output --------------------------------------------------------------------------------------------------------


def test_prints_are_utf8_and_written_before_the_reply(fresh: Guest) -> None:
    assert fresh.call("prints") == "printed"
    written = fresh.written()
    plain = "('plain', 1)" if is_python2(fresh.interpreter) else "plain 1"
    assert f"caf\u00e9 \u4e2d\n{plain}\n".encode() in written
    assert b"no newline" in written and "to stderr \u00e9\n".encode() in written
    assert is_python2(fresh.interpreter) or b"\\ud800\n" in written


def test_logging_reaches_stdout_without_setup(fresh: Guest) -> None:
    assert fresh.call("logs") == "logged"
    lines = fresh.written().decode().splitlines()
    assert lines[0].endswith(" DEBUG debugged \u00e9") and lines[1].endswith(" INFO informed 7")


@pytest.mark.parametrize("of", ["close", "replace", "delete", "descriptors"])
def test_broken_streams_do_not_break_the_reply(fresh: Guest, of: str) -> None:
    assert fresh.call("break_streams", of=of) == "broken"
    assert fresh.call("count") == 1
    assert fresh.fail("fail")["code"] == "handler_error"


def test_patched_json_module_does_not_break_the_reply(fresh: Guest) -> None:
    assert fresh.call("break_json") == {"still": "works"}
    assert fresh.fail("value", of="set")["message"] == "return value is not JSON: set is not serializable"


# ---- processes, threads, signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "status"), [({}, 0), ({"raise": 1}, 1), ({"exit": 1}, 5)])
def test_forked_child_that_returns_sends_no_second_reply(fresh: Guest, event: dict[str, int], status: int) -> None:
    assert fresh.call("fork_both_return", **event) == {"status": status << 8}
    assert fresh.call("count") == 1
    if "raise" in event:
        assert b"ValueError: in the child" in fresh.written()


def test_threads_outlive_the_reply(fresh: Guest) -> None:
    assert fresh.call("thread") == "started"
    assert fresh.call("count") == 1
    assert b"from the thread\n" in fresh.written(until=b"from the thread\n")


@pytest.mark.parametrize("of", ["exception", "environment"])
def test_signal_handler_that_raises_while_idle_harms_nothing(fresh: Guest, of: str) -> None:
    assert fresh.call("late_alarm", of=of) == "armed"
    deadline = time.monotonic() + WAIT_SECONDS
    while fresh.call("alarms") == 0 and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    assert fresh.call("alarms") == 1


def test_control_descriptor_is_not_inherited_by_programs(fresh: Guest) -> None:
    assert fresh.call("inherited").strip() == "[]"


@pytest.mark.parametrize(("of", "status"), [("none", 0), ("zero", 0), ("seven", 7), ("text", 1), ("big", 9), ("true", 1)])
def test_sys_exit_in_the_handler_ends_the_process_with_its_status(fresh: Guest, of: str, status: int) -> None:
    assert fresh.send_last("exit_", of=of) == status
    written = fresh.written()
    assert b"last words" in written
    assert of != "text" or b"said\n" in written


@pytest.mark.parametrize(("of", "status"), [("exit", 9), ("kill", -signal.SIGKILL)])
def test_process_that_dies_loses_no_printed_line(fresh: Guest, of: str, status: int) -> None:
    assert fresh.send_last("die", of=of) == status
    assert fresh.written() == b"before\n"


def test_closing_every_descriptor_ends_the_worker_with_71(fresh: Guest) -> None:
    assert fresh.send_last("close_all") == 71


def test_file_of_the_user_on_the_control_number_is_not_written_to(fresh: Guest, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    assert fresh.send_last("close_and_reuse", file=str(tmp_path / "victim")) == 71
    assert (tmp_path / "victim").read_bytes() == b""


# ---- the host's side of the wire -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack("!II", 4, 0) + b"nope",
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 0, 0),
        encode_frame({"op": "dance"}),
        encode_frame({"op": "invoke", "id": "1", "context": {}}, b"{}"),
        encode_frame({"op": "load"}),
        encode_frame({"op": "load", "handler": "a.b", "code_root": "/", "environment": 3, "limits": {"reply_bytes": 1}}),
    ],
)
def test_what_is_no_frame_of_ours_ends_the_worker_with_70(guest: Guest, data: bytes) -> None:
    guest.receive()
    guest.socket.sendall(data)
    with pytest.raises((EOFError, ConnectionResetError)):
        guest.receive()
    assert guest.process.wait(WAIT_SECONDS) == 70
    assert guest.written() == b""


@pytest.mark.parametrize("data", [b"", b"\0\0", struct.pack("!II", 10, 0) + b"{"])
def test_end_of_file_ends_the_worker_with_0(guest: Guest, data: bytes) -> None:
    guest.receive()
    guest.socket.sendall(data)
    guest.socket.shutdown(socket.SHUT_WR)
    assert guest.process.wait(WAIT_SECONDS) == 0


def test_frame_in_single_bytes_is_understood(many: Guest) -> None:
    for byte in encode_frame({"op": "invoke", "id": "slow", "context": {}}, b'{"do": "count"}'):
        many.socket.sendall(bytes([byte]))
    assert many.receive()[0] == {"op": "result", "id": "slow"}


# ---- as a zygote uses it -------------------------------------------------------------------------------------------

AS_ZYGOTE = """
import os, sys
sys.path.insert(0, {directory!r})
import worker
import difflib, random, ssl
worker.prepare_streams()
ours = worker.find_ours()
before = dict(os.environ), list(sys.path), os.getcwd(), random.getstate()
if os.fork():
    os._exit(os.wait()[1] >> 8)
fds = sorted(os.listdir('/proc/self/fd'))
worker.reseed()
worker.rehearse({rehearsal!r})
assert (dict(os.environ), list(sys.path), os.getcwd()) == before[:3]
assert random.getstate() != before[3]
assert sorted(os.listdir('/proc/self/fd')) == fds
assert 'hearth_rehearsal' not in sys.modules
worker.serve(int(sys.argv[1]), ours)
"""


@pytest.fixture
def zygote(interpreter: str) -> Iterator[Guest]:
    source = AS_ZYGOTE.format(directory=str(WORKER.parent), rehearsal=str(REHEARSAL))
    guest = Guest(interpreter, program=["-c", source])
    yield guest
    guest.socket.close()
    assert guest.process.wait(WAIT_SECONDS) == 0
    guest.close()


def test_rehearsed_worker_is_silent_and_serves(zygote: Guest) -> None:
    assert zygote.load("many.main", PAYLOADS) == {"op": "loaded"}
    assert zygote.call("count") == 1
    assert zygote.call("where")["known"] == []
    assert zygote.call("prints") == "printed"
    written = zygote.written()
    assert b"rehearsal" not in written and b"no newline" in written


def test_users_own_modules_win_over_preloaded_ones(zygote: Guest, tmp_path: Path) -> None:
    files = {"index": "import difflib\ndef main(e, c):\n    return difflib.mine\n", "difflib": "mine = 'mine'\n"}
    assert load_source(zygote, tmp_path, "index.main", **files) == {"op": "loaded"}
    assert zygote.invoke({})[1] == "mine"


def test_module_named_like_the_dummy_is_the_users(zygote: Guest, tmp_path: Path) -> None:
    source = "def main_handler(event, context):\n    return 'mine'\n"
    assert load_source(zygote, tmp_path, "hearth_rehearsal.main_handler", hearth_rehearsal=source) == {"op": "loaded"}
    assert zygote.invoke({})[1] == "mine"


def test_rehearsal_that_fails_raises(interpreter: str, tmp_path: Path) -> None:
    (tmp_path / "hearth_rehearsal.py").write_text("def main_handler(event, context):\n    return 1\n")
    program = f"import sys; sys.path.insert(0, {str(WORKER.parent)!r}); import worker; worker.rehearse({str(tmp_path)!r})"
    ended = subprocess.run([interpreter, "-sEB", "-c", program], capture_output=True, check=False, timeout=WAIT_SECONDS)
    assert ended.returncode == 1
    assert b"RuntimeError: rehearsal: result instead of failed" in ended.stderr
