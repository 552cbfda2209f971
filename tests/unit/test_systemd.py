"""The units: what systemd itself says of them, and what must agree between them, the scripts and the settings."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.settings import Settings
from tests.conftest import ROOT

UNITS = ROOT / "scripts" / "systemd"
PYTHON = "/opt/hearth/venv/bin/python"
UNPRIVILEGED = ("hearth-api.service", "hearth-dispatcher.service", "hearth-buckets.service")


def read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=["="], comment_prefixes=["#"])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.fixture
def copied(tmp_path: Path) -> list[str]:
    """The units with an interpreter that exists on this machine."""
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(PYTHON, sys.executable))
    return sorted(str(path) for path in tmp_path.iterdir())


@pytest.mark.requires("tool:systemd-analyze")
def test_systemd_finds_nothing_wrong_with_them(copied: list[str]) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *copied], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.requires("tool:systemd-analyze")
@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_what_faces_clients_is_hardened(name: str) -> None:
    # 5.0 and more is MEDIUM; OK begins below
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", "--threshold=49", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    granted = [row["name"] for row in json.loads(done.stdout) if row["set"] is False and "CAP_" in str(row["name"])]
    assert granted == []


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_the_unprivileged_are_alike_and_write_only_to_the_state_directory(name: str) -> None:
    service, api = dict(read(name)["Service"]), dict(read("hearth-api.service")["Service"])
    own = {"Type", "NotifyAccess", "ExecStart", "ExecReload", "TimeoutStopSec", "SyslogIdentifier", "EnvironmentFile"}
    assert {key: value for key, value in service.items() if key not in own} == {key: value for key, value in api.items() if key not in own}
    conf = Settings()
    assert service["User"] == conf.user
    assert service["ReadWritePaths"] == f"-{conf.state_dir}"
    # secrets only where a client's are checked: the dispatcher has none
    assert service.get("EnvironmentFile", "") == ("" if "dispatcher" in name else f"-{conf.home}/api.env")


def test_systemd_waits_longer_than_the_longest_call_and_than_gunicorn() -> None:
    assert int(read("hearth-api.service")["Service"]["TimeoutStopSec"]) > Settings().limit_timeout_seconds + 10


def test_the_runtime_has_a_subtree_of_its_own_and_a_watchdog() -> None:
    service = read("hearth-sandboxd.service")["Service"]
    assert (service["Delegate"], service["Type"], service["KillMode"], service["OOMPolicy"]) == ("yes", "notify", "mixed", "continue")
    assert int(service["WatchdogSec"]) > 0


def test_all_parts_stop_with_the_target_and_are_known_to_the_installer() -> None:
    parts = sorted(path.name for path in UNITS.iterdir() if path.name != "hearth.target")
    assert [name for name in parts if read(name)["Unit"]["PartOf"] != "hearth.target"] == []
    listed = re.search(r"^parts=\((.*)\)$", (ROOT / "scripts" / "install").read_text(), re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == parts


def test_the_socket_s_address_is_the_setting_s_default() -> None:
    assert read("hearth-api.socket")["Socket"]["ListenStream"] == Settings().listen


def test_every_module_that_a_unit_starts_exists_or_is_of_a_later_release() -> None:
    started = set(re.findall(rf"{PYTHON} -m ([\w.]+)", "".join(path.read_text() for path in UNITS.iterdir())))
    assert started == {"server.cli.system", "sandbox.launcher", "sandbox.daemon.sweep", "gunicorn", "server.events", "server.buckets"}
    own = {name for name in started if name.startswith(("server.cli", "sandbox."))}
    assert [name for name in own if importlib.util.find_spec(name) is None] == []


@pytest.mark.requires("tool:vagrant")
def test_the_vagrantfile_is_a_valid_one() -> None:
    done = subprocess.run(["vagrant", "validate", "--ignore-provider"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
