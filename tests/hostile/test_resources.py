"""Every resource that runs out: it ends at the function's own limit, with a clear status, and the neighbours go on.

Each attack is bounded, so that its control (the same lines outside of a sandbox) does no harm either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.hostile.attacks import THROUGH, Attack, host_state
from tests.hostile.chamber import OUTSIDE, PAYLOAD, Chamber
from tests.integration.instance import Instance, leaving_nothing

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

#: Small, so that a bomb is small: 96 processes, 256 descriptors, 16 MB of /tmp with 512 files, 8 MB of /dev/shm.
LIMITS = {"limit_processes": 96, "limit_descriptors": 256, "tmp_inodes": 512, "shm_mb": 8, "limit_reply_bytes": 1 << 20}
TMP_MB, MEMORY_MB = 16, 128


@dataclass(frozen=True, slots=True)
class Bomb:
    """`code` comes to one of `scf` in the function, and where the call succeeds it must tell one of `told`."""

    name: str
    source: str
    code: str
    scf: tuple[int, ...] = (200,)
    told: tuple[str, ...] = ()
    outside: tuple[str, ...] = (THROUGH,)


CHILDREN = """
children = []
for _ in range({count}):
    child = os.fork()
    if child == 0:
        {what}
        os._exit(0)
    children.append(child)
"""
WAIT = "for child in children: os.waitpid(child, 0)\n"
KILL = "for child in children: os.kill(child, 9)\n"

BOMBS = [
    Bomb("takes twice its memory", "snekbox test_memory_returns_137", "hold(256)", (434,)),
    Bomb(
        "takes memory in its children",
        "snekbox test_multiprocess_resource_limits",
        CHILDREN.format(count=8, what="hold(40); time.sleep(1)") + WAIT,
        (434,),
    ),
    Bomb("takes shared anonymous memory", "mmap(2) MAP_SHARED", "touch(mmap.mmap(-1, 256 * MEGABYTE))", (434,)),
    Bomb(
        "hides memory in a memfd",
        "memfd_create(2)",
        'fd = call("memfd_create", b"x", 0)\nfor _ in range(256): os.write(fd, b"x" * MEGABYTE)',
        (434,),
    ),
    Bomb(
        "hides memory in System V segments",
        "shmget(2)",
        """
libc.shmat.restype = ctypes.c_void_p
segment = call("shmget", 0, 256 * MEGABYTE, 0o1600)
area = libc.shmat(segment, None, 0)
call("shmctl", segment, 0, 0)
for page in range(0, 256 * MEGABYTE, 4096): ctypes.memset(area + page, 1, 1)
""",
        (434,),
    ),
    Bomb("fills /dev/shm", "shm_overview(7)", 'fill("/dev/shm/x", 12)', told=("ENOSPC",)),
    Bomb("fills /tmp", "snekbox test_write_exceed_space; tmpfs(5)", 'fill("/tmp/x", 20)', told=("ENOSPC",)),
    Bomb(
        "fills /tmp by a file without a name",
        "open(2) O_TMPFILE",
        'fd = os.open("/tmp", 0o20200000 | os.O_RDWR, 0o600)\nfor _ in range(20): os.write(fd, b"x" * MEGABYTE)',
        told=("ENOSPC",),
    ),
    Bomb(
        "reserves a sparse file's blocks",
        "fallocate(2)",
        'call("fallocate", os.open("/tmp/x", 66, 0o600), 0, 0, 20 * MEGABYTE)',
        told=("ENOSPC",),
    ),
    Bomb(
        "writes to a sparse file through a map",
        "mmap(2) SIGBUS; snekbox test_file_parsing_size_limit_sparse_files",
        'fd = os.open("/tmp/x", 66, 0o600)\nos.ftruncate(fd, 64 * MEGABYTE)\ntouch(mmap.mmap(fd, 64 * MEGABYTE))',
        (439,),
    ),
    Bomb("makes many files", "tmpfs(5) nr_inodes", 'for n in range(600): open("/tmp/%d" % n, "w").close()', told=("ENOSPC",)),
    Bomb("makes many directories", "tmpfs(5) nr_inodes", 'for n in range(600): os.mkdir("/tmp/%d" % n)', told=("ENOSPC",)),
    Bomb(
        "makes many files in /dev/shm", "tmpfs(5) nr_inodes", 'for n in range(5000): open("/dev/shm/%d" % n, "w").close()', told=("ENOSPC",)
    ),
    Bomb("forks", "snekbox test_forkbomb_resource_unavailable", CHILDREN.format(count=120, what="time.sleep(3)") + KILL, told=("EAGAIN",)),
    Bomb(
        "starts threads",
        "pthread_create(3) EAGAIN; cgroups(7) pids",
        """
def threads():
    try:
        for _ in range(120):
            one = threading.Thread(target=time.sleep, args=(1,))
            one.daemon = True
            one.start()
    except (RuntimeError, threading.ThreadError):
        return "EAGAIN"
