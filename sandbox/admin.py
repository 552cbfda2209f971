"""`python -m sandbox.admin`: what needs root and no daemon: images and the doctor. The `hearth` command execs it.

Exit status: 0 done, 1 failed (one line and a hint), 2 bad usage. Results go to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import functools
import json as jsonlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sandbox import log, settings
from sandbox.errors import SandboxError
from sandbox.imaging import Progress

if TYPE_CHECKING:
    from sandbox.imaging.packages import Packages

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FORCE = click.option("--force", is_flag=True, help="Replace an image of that name; running sandboxes keep the old one.")


def _packages(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that makes an image; the command gets them as one `packages`."""

    @functools.wraps(command)
    def called(*, sdks: bool, requirements: tuple[str, ...], wheels: str | None, **options: Any) -> None:
        from sandbox.imaging.packages import Packages

        command(packages=Packages(sdks, tuple(map(os.path.abspath, requirements)), os.path.abspath(wheels) if wheels else ""), **options)

    file, folder = click.Path(exists=True, dir_okay=False), click.Path(exists=True, file_okay=False)
    for option in (
        click.option("--wheels", type=folder, help="Take every package file from this directory; no network."),
        click.option("--requirements", multiple=True, type=file, help="Install a requirements.txt of your own; may be repeated."),
        click.option("--sdks", is_flag=True, help="Install the SDKs that the original service preinstalls."),
    ):
        called = option(called)
    return called


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Images and the state of this host. Most of it needs root."""


@main.group()
def image() -> None:
    """List, import, build and remove images."""


@image.command("ls")
@_AS_JSON
def image_ls(as_json: bool) -> None:
    """What images there are and which runtimes they have."""
    from sandbox.image import load_images

    with _reported():
        images = list(load_images(_settings().images_dir).values())
        if as_json:
            click.echo(jsonlib.dumps([asdict(entry) for entry in images], indent=1))
            return
        rows = [(i.name, ", ".join(sorted(i.runtimes)) or "none", i.release, _megabytes(i.size_bytes), i.created_at) for i in images]
        _table(("NAME", "RUNTIMES", "RELEASE", "SIZE", "CREATED"), rows)


@image.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", required=True, help="What to call the image.")
@click.option("--allow-empty", is_flag=True, help="Keep an image in which no interpreter runs.")
@_packages
@_FORCE
@_AS_JSON
def image_import(file: str, name: str, allow_empty: bool, force: bool, as_json: bool, packages: Packages) -> None:
    """Import an archive, plain or gz, bz2, xz, zst.

    It may be a root filesystem (also from `docker export`), what `docker save` writes, or an OCI archive.
    """
    from sandbox.imaging.tarball import import_tarball

    _make(
        lambda progress: import_tarball(
            _settings(), file, name, progress=progress, packages=packages, force=force, allow_empty=allow_empty
        ),
        as_json,
    )


@image.command("pull")
@click.argument("reference")
@click.option("--name", required=True, help="What to call the image.")
@click.option("--authfile", type=click.Path(exists=True, dir_okay=False), help="Credentials, as `skopeo login` writes them.")
@click.option("--tls-verify", type=bool, default=True, show_default=True, help="False allows plain HTTP and any certificate.")
@click.option("--allow-empty", is_flag=True, help="Keep an image in which no interpreter runs.")
@_packages
@_FORCE
@_AS_JSON
def image_pull(
    reference: str, name: str, authfile: str | None, tls_verify: bool, allow_empty: bool, force: bool, as_json: bool, packages: Packages
) -> None:
    """Pull an image from a registry, by skopeo: python:3.11, registry.local:5000/team/image@sha256:…"""
    from sandbox.imaging.registry import pull_image

    authfile = os.path.abspath(authfile) if authfile else ""
    options: dict[str, Any] = {"force": force, "allow_empty": allow_empty, "verify_tls": tls_verify}
    _make(
        lambda progress: pull_image(_settings(), reference, name, authfile=authfile, packages=packages, progress=progress, **options),
        as_json,
    )


@image.group("build")
def image_build() -> None:
    """Build an image from the host's Python, from Debian's archive or from CentOS's vault."""


@image_build.command("host")
@click.option("--name", default="host", show_default=True)
@click.option("--python", help="Interpreter to build from.  [default: /usr/bin/python3]")
@_packages
@_FORCE
@_AS_JSON
def image_build_host(name: str, python: str | None, force: bool, as_json: bool, packages: Packages) -> None:
    """A small image from the host's own Python and the libraries it needs; no network."""
    from sandbox.imaging.host import build_host

    _make(lambda progress: build_host(_settings(), name=name, python=python, progress=progress, packages=packages, force=force), as_json)


