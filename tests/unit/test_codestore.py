"""The code store against real zips: what it keeps, what it refuses, and that a refusal leaves nothing."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sandbox.settings import Settings
from server.errors import ApiError, BadRequest, NotFound, PayloadTooLarge
from server.functions import CodeStore
from server.functions.handlers import normalised_runtime, split_handler
from server.functions.zipscan import Limits, open_zip

LINK, FIFO, CHARACTER_DEVICE, SOCKET = (kind | 0o777 for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK))
Entry = tuple[str, bytes, int]


def zipped(*entries: Entry | str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of (name, content, unix mode) entries; a bare name has neither content nor mode."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for entry in entries:
            name, content, mode = (entry, b"", 0) if isinstance(entry, str) else entry
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name  # past the constructor, which tidies names
            info.external_attr = mode << 16
            info.compress_type = compression
            with warnings.catch_warnings(action="ignore"):  # zipfile only warns of duplicates
                archive.writestr(info, content)
    return out.getvalue()


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The zip with a name's bytes replaced in both headers: names that zipfile would not write."""
    assert len(old) == len(new) and data.count(old) == 2
    return data.replace(old, new)


def left(store_path: Path) -> list[str]:
    return sorted(path.name for path in store_path.iterdir() if path.name != ".lock")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_unpacked_bytes=1_000_000, limit_unpacked_files=100)


@pytest.fixture
def store(settings: Settings) -> CodeStore:
    store = CodeStore(settings)
    store.open()
    return store


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_package_is_unpacked_for_everybody_to_read(store: CodeStore, umask: int) -> None:
    data = zipped(("index.py", b"x = 1\n", 0o600), ("bin/tool", b"#!/bin/sh\n", 0o100700), ("lib/", b"", 0o40700), ("suid", b"", 0o104755))
    tree = store.path(store.put_zip(data))
    modes = {path.relative_to(tree).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tree.rglob("*")}
    assert modes == {"index.py": 0o644, "bin": 0o755, "bin/tool": 0o755, "lib": 0o755, "suid": 0o755}
    assert stat.S_IMODE(tree.stat().st_mode) == 0o755
    assert (tree / "index.py").read_bytes() == b"x = 1\n"


def test_the_zip_comes_back_as_it_was(store: CodeStore) -> None:
    data = zipped(("index.py", os.urandom(300_000), 0))
    assert store.read_zip(store.put_zip(io.BytesIO(data))) == data


def test_the_same_zip_is_kept_once(store: CodeStore, settings: Settings) -> None:
    digest = store.put_zip(zipped("index.py"))
    inode = store.path(digest).stat().st_ino
    assert store.put_zip(zipped("index.py")) == digest
    assert store.path(digest).stat().st_ino == inode
    assert left(settings.code_dir) == [digest, f"{digest}.zip"]


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc", "", ".lock", "0" * 64 + "/.."])
def test_what_is_no_digest_of_ours_is_not_found(store: CodeStore, digest: str) -> None:
    with pytest.raises(NotFound):
        store.path(digest)


