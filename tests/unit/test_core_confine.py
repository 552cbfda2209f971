"""What the API's user may reach, decided by modes alone: which directories are covered and what appears in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.confine import closed_to, plan_cover

OWN = os.getuid()
OTHER = OWN + 4711
NO_GROUPS: set[int] = set()


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """Below it modes are the test's; above it everything is open to us, the owner. Nobody else is asked about."""
    top = tmp_path / "top"
    top.mkdir(mode=0o755)
    yield top
    for folder, _, _ in os.walk(top):
        os.chmod(folder, 0o700)


def directory(path: Path, mode: int) -> Path:
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "closed"), [(0o755, False), (0o705, False), (0o751, True), (0o754, True), (0o750, True), (0o700, True), (0o707, False)]
)
def test_others_need_read_and_search(top: Path, mode: int, closed: bool) -> None:
    assert closed_to(directory(top / "x", mode), OTHER, NO_GROUPS) is closed


@pytest.mark.parametrize(("mode", "closed"), [(0o700, False), (0o500, False), (0o400, True), (0o300, True), (0o077, True)])
def test_the_owner_is_judged_by_the_owner_s_bits_alone(top: Path, mode: int, closed: bool) -> None:
    path = directory(top / "x", mode)
    assert closed_to(path, OWN, {path.stat().st_gid}) is closed


@pytest.mark.parametrize(("mode", "closed"), [(0o750, False), (0o705, True), (0o710, True), (0o740, True)])
def test_a_member_of_the_group_is_judged_by_the_group_s_bits_alone(top: Path, mode: int, closed: bool) -> None:
    path = directory(top / "x", mode)
    assert closed_to(path, OTHER, {path.stat().st_gid}) is closed


def test_what_is_open_all_the_way_needs_no_cover(top: Path) -> None:
    assert plan_cover([directory(top / "a/b", 0o755)], OWN, NO_GROUPS) == ([], [])


def test_the_topmost_closed_directory_is_covered_and_the_path_attached(top: Path) -> None:
    exposed = directory(top / "a/b/c", 0o755)
    (top / "a/b").chmod(0o300)
    (top / "a").chmod(0o300)
    assert plan_cover([exposed], OWN, NO_GROUPS) == ([top / "a"], [exposed])


def test_two_paths_below_one_closed_directory_share_its_cover(top: Path) -> None:
    first, second = directory(top / "a/b", 0o755), directory(top / "a/c", 0o755)
    (top / "a").chmod(0o300)
    assert plan_cover([first, second], OWN, NO_GROUPS) == ([top / "a"], [first, second])


def test_a_cover_below_another_cover_is_left_out(top: Path) -> None:
    upper = directory(top / "a/b", 0o755)
    lower = directory(top / "a/c/d/e", 0o755)
    (top / "a/c/d").chmod(0o300)
    (top / "a").chmod(0o300)
    assert plan_cover([lower, upper], OWN, NO_GROUPS) == ([top / "a"], [lower, upper])


def test_a_closed_directory_that_is_exposed_itself_shows_its_entries(top: Path) -> None:
    exposed = directory(top / "a", 0o755)
    for name in ("two", "one"):
        (exposed / name).touch()
    exposed.chmod(0o400)
    assert plan_cover([exposed], OWN, NO_GROUPS) == ([exposed], [exposed / "one", exposed / "two"])


def test_a_path_exposed_twice_is_attached_once(top: Path) -> None:
    exposed = directory(top / "a/b", 0o755)
    (top / "a").chmod(0o300)
    assert plan_cover([exposed, exposed], OWN, NO_GROUPS) == ([top / "a"], [exposed])
