"""The client against a small sandboxd: the listener's protocol on a real socket, real guest workers behind it.

The sandboxd here has no sandboxes: a lease is a plain subprocess of the guest program, and its verdicts are what the test says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.channel import Channel
from sandbox.client import Client
from sandbox.errors import (
    BY_CODE,
    CallLost,
    HandlerError,
    HandlerNotFound,
    InitTimeout,
    InvocationFailed,
    LaunchError,
    MemoryLimit,
    ProcessExit,
    ProtocolError,
    Refused,
    ReplyTooLarge,
    TimeLimit,
    Unavailable,
    UserCodeError,
    leaves,
)
from sandbox.protocol import encode_frame
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

GUEST = Path(__file__).resolve().parents[2] / "sandbox/guest"
WAIT_SECONDS = 10
GRANT = {"secret_id": "AKIDs", "secret_key": "k", "token": "t", "endpoint": "10.1.0.1:9", "bucket_endpoint": ""}

#: Only the place of the code differs from inside a sandbox, where it is /var/user.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import worker
load = worker._Worker._load
worker._Worker._load = lambda self, head, root=sys.argv[2]: load(self, dict(head, code_root=root))
worker.prepare_streams()
worker.serve(int(sys.argv[3]))
"""

FUNCTION = """
import os
print("loading")
calls = 0

def main(event, context):
    global calls
    calls += 1
    print("call", calls)
    do = event.get("do")
    if do == "exit":
        os._exit(3)
    if do == "die":
        os.kill(os.getpid(), event.get("signal", 9))
    if do == "raise":
        raise ValueError("wrong")
    if do == "big":
        return "x" * event["size"]
    if do == "nest":
        import sys
        sys.setrecursionlimit(20000)
        nested = None
        for _ in range(3000):
            nested = [nested]
        return nested
    if do == "forge":
        os.write(event["fd"], bytes(bytearray(event["frame"])))
        return None
    if do == "wait":
        import time
        time.sleep(60)
    return {"event": event, "calls": calls, "region": context["tencentcloud_region"], "own": os.environ.get("OWN")}
"""


