"""Launcher and sandboxd live and die together: whichever is killed, the other goes, and nothing of either is left on the host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sandbox.cgroup import detect
from sandbox.client import Client
from sandbox.daemon.recovery import link_prefix
from sandbox.errors import LaunchError
from sandbox.image import load_images
from sandbox.imaging.host import build_host
from sandbox.kernel import links
from sandbox.network import nat
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20
DIGEST = "0123456789abcdef" * 4

pytestmark = pytest.mark.requires("root", "user", "cgroup")

SPEC = FunctionSpec(
    function_id="f-1",
    generation=1,
    name="hello",
    namespace="default",
    version="$LATEST",
    runtime="python3",
    handler="index.main",
    code=DIGEST,
    network="none",
    timeout_seconds=60,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory with the host's image and one package in the code store."""
    home = tmp_path_factory.mktemp("launcher") / "home"
    settings = Settings(home=str(home))
    code = settings.code_dir / DIGEST
    code.mkdir(parents=True)
    (code / "index.py").write_text("import time\n\ndef main(event, context):\n    time.sleep(event.get('sleep', 0))\n    return event\n")
    build_host(settings)
    yield home
    shutil.rmtree(home.parent)


@dataclass
class Running:
    """A launcher and its sandboxd, ready."""

    launcher: subprocess.Popen[bytes]
    settings: Settings

    @property
    def sandboxd(self) -> int:
        return next(pid for pid in processes(self.settings) if b"sandbox.daemon" in command_line(pid))

    def left(self) -> dict[str, Any]:
        """What is on the host of this instance, by kind; empty values where there is nothing."""
        driver = detect(self.settings.instance)
        return {
            "processes": processes(self.settings),
            "cgroups": [path for path in driver.leftovers() if os.path.isdir(path)],
            "links": links.names_with_prefix(link_prefix(self.settings)) + nat.tables(self.settings.instance),
            "stage": [str(self.settings.run)] if str(self.settings.run) in Path("/proc/self/mountinfo").read_text() else [],
        }


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def processes(settings: Settings) -> list[int]:
    """Every process that carries the instance's home in its environment, or sits in one of its cgroups."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            known = f"HEARTH_HOME={settings.home}".encode() in (entry / "environ").read_bytes().split(b"\0")
            grouped = f"hearth-{settings.instance}" in (entry / "cgroup").read_text()
            if (known or grouped) and "State:\tZ" not in (entry / "status").read_text():
                found.add(int(entry.name))
    return sorted(found)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def running(home: Path, tmp_path: Path) -> Iterator[Running]:
    run = tmp_path / "run"
    run.mkdir()
    settings = Settings(home=str(home), run=str(run), prepared=2)
    reader, writer = os.pipe()
    own = {"HEARTH_HOME": settings.home, "HEARTH_RUN": settings.run, "HEARTH_PREPARED": "2", "HEARTH_READY_FD": str(writer)}
    launcher = subprocess.Popen([sys.executable, "-m", "sandbox.launcher"], cwd=ROOT, env={**os.environ, **own}, pass_fds=[writer])
    os.close(writer)
    try:
        assert select.select([reader], [], [], WAIT_SECONDS)[0], "not ready in time"
        assert os.read(reader, 16) == b"ready\n"
        running = Running(launcher, settings)
        assert processes(settings), "a control: the probe finds what lives"
        yield running
    finally:
        os.close(reader)
        for pid in processes(settings):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launcher.wait(WAIT_SECONDS)
        wait_for(lambda: not processes(settings), "processes are left")
        detect(settings.instance).sweep()
        nat.sweep(settings.instance)


async def connected(settings: Settings) -> Client:
    client = Client(settings)
    await client.start()
    async with asyncio.timeout(WAIT_SECONDS):
        while not client.connected:
            await asyncio.sleep(0.01)
    return client


async def make_sandboxes(client: Client) -> None:
    """One warm worker of a zygote, one of an exec'd interpreter, and the prepared ones."""
    for spec in (SPEC, replace(SPEC, function_id="f-2", environment={"PYTHONHASHSEED": "1"})):
        reply = await client.invoke(spec, b'{"n": 1}', request_id="r-1")
        assert reply.error is None, (reply.error, reply.log)
        assert orjson.loads(reply.body) == {"n": 1}
    async with asyncio.timeout(WAIT_SECONDS):
        while len((await client.describe())["sandboxes"]) < 4:
            await asyncio.sleep(0.02)


