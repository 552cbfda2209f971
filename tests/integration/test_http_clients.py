"""Clients that are slow, greedy, silent or many: none of them stops the others, and each gives its descriptor back in the end.

While each of them does its worst a good client keeps calling, and every call of it is answered rightly and in time (`steady_client`).
Times are short by settings, as are the limits. Sources: slowhttptest's three (slowloris, R-U-Dead-Yet, slow read), OWASP's DoS cheat sheet.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.instance import Instance, leaving_nothing, wait_until
from tests.integration.wire import connect, exchange, parse, read_all, read_one, reset, steady_client

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event\n"
BIG = "def main_handler(event, context):\n    return 'x' * 5_000_000\n"
SLEEPER = "import time\ndef main_handler(event, context):\n    time.sleep(event)\n    return event\n"
IDLE_SECONDS, STALL_SECONDS = 3, 1.0
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
MB = 1 << 20


@pytest.fixture(scope="module")
def hasty(start: Callable[..., Instance]) -> Iterator[Instance]:
    """An instance that loses patience soon."""
    with leaving_nothing(start(http_idle_seconds=IDLE_SECONDS, http_stall_seconds=STALL_SECONDS)) as instance:
        yield instance
        assert "Traceback" not in instance.log.read_text()


@pytest.fixture(scope="module")
def echo(hasty: Instance) -> str:
    return warm(hasty)


def warm(instance: Instance) -> str:
    name = instance.deploy(ECHO, name="echo")
    instance.call(name, 1).ok()
    return name


def authorization(instance: Instance) -> str:
    return f"Authorization: Bearer {(instance.home / 'credential').read_text().strip()}\r\n"


def head(instance: Instance, name: str, *fields: str) -> bytes:
    lines = [f"POST /v1/functions/{name}/invocations HTTP/1.1", "Host: x", *fields]
    return ("\r\n".join(lines) + "\r\n" + authorization(instance) + "\r\n").encode()


def workers(instance: Instance) -> list[int]:
    """The API's worker processes: gunicorn's without its master."""
    masters = [pid for pid in instance.part("gunicorn") if parent(pid) not in instance.part("gunicorn")]
    return [pid for pid in instance.part("gunicorn") if pid not in masters]


def parent(pid: int) -> int:
    match = re.search(r"^PPid:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def open_sockets(instance: Instance) -> int:
    """Established connections to the port as the kernel counts them, both ends' processes aside."""
    port = f":{instance.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def drip(connections: list[socket.socket], data: Callable[[int], bytes], seconds: float) -> None:
    """Each connection sends a little now and then, until it is closed at the other end or the time is over."""
    deadline, number = time.monotonic() + seconds, 0
    while connections and time.monotonic() < deadline:
        for connection in list(connections):
            try:
                connection.sendall(data(number))
            except OSError:
                connections.remove(connection)
        number += 1
        time.sleep(0.05)  # the attack itself is slow


# Slow ones ------------------------------------------------------------------------------------------------------------------


def test_slow_heads_are_refused_in_time_and_stop_nobody(hasty: Instance, echo: str) -> None:
    """Slowloris: a field now and then, the empty line never."""
    with ExitStack() as stack, steady_client(hasty, echo) as seen:
        attackers = [stack.enter_context(connect(hasty)) for _ in range(200)]
        for attacker in attackers:
            attacker.sendall(b"GET /healthz HTTP/1.1\r\n")
        began = time.monotonic()
        drip(list(attackers), lambda number: b"X-%d: a\r\n" % number, IDLE_SECONDS - 1)
        answers = parse(read_all(attackers[0]), b"")
        assert [answer.status for answer in answers] == [408]
        answers[0].assert_problem()
        assert time.monotonic() - began < IDLE_SECONDS + 2
        for attacker in attackers[1:]:
            assert b" 408 " in read_all(attacker)
    assert len(seen.seconds) > 20


def test_a_connection_that_never_asks_is_closed_without_a_word(hasty: Instance) -> None:
    with connect(hasty) as silent, connect(hasty) as once:
        once.sendall(HEALTH)
        assert read_one(once).status == 200
        assert read_all(silent) == read_all(once) == b""


@pytest.mark.parametrize("fields", [("Content-Length: 100000",), ("Transfer-Encoding: chunked",)], ids=["length", "chunked"])
def test_slow_bodies_are_refused_in_time_and_stop_nobody(hasty: Instance, echo: str, fields: tuple[str, ...]) -> None:
    """R-U-Dead-Yet: a body of a few bytes a second."""
    piece = b"1" if "Length" in fields[0] else b"1\r\n1\r\n"
    with ExitStack() as stack, steady_client(hasty, echo):
        attackers = [stack.enter_context(connect(hasty)) for _ in range(200)]
        for attacker in attackers:
            attacker.sendall(head(hasty, echo, *fields))
        drip(list(attackers), lambda _: piece, STALL_SECONDS / 2)
        for attacker in attackers:
            (answer,) = parse(read_all(attacker), b"")
            assert answer.status == 408 and answer.json["code"] == "incomplete_body"