class Worker:
    """One subprocess as a lease would hand it over: a non-blocking socket and a log pipe."""

    def __init__(self, code: Path) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.log, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        with theirs:
            command = [sys.executable, "-sEBc", PROGRAM, str(GUEST), str(code), str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)
        os.close(writing)

    def end(self) -> int:
        """Kill it if it lives; its wait status."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait(WAIT_SECONDS)
        return -code if code < 0 else code << 8

    def close(self) -> None:
        self.end()
        self.socket.close()
        os.close(self.log)


class Sandboxd:
    """Speaks the listener's protocol. `refuse`, `verdicts` and `parts` are what the test wants it to say next."""

    def __init__(self, path: Path, code: Path) -> None:
        self.path, self.code = path, code
        self.requests: list[dict[str, Any]] = []
        self.refuse: deque[dict[str, Any]] = deque()
        self.verdicts: deque[str] = deque()
        self.parts: list[dict[str, Any]] = [{"sandboxes": []}]
        self.silent = False
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []
        self.leases: dict[int, Worker] = {}
        self.channels: list[Channel] = []
        self._numbers = 0
        self._sock: socket.socket | None = None

    def start(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._sock.bind(str(self.path))
        self._sock.listen(8)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def go_away(self) -> None:
        assert self._sock is not None
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self.path.unlink()
        for channel in self.channels:
            channel.close()
        self.channels.clear()

    def close(self) -> None:
        if self._sock is not None:
            self.go_away()
        for worker in self.workers:
            worker.close()

    def saw(self, op: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["op"] == op]

    def _accept(self) -> None:
        assert self._sock is not None
        sock, _ = self._sock.accept()
        channel = Channel(sock, asyncio.get_running_loop(), lambda message, fds, pid: self._message(channel, message, fds), lambda: None)
        self.channels.append(channel)

    def _message(self, channel: Channel, message: dict[str, Any], fds: list[int]) -> None:
        assert fds == []
        self.requests.append(message)
        if self.silent:
            return
        if self.refuse and message["op"] in ("acquire", "retire"):
            channel.send({"id": message["id"], **self.refuse.popleft()})
            return
        getattr(self, f"_{message['op']}")(channel, message)

    def _acquire(self, channel: Channel, message: dict[str, Any]) -> None:
        start = "warm" if self.idle else "cold"
        worker = self.idle.pop() if self.idle else Worker(self.code)
        if start == "cold":
            self.workers.append(worker)
        self._numbers += 1
        self.leases[self._numbers] = worker
        answer = {"id": message["id"], "lease": self._numbers, "start": start, "why_cold": "" if start == "warm" else "no worker was warm"}
        answer |= {"runtime": "Python3.11", "sandbox": "s0", "locale": "C.UTF-8", "deadline": 0.0, "grant": GRANT}
        channel.send(answer, (worker.socket.fileno(), worker.log))

    def _running(self, channel: Channel, message: dict[str, Any]) -> None:
        assert message["lease"] in self.leases

    def _release(self, channel: Channel, message: dict[str, Any]) -> None:
        worker = self.leases.pop(message["lease"])
        outcome = message["outcome"]
        usual = {"exited": "exited", "broken": "broken"}.get(outcome, "ok")
        verdict = self.verdicts.popleft() if self.verdicts else usual
        dead = verdict != "ok" or outcome not in ("ok", "failed")
        status = worker.end() if dead else None
        if not dead:
            self.idle.append(worker)
        channel.send({"id": message["id"], "verdict": verdict, "dead": dead, "memory_bytes": 4096, "exit_status": status})

    def _retire(self, channel: Channel, message: dict[str, Any]) -> None:
        channel.send({"id": message["id"]})

    def _changed(self, channel: Channel, message: dict[str, Any]) -> None:
        channel.send({"id": message["id"]})

    def _quota(self, channel: Channel, message: dict[str, Any]) -> None:
        channel.send({"id": message["id"]})

    _provision = _unprovision = _quota

    def _provisions(self, channel: Channel, message: dict[str, Any]) -> None:
        for number, part in enumerate(self.parts, 1):
            channel.send({"id": message["id"], "part": {"provisions": part["sandboxes"]}, "more": number < len(self.parts)})

    def _describe(self, channel: Channel, message: dict[str, Any]) -> None:
        for number, part in enumerate(self.parts, 1):
            channel.send({"id": message["id"], "part": part, "more": number < len(self.parts)})

    def tell(self, message: dict[str, Any]) -> None:
        for channel in self.channels:
            channel.send(message)


SPEC = FunctionSpec(
    function_id="f-1",
    generation=1,
    name="hello",
    namespace="default",
    version="$LATEST",
    runtime="python3",
    handler="index.main",
    code="c" * 64,
    environment={"OWN": "é"},
)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "index.py").write_text(FUNCTION)
    (directory / "broken.py").write_text("raise RuntimeError('at import')\n")
    (directory / "leaving.py").write_text("import os\nos._exit(4)\n")
    return directory


@pytest.fixture
def conf(tmp_path: Path) -> Settings:
    return Settings(run=str(tmp_path), region="ap-test", limit_reply_bytes=10_000)


@pytest.fixture
async def sandboxd(conf: Settings, code: Path) -> AsyncIterator[Sandboxd]:
    server = Sandboxd(conf.socket_path, code)
    server.start()
    yield server
    server.close()


@pytest.fixture
async def client(conf: Settings, sandboxd: Sandboxd) -> AsyncIterator[Client]:
    before = set(os.listdir("/proc/self/fd"))
    client = Client(conf)
    await client.start()
    yield client
    await client.close()
    sandboxd.close()
    sandboxd.workers.clear()
    assert set(os.listdir("/proc/self/fd")) <= before, "the client leaked descriptors"


