"""sandboxd's socket in the hands of a compromised API: whatever it asks, nothing outside the code store and the registered images is
mounted, read or run, no other client is harmed, and sandboxd goes on.

The socket is opened with the API's uid; the state directory is the API's to change, too. The control is an honest client of the same kind.
"""

from __future__ import annotations

import array
import json
import os
import pwd
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import Instance, leaving_nothing, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

PATIENCE_SECONDS = 20
Message = dict[str, Any]


class Api:
    """One connection with the API's uid (or another), speaking raw packets."""

    def __init__(self, hearth: Instance, uid: int) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.open(".", os.O_PATH)
        os.chdir(hearth.run)  # as root: the way there may be closed to the uid
        os.seteuid(uid)
        try:
            self.sock.connect("sandboxd.sock")
        except OSError:
            self.sock.close()
            raise
        finally:
            os.seteuid(0)
            os.fchdir(before)
            os.close(before)
        self.sock.settimeout(PATIENCE_SECONDS)

    def send(self, message: Any, fds: list[int] | None = None) -> None:
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        self.sock.sendmsg([raw], beside)

    def receive(self) -> Message | None:
        """The next answer that is not a broadcast, its descriptors closed; None at end of file."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, 16)
            except ConnectionResetError:
                return None
            for fd in fds:
                os.close(fd)
            if not data:
                return None
            message: Message = json.loads(data)
            if message.get("op") != "changed":
                return message

    def ask(self, message: Any) -> Message | None:
        self.send(message)
        return self.receive()

    def close(self) -> None:
        self.sock.close()


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(prepared=1)) as instance:
        yield instance


@pytest.fixture(scope="module")
def digest(hearth: Instance) -> str:
    """Of a package that is in the store."""
    name = hearth.deploy("calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n", name="neighbour")
    hearth.call(name).ok()
    (path,) = [path for path in store(hearth).iterdir() if path.is_dir() and len(path.name) == 64]
    return path.name


@pytest.fixture
def connect(hearth: Instance) -> Iterator[Callable[..., Api]]:
    with ExitStack() as stack:

        def connected(uid: int | None = None) -> Api:
            api = Api(hearth, pwd.getpwnam("hearth").pw_uid if uid is None else uid)
            stack.callback(api.close)
            return api

        yield connected


@pytest.fixture(autouse=True)
def nobody_else_notices(hearth: Instance, digest: str) -> Iterator[None]:
    """Afterwards sandboxd is the same process with as many descriptors, no call of the attack runs, and the real API is served."""
    (before,) = hearth.part("sandbox.daemon")
    calls, held = hearth.call("neighbour").ok(), descriptors(before)
    yield
    assert hearth.part("sandbox.daemon") == [before]
    wait_until(lambda: leases(hearth) == 0, "every lease has ended")
    wait_until(lambda: descriptors(before) <= held + 4, "sandboxd has let go of the descriptors")
    answer = hearth.call("neighbour")
    assert answer.ok() > calls and answer.start == "warm"


def store(hearth: Instance) -> Path:
    return hearth.home / "state" / "code"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def leases(hearth: Instance) -> int:
    running: int = hearth.request("GET", "/v1/sandboxes").body["capacity"]["running"]
    return running


def spec(digest: str, **other: Any) -> Message:
    own = {"function_id": "hostile", "generation": 1, "name": "hostile", "namespace": "default", "version": "$LATEST"}
    return {**own, "runtime": "python3", "handler": "index.main_handler", "code": digest, "network": "none", **other}


def acquire(digest: str, **other: Any) -> Message:
    return {"op": "acquire", "id": 1, "spec": spec(digest, **other)}


def test_the_control_gets_a_lease_and_gives_it_back(digest: str, connect: Callable[..., Api]) -> None:
    api = connect()
    lease = api.ask(acquire(digest))
    assert lease is not None and lease["start"] == "cold"
    ended = api.ask({"op": "release", "id": 2, "lease": lease["lease"], "outcome": "broken", "at": 0.0})
    assert ended is not None and (ended["verdict"], ended["dead"]) == ("broken", True)


# What is asked for -------------------------------------------------------------------------------------------------------------

CODE = ["", ".", "..", "/", "/etc", "../../images/host/root", "../code", ".lock", "x" * 64, "0" * 64, "a" * 32 + "/" + "b" * 32]
CODE += ["a" * 64 + "\n", "a" * 64 + "\0", "a" * 20 + "/../../..", "\u0661" * 64, "A" * 64, "a" * 129]
ODD: list[Any] = [None, True, -1, 1.5, 1 << 70, [], ["x"], {}, {"a": 1}]
REFUSED = [
    *((f"code {value!r:.40}", {"code": value}) for value in (*CODE, *ODD)),
    *((f"layers {value!r:.40}", {"layers": value}) for value in ([code] for code in (*CODE, *ODD))),
    ("layers that are a text", {"layers": "/etc"}),
    ("a thousand layers", {"layers": ["0" * 64] * 1000}),
    *(
        (f"runtime {value!r:.40}", {"runtime": value})
        for value in ("", "host", "../host", "python3/../../etc", "/bin/sh", "python", "python99.1")
    ),
    *((f"runtime {value!r:.40}", {"runtime": value}) for value in ("python3\0", "python3;id", "python-3.11", "py\u0269thon3", *ODD)),
    *(
        (f"{field} {value!r:.20}", {field: value})
        for field in ("memory_mb", "tmp_mb", "timeout_seconds", "init_timeout_seconds", "concurrency", "generation")
        for value in (-1, 1 << 70, 10**300, "1", None, True, [1], {})
    ),
    *((f"network {value!r:.20}", {"network": value}) for value in ("host", "", None, ["none"], "nat\0")),
    *(
        (f"environment {value!r:.40}", {"environment": value})
        for value in (None, [], "A=1", {"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "\0"})
    ),
    ("an environment of 100 KB", {"environment": {"A": "x" * 100_000}}),
    ("an environment of 100 KB for an exec", {"environment": {"PYTHONHASHSEED": "1", "A": "x" * 100_000}}),
    ("an environment of many names", {"environment": {f"A{n}": "" for n in range(5000)}}),
    *((f"a field {name!r}", {name: "x"}) for name in ("image", "root", "privileged", "plan", "argv", "uid", "cgroup", "__class__")),
]


@pytest.mark.parametrize(("what", "change"), REFUSED, ids=[what for what, _ in REFUSED])
def test_a_specification_is_refused_with(hearth: Instance, digest: str, connect: Callable[..., Api], what: str, change: Message) -> None:
    api = connect()
    answer = api.ask(acquire(digest, **{"function_id": what, **change}))  # an equal specification is not looked at twice
    assert answer is not None and "error" in answer and "lease" not in answer, what
    assert answer["error"] in ("launch_failed", "image_error", "runtime_not_found"), answer
    assert "Traceback" not in json.dumps(answer) and "Error:" not in answer["message"]


@contextmanager
def planted(path: Path, target: str) -> Iterator[None]:
    path.symlink_to(target)
    try:
        yield
    finally:
        path.unlink()


def assert_not_mounted(answer: Message | None) -> None:
    assert answer is not None and answer.get("error") == "image_error", answer


def test_a_link_in_the_store_is_not_followed(hearth: Instance, connect: Callable[..., Api]) -> None:
    """openat2(2) RESOLVE_NO_SYMLINKS; CVE-2021-30465 (runc)."""
    for target in ("/etc", "../../images/host/root", "/proc/1/root"):
        with planted(store(hearth) / ("f" * 64), target):
            assert_not_mounted(connect().ask(acquire("f" * 64)))


def test_a_link_or_a_file_in_the_store_is_no_layer(hearth: Instance, digest: str, connect: Callable[..., Api]) -> None:
    """The same for what is merged at /opt, alone and with another; the code itself is a good one."""
    bad = "f" * 64
    for place, layers in enumerate(([bad], [bad, digest], [digest, bad])):
        with planted(store(hearth) / bad, "/etc"):
            assert_not_mounted(connect().ask(acquire(digest, function_id=f"link {place}", layers=layers)))
        (store(hearth) / bad).touch()
        assert_not_mounted(connect().ask(acquire(digest, function_id=f"file {place}", layers=layers)))
        (store(hearth) / bad).unlink()


def test_what_overlays_mean_by_attributes_means_nothing_in_the_store(hearth: Instance, digest: str, connect: Callable[..., Api]) -> None:
    """Documentation/filesystems/overlayfs.rst, userxattr: whoever owns the store can set user.overlay.*, to redirect or to hide."""
    upper, lower = store(hearth) / ("d" * 64), store(hearth) / ("e" * 64)
    for tree in (upper, lower):
        (tree / "dir").mkdir(parents=True)
        (tree / "dir" / tree.name[:1]).touch()
    os.setxattr(upper / "dir", "user.overlay.opaque", b"y")
    os.setxattr(upper / "dir", "user.overlay.redirect", b"/")
    try:
        api = connect()
        lease = api.ask(acquire(digest, function_id="attributes", layers=[lower.name, upper.name]))
        assert lease is not None and "lease" in lease
        (row,) = [row for row in hearth.sandboxes("hostile") if row["state"] == "leased"]
        assert sorted(os.listdir(f"/proc/{row['pid']}/root/opt/dir")) == ["d", "e"]
    finally:
        api.close()
        for tree in (upper, lower):
            shutil.rmtree(tree)


def test_the_store_itself_exchanged_for_a_link_is_not_followed(
    hearth: Instance, digest: str, connect: Callable[..., Api], tmp_path: Path
) -> None:
    """The directory above belongs to the API: CVE-2019-16884's kind (a volume over what is trusted)."""
    name = "e" * 64
    (tmp_path / name).mkdir()
    (tmp_path / name / "index.py").write_text("def main_handler(event, context): return 'of the host'\n")
    aside = store(hearth).with_name("aside")
    store(hearth).rename(aside)
    try:
        with planted(store(hearth), str(tmp_path)):
            assert_not_mounted(connect().ask(acquire(name)))
        with planted(store(hearth), str(aside)):
            assert_not_mounted(connect().ask(acquire(digest)))
    finally:
        aside.rename(store(hearth))


