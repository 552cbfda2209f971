"""The supervisor, with real programs: start order, restart, backoff, orderly stop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from server.cli import supervise
from server.cli.supervise import Child, Program, StartFailed, Supervisor

SLEEP = "import signal; signal.pause()"


async def at_once(child: Child) -> None:
    return None


async def announced(child: Child) -> None:
    await child.announced.wait()


async def never(child: Child) -> None:
    await asyncio.Event().wait()


def program(name: str, code: str, **options: Any) -> Program:
    options = {"ready": at_once, **options}
    return Program(name=name, command=(sys.executable, "-S", "-c", code), environment=dict(os.environ), **options)


def supervisor(*programs: Program, then: Callable[[], Coroutine[Any, Any, None]]) -> Supervisor:
    return Supervisor(programs, on_ready=then)


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_ready_announcement_is_awaited_before_the_next_program_starts(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = program(
        "first",
        f"import os, time; time.sleep(0.2); open({str(mark)!r}, 'w').close()\n"
        f"os.write(int(os.environ['HEARTH_READY_FD']), b'ready\\n'); {SLEEP}",
        ready=announced,
        announces_ready=True,
    )
    second = program("second", f"import os, sys; os.path.exists({str(mark)!r}) or sys.exit(9); {SLEEP}")
    seen: list[bool] = []

    async def then() -> None:
        seen.append(mark.exists())
        whole.stop()

    whole = supervisor(first, second, then=then)
    await asyncio.wait_for(whole.run(), 10)
    assert seen == [True]


async def test_a_program_that_ends_before_it_is_ready_ends_the_start() -> None:
    async def then() -> None:
        raise AssertionError("was called ready")

    whole = supervisor(program("bad", "raise SystemExit(7)", ready=never), then=then)
    with pytest.raises(StartFailed, match=r"bad ended before it was ready \(exit status 7\)"):
        await asyncio.wait_for(whole.run(), 10)


async def test_closing_the_ready_descriptor_unwritten_is_no_announcement() -> None:
    code = "import os; os.close(int(os.environ['HEARTH_READY_FD'])); raise SystemExit(3)"

    async def then() -> None:
        raise AssertionError("was called ready")

    whole = supervisor(program("mute", code, ready=announced, announces_ready=True), then=then)
    with pytest.raises(StartFailed, match="mute"):
        await asyncio.wait_for(whole.run(), 10)


async def test_a_program_that_dies_later_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "BACKOFF_FIRST_SECONDS", 0.01)
    lives = tmp_path / "lives"
    code = f"f = open({str(lives)!r}, 'a'); f.write('x'); f.close()"

    async def then() -> None:
        await wait_for(lambda: lives.exists() and len(lives.read_text()) >= 3)
        whole.stop()

    whole = supervisor(program("mortal", code), then=then)
    await asyncio.wait_for(whole.run(), 20)
    assert len(lives.read_text()) >= 3


async def test_the_pause_before_a_restart_grows_no_longer_than_is_set(tmp_path: Path) -> None:
    lives = tmp_path / "lives"

    async def then() -> None:
        await wait_for(lambda: lives.exists() and len(lives.read_text()) >= 8)  # 64 s of pauses if they doubled from half a second on
        whole.stop()

    mortal = program("mortal", f"f = open({str(lives)!r}, 'a'); f.write('x'); f.close()")
    whole = Supervisor([mortal], on_ready=then, longest_pause_seconds=0.01)
    await asyncio.wait_for(whole.run(), 20)
    assert len(lives.read_text()) >= 8


async def test_a_program_that_cannot_be_started_for_a_while_is_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nrm -f $0.x; mv $0 $0.x\n")  # its own disappearance: the next start fails with ENOENT
    script.chmod(0o755)

    async def then() -> None:
        await wait_for(lambda: not script.exists())
        await wait_for(lambda: refused.is_set())
        (tmp_path / "script.x").rename(script)
        await wait_for(lambda: not script.exists())
        whole.stop()

    refused = asyncio.Event()
    mortal = Program(name="mortal", command=(str(script),), environment=dict(os.environ), ready=at_once)
    whole = Supervisor([mortal], on_ready=then, longest_pause_seconds=0.01)
    start = whole._children[0].start

    async def watched(child: Child) -> asyncio.subprocess.Process:
        try:
            return await start()
        except OSError:
            refused.set()
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Child, "start", watched)
        await asyncio.wait_for(whole.run(), 20)


async def test_stop_ends_the_programs_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def noisy(name: str) -> Program:
        code = (
            "import os, signal, sys\n"
            f"def end(*_):\n    f = open({str(order)!r}, 'a'); f.write('{name} '); f.close(); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "os.write(int(os.environ['HEARTH_READY_FD']), b'ready\\n')\n"
            "while True: signal.pause()"
        )
        return program(name, code, ready=announced, announces_ready=True)

    async def then() -> None:
        whole.stop()

    whole = supervisor(noisy("runtime"), noisy("api"), then=then)
    await asyncio.wait_for(whole.run(), 10)
    assert order.read_text() == "api runtime "


async def test_a_program_deaf_to_sigterm_is_killed_with_its_group() -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\nos.write(int(os.environ['HEARTH_READY_FD']), b'ready\\n')\nwhile True: signal.pause()"
    )
    child = Child(program("deaf", code, ready=announced, announces_ready=True, grace_seconds=0.2))
    process = await child.start()
    await asyncio.wait_for(child.announced.wait(), 10)
    await asyncio.wait_for(child.stop(), 10)
    assert process.returncode == -9
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


async def test_stop_during_the_start_ends_what_was_started() -> None:
    async def then() -> None:
        raise AssertionError("was called ready")

    whole = supervisor(program("slow", SLEEP, ready=never), then=then)
    running = asyncio.create_task(whole.run())
    await asyncio.sleep(0)
    whole.stop()
    await asyncio.wait_for(running, 10)
    assert [child.process.returncode is not None for child in whole._children if child.process] == [True]


async def test_a_second_stop_spares_what_cleans_up_and_a_third_does_not() -> None:
    code = f"""import os, signal
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
os.write(int(os.environ["HEARTH_READY_FD"]), b"ready")
{SLEEP}"""
    stops: list[Callable[[], None]] = []

    async def then() -> None:
        for _ in range(2):
            stops[0]()

    tidy = program("tidy", code, ready=announced, announces_ready=True, cleans_up=True)
    plain = program("plain", code, ready=announced, announces_ready=True)
    whole = supervisor(tidy, plain, then=then)
    stops.append(whole.stop)
    running = asyncio.create_task(whole.run())
    first, second = whole._children
    while second.process is None or second.process.returncode is None:
        await asyncio.sleep(0.01)
    assert second.process.returncode == -9
    assert first.process is not None
    assert first.process.returncode is None
    whole.stop()
    await asyncio.wait_for(running, 10)
    assert first.process.returncode == -9


async def test_output_is_copied_line_by_line_behind_the_name(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    child = Child(program("loud", "import sys; sys.stdout.write('one\\ntwo'); sys.stdout.flush()"))
    await child.start()
    await asyncio.wait_for(child.ended(), 10)
    assert capfdbinary.readouterr().err == b"loud    | one\nloud    | two\n"


async def test_a_line_without_end_is_passed_on_in_parts(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    child = Child(program("flood", "import sys; sys.stdout.write('x' * 1000000)"))
    await child.start()
    await asyncio.wait_for(child.ended(), 10)
    assert capfdbinary.readouterr().err.count(b"x") == 1_000_000


async def test_what_a_dead_program_leaves_in_its_group_is_ended_too() -> None:
    code = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork() == 0:\n    while True: signal.pause()"
    child = Child(program("parent", code))
    process = await child.start()
    assert await asyncio.wait_for(child.ended(), 10) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


async def test_a_child_leads_a_session_of_its_own() -> None:
    child = Child(program("alone", SLEEP))
    process = await child.start()
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    await child.stop()
