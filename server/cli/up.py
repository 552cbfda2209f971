"""`hearth up`: prepare the host, then supervise the runtime, the API and the dispatcher in the foreground.

    up (root) ─┬─ sandbox.launcher (root) ── sandboxd
               ├─ sandbox.confine → gunicorn (user `hearth`, no capability)
               ├─ sandbox.confine → server.events, the dispatcher (the same)
               └─ sandbox.confine → gunicorn, the bucket service (the same)

The settings are read once, here; the children get every one of them in their environment and read no file, so that all
processes agree whatever happens to the file meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
import httpx

import server
from sandbox.errors import ConfigError
from sandbox.settings import Settings, load
from server.buckets.access import OPERATOR_ENVIRONMENT, operator_key
from server.cli import prepare
from server.cli.failure import CommandError, WrongRequest
from server.cli.supervise import Child, Program, Ready, StartFailed, Supervisor, say

POLL_SECONDS: Final = 0.05
STOP_GRACE_SECONDS: Final = 10
#: server.buckets.front's, which would load half of the service here.
HEALTH_PATH: Final = "/-/healthz"
NEVER_PASSED_ON: Final = (
    "HEARTH_TOKEN",
    "HEARTH_BUCKETS_KEY",
    "HEARTH_TOKEN_SHA256",
    "HEARTH_SECRETS_KEY",
    "HEARTH_READY_FD",
    "HEARTH_URL",
)


@click.command(short_help="Start everything in the foreground (root).")
@click.option("--home", help="State directory. [HEARTH_HOME]")
@click.option("--run", help="Directory of the sockets. [HEARTH_RUN]")
@click.option("--listen", help="Address and port of the API. [HEARTH_LISTEN]")
@click.option("--workers", type=int, help="HTTP worker processes. [HEARTH_WORKERS]")
@click.option("--ready-fd", type=int, help="Write a line to this descriptor once every part serves.")
@click.option("--demo", type=click.Path(exists=True, resolve_path=True), hidden=True, help="Show this function once everything serves.")
@click.option("--once", is_flag=True, hidden=True, help="With --demo: stop after it, exit 0 if it went well.")
def up(
    home: str | None, run: str | None, listen: str | None, workers: int | None, ready_fd: int | None, demo: str | None, once: bool
) -> None:
    """Start the runtime and the API, keep them running, and stop both on Ctrl-C or SIGTERM.

    \b
    Exit status: 0 stopped when told to, 1 could not start, 2 a setting is wrong.
    """
    try:
        settings = load(home=absolute(home), run=absolute(run), listen=listen, workers=workers)
    except ConfigError as error:
        raise WrongRequest(error.message, hint=error.hint) from error
    settings = load({}, **{**asdict(settings), "home": absolute(settings.home), "run": absolute(settings.run)})
    prepare.split_address(settings.listen)
    prepare.check_socket_path(settings)
    prepare.require_root()
    account = prepare.find_user(settings.user)
    prepare.check_readable([path for package in source_directories() for path in (package, package / "__init__.py")], settings.user)
    prepare.make_directories(settings, account)
    with prepare.hold_lock(settings):
        prepare.check_port(settings.listen)
        # Spelled out for the children, which must not choose for themselves.
        settings = load({}, **{**asdict(settings), "bucket_listen": prepare.choose_bucket_address(settings) or "off"})
        token = prepare.ensure_credential(settings.credential_path)
        secrets = {"HEARTH_SECRETS_KEY": prepare.ensure_secrets_key(settings.secrets_key_path)}
        shown = asyncio.run(Service(settings, token, secrets, ready_fd=ready_fd, demo=demo, once=once).run())
    if once and shown != 0:
        raise CommandError("the example was not shown" if shown is None else "the example failed")


def absolute(path: str | None) -> str | None:
    return path and str(Path(path).absolute())


class Service:
    """One life of `hearth up`, from the image to the last child's end. Owns the signal handlers meanwhile."""

    def __init__(
        self, settings: Settings, token: str, secrets: dict[str, str], *, ready_fd: int | None, demo: str | None, once: bool
    ) -> None:
        self._settings, self._ready_fd, self._demo, self._once = settings, ready_fd, demo, once
        self._environment = child_environment(settings)
        programs = [
            runtime(settings, self._environment),
            api(settings, self._environment | secrets, token),
            dispatcher(settings, self._environment),
        ]
        if settings.bucket_address:
            programs.append(buckets(settings, self._environment | secrets, token))
        self._supervisor = Supervisor(programs, on_ready=self._on_ready, longest_pause_seconds=settings.restart_seconds)
        self._stopping = asyncio.Event()
        self._shown: int | None = None

    async def run(self) -> int | None:
        """Run until SIGTERM, SIGINT or SIGHUP. Returns the demonstration's exit status, None if it didn't come to its end."""
        loop = asyncio.get_running_loop()
        # nohup(1) has SIGHUP ignored, and means it.
        numbers = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
        for number in numbers:
            loop.add_signal_handler(number, self._stop)
        try:
            if await self._ensure_image():
                await self._supervisor.run()
        except StartFailed as error:
            raise CommandError(str(error), hint="its last lines above say why; `hearth doctor` checks the host") from error
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
        say("stopped")
        return self._shown

    def _stop(self) -> None:
        if not self._stopping.is_set():
            say("stopping")
        self._stopping.set()
        self._supervisor.stop()

    async def _on_ready(self) -> None:
        say(f"serving {prepare.base_url(self._settings.listen)} from {self._settings.home}")
        if self._settings.bucket_address:
            say(f"buckets at {prepare.base_url(self._settings.bucket_address)}")
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"ready\n")
            os.close(self._ready_fd)
        if self._demo is not None:
            self._shown = await self._run_own("-m", "server.cli.main", "demo", self._demo)
        if self._once:
            self._stop()

    async def _ensure_image(self) -> bool:
        """Build the default image if it is the host's and missing. False when told to stop meanwhile."""
        name = self._settings.default_image
        if prepare.has_image(self._settings, name):
            return True
        if name != "host":
            raise CommandError(f"no image named {name!r}, the default one", hint=f"hearth image import FILE --name {name}")
        say("building the default image from this host's Python")
        status = await self._run_own("-m", "sandbox.admin", "image", "build", "host")
        if status:
            raise CommandError("the default image could not be built", hint="its last lines above say why")
        return status == 0

    async def _run_own(self, *arguments: str) -> int | None:
        """Run a Python program of ours to its end; None when told to stop meanwhile, and then it has been ended.

        Its output belongs to the terminal, its session is its own: Ctrl-C reaches it through us.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=self._environment, cwd="/", start_new_session=True, stdin=asyncio.subprocess.DEVNULL
        )
        exited, told = asyncio.create_task(process.wait()), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([exited, told], return_when=asyncio.FIRST_COMPLETED)
            return process.returncode if exited.done() else None
        finally:
            told.cancel()
            if not exited.done():
                process.terminate()
                await exited


def runtime(settings: Settings, environment: dict[str, str]) -> Program:
    async def ready(child: Child) -> None:
        await child.announced.wait()

    command = (sys.executable, "-m", "sandbox.launcher")
    return Program(name="runtime", command=command, environment=environment, ready=ready, announces_ready=True, cleans_up=True)


def api(settings: Settings, environment: dict[str, str], token: str) -> Program:
    configuration = Path(server.__file__).with_name("gunicorn_conf.py")
    command = confined(settings, "-m", "gunicorn", "-c", str(configuration), "server.app:create_app()")
    ready = answers(prepare.base_url(settings.listen) + "/readyz")
    return Program(name="api", command=command, environment=environment | served(token), ready=ready, grace_seconds=STOP_GRACE_SECONDS)


def buckets(settings: Settings, environment: dict[str, str], token: str) -> Program:
    ready = answers(prepare.base_url(settings.bucket_address) + HEALTH_PATH)
    command = confined(settings, "-m", "server.buckets")
    own = served(token) | {OPERATOR_ENVIRONMENT: operator_key(token)}
    return Program(name="buckets", command=command, environment=environment | own, ready=ready, grace_seconds=STOP_GRACE_SECONDS)


def answers(url: str) -> Ready:
    """Ready once a GET of this is 200."""

    async def ready(child: Child) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                with suppress(httpx.TransportError):  # nobody listens yet; the end of the process is watched elsewhere
                    if (await client.get(url)).status_code == 200:
                        return
                await asyncio.sleep(POLL_SECONDS)

    return ready


def served(token: str) -> dict[str, str]:
    """What a process that serves HTTP is told besides the settings. gunicorn ends its workers a little before we lose patience with it."""
    return {**prepare.credential_environment(token), "HEARTH_STOP_GRACE": str(STOP_GRACE_SECONDS - 2)}


def dispatcher(settings: Settings, environment: dict[str, str]) -> Program:
    async def ready(child: Child) -> None:
        await child.announced.wait()

    command = confined(settings, "-m", "server.events")
    # What runs may go on so long; then it is given back to the queue, which takes a moment too.
    own = {"HEARTH_STOP_GRACE": str(STOP_GRACE_SECONDS / 4)}
    return Program(
        name="events", command=command, environment=environment | own, ready=ready, announces_ready=True, grace_seconds=STOP_GRACE_SECONDS
    )


def confined(settings: Settings, *arguments: str) -> list[str]:
    """A Python of ours as the user without privilege, see sandbox.confine."""
    command = [sys.executable, "-m", "sandbox.confine", "--user", settings.user]
    for path in read_only_paths():
        command += ["--expose-ro", path]
    return [*command, "--expose-ro", settings.run, "--expose", str(settings.state_dir), "--", sys.executable, *arguments]


def read_only_paths() -> list[str]:
    """What the API must be able to read though a parent may be private: our two packages, the venv, the Python below it."""
    candidates = {*map(str, source_directories()), sys.prefix, sys.base_prefix}
    return sorted(path for path in candidates if path not in ("/", "/usr", "/usr/local"))


def source_directories() -> list[Path]:
    # Not the checkout itself: that one may be the private directory (mktemp -d).
    return [repository_root() / "sandbox", repository_root() / "server"]


def repository_root() -> Path:
    return Path(server.__file__).resolve().parents[1]


def child_environment(settings: Settings) -> dict[str, str]:
    """Our environment with every setting spelled out, and without what only the CLI's own requests need."""
    environment = {key: value for key, value in os.environ.items() if key not in NEVER_PASSED_ON}
    environment |= {f"HEARTH_{name.upper()}": str(value) for name, value in asdict(settings).items()}
    environment["HEARTH_CONFIG"] = os.devnull
    environment["PYTHONPATH"] = os.pathsep.join(_unique([str(repository_root()), *environment.get("PYTHONPATH", "").split(os.pathsep)]))
    return environment


def _unique(paths: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if path]