def test_what_is_no_directory_is_not_mounted(hearth: Instance, connect: Callable[..., Api]) -> None:
    for make in (Path.touch, os.mkfifo, lambda path: os.mknod(path, 0o060666, os.makedev(8, 0))):
        path = store(hearth) / ("d" * 64)
        make(path)
        try:
            assert_not_mounted(connect().ask(acquire("d" * 64)))
        finally:
            path.unlink()


def test_a_setuid_program_and_a_device_in_the_store_are_worth_nothing(hearth: Instance, connect: Callable[..., Api]) -> None:
    """Mounted they are, nosuid and nodev: that is asked of the mount itself."""
    tree = store(hearth) / ("c" * 64)
    tree.mkdir()
    (tree / "index.py").write_text("def main_handler(event, context): pass\n")
    try:
        api = connect()
        lease = api.ask(acquire(tree.name))
        assert lease is not None and "lease" in lease
        (row,) = hearth.sandboxes("hostile")
        mounts = Path(f"/proc/{row['pid']}/mountinfo").read_text().splitlines()
        options = [line.split()[5].split(",") for line in mounts if line.split()[4] == "/var/user"][-1]  # below is the rehearsal's
        assert {"ro", "nosuid", "nodev"} <= set(options)
    finally:
        api.close()
        (tree / "index.py").unlink()
        tree.rmdir()


