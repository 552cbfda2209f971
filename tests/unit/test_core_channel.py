"""Messages with descriptors on an asyncio loop: slow peers, hostile peers, and nothing leaked."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson
import pytest

from sandbox.channel import Channel
from sandbox.kernel import sockets
from sandbox.protocol import MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS


class Ends:
    """A channel, and the bare socket of its peer."""

    def __init__(self) -> None:
        ours, self.peer = sockets.seqpacket_pair()
        self.messages: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self.closed = 0
        self.channel = Channel(ours, asyncio.get_running_loop(), self._message, self._closed)

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        self.messages.append(message)
        self.fds += fds

    def _closed(self) -> None:
        self.closed += 1


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    before = set(os.listdir("/proc/self/fd"))
    ends = Ends()
    yield ends
    ends.channel.close()
    ends.peer.close()
    for fd in ends.fds:
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before, "descriptors leaked"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())])


async def test_messages_arrive_in_order_one_packet_each(ends: Ends) -> None:
    for number in range(48):
        ends.peer.send(orjson.dumps({"n": number}))
    await until(lambda: len(ends.messages) == 48)
    assert [message["n"] for message in ends.messages] == list(range(48))


async def test_a_burst_gives_the_loop_its_turn(ends: Ends) -> None:
    for number in range(32):
        ends.peer.send(orjson.dumps({"n": number}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(ends.messages) <= 32
    ends.messages.clear()


async def test_a_descriptor_is_passed_and_the_sender_keeps_its_own(ends: Ends) -> None:
    reading, writing = os.pipe()
    ends.channel.send({"op": "take"}, [writing])
    os.close(writing)
    data, fds, _ = sockets.receive(ends.peer)
    assert orjson.loads(data) == {"op": "take"}
    os.write(fds[0], b"through")
    assert os.read(reading, 10) == b"through"
    for fd in (*fds, reading):
        os.close(fd)


async def test_received_descriptors_are_not_inherited_by_programs(ends: Ends) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    send_raw(ends.peer, b"{}", [writing])
    os.close(reading)
    os.close(writing)
    await until(lambda: bool(ends.fds))
    assert not os.get_inheritable(ends.fds[0])


async def test_what_a_slow_peer_does_not_take_waits_with_its_descriptors(ends: Ends) -> None:
    reading, writing = os.pipe()
    count = 600
    for number in range(count):
        ends.channel.send({"n": number, "pad": "x" * 2000}, [writing] if number % 50 == 49 else [])
    os.close(writing)  # what waits has descriptors of its own
    assert not ends.channel.closed
    ends.peer.setblocking(False)
    got: list[int] = []
    async with asyncio.timeout(10):
        while len(got) < count:
            try:
                data, fds, _ = sockets.receive(ends.peer)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            got.append(orjson.loads(data)["n"])
            assert len(fds) == (1 if got[-1] % 50 == 49 else 0)
            for fd in fds:
                os.write(fd, b".")
                os.close(fd)
    assert got == list(range(count))
    assert os.read(reading, 100) == b"." * (count // 50)
    os.close(reading)


async def test_closing_with_a_full_queue_leaks_nothing(ends: Ends) -> None:
    reading, writing = os.pipe()
    for _ in range(600):
        ends.channel.send({"pad": "x" * 2000}, [writing])
    ends.channel.close()
    os.close(reading)
    os.close(writing)


async def test_a_peer_that_goes_while_messages_wait_closes_once(ends: Ends) -> None:
    for _ in range(600):
        ends.channel.send({"pad": "x" * 2000})
    ends.peer.close()
    await until(lambda: ends.channel.closed)
    assert ends.closed == 1


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[]", b"null", b'"text"', b"1", b"[" * 5000])
async def test_garbage_closes_and_its_descriptors_with_it(ends: Ends, data: bytes) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    send_raw(ends.peer, data, [fd, fd, fd])
    os.close(fd)
    await until(lambda: ends.channel.closed)
    assert (ends.messages, ends.closed) == ([], 1)


async def test_an_empty_packet_with_descriptors_closes_and_leaks_nothing(ends: Ends) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    send_raw(ends.peer, b"", [fd] * MAX_MESSAGE_FDS)
    os.close(fd)
    await until(lambda: ends.channel.closed)
    assert ends.messages == []


async def test_more_descriptors_than_a_message_may_hold_close_it(ends: Ends) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    send_raw(ends.peer, b"{}", [fd] * (2 * MAX_MESSAGE_FDS))
    os.close(fd)
    await until(lambda: ends.channel.closed)
    assert ends.messages == []


async def test_a_message_over_the_limit_closes_it(ends: Ends) -> None:
    ends.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE_BYTES)
    ends.peer.send(orjson.dumps({"pad": "x" * MAX_MESSAGE_BYTES}))
    await until(lambda: ends.channel.closed)
    assert ends.messages == []


async def test_end_of_file_closes_after_the_last_message(ends: Ends) -> None:
    ends.peer.send(b'{"last": true}')
    ends.peer.close()
    await until(lambda: ends.channel.closed)
    assert (ends.messages, ends.closed) == ([{"last": True}], 1)


async def test_close_is_idempotent_and_tells_once(ends: Ends) -> None:
    ends.channel.close()
    ends.channel.close()
    assert (ends.closed, ends.channel.closed) == (1, True)


async def test_a_closed_channel_swallows_what_is_sent(ends: Ends) -> None:
    ends.channel.close()
    ends.channel.send({"op": "late"}, [0])
    assert ends.peer.recv(100) == b""


async def test_a_handler_that_closes_stops_the_burst() -> None:
    ours, theirs = sockets.seqpacket_pair()
    seen: list[dict[str, Any]] = []

    def first_only(message: dict[str, Any], fds: list[int], pid: int) -> None:
        seen.append(message)
        channel.close()

    channel = Channel(ours, asyncio.get_running_loop(), first_only, lambda: None)
    for number in range(3):
        theirs.send(orjson.dumps({"n": number}))
    await until(lambda: channel.closed)
    assert seen == [{"n": 0}]
    theirs.close()


async def test_the_kernel_tells_who_sent_it() -> None:
    ours, theirs = sockets.seqpacket_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pids: list[int] = []
    channel = Channel(ours, asyncio.get_running_loop(), lambda message, fds, pid: pids.append(pid), lambda: None)
    theirs.send(b"{}")
    await until(lambda: bool(pids))
    assert pids == [os.getpid()]
    assert sockets.peer_credentials(theirs)[:2] == (os.getpid(), os.getuid())
    channel.close()
    theirs.close()


@pytest.mark.parametrize("spares", [True, False])
async def test_a_message_whose_descriptors_find_no_room(spares: bool) -> None:
    ours, peer = sockets.seqpacket_pair()
    came: list[tuple[dict[str, Any], list[int]]] = []
    channel = Channel(ours, asyncio.get_running_loop(), lambda message, fds, pid: came.append((message, fds)), lambda: None, spares=spares)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    send_raw(peer, b'{"n":1}', [peer.fileno(), peer.fileno()])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    filler = list(fill_descriptors())
    try:
        await until(lambda: bool(came) or channel.closed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
        channel.close()
        peer.close()
    assert came == ([({"n": 1}, [])] if spares else [])


def fill_descriptors() -> Iterator[int]:
    """Every one that the limit still allows."""
    try:
        while True:
            yield os.dup(0)
    except OSError as error:
        assert error.errno == errno.EMFILE