def test_a_body_that_keeps_coming_is_waited_for(hasty: Instance, echo: str) -> None:
    """The positive control: slower than any stall allows in all, but never pausing."""
    event = b'"' + b"x" * 60_000 + b'"'
    with connect(hasty) as connection:
        connection.sendall(head(hasty, echo, f"Content-Length: {len(event)}"))
        for n in range(0, len(event), 1500):
            connection.sendall(event[n : n + 1500])
            time.sleep(2 * STALL_SECONDS / (len(event) / 1500))
        assert read_one(connection).status == 200


def test_slow_readers_are_cut_and_stop_nobody(hasty: Instance, echo: str) -> None:
    """A reply of 5 MB that nobody reads: the connection is given up, and a reader that goes on reading gets all of it."""
    big = hasty.deploy(BIG, name="big", memory=256)
    before = open_sockets(hasty)
    with ExitStack() as stack, steady_client(hasty, echo):
        readers = []
        for _ in range(10):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", hasty.port))
            reader.settimeout(20)
            reader.sendall(head(hasty, big, "Content-Length: 0"))
            readers.append(reader)
        assert len(readers[0].recv(1000, socket.MSG_PEEK)) > 0  # it has begun
        wait_until(lambda: open_sockets(hasty) <= before + 2, "nobody's replies are given up")
        (answer,) = exchange(hasty, head(hasty, big, "Content-Length: 0", "Connection: close"))
        assert len(answer.json) == 5_000_000


def test_pipelined_requests_whose_answers_nobody_reads_are_cut(hasty: Instance, echo: str) -> None:
    before = open_sockets(hasty)
    with connect(hasty) as attacker, steady_client(hasty, echo):
        attacker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        attacker.settimeout(0.2)
        try:
            while True:
                attacker.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        except OSError:  # full, or cut already
            pass_over = wait_until(lambda: open_sockets(hasty) <= before + 2, "the connection is cut")
        assert pass_over


# Greedy ones ----------------------------------------------------------------------------------------------------------------


def send_what_is_taken(connection: socket.socket, data: bytes) -> None:
    """A client that sends all of its body before it reads, and stops only where it has to."""
    try:
        connection.sendall(data)
    except OSError:
        return


@pytest.mark.parametrize("megabytes", [6, 7, 8])
@pytest.mark.parametrize("credential", [True, False], ids=["credential", "none"])
def test_a_body_up_to_8_mb_is_drained_and_the_refusal_seen(hasty: Instance, echo: str, megabytes: int, credential: bool) -> None:
    body = b"x" * (megabytes * MB)
    request = head(hasty, echo, f"Content-Length: {len(body)}")
    if not credential:
        request = request.replace(b"Bearer ", b"Bearer not-")
    status = 401 if not credential else 400 if megabytes == 6 else 413
    with connect(hasty) as connection, steady_client(hasty, echo):
        connection.sendall(request + body)
        answer = read_one(connection)
        assert answer.status == status
        answer.assert_problem()
        if status == 413:
            assert answer.json["scf_status"] == 406
        connection.sendall(HEALTH)  # and the connection goes on
        assert read_one(connection).status == 200


@pytest.mark.parametrize("fields", [("Content-Length: 200000000",), ("Transfer-Encoding: chunked",)], ids=["length", "chunked"])
def test_a_larger_body_is_refused_and_not_read(hasty: Instance, echo: str, fields: tuple[str, ...]) -> None:
    with connect(hasty) as connection, steady_client(hasty, echo):
        connection.sendall(head(hasty, echo, *fields))
        piece = b"x" * MB if "Length" in fields[0] else b"100000\r\n" + b"x" * MB + b"\r\n"
        sent = 0
        try:
            while sent < 200:
                connection.sendall(piece)
                sent += 1
        except OSError:
            assert sent < 60, "the server read on"  # socket buffers on both sides are a part of it
    with connect(hasty) as connection:
        connection.sendall(head(hasty, echo, "Content-Length: 200000000"))
        answer = read_one(connection)  # a client that looks before it sends
        assert answer.status == 413 and answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("fields", "begin", "status"),
    [
        (("Transfer-Encoding: chunked",), b"zz\r\n", 400),
        (("Content-Length: 1", "Content-Length: 2"), b"", 400),
        (("Content-Length: 200000000",), b"", 413),
    ],
    ids=["broken chunk", "two lengths", "too large"],
)
def test_who_reads_only_after_sending_sees_the_refusal(
    hasty: Instance, echo: str, fields: tuple[str, ...], begin: bytes, status: int
) -> None:
    """A server that closed at once would have the kernel send a reset for what it has not read, and that overtakes the answer."""
    with connect(hasty) as connection:
        connection.sendall(head(hasty, echo, *fields) + begin)
        for _ in range(7):
            connection.sendall(b"x" * MB)
        connection.shutdown(socket.SHUT_WR)
        (answer,) = parse(read_all(connection), b"")
    assert answer.status == status
    answer.assert_problem()


