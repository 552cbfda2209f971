"""What scripts/vm makes of what a machine gives back: the difference between failed tests and a machine that never got there."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machines import __main__ as machines
from tests.machines import disk, qemu, results


def junit(tests: int, failures: int = 0, skipped: int = 0) -> str:
    return f'<testsuites><testsuite name="pytest" errors="0" failures="{failures}" skipped="{skipped}" tests="{tests}"/></testsuites>'


def image(tmp_path: Path, files: dict[str, str]) -> Path:
    """A raw disk: a tar file with zeros behind it."""
    path = tmp_path / "results.raw"
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    with path.open("ab") as file:
        file.truncate(1 << 20)
    return path


def test_two_boots_that_passed(tmp_path: Path) -> None:
    files = {
        "status": "complete\n",
        "boot-1.status": "0\n",
        "boot-1.xml": junit(5, skipped=1),
        "boot-2.status": "0\n",
        "boot-2.xml": junit(1),
    }
    found = results.read(image(tmp_path, files), 2)
    assert (found.status, found.passed, found.summary()) == ("complete", True, "5 passed, 0 failed, 1 skipped")


@pytest.mark.parametrize(
    "files",
    [
        {"boot-1.status": "1", "boot-1.xml": junit(5, failures=1)},
        {"boot-1.status": "0", "boot-1.xml": junit(5, skipped=5)},
        {"boot-1.status": "5", "boot-1.xml": junit(0)},
        {"boot-1.status": "137"},
    ],
    ids=["a failure", "nothing but skips", "no test", "pytest was killed"],
)
def test_a_machine_that_got_there_and_did_not_pass(tmp_path: Path, files: dict[str, str]) -> None:
    found = results.read(image(tmp_path, {"status": "complete", **files}), 1)
    assert (found.status, found.passed) == ("complete", False)


def test_a_second_boot_that_never_came_is_no_pass(tmp_path: Path) -> None:
    files = {"status": "complete", "boot-1.status": "0", "boot-1.xml": junit(1)}
    assert not results.read(image(tmp_path, files), 2).passed


def test_a_disk_of_zeros_is_a_machine_that_never_got_there(tmp_path: Path) -> None:
    path = tmp_path / "results.raw"
    path.write_bytes(bytes(1 << 20))
    assert (results.read(path, 1).status, results.read(path, 1).passed) == ("", False)


def test_what_is_kept_can_be_read_afterwards(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("hello")
    found = results.read(image(tmp_path, {"status": "complete", "boot-1.status": "0", "boot-1.xml": junit(1), "journal.txt": "line"}), 1)
    results.keep(found, tmp_path / "kept", "unified", tmp_path / "console.log")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["unified-1.xml", "unified-console.log", "unified-journal.txt"]


def test_the_disk_is_made_anew_when_what_it_is_made_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = disk.key()
    assert disk.key() == before
    monkeypatch.setattr(disk, "PACKAGES", (*disk.PACKAGES, "vim"))
    assert disk.key() != before


def test_a_parcel_that_can_not_be_made_is_neither_a_failed_test_nor_a_skip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_index(*_: object) -> None:
        raise subprocess.CalledProcessError(1, "pip", "no such host")

    monkeypatch.setattr("sys.argv", ["scripts/vm", "--cache", str(tmp_path)])
    monkeypatch.setattr(machines.disk, "ready", lambda cache, say: disk.Disk(tmp_path / "a", tmp_path / "b", tmp_path / "c"))
    monkeypatch.setattr(machines.parcel, "write", no_index)
    former = signal.getsignal(signal.SIGTERM)
    try:
        assert machines.main() == machines.NEVER_GOT_THERE
    finally:
        signal.signal(signal.SIGTERM, former)
    assert "no such host" in capsys.readouterr().out


class Clock:
    """Stands for the module `time`: a sleep takes as long as the next of `steps` says, then `end` is called."""

    def __init__(self, steps: list[float], end: Callable[[], None]) -> None:
        self._steps, self._end, self._now = steps, end, 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        if not self._steps:
            self._end()
            return
        self._now += self._steps.pop(0)


@pytest.mark.parametrize(
    ("stopped", "steps", "ended"),
    [(False, [0.2, 3600.0, 0.2], True), (True, [1.0] * 100, True), (False, [1.0] * 100, False)],
    ids=["the host was asleep", "the machine was stopped", "the machine takes too long"],
)
def test_a_machines_time_runs_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped: bool, steps: list[float], ended: bool
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        if stopped:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

        def end() -> None:
            process.kill()
            process.wait()

        monkeypatch.setattr(qemu, "time", Clock(steps, end))
        machine = qemu.Machine(process, tmp_path / "console", tmp_path / "progress")
        assert machine.wait(60, lambda line: None) is ended


def test_a_host_without_kvm_emulates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    nowhere = disk.Disk(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert qemu.accelerator(nowhere, tmp_path) == "tcg"
