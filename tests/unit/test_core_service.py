"""What a service tells systemd and its journal, and what the kernel tells it: notifications, the watchdog, entries, pressure."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import log
from sandbox.notify import notify, watchdog_seconds
from sandbox.pressure import MemoryPressure, open_trigger


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(5)
        yield sock


def test_a_state_is_one_datagram(receiver: socket.socket) -> None:
    notify("READY=1", {"NOTIFY_SOCKET": receiver.getsockname()})
    assert receiver.recv(100) == b"READY=1"


def test_an_abstract_socket_is_found_by_its_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0hearth-test-{os.getpid()}")
        sock.settimeout(5)
        notify("WATCHDOG=1", {"NOTIFY_SOCKET": f"@hearth-test-{os.getpid()}"})
        assert sock.recv(100) == b"WATCHDOG=1"


def test_without_systemd_nothing_is_told() -> None:
    notify("READY=1", {})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_told_twice_as_often_as_it_looks(environ: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(environ) == seconds


def parsed(data: bytes) -> dict[str, str]:
    """The native protocol, read as journald does."""
    found = {}
    while data:
        line, data = data.split(b"\n", 1)
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            (size,) = struct.unpack_from("<Q", data)
            name, value, data = line, data[8 : 8 + size], data[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal(receiver: socket.socket) -> Iterator[logging.Logger]:
    logger = logging.Logger("test.journal")
    handler = log.JournalHandler("api", receiver.getsockname())
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_an_entry_has_its_request_id_as_a_field(receiver: socket.socket, journal: logging.Logger) -> None:
    journal.error("call %s failed", "r-1", extra={"request_id": "r-1"})
    assert parsed(receiver.recv(10_000)) == {
        "MESSAGE": "call r-1 failed",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "hearth-api",
        "LOGGER": "test.journal",
        "HEARTH_REQUEST_ID": "r-1",
    }


def test_pairs_are_text_and_fields(receiver: socket.socket, journal: logging.Logger) -> None:
    journal.warning(log.pairs("record refused", request_id="r-2", error="no room"))
    entry = parsed(receiver.recv(10_000))
    assert entry["MESSAGE"] == "record refused request_id=r-2 error='no room'"
    assert (entry["PRIORITY"], entry["HEARTH_REQUEST_ID"], entry["HEARTH_ERROR"]) == ("4", "r-2", "no room")


def test_a_stack_trace_is_one_entry_whatever_its_lines(receiver: socket.socket, journal: logging.Logger) -> None:
    try:
        raise ValueError("two\nlines=1")
    except ValueError:
        journal.exception("it broke")
    entry = parsed(receiver.recv(10_000))
    assert entry["MESSAGE"].startswith("it broke\nTraceback")
    assert entry["MESSAGE"].endswith("two\nlines=1")
    assert entry["PRIORITY"] == "3"


def test_an_entry_too_long_for_a_datagram_goes_to_stderr(journal: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    journal.info("x" * 10_000_000)
    assert len(capsys.readouterr().err) > 10_000_000


def test_only_a_stderr_that_the_journal_reads_is_taken_for_one() -> None:
    status = os.fstat(log.STDERR)
    assert log.is_journal(log.STDERR, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not log.is_journal(log.STDERR, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not log.is_journal(log.STDERR, {})


async def test_pressure_is_told_on_the_loop() -> None:
    # out-of-band data is EPOLLPRI, as a trigger of the kernel is
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        told = asyncio.Event()
        pressure = MemoryPressure(asyncio.get_running_loop(), told.set, receiver.detach())
        sender.send(b"!", socket.MSG_OOB)
        await asyncio.wait_for(told.wait(), 5)
        pressure.close()


def test_a_kernel_without_pressure_information_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_trigger(str(tmp_path / "memory"))


@pytest.mark.requires("psi")
def test_this_kernel_takes_the_trigger() -> None:
    os.close(open_trigger())
