"""Backup and restore without a service: what is in the file, what a restore puts where, and what it refuses."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sandbox.errors import ConfigError
from sandbox.settings import Settings, load
from server.buckets.files import Files
from server.store import backup
from server.store.engine import open_database

OWNER = (os.geteuid(), os.getegid())


def quiet(size: int) -> None:
    """No progress wanted."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with a database at today's schema, a code package, an image with a link that leads out of it, and a credential."""
    conf = load({}, home=str(tmp_path / "home"), run=str(tmp_path / "run"))
    home = Path(conf.home)
    home.mkdir()
    open_database(conf).dispose()
    for name, text in {
        "state/code/abc/index.py": "code",
        "state/code/abc/.hidden": "kept",
        "state/code/.tmp-x/half": "",
        "state/metrics/1.db": "",
        "images/host/manifest.json": "{}",
        "images/host/root/usr/bin/tool": "tool",
        "credential": "secret",
        "api.env": "",
        "lock": "1",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (home / "images/host/root/bin").symlink_to("/usr/bin")
    (home / "images/host/root/usr/bin/tool").chmod(0o4755)
    (home / "credential").chmod(0o600)
    return conf


def tree(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file() and "hearth.db" not in path.name}


def write_value(settings: Settings, value: str) -> None:
    with sqlite3.connect(settings.state_dir / "hearth.db") as connection:
        connection.execute("INSERT INTO counters (name, value) VALUES (?, 1)", (value,))
    connection.close()


def values(settings: Settings) -> list[str]:
    connection = sqlite3.connect(settings.state_dir / "hearth.db")
    try:
        return [row[0] for row in connection.execute("SELECT name FROM counters WHERE name LIKE 'v-%'")]
    finally:
        connection.close()


def test_what_was_saved_comes_back_and_what_came_since_is_gone(settings: Settings, tmp_path: Path) -> None:
    home, file = Path(settings.home), tmp_path / "backup"
    write_value(settings, "v-before")
    backup.save(settings, file, quiet)
    assert file.stat().st_mode & 0o777 == 0o600
    write_value(settings, "v-after")
    (home / "state/code/later").mkdir()
    (home / "credential").write_text("another")
    about = backup.restore(settings, file, OWNER, quiet)
    assert values(settings) == ["v-before"]
    assert about["format"] == backup.FORMAT
    kept = tree(home)
    assert kept["credential"] == "secret"
    assert kept["state/code/abc/.hidden"] == "kept"
    assert {name for name in kept if "later" in name or ".tmp" in name or "metrics" in name} == set()
    assert (home / "images/host/root/bin").readlink() == Path("/usr/bin")
    assert (home / "images/host/root/usr/bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert (home / "credential").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".backup")] == []


def test_a_transaction_that_is_open_meanwhile_is_in_it_whole_or_not_at_all(settings: Settings, tmp_path: Path) -> None:
    connection = sqlite3.connect(settings.state_dir / "hearth.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO counters (name, value) VALUES ('v-open', 1)")
    backup.save(settings, tmp_path / "backup", quiet)
    connection.execute("COMMIT")
    connection.close()
    assert values(settings) == ["v-open"]
    backup.restore(settings, tmp_path / "backup", OWNER, quiet)
    assert values(settings) == []


def test_what_comes_while_the_database_is_copied_is_in_it(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, real = Path(settings.home), backup._copy_database

    def copy(source: Path, target: str) -> None:
        (home / "state/code/new").mkdir()
        (home / "state/code/new/index.py").write_text("new")
        real(source, target)

    monkeypatch.setattr(backup, "_copy_database", copy)
    backup.save(settings, tmp_path / "backup", quiet)
    backup.restore(settings, tmp_path / "backup", OWNER, quiet)
    assert (home / "state/code/new/index.py").read_text() == "new"


def test_an_object_that_is_deleted_after_the_database_was_copied_is_in_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, real = Files(settings.buckets_dir), backup._copy_database
    files.prepare()
    made: list[str] = []

    def copy(source: Path, target: str) -> None:
        made.append(an_object(files, b"new"))
        real(source, target)
        files.remove(made)  # its row has gone, but the copy has it
        assert files.sweep(lambda names: set()) == 0

    monkeypatch.setattr(backup, "_copy_database", copy)
    backup.save(settings, tmp_path / "backup", quiet)
    os.close(files.open(made[0]))
    files.remove([])
    with pytest.raises(FileNotFoundError):
        files.open(made[0])
    backup.restore(settings, tmp_path / "backup", OWNER, quiet)
    assert contents(files, made[0]) == b"new"


def test_an_object_that_was_being_written_when_it_was_first_seen_is_in_it_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, real = Files(settings.buckets_dir), backup._copy_database
    files.prepare()
    new = files.create()
    new.write(b"first, ")

    def copy(source: Path, target: str) -> None:
        new.write(b"second")
        new.keep()
        new.close()
        real(source, target)

    monkeypatch.setattr(backup, "_copy_database", copy)
    backup.save(settings, tmp_path / "backup", quiet)
    backup.restore(settings, tmp_path / "backup", OWNER, quiet)
    assert contents(files, new.name) == b"first, second"


def test_two_names_of_an_object_are_two_files_in_it(settings: Settings, tmp_path: Path) -> None:
    """A link is stored by the file's number, and while the archive is made that may become another file's."""
    files = Files(settings.buckets_dir)
    files.prepare()
    names = [an_object(files, b"same")]
    twin = files.link(names[0], 4)
    twin.keep()
    twin.close()
    names.append(twin.name)
    backup.save(settings, tmp_path / "backup", quiet)
    found = unpacked((tmp_path / "backup").read_bytes())
    assert [found[f"state/buckets/data/{name[:2]}/{name}"] for name in names] == [b"same", b"same"]


def an_object(files: Files, data: bytes) -> str:
    new = files.create()
    new.write(data)
    new.keep()
    new.close()
    return new.name


def contents(files: Files, name: str) -> bytes:
    with os.fdopen(files.open(name), "rb") as file:
        return file.read()


@pytest.mark.parametrize("name", backup.LOCKS)
def test_nothing_is_restored_under_a_living_instance(settings: Settings, tmp_path: Path, name: str) -> None:
    backup.save(settings, tmp_path / "backup", quiet)
    with (Path(settings.home) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="hearth serves"):
            backup.restore(settings, tmp_path / "backup", OWNER, quiet)


def test_nothing_is_restored_under_somebody_who_has_the_database_open(settings: Settings, tmp_path: Path) -> None:
    backup.save(settings, tmp_path / "backup", quiet)
    with (settings.state_dir / "hearth.db").open(), pytest.raises(ConfigError, match=f"process {os.getpid()} has the database open"):
        backup.restore(settings, tmp_path / "backup", OWNER, quiet)


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2]


def newer(data: bytes) -> bytes:
    return packed({**unpacked(data), backup.ABOUT: json.dumps({"format": 1, "version": "9.9", "schema": "9999"}).encode()})


def leaving(data: bytes) -> bytes:
    return packed({**unpacked(data), "state/../../outside": b"x"})


def linking(data: bytes) -> bytes:
    """A hard link to what lies outside would be given to the API's user, who could change it from then on."""
    member = tarfile.TarInfo("state/link")
    member.type, member.linkname = tarfile.LNKTYPE, "../../outside"
    buffer = io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(packed(unpacked(data))))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        archive.addfile(member)
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(data))) as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member) if member.isfile() else None)}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged, "is no whole backup"),
        (lambda data: b"hello", "is no whole backup"),
        (newer, r"newer hearth \(9.9, schema 9999\)"),
        (leaving, "leaves the state directory"),
        (linking, "leaves the state directory"),
    ],
    ids=["cut short", "another file", "a newer release's", "a path that leaves", "a link that leaves"],
)
def test_a_bad_file_changes_nothing(settings: Settings, tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    file, home = tmp_path / "backup", Path(settings.home)
    backup.save(settings, file, quiet)
    file.write_bytes(change(file.read_bytes()))
    before = tree(home)
    with pytest.raises(ConfigError, match=words):
        backup.restore(settings, file, OWNER, quiet)
    assert tree(home) == before | {"sandboxd.lock": ""}
    assert not (tmp_path / "outside").exists()
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_without_a_state_there_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no state"):
        backup.save(load({}, home=str(tmp_path)), tmp_path / "file", quiet)


def test_a_database_elsewhere_is_not_left_out_silently(settings: Settings, tmp_path: Path) -> None:
    conf = load({}, home=settings.home, database_url="postgresql://db/hearth")
    with pytest.raises(ConfigError, match="not in the state directory"):
        backup.save(conf, tmp_path / "file", quiet)
