"""README's settings table and its one source."""

from __future__ import annotations

import pytest

from sandbox.settings import describe
from server.cli.settings_table import BEGIN, END, README, replaced, table


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
