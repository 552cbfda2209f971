"""The whole state in one file, made while everything runs, and put back while nothing does.

The file is a zstd-compressed tar: everything below HEARTH_HOME but locks and what is unfinished, then `backup.json` (format, version,
schema, time). The database in it is a copy that SQLite made in one transaction; files are archived before it and, those that came or
grew meanwhile, after it, and from just before the copy to the end no object's data file is removed: whatever the copy names is there, and
whole, since a file that a row names never changes. Where the archive has a file twice, the later one is unpacked last.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Final

import zstandard
from alembic.script import ScriptDirectory

from sandbox.errors import ConfigError
from sandbox.settings import Settings
from server.store.hold import hold
from server.store.migrate import configuration

FORMAT: Final = 1
ABOUT: Final = "backup.json"
DATABASE: Final = "state/hearth.db"
#: What a start makes anew, or what only means something to the living.
LEFT_OUT: Final = frozenset(
    {"lock", "sandboxd.lock", "api.env", "state/metrics", *(DATABASE + end for end in ("", "-wal", "-shm", ".lock"))}
)
#: How what is unfinished, or a lock, begins in images and the stores.
UNFINISHED: Final = (".tmp-", ".old-", ".lock", ".backup-")
LOCKS: Final = ("lock", "sandboxd.lock")

Progress = Callable[[int], None]
"""Called with the bytes of each file that has been dealt with."""


def save(settings: Settings, target: Path, progress: Progress) -> None:
    """Write `target` (mode 0600), there whole or not at all. Raises ConfigError, OSError."""
    if settings.database_url:
        raise ConfigError(
            "the database is not in the state directory", hint="back up HEARTH_DATABASE_URL with its own tools, and this by hand"
        )
    home = Path(settings.home)
    if not (home / DATABASE).is_file():
        raise ConfigError(f"there is no state in {home}", hint="HEARTH_HOME names another place")
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(settings, file, progress)
            file.flush()
            os.fsync(file.fileno())
        os.rename(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _write(settings: Settings, file: IO[bytes], progress: Progress) -> None:
    home = Path(settings.home)
    with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        with tempfile.NamedTemporaryFile(prefix=".backup-", dir=home / "state") as copy:
            seen = _add_files(archive, home, set(), progress)
            with hold(settings.buckets_dir / "data"):
                _copy_database(home / DATABASE, copy.name)
                archive.add(copy.name, DATABASE, filter=_as(home / DATABASE))
                progress(os.stat(copy.name).st_size)
                _add_files(archive, home, seen, progress)
            about = {"format": FORMAT, "version": metadata.version("hearth"), "schema": _schema(copy.name), "created_at": _now()}
        # Last: a file that was cut short has none.
        data = json.dumps(about).encode()
        member = tarfile.TarInfo(ABOUT)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


Seen = set[tuple[str, int, int, int]]
"""(path, inode, size, mtime in ns) of what has been archived: a file that was being written has another size or time afterwards."""


def _add_files(archive: tarfile.TarFile, home: Path, seen: Seen, progress: Progress) -> Seen:
    """Everything not in `seen`; what is there now. A file that goes while we look is nobody's any more."""
    found = set()
    for path, status in _walk(home):
        name = str(path.relative_to(home))
        state = (name, status.st_ino, status.st_size, status.st_mtime_ns)
        found.add(state)
        if state in seen:
            continue
        # By its number tarfile knows a hard link, and where files come and go the number may be another file's a moment later.
        links = _as_files(status) if seen or name.startswith("state/") else None
        try:
            archive.add(path, name, recursive=False, filter=links)
        except FileNotFoundError:
            continue
        progress(status.st_size)
    return found


def _as_files(status: os.stat_result) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    def changed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        if member.islnk():
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", status.st_size
        return member

    return changed