async def call(client: Client, event: bytes = b"{}", spec: FunctionSpec = SPEC) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        return await client.invoke(spec, event, request_id="r-1")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_cold_call_and_a_warm_one_from_the_same_worker(client: Client, sandboxd: Sandboxd) -> None:
    first = await call(client, b'{"n": 1}')
    assert first.error is None
    assert first.body == '{"event": {"n": 1}, "calls": 1, "region": "ap-test", "own": "é"}'.encode()
    assert (first.request_id, first.start, first.why_cold, first.runtime, first.sandbox) == (
        "r-1",
        "cold",
        "no worker was warm",
        "Python3.11",
        "s0",
    )
    assert (first.log, first.memory_bytes, first.tree_dead) == (b"loading\ncall 1\n", 4096, False)
    assert first.start_ms > 0
    assert first.run_ms > 0
    assert first.ended_at >= first.started_at
    second = await call(client, b'{"n": 2}')
    assert (second.start, second.why_cold, second.log) == ("warm", "", b"call 2\n")
    assert len(sandboxd.workers) == 1


async def test_the_event_s_moment_is_told_before_the_call_ends_and_only_when_cold(client: Client, sandboxd: Sandboxd) -> None:
    await call(client)
    await call(client)
    assert [request["op"] for request in sandboxd.requests] == ["acquire", "running", "release", "acquire", "release"]
    running, release = sandboxd.requests[1], sandboxd.requests[2]
    assert running["at"] <= release["at"]
    assert (running["lease"], release["lease"], release["outcome"]) == (1, 1, "ok")


async def test_the_specification_is_sent_as_it_is(client: Client, sandboxd: Sandboxd) -> None:
    await call(client)
    assert FunctionSpec.from_json(sandboxd.saw("acquire")[0]["spec"]) == SPEC


async def test_calls_at_once_do_not_mix(client: Client, sandboxd: Sandboxd) -> None:
    replies = await asyncio.gather(*(call(client, b'{"n": %d}' % n) for n in range(5)))
    assert [b'"n": %d}' % n in reply.body for n, reply in enumerate(replies)] == [True] * 5
    assert len(sandboxd.workers) == 5


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [kind for kind in leaves() if issubclass(kind, Refused) or kind.code == "image_error"], ids=lambda kind: kind.code
)
async def test_a_refusal_is_raised_as_its_own_class(client: Client, sandboxd: Sandboxd, kind: Any) -> None:
    sandboxd.refuse.append({"error": kind.code, "message": "the reason", "hint": "the advice"})
    with pytest.raises(kind) as caught:
        await call(client)
    assert (type(caught.value), caught.value.message, caught.value.hint) == (kind, "the reason", "the advice")
    assert sandboxd.saw("release") == []
    assert (await call(client)).error is None


@pytest.mark.parametrize("code", ["launch_failed", "made_up", ""])
async def test_any_other_error_is_a_launch_error(client: Client, sandboxd: Sandboxd, code: str) -> None:
    assert BY_CODE.get(code, LaunchError) is LaunchError
    sandboxd.refuse.append({"error": code, "message": "init: step 3 mount: no", "hint": ""})
    with pytest.raises(LaunchError) as caught:
        await call(client)
    assert caught.value.message == "init: step 3 mount: no"


# ---- failures and verdicts ---------------------------------------------------------------------------------------


async def test_a_handler_that_raises_fails_the_call_and_keeps_the_worker(client: Client, sandboxd: Sandboxd) -> None:
    reply = await call(client, b'{"do": "raise"}')
    assert isinstance(reply.error, HandlerError)
    assert "ValueError: wrong" in reply.error.stack_trace
    assert "worker.py" not in reply.error.stack_trace
    assert sandboxd.saw("release")[0]["outcome"] == "failed"
    assert (await call(client)).start == "warm"