@image_build.command("debian")
@click.option("--suite", default="bullseye", show_default=True, help="Bullseye and older have Python 2.7.")
@click.option("--name", default="debian", show_default=True)
@click.option("--mirror", default="", help="Archive to take packages from.  [default: debootstrap's own]")
@_packages
@_FORCE
@_AS_JSON
def image_build_debian(suite: str, name: str, mirror: str, force: bool, as_json: bool, packages: Packages) -> None:
    """A minimal Debian with its Python, made by debootstrap."""
    from sandbox.imaging.debian import build_debian

    _make(
        lambda progress: build_debian(
            _settings(), suite=suite, name=name, mirror=mirror, progress=progress, packages=packages, force=force
        ),
        as_json,
    )


@image_build.command("centos7")
@click.option("--name", default="centos7", show_default=True)
@click.option("--mirror", default="", help="A copy of the vault to take packages from.  [default: vault.centos.org]")
@_packages
@_FORCE
@_AS_JSON
def image_build_centos7(name: str, mirror: str, force: bool, as_json: bool, packages: Packages) -> None:
    """CentOS 7.2.1511 with Python 2.7.5, made by dnf from signed packages; needs the network."""
    from sandbox.imaging.centos import build_centos

    _make(lambda progress: build_centos(_settings(), name=name, mirror=mirror, progress=progress, packages=packages, force=force), as_json)


@image.command("rm")
@click.argument("name")
@_AS_JSON
def image_rm(name: str, as_json: bool) -> None:
    """Remove an image. Sandboxes that run on it keep it until they end."""
    from sandbox.imaging.store import remove

    with _reported():
        _need_root()
        remove(_settings().images_dir, name)
    click.echo(jsonlib.dumps({"name": name, "removed": True}) if as_json else f"image {name} removed")


@main.command()
@click.option("--fix", is_flag=True, help="Remove what dead instances left behind; nothing of a living one.")
@_AS_JSON
def doctor(fix: bool, as_json: bool) -> None:
    """What this host can guarantee, and whether anything of ours is left on it.

    \b
    Exit status: 0 everything promised is here and nothing is left behind, 1 otherwise.
    """
    with _reported():
        _need_root()
        from sandbox.doctor import examine, report

        log.configure("doctor", "WARNING")
        found = examine(_settings(), fix=fix)
        report.show(found, as_json=as_json)
    sys.exit(0 if found.ok else 1)


def _make(make: Callable[[Progress], Any], as_json: bool) -> None:
    """Run one long command that makes an image; tell its result."""
    log.configure("image", "WARNING")
    # Terminated is ended like Ctrl-C: through the clean-up, so that nothing half-made stays.
    signal.signal(signal.SIGTERM, _terminated)
    with _reported():
        _need_root()
        with _progress() as progress:
            made = make(progress)
    if as_json:
        data = asdict(made)
        click.echo(jsonlib.dumps(data, indent=1))
    else:
        versions = ", ".join(f"{key} ({made.versions[key]})" for key in sorted(made.runtimes)) or "no interpreter"
        click.echo(f"image {made.name}: {made.release or 'unknown release'}, {versions}, {_megabytes(made.size_bytes)}")


def _terminated(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what the runtime raises into one line, a hint and exit status 1."""
    try:
        yield
    except SandboxError as error:
        _fail(error.message, error.hint)
    except PermissionError as error:
        _fail(f"{error.filename}: permission denied", "images belong to root")
    except KeyboardInterrupt:
        _fail("interrupted, nothing was left behind", "")


def _fail(message: str, hint: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(1)


def _need_root() -> None:
    if os.geteuid() != 0:
        _fail("this needs root", "run it with sudo")


def _settings() -> settings.Settings:
    return settings.load()


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line for each step elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(done: int, total: int | None, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text.replace("[", r"\["))

        yield show


def _lines() -> Progress:
    last = ("", -1)

    def show(done: int, total: int | None, text: str) -> None:
        nonlocal last
        tenth = done * 10 // total if total else 0
        if (text, tenth) != last:
            last = (text, tenth)
            click.echo(f"{text} {tenth * 10}%" if total else text, err=True)

    return show


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:.0f} MB"


if __name__ == "__main__":
    main(prog_name="python -m sandbox.admin")