async def test_stopping_the_launcher_stops_everything_and_leaves_nothing(running: Running) -> None:
    client = await connected(running.settings)
    await make_sandboxes(client)
    assert all(running.left()[kind] for kind in ("processes", "cgroups")), "a control: there is something to leave"
    running.launcher.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.launcher.wait, WAIT_SECONDS) == 0
    await client.close()
    assert running.left() == {"processes": [], "cgroups": [], "links": [], "stage": []}
    assert os.listdir(running.settings.run) == []


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_when_sandboxd_is_killed_the_launcher_ends_and_no_process_is_left(running: Running, busy: bool) -> None:
    client = await connected(running.settings)
    await make_sandboxes(client)
    call = asyncio.create_task(client.invoke(SPEC, b'{"sleep": 50}', request_id="r-2")) if busy else None
    if busy:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await client.describe())["capacity"]["running"] != 1:
                await asyncio.sleep(0.02)
    os.kill(running.sandboxd, signal.SIGKILL)
    assert await asyncio.to_thread(running.launcher.wait, WAIT_SECONDS) == 128 + signal.SIGKILL
    await asyncio.to_thread(wait_for, lambda: not processes(running.settings), "processes are left")
    if call is not None:
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
    await client.close()
    left = running.left()
    assert (left["processes"], left["stage"]) == ([], [])
    # cgroups, the bridge and its firewall outlive the killed: the next life sweeps them, and can
    assert detect(running.settings.instance).sweep() > 0
    await asyncio.to_thread(nat.sweep, running.settings.instance)  # pyroute2 runs a loop of its own
    assert (running.left()["cgroups"], running.left()["links"]) == ([], [])


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_when_the_launcher_is_killed_sandboxd_closes_its_sandboxes_and_leaves_nothing(running: Running, busy: bool) -> None:
    client = await connected(running.settings)
    await make_sandboxes(client)
    call = asyncio.create_task(client.invoke(SPEC, b'{"sleep": 50}', request_id="r-2")) if busy else None
    if busy:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await client.describe())["capacity"]["running"] != 1:
                await asyncio.sleep(0.02)
    running.launcher.kill()
    running.launcher.wait(WAIT_SECONDS)
    await asyncio.to_thread(wait_for, lambda: not processes(running.settings), "processes are left")
    if call is not None:
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
    await client.close()
    assert running.left() == {"processes": [], "cgroups": [], "links": [], "stage": []}


async def test_a_second_sandboxd_of_the_same_home_is_refused(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    own = {**os.environ, "HEARTH_HOME": running.settings.home, "HEARTH_RUN": str(other)}
    command = [sys.executable, "-m", "sandbox.launcher"]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=own, capture_output=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 1
    assert b"another sandboxd serves" in done.stderr
    client = await connected(running.settings)
    await make_sandboxes(client)  # and the first was not harmed
    await client.close()


async def test_an_interpreter_that_is_not_there_is_told_by_its_path(running: Running) -> None:
    image = load_images(running.settings.images_dir)["host"]
    interpreter = Path(image.root + next(iter(image.runtimes.values())))
    client = await connected(running.settings)
    aside = interpreter.with_name("set-aside")
    os.rename(interpreter, aside)
    try:
        spec = replace(SPEC, function_id="f-3", environment={"PYTHONHASHSEED": "1"})
        outcome = (await asyncio.gather(client.invoke(spec, b"{}", request_id="r-3"), return_exceptions=True))[0]
    finally:
        os.rename(aside, interpreter)
    # told as it happens in the worker, beside PID 1: before PID 1 was ready it is a launch error, afterwards the worker's end
    if isinstance(outcome, LaunchError):
        assert "exec" in outcome.message
        assert "No such file" in outcome.message
    else:
        assert not isinstance(outcome, BaseException), outcome
        assert "exited with code 74" in str(outcome.error)
    await client.close()


def test_a_peer_that_is_neither_root_nor_our_user_is_not_served(running: Running) -> None:
    """The socket may be opened by anyone; who connects is told by the kernel."""
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.connect(sys.argv[1]); sock.settimeout(10)\n"
        'try:\n    sock.send(b\'{"op": "describe", "id": 1}\'); print(len(sock.recv(65536)))\n'
        "except (BrokenPipeError, ConnectionResetError):\n    print(0)\n"
    )
    for folder in [running.settings.socket_path.parent, *running.settings.socket_path.parents]:
        if folder.owner() == "root" and "pytest" in str(folder):
            folder.chmod(folder.stat().st_mode | 0o011)
    command = [sys.executable, "-c", program, str(running.settings.socket_path)]
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    refused = subprocess.run([python, *command[1:]], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (refused.stdout, refused.returncode) == ("0\n", 0), refused.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:  # the control: root is served
        sock.connect(str(running.settings.socket_path))
        sock.settimeout(WAIT_SECONDS)
        sock.send(b'{"op": "describe", "id": 1}')
        assert orjson.loads(sock.recv(1 << 17))["id"] == 1