@pytest.mark.parametrize(
    ("handler", "kind"), [("none.main", HandlerNotFound), ("index.none", HandlerNotFound), ("broken.main", UserCodeError)]
)
async def test_a_handler_that_does_not_load_ends_the_worker(client: Client, sandboxd: Sandboxd, handler: str, kind: type) -> None:
    reply = await call(client, spec=FunctionSpec.from_json(SPEC.to_json() | {"handler": handler}))
    assert type(reply.error) is kind
    assert sandboxd.saw("release")[0]["outcome"] == "load_failed"
    assert sandboxd.saw("running") == []
    assert reply.tree_dead
    assert reply.run_ms == 0


async def test_a_reply_nested_too_deeply_is_the_handlers_error_and_keeps_the_worker(client: Client, sandboxd: Sandboxd) -> None:
    reply = await call(client, b'{"do": "nest"}')
    assert isinstance(reply.error, HandlerError)
    assert reply.error.message == "return value is not JSON: it is nested too deeply"
    assert not reply.tree_dead
    assert (await call(client)).error is None


async def test_a_process_that_ends_while_it_loads_is_told_so(client: Client, sandboxd: Sandboxd) -> None:
    reply = await call(client, spec=FunctionSpec.from_json(SPEC.to_json() | {"handler": "leaving.main"}))
    assert isinstance(reply.error, ProcessExit)
    assert reply.error.message == "the process exited with code 4 while loading"


async def test_a_reply_over_the_limit_keeps_the_worker(client: Client, sandboxd: Sandboxd) -> None:
    reply = await call(client, b'{"do": "big", "size": 10001}')
    assert isinstance(reply.error, ReplyTooLarge)
    assert not reply.tree_dead
    assert (await call(client, b'{"do": "big", "size": 9998}')).error is None


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (b'{"do": "exit"}', "exited with code 3 while running"),
        (b'{"do": "die"}', "killed by signal 9 (SIGKILL) while running"),
        (b'{"do": "die", "signal": 40}', "killed by signal 40 (a real-time signal) while running"),
    ],
    ids=["exit", "signal", "signal without a name"],
)
async def test_a_process_that_ends_is_told_with_its_status(client: Client, sandboxd: Sandboxd, event: bytes, words: str) -> None:
    reply = await call(client, event)
    assert isinstance(reply.error, ProcessExit)
    assert words in reply.error.message
    assert reply.log.endswith(b"call 1\n")
    assert sandboxd.saw("release")[0]["outcome"] == "exited"


@pytest.mark.parametrize(
    ("verdict", "kind", "words"),
    [
        ("timeout", TimeLimit, "timed out after 3 seconds"),
        ("init_timeout", InitTimeout, "timed out after 65 seconds"),
        ("oom", MemoryLimit, "exceeded 128 MB"),
    ],
)
async def test_the_verdict_is_sandboxd_s_whatever_was_seen(
    client: Client, sandboxd: Sandboxd, verdict: str, kind: type[InvocationFailed], words: str
) -> None:
    for event in (b"{}", b'{"do": "exit"}', b'{"do": "raise"}'):
        sandboxd.verdicts.append(verdict)
        reply = await call(client, event)
        assert type(reply.error) is kind
        assert words in reply.error.message
        assert reply.tree_dead


