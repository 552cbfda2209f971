"""One call's state machine: a door that answers as sandboxd does, and a hostile worker at the other end of the lease's socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sandbox.call import MAX_MESSAGE, MAX_TRACE, REPLY_SLACK_BYTES, Call
from sandbox.errors import (
    CallLost,
    Cancelled,
    EventInvalid,
    HandlerError,
    HandlerNotFound,
    InvocationFailed,
    ProcessExit,
    ProtocolError,
    ReplyTooLarge,
    SandboxError,
    Throttled,
    Unavailable,
    UserCodeError,
)
from sandbox.protocol import GUEST_PROTOCOL, HEADER, FrameReader, encode_frame
from sandbox.readers import Readers
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply

SPEC = FunctionSpec("f-1", 1, "hello", "default", "$LATEST", "python3", "index.main", "c" * 64)
CONF = Settings(limit_reply_bytes=1000, region="ap-test")
HELLO = {"op": "hello", "protocol": GUEST_PROTOCOL}
RESULT = {"op": "result", "id": "r-1"}


class Stage:
    """A call, the door it goes through (answers are the test's to give) and the worker's end of its lease."""

    def __init__(self, start: str = "warm") -> None:
        ours, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.worker.setblocking(False)
        ours.setblocking(False)
        log, self.log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._fds = [ours.detach(), log]
        self._start = start
        self._frames = FrameReader(1 << 30)
        self.told: list[dict[str, Any]] = []
        self.released: dict[str, Any] = {}
        self.verdict: dict[str, Any] | SandboxError = {"verdict": "ok", "dead": False, "memory_bytes": 7, "exit_status": None}
        self.readers = Readers(asyncio.get_running_loop())
        self.ended: asyncio.Future[Reply | SandboxError] = asyncio.get_running_loop().create_future()

    def request(self, message: dict[str, Any], answer: Callable[[Any, list[int]], None]) -> None:
        if message["op"] == "acquire":
            lease = {"lease": 9, "start": self._start, "why_cold": "", "runtime": "Python3.11", "sandbox": "s1", "locale": "C", "grant": {}}
            answer(lease, self._fds)
            return
        assert not self.released, "released twice"
        for fd in self._fds:  # the next lease holder must be the only reader
            with pytest.raises(OSError):
                os.fstat(fd)
        self.released = message
        answer(self.verdict, [])

    def tell(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def begin(self, event: bytes = b"{}") -> None:
        loop = asyncio.get_running_loop()
        call = Call(self, CONF, loop, self.readers, spec=SPEC, event=event, request_id="r-1", ended=self.ended.set_result)
        self.call = call
        call.begin({"op": "acquire"})

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        frame = None
        while frame is None:
            data = await asyncio.get_running_loop().sock_recv(self.worker, 65_536)
            assert data, "the call hung up"
            frame = self._frames.feed(data)
        return frame

    async def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.worker, encode_frame(head, body))

    async def outcome(self) -> Reply:
        came = await asyncio.wait_for(self.ended, 5)
        assert isinstance(came, Reply)
        return came

    def close(self) -> None:
        self.readers.close()
        self.worker.close()
        with contextlib.suppress(OSError):
            os.close(self.log)


@contextlib.asynccontextmanager
async def staged(start: str = "warm", event: bytes = b"{}") -> AsyncIterator[Stage]:
    stage = Stage(start)
    try:
        stage.begin(event)
        yield stage
    finally:
        stage.close()


async def test_a_warm_call_hands_over_the_event_and_ends_with_the_verdict() -> None:
    before = time.time()
    async with staged(event=b'{"n": 1}') as stage:
        assert await stage.receive() == ({"op": "invoke", "id": "r-1"}, b'{"n": 1}')
        os.write(stage.log, b"said\n")
        await stage.send(RESULT, b"[1]")
        reply = await stage.outcome()
    assert (reply.body, reply.error, reply.log, reply.memory_bytes, reply.start, reply.tree_dead) == (
        b"[1]",
        None,
        b"said\n",
        7,
        "warm",
        False,
    )
    assert before - 1 <= reply.started_at <= reply.ended_at <= time.time() + 1
    assert reply.run_ms > 0 and reply.start_ms >= 0
    assert (stage.released["lease"], stage.released["outcome"], stage.told) == (9, "ok", [])
    assert stage.released["at"] <= time.monotonic()


@pytest.mark.parametrize("start", ["warm", "cold"])
async def test_a_cancelled_call_gives_its_sandbox_up_and_says_so(start: str) -> None:
    async with staged(start) as stage:
        stage.verdict = {"verdict": "broken", "dead": True, "memory_bytes": 7, "exit_status": None}
        stage.call.cancel()
        reply = await stage.outcome()
        stage.call.cancel()  # once more is nothing
    assert isinstance(reply.error, Cancelled) and reply.tree_dead and stage.released["outcome"] == "broken"


async def test_a_call_that_is_cancelled_while_it_waits_gives_back_the_lease_it_gets() -> None:
    stage = Stage()
    grants: list[Callable[[], None]] = []
    granted = stage.request

    def wait(message: dict[str, Any], answer: Callable[[Any, list[int]], None]) -> None:
        if message["op"] == "acquire":
            grants.append(lambda: granted(message, answer))
        else:
            granted(message, answer)

    stage.request = wait  # type: ignore[method-assign]
    stage.verdict = {"verdict": "broken", "dead": True, "memory_bytes": 0, "exit_status": None}
    try:
        stage.begin()
        stage.call.cancel()
        assert not stage.ended.done()
        grants[0]()
        assert isinstance((await stage.outcome()).error, Cancelled)
    finally:
        stage.close()


async def test_a_cold_call_greets_and_loads_and_tells_when_its_time_limit_began() -> None:
    async with staged("cold") as stage:
        await stage.send(HELLO)
        load, _ = await stage.receive()
        assert (load["op"], load["handler"], load["code_root"], load["limits"]) == (
            "load", "index.main", "/var/user", {"reply_bytes": 1000},
        )  # fmt: skip
        assert load["environment"]["TENCENTCLOUD_REGION"] == load["context"]["tencentcloud_region"] == "ap-test"
        await stage.send({"op": "loaded"})
        assert await stage.receive() == ({"op": "invoke", "id": "r-1"}, b"{}")
        await stage.send(RESULT, b"null")
        assert (await stage.outcome()).body == b"null"
    (told,) = stage.told
    assert (told["op"], told["lease"]) == ("running", 9)
    assert told["at"] <= stage.released["at"]


@pytest.mark.parametrize("head", [{}, {"op": "hello"}, {"op": "hello", "protocol": 99}, {"op": "loaded"}, {"op": "hello", "protocol": "1"}])
async def test_another_greeting_is_no_worker_of_ours(head: dict[str, Any]) -> None:
    async with staged("cold") as stage:
        await stage.send(head)
        reply = await stage.outcome()
    assert isinstance(reply.error, ProtocolError) and "hello" in reply.error.message
    assert stage.released["outcome"] == "broken"


@pytest.mark.parametrize(("code", "kind"), [("handler_not_found", HandlerNotFound), ("user_code_error", UserCodeError)])
async def test_a_handler_that_does_not_load_says_why(code: str, kind: type[InvocationFailed]) -> None:
    async with staged("cold") as stage:
        await stage.send(HELLO)
        await stage.receive()
        await stage.send({"op": "load_failed", "code": code, "message": "why", "trace": "Traceback"})
        reply = await stage.outcome()
    assert type(reply.error) is kind
    assert (reply.error.message, reply.error.stack_trace, reply.run_ms) == ("why", "Traceback", 0)
    assert (stage.released["outcome"], stage.told) == ("load_failed", [])


@pytest.mark.parametrize(
    ("code", "kind"), [("handler_error", HandlerError), ("event_invalid", EventInvalid), ("reply_too_large", ReplyTooLarge)]
)
async def test_a_call_that_failed_says_why_and_keeps_the_worker(code: str, kind: type[InvocationFailed]) -> None:
    async with staged() as stage:
        await stage.receive()
        await stage.send({"op": "failed", "id": "r-1", "code": code, "message": "why", "trace": "T"})
        reply = await stage.outcome()
    assert type(reply.error) is kind
    assert (reply.error.message, reply.error.stack_trace, stage.released["outcome"]) == ("why", "T", "failed")


@pytest.mark.parametrize(
    "head",
    [
        {"op": "failed", "id": "r-1", "code": "time_limit", "message": "ours to say"},
        {"op": "failed", "id": "r-1", "code": "handler_not_found", "message": "a load's"},
        {"op": "failed", "id": "r-1", "code": ["handler_error"]},
        {"op": "failed", "id": "r-1"},
        {"op": "loaded", "id": "r-1"},
        {"op": "hello", "id": "r-1"},
        {"op": None, "id": "r-1"},
        {"op": {"result": 1}, "id": "r-1"},
        {"op": "x" * 10_000, "id": "r-1"},
        {"op": "result", "id": "r-2"},
        {"op": "result", "id": None},
        {"op": "result", "id": ["r-1"]},
        {"op": "result"},
        {},
    ],
    ids=lambda head: str(head)[:50],
)
async def test_a_frame_that_is_no_answer_breaks_the_protocol(head: dict[str, Any]) -> None:
    async with staged() as stage:
        await stage.receive()
        await stage.send(head, b"null")
        reply = await stage.outcome()
    assert isinstance(reply.error, ProtocolError) and len(reply.error.message) < 200
    assert stage.released["outcome"] == "broken"


async def test_a_reply_that_is_not_json_breaks_the_protocol() -> None:
    async with staged() as stage:
        await stage.receive()
        await stage.send(RESULT, b"{no json")
        reply = await stage.outcome()
    assert isinstance(reply.error, ProtocolError) and stage.released["outcome"] == "broken"


async def test_a_reply_announced_over_the_limit_is_too_large_and_out_of_step() -> None:
    async with staged() as stage:
        await stage.receive()
        await asyncio.get_running_loop().sock_sendall(stage.worker, HEADER.pack(20, CONF.limit_reply_bytes + REPLY_SLACK_BYTES + 1))
        reply = await stage.outcome()
    assert isinstance(reply.error, ReplyTooLarge) and stage.released["outcome"] == "broken"


async def test_messages_and_traces_are_cut_to_their_limits() -> None:
    async with staged() as stage:
        await stage.receive()
        head = {"op": "failed", "id": "r-1", "code": "handler_error", "message": "m" * (MAX_MESSAGE + 9), "trace": "t" * (MAX_TRACE + 9)}
        await stage.send(head)
        reply = await stage.outcome()
    assert reply.error is not None
    assert (len(reply.error.message), len(reply.error.stack_trace)) == (MAX_MESSAGE, MAX_TRACE)


@pytest.mark.parametrize(
    ("status", "words"),
    [(9, "signal 9 (SIGKILL)"), (0x300, "code 3"), (40, "signal 40 (a real-time signal)"), (None, "closed its control channel")],
)
async def test_the_end_of_the_sandbox_is_told_with_its_status(status: int | None, words: str) -> None:
    async with staged() as stage:
        stage.verdict = {"verdict": "exited", "dead": True, "memory_bytes": 7, "exit_status": status}
        await stage.receive()
        stage.worker.close()
        reply = await stage.outcome()
    assert isinstance(reply.error, ProcessExit) and words in reply.error.message
    assert (stage.released["outcome"], reply.tree_dead) == ("exited", True)


async def test_a_refusal_ends_the_call_before_it_began() -> None:
    stage = Stage()
    stage.request = lambda message, answer: answer(Throttled("no"), [])  # type: ignore[method-assign]
    stage.begin()
    assert isinstance(await stage.ended, Throttled)
    for fd in stage._fds:
        os.close(fd)
    stage.close()


async def test_sandboxd_gone_at_the_release_is_no_refusal() -> None:
    async with staged() as stage:
        stage.verdict = Unavailable("gone")
        await stage.receive()
        await stage.send(RESULT, b"1")
        came = await asyncio.wait_for(stage.ended, 5)
    assert isinstance(came, CallLost) and "went away during the call" in came.message


async def test_a_fault_of_ours_ends_the_call_and_gives_the_lease_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr("sandbox.call._wrong_json", broken)
    async with staged() as stage:
        await stage.receive()
        await stage.send(RESULT, b"1")
        came = await asyncio.wait_for(stage.ended, 5)
    assert isinstance(came, CallLost) and "internal error" in came.message
    assert stage.released["outcome"] == "broken"