# How it is asked -----------------------------------------------------------------------------------------------------------------

GARBAGE = [
    ("no JSON", b"{", True),
    ("not UTF-8", b"\xff\xfe", True),
    ("an empty packet", b"", True),
    ("a list", b"[]", True),
    ("null", b"null", True),
    ("a hundred thousand brackets", b"[" * 100_000, True),
    ("a packet over the limit", b'{"op": "describe", "x": "' + b"x" * 140_000 + b'"}', True),
    *(
        (f"the operation {op!r}", {"op": op, "id": 1}, False)
        for op in (None, [], {}, 1, "", "exec", "zygote", "fork", "specialise", "mount", "_message")
    ),
    *(
        (f"the id {number!r:.20}", {"op": "resolve", "id": number, "runtime": "python3"}, False)
        for number in (None, [], {"a": 1}, "x", -1, 1.5)
    ),
    *((f"to resolve {runtime!r:.20}", {"op": "resolve", "id": 1, "runtime": runtime}, False) for runtime in (None, [], {}, "x" * 100_000)),
    *(
        (f"to retire {name!r:.20}", {"op": "retire", "id": 1, "function_id": name, "generation": 1}, False)
        for name in (None, [], {}, 5, "x" * 9999)
    ),
    *(
        (f"to retire generation {g!r:.20}", {"op": "retire", "id": 1, "function_id": "x", "generation": g}, False)
        for g in ("x", [], {}, -1, 10**300)
    ),
    *(
        (f"to announce a change of {name!r:.20}", {"op": "changed", "id": 1, "function_id": name}, False)
        for name in (None, [], {}, 5, "", "x" * 9999)
    ),
    ("to retire nothing", {"op": "retire", "id": 1}, False),
    ("to acquire nothing", {"op": "acquire", "id": 1}, False),
    ("to release nothing", {"op": "release", "id": 1}, False),
]


