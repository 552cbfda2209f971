"""Publishing, listing and deleting layers. Blocking: the API calls it through a thread.

A layer is a name in a namespace with versions 1, 2, 3 …, each a package of its own that never changes. A number is never given twice, not
even when all versions of a name are gone. Functions bind versions (`bindings`); what is bound goes on working when its version is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Select, delete, func, insert, select, tuple_, update

from sandbox.settings import Settings
from server.errors import LimitExceeded
from server.functions.codestore import CodeStore
from server.functions.collection import collect_unused
from server.functions.handlers import runs_on
from server.functions.layerchecks import LayerChecks, checked_layer_name, declared_runtime, is_layer_name
from server.functions.layerrows import LayerVersion, find_version, missing_layer
from server.functions.model import Function
from server.functions.namespaces import require_namespace
from server.store.engine import next_numbers, writing
from server.store.tables import LAYERS_COUNTER, layers
from server.store.tables import layer_versions as table


class Layers:
    """All layers of one installation. Methods raise `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, codestore: CodeStore) -> None:
        self._engine = engine
        self._settings = settings
        self._code = codestore
        self._checks = LayerChecks(settings)

    def publish(self, name: str, payload: Any, namespace: str = "default") -> LayerVersion:
        """The layer's next version from `{"runtimes", "code": {"zip"}, "description", "license"}`.

        Raises BadRequest, PayloadTooLarge, LimitExceeded.
        """
        checked_layer_name(name)
        facts, data = self._checks.publication(payload)
        with self._engine.connect() as connection:
            self._check_room(connection, namespace, name)
        digest = self._code.put_zip(data)
        unpacked_size = self._code.unpacked_bytes(digest)
        with writing(self._engine) as connection:
            next_numbers(connection, LAYERS_COUNTER)  # one publication at a time: numbers in order, and no limit passed together
            self._check_room(connection, namespace, name)
            number = _next_version(connection, namespace, name)
            version = LayerVersion(
                namespace=namespace,
                name=name,
                version=number,
                code=digest,
                code_size=len(data),
                unpacked_size=unpacked_size,
                created_at=time.time(),
                **facts,
            )
            connection.execute(insert(table).values(version.to_row()))
        return version

    def list(
        self, namespace: str = "default", *, runtimes: Sequence[str] = (), search: str = "", offset: int = 0, limit: int | None = None
    ) -> tuple[int, Sequence[LayerVersion]]:
        """How many layers there are, and `limit` of them from `offset` on, by name: each by its latest version.

        With `runtimes` those that have a version for one of them, each by the latest of these; `search` is part of the name, letters'
        case aside. Raises BadRequest.
        """
        latest: dict[str, LayerVersion] = {}
        for version in self._read(_in_namespace(namespace).order_by(table.c.version.desc()), runtimes):
            if search.lower() in version.name.lower():
                latest.setdefault(version.name, version)
        found = [latest[name] for name in sorted(latest)]  # databases differ in how they sort texts
        return len(found), found[offset:][:limit]

    def versions(self, name: str, namespace: str = "default", *, runtimes: Sequence[str] = ()) -> Sequence[LayerVersion]:
        """A layer's versions, the latest first; with `runtimes` those that are for one of them. Raises LayerNotFound, BadRequest."""
        query = _in_namespace(namespace).where(table.c.name == name).order_by(table.c.version.desc())
        if not is_layer_name(name) or not (found := self._read(query)):
            raise missing_layer(name)
        return _suitable(found, runtimes)

    def get(self, name: str, version: int, namespace: str = "default") -> LayerVersion:
        """Raises LayerNotFound, LayerVersionNotFound."""
        with self._engine.connect() as connection:
            return find_version(connection, namespace, name, version)

    def of_function(self, function: Function) -> Sequence[LayerVersion | None]:
        """The versions that it has, in its order; None for one that was deleted since."""
        pairs = [(use.name, use.version) for use in function.layers]
        wanted = _in_namespace(function.namespace).where(tuple_(table.c.name, table.c.version).in_(pairs))
        found = {(version.name, version.version): version for version in self._read(wanted)} if pairs else {}
        return [found.get(pair) for pair in pairs]

    def content(self, name: str, version: int, namespace: str = "default") -> bytes:
        """The zip as it was published. Raises LayerNotFound, LayerVersionNotFound."""
        return self._code.read_zip(self.get(name, version, namespace).code)

    def delete(self, name: str, version: int, namespace: str = "default") -> None:
        """Functions that have it keep it, others can't get it any more. Raises LayerNotFound, LayerVersionNotFound."""
        found = self.get(name, version, namespace)
        same = (table.c.namespace == found.namespace) & (table.c.name == found.name) & (table.c.version == found.version)
        with writing(self._engine) as connection:
            if not connection.execute(delete(table).where(same)).rowcount:
                find_version(connection, namespace, name, version)  # another has just deleted it: this says so
        collect_unused(self._engine, self._code)

    def _read(self, query: Select[Any], runtimes: Sequence[str] = ()) -> Sequence[LayerVersion]:
        with self._engine.connect() as connection:
            return _suitable([LayerVersion.from_row(row) for row in connection.execute(query).mappings()], runtimes)

    def _check_room(self, connection: Connection, namespace: str, name: str) -> None:
        require_namespace(connection, namespace)
        counts = select(table.c.name, func.count().label("versions")).where(table.c.namespace == namespace).group_by(table.c.name)
        versions: dict[str, int] = {row.name: row.versions for row in connection.execute(counts)}
        if versions.get(name, 0) >= (limit := self._settings.limit_layer_versions):
            raise LimitExceeded(
                f"layer {name} has {versions[name]} versions, limit {limit}",
                code="layer_versions_limit",
                hint="delete some that nobody uses",
            )
        if name not in versions and len(versions) >= (limit := self._settings.limit_layers):
            hint = "delete one, or raise the setting limit_layers"
            raise LimitExceeded(f"namespace {namespace} has {len(versions)} layers, limit {limit}", code="layers_limit", hint=hint)


def _in_namespace(namespace: str) -> Select[Any]:
    return select(table).where(table.c.namespace == namespace)


def _suitable(versions: Sequence[LayerVersion], runtimes: Sequence[str]) -> Sequence[LayerVersion]:
    wanted = [declared_runtime(runtime) for runtime in runtimes]
    return [version for version in versions if not wanted or any(runs_on(runtime, version.runtimes) for runtime in wanted)]


def _next_version(connection: Connection, namespace: str, name: str) -> int:
    this = (layers.c.namespace == namespace) & (layers.c.name == name)
    last = connection.execute(select(layers.c.last_version).where(this)).scalar_one_or_none()
    number = (last or 0) + 1
    if last is None:
        connection.execute(insert(layers).values(namespace=namespace, name=name, last_version=number))
    else:
        connection.execute(update(layers).where(this).values(last_version=number))
    return number
