"""What is made sure of before `hearth up` or a unit starts anything: root, the user, the directories, the lock, the credential, the port.

Every function checks one thing and raises CommandError with the line that the operator needs. All of it can be repeated.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import pwd
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from sandbox.settings import Settings
from server.cli.failure import CommandError, WrongRequest

CREDENTIAL_BYTES: Final = 32
SECRETS_KEY_BYTES: Final = 32  # AES-256
#: unix(7): sun_path has 108 bytes, the last of them is NUL.
SOCKET_PATH_BYTES: Final = 107


def require_root() -> None:
    if os.geteuid() != 0:
        raise CommandError(f"`hearth up` needs root and runs as uid {os.geteuid()}", hint="sudo hearth up")


def find_user(name: str) -> pwd.struct_passwd:
    """The account of the API. Root is refused: the API must have no privilege."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        hint = f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
        raise CommandError(f"no such user: {name}", hint=hint) from None
    if account.pw_uid == 0:
        raise CommandError(f"user {name} is root, the API must not be", hint="set HEARTH_USER to a system user of its own")
    return account


def make_directories(settings: Settings, account: pwd.struct_passwd) -> None:
    """Create home, its parts and the run directory. Modes of an existing home stay: its parents may be private on purpose."""
    for path in (Path(settings.home), settings.images_dir, Path(settings.run)):
        _make_directory(path, uid=0, gid=0, mode=0o755)
    _make_directory(settings.state_dir, uid=account.pw_uid, gid=account.pw_gid, mode=0o750)
    # The API must come through to the socket, also when the directory was there before (mktemp -d makes it 0700).
    run = Path(settings.run)
    run.chmod(run.stat().st_mode & 0o7777 | 0o055)


def check_socket_path(settings: Settings) -> None:
    """The kernel takes no longer name for a socket."""
    if (size := len(os.fsencode(settings.socket_path))) > SOCKET_PATH_BYTES:
        hint = f"a socket's path has at most {SOCKET_PATH_BYTES} bytes, {settings.socket_path.name} in it would have {size}"
        raise WrongRequest(f"HEARTH_RUN is too long: {settings.run}", hint=hint)


def check_readable(paths: Iterable[Path], user: str) -> None:
    """The API's user must be able to read our source; a clone made under umask 077 can't be read by it."""
    for path in paths:
        needed = 0o005 if path.is_dir() else 0o004
        if path.stat().st_mode & needed != needed:
            raise CommandError(f"user {user} can't read {path}", hint=f"chmod -R go+rX {path}")


def _make_directory(path: Path, *, uid: int, gid: int, mode: int) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=mode)
    except FileExistsError:
        _check_directory(path, uid)
    except OSError as error:
        raise CommandError(f"cannot create {path}: {error.strerror}") from error
    else:
        path.chmod(mode)  # mkdir applied the umask
        os.chown(path, uid, gid)


def _check_directory(path: Path, uid: int) -> None:
    # Through the last link, as every later use goes: an operator may link /var/lib/hearth to a larger disk.
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise CommandError(f"{path} is not a directory")
    if status.st_uid != uid:
        raise CommandError(f"{path} belongs to uid {status.st_uid}, not to uid {uid}", hint=f"chown {uid} {path}")
    if status.st_mode & 0o022:
        raise CommandError(f"{path} can be written by others (mode {status.st_mode & 0o7777:04o})", hint=f"chmod go-w {path}")


@contextmanager
def hold_lock(settings: Settings) -> Iterator[None]:
    """Own the state and the run directory while the block runs; the kernel lets go of them however the process ends."""
    path = Path(settings.home) / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read().strip() or "unknown"
            hint = "stop it, or give this one another HEARTH_HOME, HEARTH_RUN and HEARTH_LISTEN"
            raise CommandError(f"another hearth serves {settings.home} (pid {owner})", hint=hint) from None
        with _hold_run(settings):
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


@contextmanager
def _hold_run(settings: Settings) -> Iterator[None]:
    """Two instances with one run directory would take each other's socket away."""
    descriptor = os.open(settings.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another hearth has its sockets in {settings.run}", hint="give this one another HEARTH_RUN") from None
        yield
    finally:
        os.close(descriptor)


def ensure_credential(path: Path) -> str:
    """Return the bearer credential, made at the first start. A mode wider than 0600 is narrowed, and told."""
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = ""
    if token:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            click.echo(f"hearth: {path} could be read by others; its mode is 0600 now, replace it if that matters", err=True)
        return token
    return write_secret(path, secrets.token_urlsafe(CREDENTIAL_BYTES))


def ensure_secrets_key(path: Path) -> str:
    """Return the key under which secrets are stored, made at the first start. It is never made anew: what it locked would be lost."""
    if path.exists():
        return path.read_text().strip()
    return write_secret(path, base64.urlsafe_b64encode(secrets.token_bytes(SECRETS_KEY_BYTES)).decode())


def write_secret(path: Path, text: str) -> str:
    """A file that only root reads, whole or not there."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
    return text


def credential_environment(token: str) -> dict[str, str]:
    """What the API is told of the credential: enough to recognise it."""
    return {"HEARTH_TOKEN_SHA256": hashlib.sha256(token.encode()).hexdigest()}


def split_address(listen: str, name: str = "HEARTH_LISTEN") -> tuple[str, int]:
    """`host:port`, `[v6]:port` → (host, port). `name`: of the setting."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise WrongRequest(f"{name} is {listen!r}", hint="it takes host:port, for example 127.0.0.1:9000")
    return host, int(port)


def base_url(listen: str) -> str:
    """Where a client on this machine reaches the API that listens on `listen`."""
    host, port = split_address(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def choose_bucket_address(settings: Settings) -> str:
    """Where the bucket service shall listen; empty: nowhere. Raises CommandError where an address that somebody chose can't be had.

    The one that nobody chose is done without: a second instance must not fail for it.
    """
    address = settings.bucket_address
    if not address:
        return ""
    try:
        check_port(address, "HEARTH_BUCKET_LISTEN")
    except CommandError as error:
        if settings.bucket_listen:
            raise
        click.echo(f"hearth: no bucket service: {error.message}; HEARTH_BUCKET_LISTEN chooses another address", err=True)
        return ""
    return address


def check_port(listen: str, name: str = "HEARTH_LISTEN") -> None:
    """Raise one clear line when the address can't be had, before anything is started for it."""
    host, port = split_address(listen, name)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise CommandError(f"cannot listen on {listen}: {error.strerror}", hint=f"set {name}=host:port to another") from error


def has_image(settings: Settings, name: str) -> bool:
    return (settings.images_dir / name / "manifest.json").is_file()