def test_links_that_stay_inside_survive(store: CodeStore) -> None:
    data = zipped(
        ("lib/libx.so.1", b"elf", 0o755), ("lib/libx.so", b"libx.so.1", LINK), ("a/b/up", b"../../lib", LINK), ("gone", b"nothing", LINK)
    )
    tree = store.path(store.put_zip(data))
    assert (tree / "a/b/up/libx.so").read_bytes() == b"elf"
    assert os.readlink(tree / "gone") == "nothing"


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent directory": (lambda: zipped("ok.py", "../evil.py"), "leads out"),
    "parent directory in the middle": (lambda: zipped("a/../../evil.py"), "leads out"),
    "absolute name": (lambda: zipped("/etc/cron.d/evil"), "absolute"),
    "two slashes": (lambda: zipped("//etc/evil"), "absolute"),
    "backslash": (lambda: zipped("..\\evil.py"), "backslash"),
    "drive letter": (lambda: zipped("C:evil.py"), "drive"),
    "NUL in a name": (lambda: renamed(zipped("evil_py"), b"evil_py", b"evil\0py"), "character '\\x00'"),
    "newline in a name": (lambda: zipped("evil\n.py"), "character '\\n'"),
    "escape in a name": (lambda: zipped("\x1b[2J.py"), "character '\\x1b'"),
    "absolute link": (lambda: zipped("a.py", ("l", b"/etc/passwd", LINK)), "absolute path"),
    "link out": (lambda: zipped("a.py", ("l", b"../../../../etc/passwd", LINK)), "links out"),
    "link out and in again": (lambda: zipped("a.py", ("l", b"../user/a.py", LINK)), "links out"),
    "link out by way of a link": (lambda: zipped("a.py", ("d/e/", b"", 0), ("l", b"d/e", LINK), ("m", b"l/../../../x", LINK)), "links out"),
    "file below a link": (lambda: zipped(("l", b"/tmp", LINK), "l/evil.py"), "lies below 'l'"),
    "file below a later link": (lambda: zipped("l/evil.py", ("l", b"/tmp", LINK)), "both a directory and a symlink"),
    "link without a target": (lambda: zipped("a.py", ("l", b"", LINK)), "without a usable target"),
    "link with a long target": (lambda: zipped("a.py", ("l", b"x" * 2000, LINK)), "link target of 2000 bytes"),
    "fifo": (lambda: zipped("a.py", ("f", b"", FIFO)), "neither a file"),
    "device": (lambda: zipped("a.py", ("f", b"", CHARACTER_DEVICE)), "neither a file"),
    "socket": (lambda: zipped("a.py", ("f", b"", SOCKET)), "neither a file"),
    "same name twice": (lambda: renamed(zipped("a.py", "b.py"), b"b.py", b"a.py"), "more than once"),
    "same name in other words": (lambda: zipped("a/b.py", "a/./b.py"), "more than once"),
    "file that is a directory": (lambda: zipped("a", "a/b.py"), "lies below 'a', which is a file"),
    "directory that is a file": (lambda: zipped("a/b.py", "a"), "both a directory and a file"),
    "long part": (lambda: zipped("x" * 256), "too long"),
    "long part in bytes": (lambda: zipped("ü" * 128), "too long"),
    "long path": (lambda: zipped("/".join(["x" * 200] * 11)), "too long"),
    "deep path": (lambda: zipped("/".join(["x"] * 65)), "deep"),
    "root as a file": (lambda: zipped("a.py", "."), "not a file's name"),
    "bzip2": (lambda: zipped("a.py", compression=zipfile.ZIP_BZIP2), "compression method 12"),
    "lzma": (lambda: zipped("a.py", compression=zipfile.ZIP_LZMA), "compression method 14"),
    "encrypted": (lambda: _flagged(zipped("a.py"), 0x1), "encrypted"),
    "name that is not the UTF-8 it claims": (
        lambda: _flagged(renamed(zipped("aaaa.py"), b"aaaa", b"\xff\xfe\xff\xfe"), 0x800),
        "not a readable zip",
    ),
    "wrong checksum": (lambda: renamed_content(), "damaged"),
    "cut short": (lambda: zipped(("a.py", os.urandom(5000), 0))[:-30], "not a readable zip"),
    "cut in the middle": (lambda: _without_middle(zipped(("a.py", os.urandom(5000), 0))), "damaged"),
    "no zip at all": (lambda: b"\x7fELF" + bytes(500), "not a readable zip"),
    "nothing": (lambda: b"", "not a readable zip"),
    "empty zip": (lambda: zipped(), "empty"),
    "only directories": (lambda: zipped("a/", "b/c/"), "no file"),
    "directory larger than the file": (lambda: zipped("a.py")[-22:-10] + b"\xff\xff\xff\x7f" + bytes(6), "not a readable zip"),
}


def _flagged(data: bytes, bits: int) -> bytes:
    """Set bits of the general purpose flags in the local and the central header of the only entry."""
    out = bytearray(data)
    central = data.index(b"PK\1\2")
    out[6:8] = (int.from_bytes(data[6:8], "little") | bits).to_bytes(2, "little")
    out[central + 8 : central + 10] = (int.from_bytes(data[central + 8 : central + 10], "little") | bits).to_bytes(2, "little")
    return bytes(out)


def renamed_content() -> bytes:
    return zipped(("a.py", b"content one", 0), compression=zipfile.ZIP_STORED).replace(b"content one", b"content two")


def _without_middle(data: bytes) -> bytes:
    return data[:1000] + data[2000:]


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_zip_is_refused_and_leaves_nothing(store: CodeStore, settings: Settings, attack: str) -> None:
    make, why = HOSTILE[attack]
    with pytest.raises(BadRequest) as refused:
        store.put_zip(make())
    assert why in refused.value.detail
    assert refused.value.status == 400 and refused.value.detail.isprintable()
    assert left(settings.code_dir) == []
    assert store.put_zip(zipped("index.py"))  # the store works on


def test_a_bomb_that_says_its_size_is_refused_before_it_is_written(store: CodeStore, settings: Settings) -> None:
    data = zipped(("zeros", bytes(2_000_000), 0))
    assert len(data) < 10_000
    with pytest.raises(PayloadTooLarge) as refused:
        store.put_zip(data)
    assert refused.value.status == 413 and "1000000 bytes" in refused.value.detail
    assert left(settings.code_dir) == []


