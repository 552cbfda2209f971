"""What comes back from a machine: a tar file on its third disk with one JUnit file for each boot, a status and the journal."""

from __future__ import annotations

import shutil
import tarfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: pytest: 0 is passed, 5 that nothing was collected.
PYTEST_PASSED: Final = "0"


@dataclass(slots=True)
class Results:
    """`status` is "complete" where every boot came to its end, whatever the tests said; "" where nothing came back."""

    boots: int
    status: str = ""
    journal: str = ""
    statuses: list[str] = field(default_factory=list)
    junit: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.statuses == [PYTEST_PASSED] * self.boots and self.count("tests") > self.count("skipped")

    def count(self, what: str) -> int:
        return sum(int(suite.get(what, 0)) for text in self.junit for suite in ElementTree.fromstring(text).iter("testsuite"))

    def summary(self) -> str:
        failed = self.count("failures") + self.count("errors")
        return f"{self.count('tests') - failed - self.count('skipped')} passed, {failed} failed, {self.count('skipped')} skipped"


def read(image: Path, boots: int) -> Results:
    found = Results(boots)
    try:
        with tarfile.open(image) as archive:
            texts = {member.name.removeprefix("./"): _text(archive, member) for member in archive.getmembers() if member.isfile()}
    except tarfile.ReadError:  # zeros: the machine never wrote anything
        return found
    found.status, found.journal = texts.get("status", "").strip(), texts.get("journal.txt", "")
    for number in range(1, boots + 1):
        found.statuses.append(texts.get(f"boot-{number}.status", "").strip())
        if text := texts.get(f"boot-{number}.xml"):
            found.junit.append(text)
    return found


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    return file.read().decode(errors="replace") if file else ""


def keep(found: Results, folder: Path, cgroup: str, console: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(found.junit, 1):
        (folder / f"{cgroup}-{number}.xml").write_text(text)
    (folder / f"{cgroup}-journal.txt").write_text(found.journal)
    shutil.copy(console, folder / f"{cgroup}-console.log")
