"""README's settings table and its one source."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from sandbox.settings import Settings, describe, load
from server.cli.settings_table import BEGIN, END, README, replaced, table, toml


def test_every_setting_is_in_the_table() -> None:
    text = table()
    assert [row["environment"] for row in describe() if f"`{row['environment']}`" not in text] == []


def test_readme_holds_the_present_table() -> None:
    assert replaced(README.read_text()) == README.read_text()


def test_only_what_is_between_the_markers_changes() -> None:
    assert replaced(f"before\n{BEGIN}old\n{END}after\n") == f"before\n{BEGIN}{table()}{END}after\n"


def test_a_text_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="settings"):
        replaced("no markers")


def test_the_generated_file_changes_nothing_and_names_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "hearth.toml"
    path.write_text(toml())
    assert load({"HEARTH_CONFIG": str(path)}) == Settings()
    uncommented = "".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in path.read_text().splitlines(True)
    )
    assert tomllib.loads(uncommented) == asdict(Settings())