async def test_a_kill_during_the_call_ends_it_with_the_verdict(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.verdicts.append("timeout")
    waiting = asyncio.create_task(call(client, b'{"do": "wait"}'))
    await until(lambda: len(sandboxd.saw("running")) == 1)
    sandboxd.workers[0].process.send_signal(signal.SIGKILL)
    assert isinstance((await waiting).error, TimeLimit)
    assert sandboxd.saw("release")[0]["outcome"] == "exited"


@pytest.mark.parametrize(
    "frame",
    [encode_frame({"op": "result", "id": "other"}, b"1"), encode_frame({"op": "result", "id": "r-1"}, b"{no json"), b"\xff" * 16],
    ids=["another id", "no json", "no frame"],
)
async def test_a_function_that_writes_to_our_socket_breaks_only_its_own_call(client: Client, sandboxd: Sandboxd, frame: bytes) -> None:
    first = await call(client)
    assert first.error is None
    fd = int(next(number for number in os.listdir(f"/proc/{sandboxd.workers[0].process.pid}/fd") if is_stream(sandboxd.workers[0], number)))
    reply = await call(client, b'{"do": "forge", "fd": %d, "frame": %s}' % (fd, str(list(frame)).encode()))
    assert isinstance(reply.error, ProtocolError)
    assert sandboxd.saw("release")[-1]["outcome"] == "broken"
    assert reply.tree_dead
    assert (await call(client)).error is None


def is_stream(worker: Worker, number: str) -> bool:
    return int(number) > 2 and os.readlink(f"/proc/{worker.process.pid}/fd/{number}").startswith("socket:")


# ---- callers that give up ----------------------------------------------------------------------------------------


async def give_up(waiting: asyncio.Task[Any]) -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()


async def test_a_caller_that_gives_up_while_it_waits_for_a_lease_stops_nothing(client: Client, sandboxd: Sandboxd) -> None:
    waiting = asyncio.create_task(client.invoke(SPEC, b"{}", request_id="r-1"))
    await asyncio.sleep(0)
    await give_up(waiting)
    await until(lambda: len(sandboxd.saw("release")) == 1)
    assert sandboxd.saw("release")[0]["outcome"] == "ok"
    assert sandboxd.leases == {}


async def test_a_caller_that_gives_up_during_the_call_stops_nothing(client: Client, sandboxd: Sandboxd) -> None:
    waiting = asyncio.create_task(call(client, b'{"do": "raise"}'))
    await until(lambda: len(sandboxd.saw("acquire")) == 1)
    await give_up(waiting)
    await until(lambda: len(sandboxd.saw("release")) == 1)
    assert sandboxd.saw("release")[0]["outcome"] == "failed"
    assert (await call(client)).start == "warm"


# ---- the connection ----------------------------------------------------------------------------------------------


async def test_while_sandboxd_is_away_everything_is_unavailable(conf: Settings) -> None:
    client = Client(conf)
    await client.start()
    assert not client.connected
    for request in (call(client), client.describe(), client.retire("f-1", 2)):
        with pytest.raises(Unavailable):
            await request
    await client.close()


async def test_a_client_connects_once_sandboxd_is_there(conf: Settings, code: Path) -> None:
    client, server = Client(conf), Sandboxd(conf.socket_path, code)
    await client.start()
    server.start()
    await until(lambda: client.connected)
    assert (await call(client)).error is None
    await client.close()
    server.close()


async def test_after_sandboxd_went_away_the_client_connects_again(client: Client, sandboxd: Sandboxd) -> None:
    forgotten: list[str | None] = []
    client.on_change = forgotten.append
    assert (await call(client)).error is None
    sandboxd.go_away()
    await until(lambda: not client.connected)
    assert forgotten == [None]
    with pytest.raises(Unavailable):
        await call(client)
    sandboxd.start()
    await until(lambda: client.connected)
    assert (await call(client)).error is None


async def test_who_waits_for_a_lease_when_sandboxd_goes_is_refused(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.silent = True
    waiting = asyncio.create_task(call(client))
    await until(lambda: len(sandboxd.saw("acquire")) == 1)
    sandboxd.go_away()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_call_that_had_begun_when_sandboxd_went_is_no_refusal(client: Client, sandboxd: Sandboxd) -> None:
    waiting = asyncio.create_task(call(client, b'{"do": "wait"}'))
    await until(lambda: len(sandboxd.saw("running")) == 1)
    sandboxd.go_away()
    sandboxd.workers[0].end()  # sandboxes die with sandboxd
    with pytest.raises(CallLost, match="sandboxd went away during the call"):
        await waiting


async def test_closing_settles_who_still_waits(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.silent = True
    waiting = asyncio.create_task(call(client))
    await until(lambda: len(sandboxd.saw("acquire")) == 1)
    await client.close()
    with pytest.raises(Unavailable):
        await waiting


# ---- the rest ----------------------------------------------------------------------------------------------------


async def test_a_description_in_parts_is_put_together(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.parts = [
        {"sandboxes": [{"id": "s0"}, {"id": "s1"}]},
        {"sandboxes": [{"id": "s2"}]},
        {"sandboxes": [], "images": [], "counters": {"cold": 1}},
    ]
    assert await client.describe() == {"sandboxes": [{"id": "s0"}, {"id": "s1"}, {"id": "s2"}], "images": [], "counters": {"cold": 1}}


async def test_two_descriptions_at_once_do_not_mix(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.parts = [{"sandboxes": [1]}, {"sandboxes": [2], "x": 1}]
    assert list(await asyncio.gather(client.describe(), client.describe())) == [{"sandboxes": [1, 2], "x": 1}] * 2


async def test_retiring_is_answered_once_it_is_done(client: Client, sandboxd: Sandboxd) -> None:
    await client.retire("f-1", 2)
    await client.retire("f-2", None)
    assert [(r["function_id"], r["generation"]) for r in sandboxd.saw("retire")] == [("f-1", 2), ("f-2", None)]


async def test_a_change_that_leaves_workers_alone_is_announced(client: Client, sandboxd: Sandboxd) -> None:
    await client.announce("f-1")
    assert [request["function_id"] for request in sandboxd.saw("changed")] == ["f-1"] and not sandboxd.saw("retire")


async def test_changes_by_others_are_told(client: Client, sandboxd: Sandboxd) -> None:
    told: list[str | None] = []
    client.on_change = told.append
    sandboxd.tell({"op": "changed", "function_id": "f-7"})
    sandboxd.tell({"op": "changed", "function_id": None})
    await until(lambda: len(told) == 2)
    assert told == ["f-7", None]
    client.on_change = lambda _: None


async def test_quotas_and_demands_are_told_as_they_are(client: Client, sandboxd: Sandboxd) -> None:
    await client.quota("default", 7, "f-1", is_reserved=True)
    await client.provision(SPEC, 3)
    await client.provision(SPEC, 1, purpose="timer t", revision=4, seconds=60)
    await client.unprovision("f-1", revision=5)
    (quota,), (first, second), (release,) = sandboxd.saw("quota"), sandboxd.saw("provision"), sandboxd.saw("unprovision")
    assert {key: quota[key] for key in ("namespace", "epoch", "family", "is_reserved")} == {
        "namespace": "default",
        "epoch": 7,
        "family": "f-1",
        "is_reserved": True,
    }
    assert first["spec"] == json.loads(json.dumps(SPEC.to_json()))
    assert [(r["number"], r["purpose"], r["revision"], r["seconds"]) for r in (first, second)] == [
        (3, "provisioned", 0, None),
        (1, "timer t", 4, 60),
    ]
    assert (release["function_id"], release["purpose"], release["revision"]) == ("f-1", "provisioned", 5)


async def test_what_is_provisioned_comes_in_parts(client: Client, sandboxd: Sandboxd) -> None:
    sandboxd.parts = [{"sandboxes": [{"function_id": "a"}]}, {"sandboxes": [{"function_id": "b"}]}]
    assert await client.provisions() == [{"function_id": "a"}, {"function_id": "b"}]


async def test_a_specification_is_sent_with_the_quotas_it_has_now(client: Client, sandboxd: Sandboxd) -> None:
    await call(client)
    await call(client, spec=replace(SPEC, quota_epoch=2, reserved_mb=0))
    assert [request["spec"]["reserved_mb"] for request in sandboxd.saw("acquire")] == [None, 0]