def _walk(home: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Directories before what is in them."""
    waiting = [home]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(home)
            if str(name) in LEFT_OUT or _is_unfinished(name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield path, status
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)


def _is_unfinished(name: Path) -> bool:
    """Every hidden file of home itself; in it and the stores what begins as they begin it. A function's own hidden files lie deeper."""
    return name.name.startswith("." if len(name.parts) == 1 else UNFINISHED) and len(name.parts) <= 3


def _copy_database(source: Path, target: str) -> None:
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)


def _schema(database: str) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def _as(original: Path) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    status = original.stat()

    def changed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid, member.gid, member.mode = status.st_uid, status.st_gid, status.st_mode & 0o7777
        member.uname = member.gname = ""
        return member

    return changed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def restore(settings: Settings, source: Path, owner: tuple[int, int], progress: Progress) -> dict[str, Any]:
    """Replace the state by the backup's, whose `backup.json` is returned. `owner`: uid and gid of the API, which differ between hosts.

    Unpacked beside first and exchanged then, so that a file that is damaged changes nothing. Raises ConfigError, OSError.
    """
    home = Path(settings.home)
    home.mkdir(parents=True, exist_ok=True, mode=0o755)
    with Alone(home):
        work = Path(tempfile.mkdtemp(prefix=".restore-", dir=home))
        try:
            new, old = work / "new", work / "old"
            new.mkdir()
            old.mkdir()
            about = _unpack(source, new, owner, progress)
            for path in sorted(new.iterdir()):
                if (home / path.name).exists():
                    os.rename(home / path.name, old / path.name)
                os.rename(path, home / path.name)
            return about
        finally:
            shutil.rmtree(work)


def _unpack(source: Path, folder: Path, owner: tuple[int, int], progress: Progress) -> dict[str, Any]:
    try:
        with (
            source.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as packed,
            tarfile.open(fileobj=packed, mode="r|") as archive,
        ):
            archive.extraction_filter = lambda member, _: member  # newer Pythons would change an image's modes and links
            for member in archive:
                _take(archive, member, folder, owner)
                progress(member.size)
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
    except (tarfile.TarError, zstandard.ZstdError, EOFError, FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{source} is no whole backup: {error}") from error
    _check(source, about)
    (folder / ABOUT).unlink()
    return about


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, owner: tuple[int, int]) -> None:
    """Unpack one member, if its place is below `folder` whatever links came before it."""
    for name in (member.name, member.linkname) if member.islnk() else (member.name,):
        place = os.path.realpath(folder / os.path.dirname(name))
        if os.path.basename(name) in ("", ".", "..") or not (Path(place) / "x").is_relative_to(folder.resolve()):
            raise ValueError(f"{name} leaves the state directory")
    member.uid, member.gid = owner if member.name.split("/")[0] == "state" else (0, 0)
    member.uname = member.gname = ""
    archive.extract(member, folder, numeric_owner=True)


def _check(source: Path, about: dict[str, Any]) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
    if about.get("format") != FORMAT or about.get("schema") not in known:
        hint = "restore it with that release or a newer one"
        raise ConfigError(f"{source} was made by a newer hearth ({about.get('version')}, schema {about.get('schema')})", hint=hint)


class Alone:
    """Holds both locks of the instance, and has looked for anybody who has its database open: the API may live without them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._files: list[IO[str]] = []

    def __enter__(self) -> None:
        for name in LOCKS:
            file = (self._home / name).open("a+")
            self._files.append(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.__exit__()
                raise ConfigError(f"hearth serves {self._home}", hint="systemctl stop hearth.target, or end `hearth up`") from None
        if pid := _user_of(self._home / DATABASE):
            self.__exit__()
            raise ConfigError(f"process {pid} has the database open", hint="systemctl stop hearth.target, or end `hearth up`")

    def __exit__(self, *_: object) -> None:
        while self._files:
            self._files.pop().close()


def _user_of(path: Path) -> int:
    """A process that has `path` open, proc(5); 0 if none has."""
    wanted = os.path.realpath(path)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == wanted for fd in os.listdir(f"/proc/{pid}/fd")):
                return int(pid)
        except OSError:
            continue  # it ended meanwhile
    return 0