def test_a_bomb_that_lies_about_its_size_is_stopped(store: CodeStore, settings: Settings) -> None:
    data, size = zipped(("zeros", bytes(2_000_000), 0)), (2_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    with pytest.raises(ApiError):
        store.put_zip(data.replace(size, (1000).to_bytes(4, "little")))
    assert left(settings.code_dir) == []


def test_many_members_of_one_content_count_each(store: CodeStore, settings: Settings) -> None:
    """Overlapping entries: the bomb that needs no nesting."""
    with pytest.raises(PayloadTooLarge):
        store.put_zip(zipped(*((f"{n}", bytes(200_000), 0) for n in range(6))))
    assert left(settings.code_dir) == []


@pytest.mark.parametrize(
    "names", [[f"{n}.py" for n in range(101)], [f"{n}/x/y.py" for n in range(34)]], ids=["files", "implied directories"]
)
def test_too_many_files_are_refused(store: CodeStore, settings: Settings, names: list[str]) -> None:
    with pytest.raises(PayloadTooLarge, match="more than 100 files"):
        store.put_zip(zipped(*names))
    assert left(settings.code_dir) == []


def test_exactly_as_many_files_as_allowed_are_taken(store: CodeStore) -> None:
    tree = store.path(store.put_zip(zipped(*(f"{n}.py" for n in range(100)))))
    assert len(list(tree.iterdir())) == 100


@pytest.mark.parametrize(
    ("raw", "name"),
    [("grüße.py".encode(), "grüße.py"), ("文档.py".encode(), "文档.py"), (b"gr\x81n.py", "grün.py")],
    ids=["utf-8 unmarked", "chinese unmarked", "code page 437"],
)
def test_names_are_read_as_their_maker_meant(store: CodeStore, raw: bytes, name: str) -> None:
    stand_in = b"n" * len(raw)
    tree = store.path(store.put_zip(renamed(zipped(stand_in.decode()), stand_in, raw)))
    assert [path.name for path in tree.iterdir()] == [name]


def test_ordinary_oddities_are_taken(store: CodeStore) -> None:
    data = zipped("./", "./index.py", "__MACOSX/._index.py", "README", "readme", "a//b.py", ("empty/", b"", 0o40755), "empty/")
    tree = store.path(store.put_zip(data))
    assert {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()} == {
        "index.py",
        "__MACOSX/._index.py",
        "README",
        "readme",
        "a/b.py",
    }


def test_a_zip_behind_a_launcher_script_is_taken(store: CodeStore) -> None:
    assert store.put_zip(b"#!/usr/bin/env python3\n" + zipped("__main__.py"))


def test_a_zip64_is_taken_and_its_entries_are_counted(store: CodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    few, many = zipped("a.py", "b.py"), zipped(*(f"{n}.py" for n in range(150)))
    assert b"PK\6\6" in few and b"PK\6\6" in many
    assert store.put_zip(few)
    with pytest.raises(PayloadTooLarge):
        open_zip(io.BytesIO(many), Limits(unpacked_bytes=10**9, files=100))


def test_entries_are_counted_before_they_cost_memory() -> None:
    data = zipped(*(f"{n}.py" for n in range(101)))
    with pytest.raises(PayloadTooLarge):
        open_zip(io.BytesIO(data), Limits(unpacked_bytes=10**9, files=100))
    open_zip(io.BytesIO(data), Limits(unpacked_bytes=10**9, files=101)).close()


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_zip_is_kept_or_refused_but_never_leaks(store: CodeStore, settings: Settings, edits: list[tuple[int, int]]) -> None:
    data = bytearray(zipped(("index.py", b"print(1)\n" * 20, 0o644), ("l", b"index.py", LINK), ("d/e.py", b"", 0)))
    for at, value in edits:
        data[at % len(data)] = value
    try:
        digest = store.put_zip(bytes(data))
    except ApiError as refused:
        assert refused.status in (400, 413)
        digest = ""
    root = os.path.realpath(settings.code_dir)
    for place, directories, files in os.walk(root):
        assert all(os.path.realpath(os.path.join(place, name)).startswith(root) for name in directories + files)
    assert not [name for name in left(settings.code_dir) if name.startswith(".tmp")]
    if digest:
        store.collect((), grace_seconds=0), store.collect((), grace_seconds=-1)


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c.py", "\\", "ü"]), min_size=1, max_size=5).map("/".join)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.tuples(NAMES, NAMES.map(str.encode), st.sampled_from([0, 0o644, LINK, stat.S_IFDIR | 0o755])), max_size=6))
def test_no_tree_of_files_and_links_reaches_outside(store: CodeStore, entries: list[Entry]) -> None:
    entries = [(name, b"" if stat.S_ISDIR(mode) or name.endswith("/") else content, mode) for name, content, mode in entries]
    try:
        tree = store.path(store.put_zip(zipped(*entries)))
    except BadRequest:
        return
    root = os.path.realpath(tree)
    for place, directories, files in os.walk(tree):
        for name in directories + files:
            real = os.path.realpath(os.path.join(place, name))
            assert real == root or real.startswith(root + "/")


# -- handlers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "handler"),
    [
        (["index.py"], "index.main_handler"),
        (["src/index.py"], "src/index.main"),
        (["index/__init__.py"], "index.main"),
        (["index.pyc"], "index.main"),
        (["index.so"], "index.main"),
        (["index.cpython-36m-x86_64-linux-gnu.so"], "index.main"),
        (["my-app.v2.py"], "my-app.v2.main"),
    ],
)
def test_a_handlers_file_is_found(store: CodeStore, names: list[str], handler: str) -> None:
    store.check_handler(store.put_zip(zipped(*names), handler=handler, runtime="python3"), handler, "python3")


@pytest.mark.parametrize(
    ("names", "handler", "hint"),
    [
        (["main.py", "x/y.py"], "index.main_handler", "main.py, x"),
        (["demo/index.py"], "index.main_handler", "demo/index.main_handler"),
        (["index/other.py"], "index.main", "index"),
        (["index.py/x"], "index.main", "index.py"),
        (["Index.py"], "index.main", "Index.py"),
    ],
)
def test_a_missing_handler_file_is_refused_and_leaves_nothing(
    store: CodeStore, settings: Settings, names: list[str], handler: str, hint: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        store.put_zip(zipped(*names), handler=handler, runtime="python3")
    assert refused.value.code == "handler_file_missing" and hint in refused.value.hint
    assert left(settings.code_dir) == []


def test_a_known_package_is_checked_for_the_handler_too(store: CodeStore) -> None:
    digest = store.put_zip(zipped("index.py"), handler="index.main", runtime="python3")
    with pytest.raises(BadRequest, match=r"there is no other\.py"):
        store.put_zip(zipped("index.py"), handler="other.main", runtime="python3")
    assert store.path(digest).is_dir()


@pytest.mark.parametrize(
    "handler",
    [
        "",
        "index",
        "index.",
        ".main",
        "index.main!",
        "/etc/x.main",
        "../x.main",
        "a//b.main",
        "a/./b.main",
        "x" * 129 + ".m",
        "i.1m",
        "i.m\n",
    ],
)
def test_a_handler_of_another_form_is_refused(handler: str) -> None:
    with pytest.raises(BadRequest):
        split_handler(handler)


@pytest.mark.parametrize(
    ("given_", "normal"),
    [("PYTHON3.6", "Python3.6"), ("python2.7", "Python2.7"), ("Python3", "python3"), ("python2", "python2"), ("Python3.06", "Python3.6")],
)
def test_runtimes_are_spelled_one_way(given_: str, normal: str) -> None:
    assert normalised_runtime(given_) == normal


@pytest.mark.parametrize("runtime", ["", "python", "Python4.0", "Nodejs12.16", "python3.6.1", "python3 ", "python٣", "Go1"])
def test_other_runtimes_are_refused(runtime: str) -> None:
    with pytest.raises(BadRequest):
        normalised_runtime(runtime)


# -- garbage -----------------------------------------------------------------------------------------------------------


def test_unused_code_is_marked_first_and_removed_after_its_grace(store: CodeStore, settings: Settings) -> None:
    used, unused = store.put_zip(zipped("a.py")), store.put_zip(zipped("b.py"))
    assert store.collect([used]) == []
    assert store.collect([used]) == []
    assert store.path(unused).is_dir()
    os.utime(settings.code_dir / f"{unused}.unused", (0, 0))
    assert store.collect([used]) == [unused]
    assert left(settings.code_dir) == [used, f"{used}.zip"]


def test_code_that_is_used_again_is_safe(store: CodeStore, settings: Settings) -> None:
    digest = store.put_zip(zipped("a.py"))
    store.collect([])
    os.utime(settings.code_dir / f"{digest}.unused", (0, 0))
    store.put_zip(zipped("a.py"))  # uploaded again, its function not stored yet
    assert store.collect([]) == []
    os.utime(settings.code_dir / f"{digest}.unused", (0, 0))
    assert store.collect([digest]) == []
    assert left(settings.code_dir) == [digest, f"{digest}.zip"]


def test_the_upload_of_a_dead_process_is_swept_and_that_of_a_living_one_is_not(store: CodeStore, settings: Settings) -> None:
    program = (
        "import sys\nfrom sandbox.settings import Settings\nfrom server.functions import CodeStore\n"
        "with CodeStore(Settings(home=sys.argv[1]))._temporary() as place:\n"
        "    (place / 'half').write_text('x'); print('ready', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, settings.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        store.open()
        assert len(left(settings.code_dir)) == 1
        child.kill()
        child.wait()
    store.open()
    assert left(settings.code_dir) == []