told = threads()
""",
        told=("EAGAIN",),
    ),
    Bomb("leaves zombies", "wait(2)", CHILDREN.format(count=120, what="pass") + WAIT, told=("EAGAIN",)),
    Bomb(
        "leaves orphans to PID 1",
        "wait(2); pid_namespaces(7)",
        "for _ in range(110):\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()",
        told=(THROUGH, "EAGAIN"),
    ),
    Bomb(
        "opens files",
        "getrlimit(2) RLIMIT_NOFILE",
        "kept.extend(os.open('/dev/null', 0) for _ in range(300))",
        told=("EMFILE",),
    ),
    Bomb("opens sockets", "getrlimit(2)", "kept.extend(socket.socket() for _ in range(300))", told=("EMFILE",)),
    Bomb("opens epolls", "epoll(7)", "kept.extend(call('epoll_create1', 0) for _ in range(300))".replace("'", '"'), told=("EMFILE",)),
    Bomb(
        "keeps descriptors in flight",
        "unix(7) ETOOMANYREFS; CVE-2013-4312",
        """
one, other = socket.socketpair()
one.setblocking(False)
message = ctypes.create_string_buffer(struct.pack("QiiI", 20, 1, 1, one.fileno()))
part = ctypes.create_string_buffer(b"x")
vector = ctypes.create_string_buffer(struct.pack("PQ", ctypes.addressof(part), 1))
header = ctypes.create_string_buffer(struct.pack("PQPQPQQ", 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(message), 24, 0))
for _ in range(200):
    pair = socket.socketpair()
    kept.append(pair)
    for _ in range(8): call("sendmsg", pair[0].fileno(), header, 0)
    if len(kept) > 100: kept.pop(0)
""",
        told=("ETOOMANYREFS",),
        outside=(THROUGH, "ETOOMANYREFS"),
    ),
    Bomb(
        "locks memory",
        "mlock(2)",
        "area = mmap.mmap(-1, 64 * MEGABYTE)\n"
        'call("mlock", ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), 64 * MEGABYTE)',
        told=("ENOMEM", "EAGAIN"),
    ),
    Bomb(
        "hoards kernel memory in socket buffers",
        "cgroups(7) kernel memory; socket(7) SO_SNDBUF",
        """
sent = 0
while sent < 200 * MEGABYTE and len(kept) < 110:
    pair = socket.socketpair()
    kept.append(pair)
    pair[0].setsockopt(1, 7, 4 * MEGABYTE)
    pair[0].setblocking(False)
    try:
        for _ in range(64): sent += pair[0].send(b"x" * 65536)
    except EnvironmentError as error:
        if error.errno != errno.EAGAIN: raise
told = "bounded"
""",
        (200, 434),
        ("bounded",),
        ("bounded",),
    ),
    Bomb("spins", "snekbox test_timeout_returns_137", "end = time.time() + 2.3\nwhile time.time() < end: pass", (433,)),
    Bomb(
        "spins in its children",
        "cgroups(7) cpu",
        CHILDREN.format(count=8, what="end = time.time() + 2.3\n        while time.time() < end: pass") + WAIT,
        (433,),
    ),
    Bomb("sleeps in the kernel", "vfork(2)", "time.sleep(2.3)", (433,)),
    Bomb(
        "floods its log",
        "snekbox, its limit on output; DESIGN section 5",
        'for _ in range(300): os.write(1, b"y" * 9999)',
    ),
    Bomb("floods its log from children", "pipe(7)", CHILDREN.format(count=4, what='[os.write(2, b"y" * 9999) for _ in range(99)]') + WAIT),
    Bomb(
        "queues signals",
        "sigqueue(3) RLIMIT_SIGPENDING",
        "signal.signal(40, signal.SIG_IGN)\nfor _ in range(20000): os.kill(os.getpid(), 40)",
    ),
    Bomb(
        "signals every process",
        "kill(2) of -1",
        "signal.signal(15, signal.SIG_IGN)\nfor _ in range(100): os.kill(-1, 15)",
        told=("ESRCH", THROUGH),
        outside=("ESRCH", THROUGH),
    ),
]


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(prepared=1, **LIMITS)) as instance:
        yield instance


@pytest.fixture(scope="module")
def neighbour(hearth: Instance) -> str:
    return hearth.deploy("calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n", timeout=2)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_function_that(hearth: Instance, neighbour: str, facts: dict[str, Any], bomb: Bomb) -> None:
    before, calls = host_state(), hearth.call(neighbour).ok()
    # only who is meant to meet the time limit has a short one: a hundred forks take their time on a busy machine
    name = hearth.deploy(PAYLOAD.read_text(), timeout=2 if 433 in bomb.scf else 15, memory=MEMORY_MB, tmp=TMP_MB)
    assert hearth.call(name, {}).ok() == "served"
    call = hearth.call_soon(name, Attack(bomb.name, bomb.source, bomb.code).event(facts))
    meanwhile = [hearth.call(neighbour) for _ in range(3)]
    answer = call.result()
    assert answer.scf in bomb.scf, (answer.scf, answer.content[:1000])
    assert answer.scf != 200 or not bomb.told or answer.body in bomb.told
    assert [one.ok() for one in meanwhile] == [calls + 1, calls + 2, calls + 3]
    assert max(one.seconds for one in meanwhile) < 1
    assert hearth.call(name, {}).ok() == "served"
    assert host_state() == before
    hearth.delete(name)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_outside_it_works_that_one(chamber: Chamber, facts: dict[str, Any], bomb: Bomb) -> None:
    assert chamber.run(Attack(bomb.name, bomb.source, bomb.code).event(facts), OUTSIDE) in bomb.outside