@pytest.mark.parametrize(("what", "message", "closes"), GARBAGE, ids=[what for what, _, _ in GARBAGE])
def test_it_is_asked_by(connect: Callable[..., Api], what: str, message: Any, closes: bool) -> None:
    api = connect()
    answer = api.ask(message)
    if closes:
        assert answer is None
    else:
        assert answer is not None and ("error" in answer or message["op"] == "resolve"), answer
        assert api.ask({"op": "resolve", "id": 7, "runtime": "python3"}) is not None


@pytest.mark.parametrize("count", [1, 32, 200])
def test_descriptors_sent_along_are_closed(hearth: Instance, connect: Callable[..., Api], count: int) -> None:
    reader, writer = os.pipe()
    api = connect()
    api.send({"op": "resolve", "id": 1, "runtime": "python3"}, [writer] * count)
    os.close(writer)
    answer = api.receive()
    assert (answer is None) == (count > 32)
    assert os.read(reader, 1) == b"", "nobody holds the other end"
    os.close(reader)


# Other clients -------------------------------------------------------------------------------------------------------------------


def test_another_client_s_lease_is_not_theirs(digest: str, connect: Callable[..., Api]) -> None:
    owner, thief = connect(), connect()
    lease = owner.ask(acquire(digest))
    assert lease is not None
    number = lease["lease"]
    for claimed in (number, float(number), str(number), [number], {"lease": number}, None, True, -1, number + 1, 1 << 70):
        thief.send({"op": "running", "lease": claimed, "at": -1e9})  # would end it at once
        refused = thief.ask({"op": "release", "id": 1, "lease": claimed, "outcome": "broken", "at": 0.0})
        assert refused is not None and refused["error"] == "launch_failed", claimed
    ended = owner.ask({"op": "release", "id": 2, "lease": number, "outcome": "broken", "at": 0.0})
    assert ended is not None and ended["verdict"] == "broken"


def test_a_lease_ends_once(digest: str, connect: Callable[..., Api]) -> None:
    api = connect()
    lease = api.ask(acquire(digest))
    assert lease is not None
    release = {"op": "release", "id": 2, "lease": lease["lease"], "outcome": "broken", "at": 0.0}
    api.send(release)
    api.send(release)
    answers = [api.receive(), api.receive()]
    assert sorted("error" in answer for answer in answers if answer) == [False, True]


@pytest.mark.parametrize("at", ["now", None, [], {}, True])
def test_a_time_that_is_none_ends_nothing(digest: str, connect: Callable[..., Api], at: Any) -> None:
    api = connect()
    lease = api.ask(acquire(digest))
    assert lease is not None
    api.send({"op": "running", "lease": lease["lease"], "at": at})
    answer = api.ask({"op": "release", "id": 2, "lease": lease["lease"], "outcome": "ok", "at": at})
    assert answer is not None and ("error" in answer) == (at is not True)


