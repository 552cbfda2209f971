"""What the doctor finds, as data: guarantees that hold or don't, and what is left of instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "weaker", "missing", "later"]


@dataclass(frozen=True, slots=True)
class Check:
    """One guarantee. `needs` is what it rests on, `found` what is here, `without` what is weaker where the state is not "ok".

    ok       as promised
    weaker   usable, something less good; no failure
    missing  promised and not here: the doctor fails
    later    a later release has it, whatever the host offers; no failure
    """

    group: str
    name: str
    needs: str
    state: State
    found: str
    without: str = ""

    @property
    def failed(self) -> bool:
        return self.state == "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """Things of one kind that belong to an instance: in use by the living one, or leaked."""

    instance: str
    kind: str
    items: tuple[str, ...]
    leaked: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. `fixed` says what `--fix` did, or could not do, line by line."""

    instance: str
    home: str
    running: bool
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    fixed: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        return sum(check.failed for check in self.checks)

    @property
    def leaked(self) -> int:
        return sum(len(finding.items) for finding in self.findings if finding.leaked)

    @property
    def ok(self) -> bool:
        return not self.missing and not self.leaked


def judged(group: str, name: str, needs: str, *, holds: bool, found: str, without: str, required: bool = True) -> Check:
    """A check whose state follows from one truth; `without` is kept only where it is wanted."""
    state: State = "ok" if holds else "missing" if required else "weaker"
    return Check(group, name, needs, state, found, "" if holds else without)


def reason_of(look: Callable[[], object]) -> str:
    """Empty when `look` went well, else why not."""
    try:
        look()
    except OSError as error:
        return error.strerror or str(error)
    return ""
