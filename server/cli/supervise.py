"""Keeps the processes of `hearth up` running: start, prefix their output, restart with backoff, stop in order.

        Supervisor ── Child("runtime")   launcher, with sandboxd as its child
                   ├─ Child("api")       gunicorn, unprivileged
                   └─ Child("events")    dispatcher, unprivileged

Each child leads a session of its own, so that Ctrl-C on the terminal reaches only the supervisor, which then ends them in
reverse order. The children themselves ask the kernel to be killed when their parent dies (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

BACKOFF_FIRST_SECONDS: Final = 0.5
STEADY_SECONDS: Final = 60.0
"""A child that lived this long starts its backoff anew."""
READ_BYTES: Final = 64 * 1024
GROUP_END_SECONDS: Final = 2.0
"""Orphans stay in their group until PID 1 has reaped them; not every container has one that does."""
GROUP_POLL_SECONDS: Final = 0.01

Ready = Callable[["Child"], Awaitable[None]]


class StartFailed(Exception):
    """A child ended before it was ever ready: the host or the settings are at fault, and starting it again would not help."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} ended before it was ready ({describe_status(status)})")


def describe_status(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. `pass_fds` are kept open over exec; `grace_seconds` lie between SIGTERM and SIGKILL."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Ready
    grace_seconds: float = 10.0
    announces_ready: bool = False
    """It writes a line to the descriptor named by HEARTH_READY_FD once it serves."""
    cleans_up: bool = False
    """Killed outright it leaves things on the host: a second signal spares it, a third one does not."""


@dataclass(slots=True)
class Child:
    """One program, over all of its lives."""

    program: Program
    process: asyncio.subprocess.Process | None = None
    announced: asyncio.Event = field(default_factory=asyncio.Event)
    _copier: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.program.name

    async def start(self) -> asyncio.subprocess.Process:
        """Start the next life. The output is copied line by line, behind the program's name."""
        self.announced.clear()
        environment = dict(self.program.environment)
        # The pipe is ours, not asyncio's: we must be able to close it while something else still holds its other end.
        output, output_writer = os.pipe()
        ready, ready_writer = os.pipe()
        if self.program.announces_ready:
            environment["HEARTH_READY_FD"] = str(ready_writer)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_writer,
                stderr=output_writer,
                env=environment,
                cwd="/",
                start_new_session=True,
                pass_fds=(ready_writer,) if self.program.announces_ready else (),
            )
        finally:
            os.close(output_writer)
            os.close(ready_writer)
            self._listen(ready)
            self._copier = asyncio.create_task(copy_lines(output, self.name))
        return self.process

    def _listen(self, reader: int) -> None:
        """Set `announced` when the program writes to its descriptor; its end alone is no announcement."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            loop.remove_reader(reader)
            if os.read(reader, 64):
                self.announced.set()
            os.close(reader)

        loop.add_reader(reader, readable)

    async def ended(self) -> int:
        """Wait for the end of this life; return its status. Nothing of its group lives on, and what it wrote last has been copied."""
        assert self.process is not None
        status = await self.process.wait()
        await self._end_group(self.process.pid)
        if self._copier is not None:
            # Something of its own may still hold the pipe; that must not hold up a restart.
            await asyncio.wait([self._copier], timeout=0.5)
            await cancel(self._copier)
        return status

    async def _end_group(self, group: int) -> None:
        # A gunicorn killed outright leaves workers that hold the port for a second more; the next life would not get it.
        deadline = time.monotonic() + GROUP_END_SECONDS
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(group, signal.SIGKILL)
                await asyncio.sleep(GROUP_POLL_SECONDS)

    async def stop(self) -> None:
        """SIGTERM, `grace_seconds`, then SIGKILL to the whole session's group. Does nothing when it isn't running."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.ended(), self.program.grace_seconds)
        except TimeoutError:
            say(f"{self.name} did not stop within {self.program.grace_seconds:.0f} s, killing it")
            self.kill()
            await self.ended()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Starts programs in order, keeps them alive, stops them in reverse order.

    `run` returns after `stop` was called and everything is down; it raises StartFailed when a program ends before its first
    readiness. `on_ready` runs beside the programs once all of them were ready, and is cancelled by `stop`.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        on_ready: Callable[[], Coroutine[Any, Any, None]],
        longest_pause_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._children = [Child(program) for program in programs]
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._stops = 0
        self._longest_pause_seconds = longest_pause_seconds
        self._clock = clock

    def stop(self) -> None:
        """Begin the orderly end; a second call kills at once what has nothing to clean up, a third one everything."""
        self._stops += 1
        for child in self._children:
            if self._stops > (2 if child.program.cleans_up else 1):
                child.kill()
        self._stopping.set()

    async def run(self) -> None:
        keepers: list[asyncio.Task[None]] = []
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            for child in self._children:
                if not await self._first_start(child, stopping):
                    return
                keepers.append(asyncio.create_task(self._keep(child), name=child.name))
            keepers.append(asyncio.create_task(self._on_ready(), name="on_ready"))
            while not stopping.done():
                done, _ = await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
                ended = [task for task in keepers if task in done]
                keepers[:] = [task for task in keepers if task not in done]
                for task in ended:
                    await task  # raises what went wrong in it
        finally:
            await cancel(*keepers, stopping)
            for child in reversed(self._children):
                await child.stop()

    async def _first_start(self, child: Child, stopping: asyncio.Task[bool]) -> bool:
        """True once it is ready, False when told to stop meanwhile; StartFailed when it ends first."""
        process = await child.start()
        ready = asyncio.ensure_future(child.program.ready(child))
        exited = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([ready, exited, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return False
            if exited.done():
                raise StartFailed(child.name, await child.ended())
            await ready
            return True
        finally:
            await cancel(ready, exited)

    async def _keep(self, child: Child) -> None:
        first = min(BACKOFF_FIRST_SECONDS, self._longest_pause_seconds)
        delay, born = first, self._clock()
        while True:
            status = await child.ended()
            if self._clock() - born >= STEADY_SECONDS:
                delay = first
            say(f"{child.name} ended ({describe_status(status)}), starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._longest_pause_seconds)
            born = self._clock()
            try:
                await child.start()
            except OSError as error:  # no memory or descriptors for it now: the former life's end is seen again, after a longer pause
                say(f"{child.name} could not be started: {error.strerror}")


async def cancel(*tasks: asyncio.Future[object] | asyncio.Task[None] | asyncio.Task[bool] | asyncio.Task[int]) -> None:
    """Cancel and wait; what they raised is nobody's business any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def copy_lines(descriptor: int, name: str) -> None:
    """Copy a pipe to stderr with `name` in front of each line, until its end. Owns the descriptor.

    A line without an end is passed on in parts.
    """
    stream = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    prefix = f"{name:<7} | ".encode()
    rest = b""
    try:
        while data := await stream.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > READ_BYTES:
                lines, rest = [*lines, rest], b""
            _write(b"".join(prefix + line + b"\n" for line in lines))
        if rest:
            _write(prefix + rest + b"\n")
    finally:
        transport.close()


def _write(data: bytes) -> None:
    # A reader of our log that has gone away must not stop the service.
    with suppress(BrokenPipeError):
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()


def say(message: str) -> None:
    _write(f"{'hearth':<7} | {message}\n".encode())
