"""Data files: the room that is left free for others on the same disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.buckets.errors import BucketError
from server.buckets.files import Files


def disk(monkeypatch: pytest.MonkeyPatch, *, blocks: int, inodes: int, of_inodes: int = 100) -> None:
    """A file system of 100 blocks with so much free."""
    found = SimpleNamespace(f_bavail=blocks, f_blocks=100, f_favail=inodes, f_files=of_inodes)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.mark.parametrize(("blocks", "inodes"), [(4, 100), (100, 4)])
def test_nothing_is_begun_or_gone_on_with_below_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int
) -> None:
    files = Files(tmp_path, 5.0)
    files.prepare()
    new = files.create()
    new.write(b"before")
    disk(monkeypatch, blocks=blocks, inodes=inodes)
    with pytest.raises(BucketError, match="no room") as caught:
        new.write(b"x")
    assert caught.value.status == 507
    new.close()
    with pytest.raises(BucketError):
        files.create()
    with pytest.raises(BucketError):
        files.link(new.name, 6)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_at_the_reserve_and_without_numbered_inodes_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, 5.0)
    files.prepare()
    disk(monkeypatch, blocks=5, inodes=0, of_inodes=0)
    new = files.create()
    new.write(b"x")
    assert new.size_bytes == 1
    new.close()
