"""Frames and log of a leased worker, with a hostile peer at the other end. What answers mean is in test_core_call.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.errors import ProtocolError, ReplyTooLarge
from sandbox.exchange import EndOfSandbox, Exchange, Frame
from sandbox.protocol import HEADER, MAX_HEAD_BYTES, FrameReader, encode_frame
from sandbox.readers import Readers

LIMIT = 10_000
LOG_LIMIT = 2_000


class Peer:
    """The worker's end: what a sandbox can do with its socket and its log pipe, and an Exchange at the other."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self.sock.setblocking(False)
        log, self.log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        loop = asyncio.get_running_loop()
        self.readers = Readers(loop)
        self.exchange = Exchange(loop, self.readers, ours.detach(), log, reply_bytes=LIMIT, log_bytes=LOG_LIMIT)
        self._frames = FrameReader(1 << 30)

    async def ask(self, head: dict[str, Any], body: bytes = b"") -> Frame:
        """The exchange's answer to a question; raises what it says instead of one."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.exchange.ask(encode_frame(head, body), lambda answer: answered.done() or answered.set_result(answer))
        answer = await answered
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def answer(self, head: dict[str, Any], body: bytes = b"") -> None:
        await self.send(encode_frame(head, body))

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        frame = None
        while frame is None:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
            assert data, "the exchange closed"
            frame = self._frames.feed(data)
        return frame

    def close(self) -> None:
        self.exchange.close()
        self.readers.close()

    def hang_up(self) -> None:
        self.sock.close()

    def close_log(self) -> None:
        if self.log >= 0:
            os.close(self.log)
            self.log = -1


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()
    peer.hang_up()
    peer.close_log()


@contextlib.asynccontextmanager
async def calling(peer: Peer, event: bytes = b"{}") -> AsyncIterator[asyncio.Task[Frame]]:
    """A call whose event the peer has received."""
    task = asyncio.create_task(peer.ask({"op": "invoke", "id": "r-1"}, event))
    assert await peer.receive() == ({"op": "invoke", "id": "r-1"}, event)
    yield task
    async with asyncio.timeout(5):
        await asyncio.wait([task])


async def test_a_second_reply_in_one_go_breaks_the_protocol(peer: Peer) -> None:
    async with calling(peer) as call:
        reply = encode_frame({"op": "result", "id": "r-1"}, b"1")
        await peer.send(reply + reply)
    with pytest.raises(ProtocolError, match="behind the frame"):
        await call


async def test_a_second_reply_later_is_not_taken_for_the_next_call_s(peer: Peer) -> None:
    async with calling(peer) as call:
        await peer.answer({"op": "result", "id": "r-1"}, b"1")
    assert call.result() == ({"op": "result", "id": "r-1"}, b"1")
    await peer.answer({"op": "result", "id": "r-2"}, b'"forged"')
    await asyncio.sleep(0)
    with pytest.raises(ProtocolError, match="nobody asked for"):
        for _ in range(50):
            await asyncio.sleep(0)
            await asyncio.wait_for(peer.ask({"op": "invoke", "id": "r-2"}, b"{}"), 5)


async def test_a_frame_nobody_asked_for_breaks_the_next_call(peer: Peer) -> None:
    await peer.answer({"op": "result", "id": "r-1"}, b'"forged"')
    for _ in range(10):
        await asyncio.sleep(0)
    with pytest.raises(ProtocolError, match="nobody asked for"):
        await peer.ask({"op": "invoke", "id": "r-1"}, b"{}")


@pytest.mark.parametrize("size", [LIMIT + 1, (1 << 32) - 1])
async def test_a_huge_reply_is_refused_when_it_is_announced(peer: Peer, size: int) -> None:
    async with calling(peer) as call:
        await peer.send(HEADER.pack(20, size))
    with pytest.raises(ReplyTooLarge, match=str(size)):
        await call


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(MAX_HEAD_BYTES + 1, 0),
        HEADER.pack(4, 0) + b"{]{]",
        HEADER.pack(2, 0) + b"[]",
        HEADER.pack(0, 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_breaks_the_protocol(peer: Peer, data: bytes) -> None:
    async with calling(peer) as call:
        await peer.send(data)
    with pytest.raises(ProtocolError):
        await call


async def test_the_end_of_the_sandbox_is_seen_at_every_byte_of_a_frame() -> None:
    reply = encode_frame({"op": "result", "id": "r-1"}, b'{"a": 1}')
    for cut in range(len(reply)):
        peer = Peer()
        try:
            async with calling(peer) as call:
                await peer.send(reply[:cut])
                peer.hang_up()
            with pytest.raises(EndOfSandbox):
                await call
        finally:
            peer.close()
            peer.close_log()


async def test_after_the_end_every_step_says_so(peer: Peer) -> None:
    peer.hang_up()
    for _ in range(3):
        with pytest.raises(EndOfSandbox):
            await asyncio.wait_for(peer.ask({"op": "load"}), 5)
    assert not peer.exchange.in_step


async def test_a_whole_reply_before_the_end_counts(peer: Peer) -> None:
    async with calling(peer) as call:
        await peer.answer({"op": "result", "id": "r-1"}, b"1")
        peer.hang_up()
    assert call.result() == ({"op": "result", "id": "r-1"}, b"1")


async def test_a_large_event_reaches_a_slow_reader_whole(peer: Peer) -> None:
    event = b"[" + b"1," * 1_000_000 + b"1]"
    async with calling(peer, event) as call:
        await peer.answer({"op": "result", "id": "r-1"}, b"1")
    assert call.result() == ({"op": "result", "id": "r-1"}, b"1")


async def test_a_peer_that_never_reads_can_still_answer_and_is_closed_cleanly(peer: Peer) -> None:
    call = asyncio.create_task(peer.ask({"op": "invoke", "id": "r-1"}, b"x" * 5_000_000))
    await asyncio.sleep(0)
    await peer.answer({"op": "failed", "id": "r-1", "code": "event_invalid", "message": "no"})
    assert (await asyncio.wait_for(call, 5))[0]["code"] == "event_invalid"


async def test_a_peer_that_goes_while_the_event_is_written_is_the_end(peer: Peer) -> None:
    call = asyncio.create_task(peer.ask({"op": "invoke", "id": "r-1"}, b"x" * 5_000_000))
    await asyncio.sleep(0)
    peer.hang_up()
    with pytest.raises(EndOfSandbox):
        await asyncio.wait_for(call, 5)


# ---- log ---------------------------------------------------------------------------------------------------------


async def test_what_was_written_just_before_the_end_is_in_the_log(peer: Peer) -> None:
    os.write(peer.log, b"one\n\xff\x00two\n")
    assert peer.exchange.log() == b"one\n\xff\x00two\n"


async def test_a_flood_is_cut_with_a_marker(peer: Peer) -> None:
    for _ in range(10):
        os.write(peer.log, b"x" * 1000)
    log = peer.exchange.log()
    assert log.startswith(b"x" * LOG_LIMIT + b"\n[log cut here: 2000 bytes kept, at least 8000 dropped]\n")


async def test_a_log_of_exactly_the_limit_has_no_marker(peer: Peer) -> None:
    os.write(peer.log, b"x" * LOG_LIMIT)
    assert peer.exchange.log() == b"x" * LOG_LIMIT


async def test_a_flood_during_the_call_neither_fills_the_pipe_nor_memory(peer: Peer) -> None:
    async with calling(peer) as call:
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                os.write(peer.log, b"x" * 65_536)
            await asyncio.sleep(0)
        await peer.answer({"op": "result", "id": "r-1"}, b"1")
    assert call.result() == ({"op": "result", "id": "r-1"}, b"1")
    assert len(peer.exchange.log()) < LOG_LIMIT + 100


async def test_a_closed_log_pipe_leaves_the_call_alone(peer: Peer) -> None:
    os.write(peer.log, b"last")
    peer.close_log()
    async with calling(peer) as call:
        for _ in range(10):
            await asyncio.sleep(0)
        await peer.answer({"op": "result", "id": "r-1"}, b"1")
    assert call.result() == ({"op": "result", "id": "r-1"}, b"1")
    assert peer.exchange.log() == b"last"


async def test_close_leaves_no_descriptor_and_no_reader() -> None:
    before = set(os.listdir("/proc/self/fd"))
    peer = Peer()
    task = asyncio.create_task(peer.ask({"op": "invoke", "id": "r-1"}, b"x" * 5_000_000))  # a writer is registered, too
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    peer.close()
    peer.hang_up()
    peer.close_log()
    assert set(os.listdir("/proc/self/fd")) == before
