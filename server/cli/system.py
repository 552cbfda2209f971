"""`python -m server.cli.system`: what systemd's units and scripts/install need of Hearth, in a process of its own each time.

    prepare     as root before each start: settings, directories, credential, default image
    listen      the address for hearth-api.socket, as its ListenStream= takes it
    wait        until everything serves, or give up

Exit status: 0; 1 it can't be done; 2 a setting is wrong. One line for each reason.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from sandbox.errors import ConfigError
from sandbox.settings import Settings, load
from server.buckets.access import OPERATOR_ENVIRONMENT, operator_key
from server.cli import prepare
from server.cli.failure import CommandError, WrongRequest

POLL_SECONDS: Final = 0.2
LOCK: Final = ".prepare"


@click.group()
def main() -> None:
    """For units and scripts."""


def settings() -> Settings:
    try:
        return load()
    except ConfigError as error:
        raise WrongRequest(error.message, hint=error.hint) from error


@main.command("prepare")
def prepare_host() -> None:
    """Make sure of everything that must be there before a process of the service starts. Two at once wait for each other."""
    conf = settings()
    prepare.split_address(conf.listen)
    prepare.check_socket_path(conf)
    prepare.require_root()
    prepare.make_directories(conf, prepare.find_user(conf.user))
    with _alone(conf):
        token = prepare.ensure_credential(conf.credential_path)
        told = {
            **prepare.credential_environment(token),
            "HEARTH_SECRETS_KEY": prepare.ensure_secrets_key(conf.secrets_key_path),
            OPERATOR_ENVIRONMENT: operator_key(token),
        }
        prepare.write_secret(environment_path(conf), "\n".join(f"{name}={value}" for name, value in told.items()))
        _ensure_image(conf)


@contextmanager
def _alone(conf: Settings) -> Iterator[None]:
    with (Path(conf.home) / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def environment_path(conf: Settings) -> Path:
    """EnvironmentFile= of the API's unit, which systemd reads as root: what `hearth up` hands to the API in its environment."""
    return Path(conf.home) / "api.env"


def _ensure_image(conf: Settings) -> None:
    name = conf.default_image
    if prepare.has_image(conf, name):
        return
    if name != "host":
        raise CommandError(f"no image named {name!r}, the default one", hint=f"hearth image import FILE --name {name}")
    click.echo("hearth: building the default image from this host's Python", err=True)
    if subprocess.run([sys.executable, "-m", "sandbox.admin", "image", "build", "host"], cwd="/", check=False).returncode:
        raise CommandError("the default image could not be built", hint="its last lines above say why")


@main.command()
def listen() -> None:
    """Print the address for hearth-api.socket."""
    host, port = prepare.split_address(settings().listen)
    click.echo(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@main.command()
@click.option("--seconds", type=float, default=120.0, show_default=True)
def wait(seconds: float) -> None:
    """Wait until the API answers that every part serves."""
    import httpx  # not above: each unit's start runs `prepare`, which would load it for nothing

    url = prepare.base_url(settings().listen) + "/readyz"
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=10) as client:
        while True:
            try:
                answer = client.get(url)
                if answer.status_code == 200:
                    return
                last = answer.text[:300]
            except httpx.TransportError as error:
                last = str(error) or type(error).__name__
            if time.monotonic() > deadline:
                raise CommandError(f"{url} does not answer after {seconds:.0f} s: {last}", hint="journalctl -u 'hearth-*' says why")
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    os.chdir("/")
    main(prog_name="hearth")
