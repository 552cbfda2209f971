"""The suites' own fixtures: a leak fails the test that made it, an undeclared skip fails in CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def outcome(tmp_path: Path, source: str, *, suite: str = "integration", ci: bool = False) -> str:
    """Run `source` as a test file of `suite` under our conftest and settings; return pytest's output."""
    (tmp_path / suite).mkdir()
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(re.sub(r"LEAK_PATIENCE_SECONDS = .*", "LEAK_PATIENCE_SECONDS = 0.3", conftest))
    (tmp_path / suite / "test_it.py").write_text(source)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {**os.environ, "CI": "true" if ci else "false", "PYTHONPATH": str(ROOT)}  # for the plugins that conftest names
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize(
    ("leak", "kind"),
    [
        ("import os\ndef test_it(): os.open('/dev/null', os.O_RDONLY)", "descriptors"),
        ("import subprocess\nkept = []\ndef test_it(): kept.append(subprocess.Popen(['sleep', '2']))", "children"),
    ],
)
def test_what_a_test_leaves_behind_fails_it_and_is_named(tmp_path: Path, leak: str, kind: str) -> None:
    assert re.search(rf"left behind: .*'{kind}'", outcome(tmp_path, leak))


@pytest.mark.requires("root")
def test_a_mount_left_behind_is_named(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    source = f"import subprocess\ndef test_it(): subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(target)!r}], check=True)"
    try:
        assert re.search(rf"left behind: .*{target}", outcome(tmp_path, source))
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_a_clean_test_passes_and_unit_tests_are_left_alone(tmp_path: Path) -> None:
    assert "1 passed" in outcome(tmp_path, "def test_it(tmp_path): (tmp_path / 'x').write_text('')")
    assert "1 passed" in outcome(tmp_path, "import os\ndef test_it(): os.open('/dev/null', os.O_RDONLY)", suite="unit")


def test_an_undeclared_skip_is_a_failure_in_ci_alone(tmp_path: Path) -> None:
    source = "import pytest\ndef test_it(): pytest.skip('no idea')"
    assert "1 skipped" in outcome(tmp_path, source, suite="unit")
    (tmp_path / "ci").mkdir()
    assert "a skip that requires() did not declare: Skipped: no idea" in outcome(tmp_path / "ci", source, suite="unit", ci=True)


def test_a_declared_skip_stays_a_skip_in_ci_and_names_what_is_missing(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.requires('tool:no-such-tool')\ndef test_it(): raise AssertionError"
    text = outcome(tmp_path, source, suite="unit", ci=True)
    assert "1 skipped" in text
    assert "machine lacks tool:no-such-tool" in text


def test_an_unknown_need_is_an_error_not_a_skip(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.requires('moonlight')\ndef test_it(): pass"
    assert "nobody knows how to find out about 'moonlight'" in outcome(tmp_path, source, suite="unit")
