"""Importing tarballs without a sandbox: formats, hostile archives, limits. None of these images has an interpreter."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sandbox.errors import ImageError
from sandbox.imaging.manifest import Manifest
from sandbox.imaging.tarball import import_tarball
from sandbox.settings import Settings

Entry = tuple[str, Any]


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, data: bytes = b"", mode: int = 0o644, link: str = "", mtime: int = 1000) -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.mtime, member.size = kind, mode, link, mtime, len(data)
    member.uid = member.gid = 1234
    return name, (member, data)


def folder(name: str, mode: int = 0o755) -> Entry:
    return entry(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Entry:
    return entry(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str) -> Entry:
    return entry(name, tarfile.LNKTYPE, link=target)


def tar(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, (member, data) in entries:
            member.name = name
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


PLAIN = tar(folder("./"), folder("usr"), folder("usr/lib"), entry("usr/lib/a.txt", data=b"hello" * 1000), symlink("lib", "usr/lib"))


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def bring(home: Settings, tmp_path: Path, data: bytes, **options: Any) -> Manifest:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return import_tarball(home, path, "image", **{"allow_empty": True, **options})


def root(home: Settings) -> Path:
    return home.images_dir / "image" / "root"


def visible(home: Settings) -> list[str]:
    return sorted(name for name in os.listdir(home.images_dir) if name != ".lock")


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gz", "bz2", "xz", "zst"],
)
def test_each_compression_is_read(home: Settings, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = compress(PLAIN)
    manifest = bring(home, tmp_path, data)
    assert (root(home) / "lib/a.txt").read_bytes() == b"hello" * 1000
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()
    assert json.loads((home.images_dir / "image/manifest.json").read_text())["sha256"] == manifest.sha256


def test_progress_ends_at_the_size_of_the_file(home: Settings, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    bring(home, tmp_path, PLAIN, progress=lambda done, total, text: seen.append((done, total)) if text == "unpacking" else None)
    assert seen[-1] == (len(PLAIN), len(PLAIN))


def test_mount_points_and_the_user_are_added(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, PLAIN)
    for name in ("proc", "sys", "dev", "tmp", "run", "opt", "var/user", "var/runtime/hearth", "home/qcloud"):
        assert (root(home) / name).is_dir()
    assert stat.S_IMODE((root(home) / "tmp").stat().st_mode) == 0o1777
    assert "qcloud:x:1000:1000::/home/qcloud:/bin/bash" in (root(home) / "etc/passwd").read_text().splitlines()
    assert stat.S_IMODE((home.images_dir / "image").stat().st_mode) == 0o755


ATTACKS = {
    "name climbs": [entry("../escaped", data=b"x")],
    "name climbs in the middle": [folder("a"), entry("a/../../escaped", data=b"x")],
    "absolute name": [entry("/escaped", data=b"x")],
    "directory climbs": [folder("../escaped")],
    "link climbs": [entry("a", data=b"x"), symlink("../escaped", "a")],
    "file through a link that climbs": [symlink("out", "../../../.."), entry("out/escaped", data=b"x")],
    "file through an absolute link": [symlink("out", "{outside}"), entry("out/escaped", data=b"x")],
    "file through two links": [symlink("a", "b"), symlink("b", "../../../.."), entry("a/escaped", data=b"x")],
    "directory through a link": [symlink("out", "{outside}"), folder("out/escaped")],
    "file through a loop of links": [symlink("a", "b"), symlink("b", "a"), entry("a/escaped", data=b"x")],
    "hard link to the host, absolute": [hardlink("stolen", "{outside}/secret")],
    "hard link to the host, climbing": [hardlink("stolen", "../../../../secret")],
    "hard link through a link": [symlink("out", "{outside}"), hardlink("stolen", "out/secret")],
    "hard link to a directory": [folder("a"), hardlink("b", "a")],
    "hard link to what comes later": [hardlink("b", "a"), entry("a", data=b"x")],
    "hard link to nothing": [hardlink("b", "")],
    "file below a file": [entry("a", data=b"x"), entry("a/b", data=b"x")],
    "name too long": [entry("a" * 300, data=b"x")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_archive_is_refused_and_leaves_nothing(home: Settings, tmp_path: Path, attack: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    entries = ATTACKS[attack]
    for _, (member, _) in entries:
        member.linkname = member.linkname.replace("{outside}", str(outside))
    with pytest.raises(ImageError):
        bring(home, tmp_path, tar(entry("fine", data=b"x"), *entries))
    assert visible(home) == []
    assert os.listdir(outside) == ["secret"]
    assert not list(tmp_path.rglob("escaped"))
    assert (outside / "secret").stat().st_nlink == 1


def test_a_link_planted_over_a_mount_point_is_resolved_inside_the_image(home: Settings, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    attack = tar(symlink("etc", str(outside)), symlink("var", "../../../.."), symlink("home", "/data"), symlink("opt", "usr/opt"))
    before = outside.stat()
    bring(home, tmp_path, attack)
    assert os.listdir(outside) == []
    assert outside.stat().st_mode == before.st_mode
    assert (root(home) / str(outside).lstrip("/") / "passwd").is_file()
    assert (root(home) / "user").is_dir()  # /var led to the image's own root
    assert (root(home) / "usr/opt").is_dir()
    assert (root(home) / "data/qcloud").is_dir()


def test_a_planted_link_over_a_file_of_etc_is_not_written_through(home: Settings, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    bring(home, tmp_path, tar(folder("etc"), symlink("etc/passwd", str(victim)), symlink("etc/hosts", str(victim))))
    assert victim.read_text() == "untouched"


def test_an_absolute_link_to_a_directory_of_the_image_is_a_way_in_the_image(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar(folder("usr"), folder("usr/lib64"), symlink("lib64", "/usr/lib64"), entry("lib64/libc.so", data=b"x")))
    assert (root(home) / "usr/lib64/libc.so").read_bytes() == b"x"
    assert os.readlink(root(home) / "lib64") == "/usr/lib64"


def test_devices_fifos_and_unknown_kinds_are_not_created(home: Settings, tmp_path: Path) -> None:
    bring(
        home, tmp_path, tar(folder("d"), entry("d/null", tarfile.CHRTYPE), entry("d/sda", tarfile.BLKTYPE), entry("d/p", tarfile.FIFOTYPE))
    )
    assert os.listdir(root(home) / "d") == []


def test_setuid_and_setgid_bits_are_dropped(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar(folder("d", 0o2777), entry("d/su", data=b"x", mode=0o6755)))
    assert stat.S_IMODE((root(home) / "d/su").stat().st_mode) == 0o755
    assert stat.S_IMODE((root(home) / "d").stat().st_mode) == 0o777


def test_everything_is_readable_by_every_uid_and_ours(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar(folder("private", 0o700), entry("private/key", data=b"x", mode=0o600), entry("private/run", mode=0o700)))
    assert stat.S_IMODE((root(home) / "private").stat().st_mode) == 0o755
    assert stat.S_IMODE((root(home) / "private/key").stat().st_mode) == 0o644
    assert stat.S_IMODE((root(home) / "private/run").stat().st_mode) == 0o755
    assert (root(home) / "private/key").stat().st_uid == os.geteuid()


def test_the_umask_does_not_close_what_the_archive_left_out(home: Settings, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        bring(home, tmp_path, tar(entry("implied/deep/file", data=b"x")))
    finally:
        os.umask(old)
    for name in ("implied", "implied/deep", "var", "var/runtime", "etc"):
        assert stat.S_IMODE((root(home) / name).stat().st_mode) == 0o755, name
    assert stat.S_IMODE((home.images_dir / "image/manifest.json").stat().st_mode) == 0o644


def test_times_are_kept_and_impossible_ones_do_no_harm(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar(folder("d"), entry("d/a.py", data=b"x", mtime=1_400_000_000), entry("d/odd", mtime=8**20)))
    assert (root(home) / "d/a.py").stat().st_mtime == 1_400_000_000
    assert (root(home) / "d").stat().st_mtime == 1000


def test_a_later_member_of_the_same_name_wins(home: Settings, tmp_path: Path) -> None:
    entries = [
        entry("a", data=b"old"),
        folder("b"),
        entry("b/c", data=b"x"),
        symlink("d", "a"),
        entry("e", data=b"kept"),
        hardlink("f", "e"),
    ]
    later = [entry("a", data=b"new"), entry("b", data=b"file now"), entry("d", data=b"no link"), entry("f", data=b"own")]
    bring(home, tmp_path, tar(*entries, *later))
    found = {name: (root(home) / name).read_bytes() for name in "abdef"}
    assert found == {"a": b"new", "b": b"file now", "d": b"no link", "e": b"kept", "f": b"own"}


def test_hard_links_inside_the_image_share_their_file(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar(folder("bin"), entry("bin/perl", data=b"x", mode=0o755), hardlink("bin/perl5", "./bin/perl")))
    assert (root(home) / "bin/perl5").stat().st_ino == (root(home) / "bin/perl").stat().st_ino


def test_a_bomb_is_refused_before_it_is_written(home: Settings, tmp_path: Path) -> None:
    bomb = gzip.compress(tar(entry("zeros", data=bytes(3_000_000))))
    assert len(bomb) < 10_000
    with pytest.raises(ImageError, match="more than 1,000,000 bytes"):
        bring(home, tmp_path, bomb, limit_bytes=1_000_000)
    assert visible(home) == []


def test_an_announced_size_beyond_the_disk_is_refused(home: Settings, tmp_path: Path) -> None:
    _, (member, _) = entry("huge")
    member.size = 1 << 60
    with pytest.raises(ImageError, match="no space"):
        bring(home, tmp_path, member.tobuf(tarfile.GNU_FORMAT) + bytes(4096), limit_bytes=1 << 62)
    assert visible(home) == []


def test_a_giant_header_is_refused_before_it_is_read(home: Settings, tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, 5 << 30
    with pytest.raises(ImageError, match="header of"):
        bring(home, tmp_path, member.tobuf(tarfile.GNU_FORMAT) + bytes(8192))
    assert visible(home) == []


CUTS = [600, 1024, 2600, 4000, 512 * 3, len(PLAIN) // 2]


@pytest.mark.parametrize("length", CUTS)
def test_a_cut_archive_is_refused_and_leaves_nothing(home: Settings, tmp_path: Path, length: int) -> None:
    with pytest.raises(ImageError):
        bring(home, tmp_path, PLAIN[:length])
    assert visible(home) == []


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress], ids=["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("left", [0.3, 0.8])
def test_a_cut_compressed_archive_is_refused(home: Settings, tmp_path: Path, compress: Callable[[bytes], bytes], left: float) -> None:
    data = compress(tar(entry("random", data=os.urandom(300_000))))
    with pytest.raises(ImageError):
        bring(home, tmp_path, data[: int(len(data) * left)])
    assert visible(home) == []


def test_a_flipped_byte_is_found_by_the_checksum(home: Settings, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(PLAIN))
    data[-6] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        bring(home, tmp_path, bytes(data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a tarball"),
        (b"hello, I am a text", "not a tarball"),
        (b"PK\x03\x04" + bytes(600), "a zip file"),
        (gzip.compress(b"hello"), "not a tarball"),
        (b"\x1f\x8b" + b"garbage" * 100, "not a tarball"),
        (b"\x28\xb5\x2f\xfd" + b"garbage" * 100, "not a tarball"),
    ],
)
def test_what_is_no_tarball_is_refused_by_name(home: Settings, tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        bring(home, tmp_path, data)
    assert visible(home) == []


def test_an_image_without_an_interpreter_is_refused_with_advice(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no Python interpreter") as caught:
        bring(home, tmp_path, PLAIN, allow_empty=False)
    assert "--allow-empty" in caught.value.hint
    assert visible(home) == []


def test_a_tree_deeper_than_any_system_has_is_refused(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="deep"):
        bring(home, tmp_path, tar(entry("a/" * 1500 + "b", data=b"x")))
    assert visible(home) == []


def test_an_interrupted_import_leaves_nothing(home: Settings, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(home, tmp_path, PLAIN, progress=interrupt)
    assert visible(home) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "x" * 65])
def test_a_name_that_is_no_name_is_refused(home: Settings, tmp_path: Path, name: str) -> None:
    path = tmp_path / "archive"
    path.write_bytes(PLAIN)
    with pytest.raises(ImageError, match="not a name"):
        import_tarball(home, path, name, allow_empty=True)


def test_the_release_of_centos_is_read(home: Settings, tmp_path: Path) -> None:
    release = b"CentOS Linux release 7.2.1511 (Core) \n"
    manifest = bring(
        home,
        tmp_path,
        tar(folder("etc"), entry("etc/centos-release", data=release), symlink("etc/redhat-release", "centos-release")),
    )
    assert manifest.release == "CentOS Linux release 7.2.1511 (Core)"
