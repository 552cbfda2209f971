"""The images' directory: staging, replacing, sweeping, and names resolved inside a root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.imaging.rootfs import prepare_root, resolve_in_root, sanitise
from sandbox.imaging.store import remove, staged, sweep


def publish(images: Path, name: str, text: str, *, force: bool = False) -> None:
    with staged(images, name, force=force) as stage:
        (stage / "root/text").write_text(text)


def visible(images: Path) -> list[str]:
    return sorted(name for name in os.listdir(images) if name != ".lock")


def test_nothing_is_visible_until_the_end(tmp_path: Path) -> None:
    with staged(tmp_path, "a", force=False) as stage:
        assert stage.parent == tmp_path
        assert stage.name.startswith(".tmp-a-")
        assert stage.stat().st_mode & 0o777 == 0o700
        assert not (tmp_path / "a").exists()
    assert visible(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_an_existing_image_is_replaced_only_by_force(tmp_path: Path) -> None:
    publish(tmp_path, "a", "old")
    with pytest.raises(ImageError, match="exists"):
        publish(tmp_path, "a", "new")
    assert (tmp_path / "a/root/text").read_text() == "old"
    publish(tmp_path, "a", "new", force=True)
    assert (tmp_path / "a/root/text").read_text() == "new"
    assert visible(tmp_path) == ["a"]


def test_a_failed_replacement_keeps_the_old_image(tmp_path: Path) -> None:
    publish(tmp_path, "a", "old")
    with pytest.raises(RuntimeError), staged(tmp_path, "a", force=True) as stage:
        (stage / "root/text").write_text("half")
        raise RuntimeError
    assert (tmp_path / "a/root/text").read_text() == "old"
    assert visible(tmp_path) == ["a"]


def test_what_a_killed_maker_left_goes_by_itself_and_a_living_ones_is_not_swept(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom sandbox.imaging.store import staged\n"
        "with staged(Path(sys.argv[1]), 'a', force=False):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    with maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"ready\n"
        assert sweep(tmp_path) == []
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    deadline = time.monotonic() + 10
    while visible(tmp_path):
        assert time.monotonic() < deadline, visible(tmp_path)


def test_what_a_maker_and_its_guard_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a-1/root").mkdir(parents=True)
    assert sweep(tmp_path) == [".tmp-a-1"]
    assert visible(tmp_path) == []


def test_removing_takes_the_image_away_once(tmp_path: Path) -> None:
    publish(tmp_path, "a", "x")
    remove(tmp_path, "a")
    assert visible(tmp_path) == []
    with pytest.raises(ImageError, match="no image 'a'"):
        remove(tmp_path, "a")


def test_removing_never_takes_more_than_an_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "precious").mkdir()
    with pytest.raises(ImageError):
        remove(tmp_path / "images", "../precious")
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(
    ("links", "path", "expected"),
    [
        ({}, "etc/passwd", "etc/passwd"),
        ({}, "/etc//./passwd", "etc/passwd"),
        ({}, "../../etc", "etc"),
        ({"lib64": "usr/lib64"}, "lib64/ld.so", "usr/lib64/ld.so"),
        ({"var": "/data/var"}, "var/user", "data/var/user"),
        ({"etc": "/etc"}, "a/../b", "b"),
        ({"out": "../../../../etc"}, "out/passwd", "etc/passwd"),
        ({"a": "b", "b": "/c/d"}, "a/e", "c/d/e"),
        ({"a": "/"}, "a/x", "x"),
    ],
)
def test_names_are_resolved_as_after_chroot(tmp_path: Path, links: dict[str, str], path: str, expected: str) -> None:
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert resolve_in_root(tmp_path, path) == str(tmp_path / expected)


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("etc")
    with pytest.raises(ImageError, match="symbolic links"):
        resolve_in_root(tmp_path, "etc/passwd")


def test_preparing_twice_changes_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash")  # no newline at the end
    prepare_root(tmp_path)
    prepare_root(tmp_path)
    lines = (tmp_path / "etc/passwd").read_text().splitlines()
    assert lines == ["root:x:0:0::/root:/bin/bash", "qcloud:x:1000:1000::/home/qcloud:/bin/bash"]


def test_a_file_where_a_mount_point_belongs_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "proc").write_text("")
    with pytest.raises(ImageError, match="/proc is not a directory"):
        prepare_root(tmp_path)


@pytest.mark.requires("root")  # to change owners
def test_sanitising_drops_setuid_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "su").write_text("")
    (tmp_path / "su").chmod(0o4711)
    (tmp_path / "closed").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "closed/pipe")
    assert sanitise(tmp_path) == {"special": 1, "setuid": 1}
    assert (tmp_path / "su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "closed").stat().st_mode & 0o7777 == 0o755
    assert os.listdir(tmp_path / "closed") == []
