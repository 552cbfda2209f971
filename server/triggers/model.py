"""A trigger as data, and what a type of trigger must be able to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import orjson
from sqlalchemy import Connection, RowMapping

from sandbox.settings import Settings
from server.store.times import rfc3339


@dataclass(frozen=True, slots=True)
class Trigger:
    """`config` is its type's own, checked. `next_at`: when it fires next, seconds since the epoch; None for what doesn't know or is off."""

    trigger_id: str
    function_id: str
    namespace: str
    function: str
    name: str
    type: str
    config: dict[str, Any]
    qualifier: str
    enabled: bool
    description: str
    next_at: float | None
    created_at: float
    updated_at: float

    def to_json(self) -> dict[str, Any]:
        """REST's shape."""
        shown = asdict(self)
        for hidden in ("trigger_id", "function_id"):
            del shown[hidden]
        times = {name: rfc3339(shown[name]) for name in ("created_at", "updated_at")}
        return shown | times | {"next_at": None if self.next_at is None else rfc3339(self.next_at)}

    def to_row(self) -> dict[str, Any]:
        return asdict(self) | {"config": orjson.dumps(self.config).decode()}

    @classmethod
    def from_row(cls, row: RowMapping) -> Trigger:
        values = {field.name: row[field.name] for field in fields(cls)}
        return cls(**{**values, "config": orjson.loads(values["config"])})


class Kind(Protocol):
    """One type of trigger. A branch that adds one adds an instance to `kinds.kinds`."""

    name: str
    #: Whether a function's version or alias has at most one of it.
    one_per_qualifier: bool

    def limit(self, settings: Settings) -> int:
        """How many of it a function may have."""

    def checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Its configuration, whole and normalised. Raises BadRequest."""

    def next_at(self, config: Mapping[str, Any], after: float) -> float | None:
        """When it fires first after a moment; None for a type that something else makes fire."""

    def admit(self, connection: Connection, config: Mapping[str, Any], trigger_id: str) -> None:
        """Raises Conflict where another trigger than `trigger_id` rules it out. In the transaction that stores it."""

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        """Its configuration as clients see it: with what is not stored but follows from it."""
