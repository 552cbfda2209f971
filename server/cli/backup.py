"""`hearth backup` and `hearth restore`: the whole state in one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sandbox.errors import ConfigError
from server.cli import prepare
from server.cli.client import load_settings
from server.cli.failure import CommandError

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command(short_help="The whole state in one file, while running (root).")
@FILE
def backup(file: Path) -> None:
    """Write database, code, images and credential to FILE (mode 0600): it holds secrets. Everything may go on meanwhile."""
    from server.store import backup as state  # not above: it loads half of the service, for every command

    prepare.require_root()
    with _failures(), _progress("saving") as progress:
        state.save(load_settings(), file.absolute(), progress)
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB", err=True)


@click.command(short_help="Put a backup's state in the place of this one (root).")
@FILE
@click.option("--yes", is_flag=True, help="Replace the state that is there.")
def restore(file: Path, yes: bool) -> None:
    """Replace the state by the one in FILE. Nothing may run; a backup of an older release is brought up to date at the next start."""
    from server.store import backup as state

    prepare.require_root()
    settings = load_settings()
    if not yes and (Path(settings.home) / state.DATABASE).exists():
        raise CommandError(f"{settings.home} has a state already", hint="--yes replaces it")
    account = prepare.find_user(settings.user)
    with _failures(), _progress("restoring") as progress:
        about = state.restore(settings, file, (account.pw_uid, account.pw_gid), progress)
    click.echo(f"restored the state of {about['created_at']} ({about['version']})", err=True)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise CommandError(error.message, hint=error.hint) from error
    except OSError as error:
        raise CommandError(f"{error.filename or 'the backup'}: {error.strerror or error}") from error


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """Megabytes so far, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda size: progress.advance(task, size)
