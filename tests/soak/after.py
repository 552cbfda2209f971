"""What must hold of an instance at rest after load or faults: everything on the host is somebody's, and `hearth doctor` agrees."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.integration.instance import HEARTH, Instance, wait_until
from tests.soak import victims

DESCRIPTORS_A_SANDBOX = 3
DESCRIPTORS_OF_ITS_OWN = 64


def doctor(environment: Mapping[str, str], *options: str) -> dict[str, Any]:
    """The JSON report of `hearth doctor`; its verdict is the exit status."""
    command = [str(HEARTH), "doctor", "--json", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if data["ok"] else 1), done.stderr
    return data


def strangers(hearth: Instance) -> list[str]:
    """What the host has of this instance and its runtime doesn't account for."""
    listed = hearth.request("GET", "/v1/sandboxes").body["sandboxes"]
    inits, workers = victims.init(hearth), victims.worker(hearth)
    found = []
    if len(inits) != len(listed) or len(workers) < len(inits):
        found.append(f"{len(inits)} inits and {len(workers)} workers in {len(listed)} sandboxes")
    found += [f"leased: {row}" for row in listed if row["state"] == "leased"]
    found += [f"zombie {text}" for text in victims.zombies(hearth)]
    for pid in victims.sandboxd(hearth):
        count, most = len(os.listdir(f"/proc/{pid}/fd")), DESCRIPTORS_OF_ITS_OWN + DESCRIPTORS_A_SANDBOX * len(listed)
        if count > most:
            found.append(f"{count} descriptors of sandboxd, {most} expected at most")
    return found


def assert_sound(hearth: Instance) -> None:
    """Comes to rest within seconds: the pool refills, the last dead are recycled."""
    last: list[str] = ["never looked"]

    def is_sound() -> bool:
        last[:] = strangers(hearth)
        return not last

    try:
        wait_until(is_sound, "nothing but what the runtime knows")
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None
    data = doctor(hearth.environment)
    leaks = [row for row in data["findings"] if row["leaked"] and row["instance"] == hearth.mark]
    assert (leaks, data["missing"], data["running"]) == ([], 0, True), data


def assert_gone(hearth: Instance) -> None:
    """After an orderly stop: nothing of it on the host, and `hearth doctor` agrees."""
    family = hearth.family()
    hearth.stop()
    hearth.assert_nothing_left(family)
    data = doctor(hearth.environment)
    assert [row for row in data["findings"] if row["instance"] == hearth.mark] == [], data["findings"]
    assert not data["running"]