@pytest.mark.parametrize("at", [1e300, -1e300])
def test_a_time_beyond_all_gives_no_more_time(hearth: Instance, digest: str, connect: Callable[..., Api], at: float) -> None:
    """Neither does it keep a sandbox for longer than its function may have it."""
    api = connect()
    lease = api.ask(acquire(digest, timeout_seconds=0.5))
    assert lease is not None
    api.send({"op": "running", "lease": lease["lease"], "at": at})
    wait_until(lambda: hearth.sandboxes("hostile") == [], "its sandbox is killed at the deadline", 5)
    answer = api.ask({"op": "release", "id": 2, "lease": lease["lease"], "outcome": "exited", "at": 0.0})
    assert answer is not None and answer["verdict"] == "timeout"


def test_a_client_that_goes_takes_its_sandboxes_along(hearth: Instance, digest: str, connect: Callable[..., Api]) -> None:
    api = connect()
    for _ in range(3):
        api.send(acquire(digest))
    assert api.receive() is not None
    api.close()
    wait_until(lambda: hearth.sandboxes("hostile") == [], "they are gone")


def test_a_stranger_is_not_served(connect: Callable[..., Api]) -> None:
    assert connect(65534).receive() is None
    assert connect(1000).receive() is None


# Floods --------------------------------------------------------------------------------------------------------------------------


def memory(pid: int) -> int:
    """Resident, in megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def test_answers_that_nobody_reads_do_not_fill_its_memory(hearth: Instance, connect: Callable[..., Api]) -> None:
    (pid,) = hearth.part("sandbox.daemon")
    before, api = memory(pid), connect()
    try:
        for _ in range(20_000):
            api.send({"op": "nothing", "id": "x" * 20_000})
    except (BrokenPipeError, ConnectionResetError):
        api.close()
    assert memory(pid) - before < 100


def test_names_that_nobody_has_do_not_fill_its_memory(hearth: Instance, connect: Callable[..., Api]) -> None:
    (pid,) = hearth.part("sandbox.daemon")
    before, api = memory(pid), connect()
    for number in range(2000):
        answer = api.ask({"op": "retire", "id": 1, "function_id": f"{number}" + "x" * 100_000, "generation": 1})
        assert answer is not None and "error" in answer
    assert memory(pid) - before < 50


def test_a_flood_of_connections_leaves_descriptors_for_sandboxes(hearth: Instance, digest: str, connect: Callable[..., Api]) -> None:
    (pid,) = hearth.part("sandbox.daemon")
    before = descriptors(pid)
    flood = []
    for _ in range(600):
        flood.append(connect())
    assert descriptors(pid) < before + 300
    hearth.call("neighbour").ok()
    for api in flood:
        api.close()
    wait_until(lambda: descriptors(pid) <= before + 1, "it has let go")
    assert connect().ask({"op": "resolve", "id": 1, "runtime": "python3"}) is not None
    hearth.call("neighbour").ok()


def test_a_flood_of_requests_does_not_stop_the_others(hearth: Instance, connect: Callable[..., Api]) -> None:
    api = connect()
    for _ in range(30):
        for _ in range(50):
            api.send({"op": "describe", "id": 1})
        answer = hearth.call("neighbour")
        assert answer.scf == 200 and answer.seconds < 2
        for _ in range(50):
            assert api.receive() is not None
    hearth.call("neighbour").ok()


def test_an_environment_longer_than_a_message_costs_its_call_only(start: Callable[..., Instance]) -> None:
    """Where the operator has raised the limit: with six bytes for each in JSON an exec's request does not fit, and must not reach the
    launcher."""
    with leaving_nothing(start(prepared=0, limit_environment_bytes=16_384)) as roomy:
        code = "def main_handler(event, context):\n    return 'served'\n"
        parts = roomy.part("sandbox.daemon")
        long = roomy.deploy(code, environment={"PYTHONHASHSEED": "1", "A": "\x01" * 16_000})
        assert roomy.call(long).outcome == (500, 500)
        assert roomy.call(roomy.deploy(code, environment={"PYTHONHASHSEED": "1"})).ok() == "served"
        assert roomy.part("sandbox.daemon") == parts
