"""What one call needs of the database: the hot path's look, in one connection and as few statements as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.functions import quotas
from server.functions.aliases import Target, resolve


@dataclass(frozen=True, slots=True)
class Runnable:
    """What a qualifier means, and what an acquire carries for each of its versions, with the quotas that hold now."""

    target: Target
    specs: Mapping[str, FunctionSpec]


class Runnables:
    """Blocking."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    def look(self, name: str, namespace: str, qualifier: str) -> Runnable:
        """Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound, SQLAlchemyError."""
        with self._engine.connect() as connection:
            target = resolve(connection, name, namespace, qualifier)
            specs = {version: function.spec() for version, function in target.versions.items()}
            bounds = quotas.bounds(connection, namespace, specs[target.main].family, self._settings)
        return Runnable(target, {version: bounds.apply(spec) for version, spec in specs.items()})