def test_a_body_in_millions_of_chunks_stops_nobody(hasty: Instance, echo: str) -> None:
    """6 MB in chunks of a byte or two would be many objects and much parsing: the others are served meanwhile."""
    event = b"1\r\n1\r\n" * 300_000
    with connect(hasty) as connection, steady_client(hasty, echo):
        connection.sendall(head(hasty, echo, "Transfer-Encoding: chunked") + event + b"0\r\n\r\n")
        assert read_one(connection).status in (200, 400)


def test_a_head_without_an_end_is_refused(hasty: Instance, echo: str) -> None:
    with connect(hasty) as connection, steady_client(hasty, echo):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for number in range(64):
            send_what_is_taken(connection, b"X-%d: %s\r\n" % (number, b"a" * 2000))
        (answer,) = parse(read_all(connection), b"")
        assert answer.status == 431
        answer.assert_problem()


# Many ones ------------------------------------------------------------------------------------------------------------------

TEN_THOUSAND = 10_000


@pytest.mark.requires("descriptors")
def test_ten_thousand_idle_connections_stop_nobody(hearth: Instance) -> None:
    """Half of them have never asked anything, half are kept alive after an answer. All of them stay open."""
    echo = warm(hearth)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    idle: list[socket.socket] = []
    try:
        with steady_client(hearth, echo) as seen:
            for number in range(TEN_THOUSAND):
                idle.append(connect(hearth))
                if number % 2:
                    idle[-1].sendall(HEALTH)
            for connection in idle[1::2]:
                assert read_one(connection).status == 200
            assert open_sockets(hearth) >= TEN_THOUSAND
            before = len(seen.seconds)
            wait_until(lambda: len(seen.seconds) > before + 20, "the good client gets on")
        for connection in idle[::500]:
            connection.sendall(HEALTH)
            assert read_one(connection).status == 200
    finally:
        for connection in idle:
            reset(connection)
    assert hearth.call(echo, 1).ok() == 1


@pytest.fixture
def narrow(start: Callable[..., Instance]) -> Iterator[Callable[..., Instance]]:
    """Make instances of one HTTP worker with few connections."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(leaving_nothing(start(workers=1, **settings)))


def test_beyond_the_limit_the_longest_idle_connection_gives_way(narrow: Callable[..., Instance]) -> None:
    instance = narrow(http_connections=40)
    echo, sleeper = warm(instance), instance.deploy(SLEEPER)
    instance.call(sleeper, 0).ok()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(instance)) for _ in range(120)]
        with steady_client(instance, echo):
            wait_until(lambda: open_sockets(instance) <= 42, "the others are closed")
            assert read_all(idle[0]) == b"", "the first that came is the first to go"
            idle[-1].sendall(HEALTH)
            assert read_one(idle[-1]).status == 200
        used = cpu_seconds(workers(instance))
        instance.call(sleeper, 1.0).ok()
        assert cpu_seconds(workers(instance)) - used < 0.3, "the worker spins"


def test_where_every_connection_is_busy_the_next_is_told_to_come_again(narrow: Callable[..., Instance]) -> None:
    instance = narrow(http_connections=6, prepared=0)  # `running` would count prepared ones
    sleeper = instance.deploy(SLEEPER)
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(instance)) for _ in range(6)]
        for connection in busy:
            connection.sendall(head(instance, sleeper, "Content-Length: 1") + b"2")
        wait_until(lambda: running(instance) == 6, "six calls run")
        with connect(instance) as refused:
            (answer,) = parse(read_all(refused), b"")
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        answer.assert_problem()
        assert [read_one(connection).status for connection in busy] == [200] * 6
    assert exchange(instance, HEALTH.replace(b"Host", b"Connection: close\r\nHost"))[0].status == 200


def running(instance: Instance) -> int:
    """Calls that run, as their cgroups tell: to ask the service would take a connection."""
    return sum(len(Path(folder, "cgroup.procs").read_text().split()) > 1 for folder in instance.cgroups() if "memory" in str(folder))


def limit_descriptors(pid: int, count: int) -> None:
    """prlimit(2), as the process's own user: root without CAP_SYS_RESOURCE may not."""
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={count}:"], user="hearth", group="hearth", extra_groups=[], check=True)


def test_a_worker_out_of_descriptors_recovers_by_itself(narrow: Callable[..., Instance]) -> None:
    """The limit is lowered under the living worker, so that accept(2) itself fails with EMFILE."""
    instance = narrow()
    echo, sleeper = warm(instance), instance.deploy(SLEEPER)
    instance.call(sleeper, 0).ok()
    (worker,) = workers(instance)
    used_descriptors = len(os.listdir(f"/proc/{worker}/fd"))
    limit_descriptors(worker, used_descriptors + 10)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(instance)) for _ in range(60)]
        for connection in crowd:
            send_what_is_taken(connection, HEALTH)
        used = cpu_seconds([worker])
        began = time.monotonic()
        assert read_one(crowd[0]).status == 200
        wait_until(lambda: time.monotonic() > began + 1, "a second has passed")
        assert cpu_seconds([worker]) - used < 0.5, "the worker spins"
    wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= used_descriptors + 3, "the descriptors come back")
    assert workers(instance) == [worker], "the worker crashed"
    assert instance.call(echo, {"still": 1}).ok() == {"still": 1}
