"""A layer's version as data, and looking one up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, select

from server.errors import LayerNotFound, LayerVersionNotFound
from server.functions.checks import MAX_LAYER_VERSION, is_name, shown
from server.functions.layerchecks import is_layer_name
from server.store.tables import layer_versions as table
from server.store.times import rfc3339


@dataclass(frozen=True, slots=True)
class LayerVersion:
    """Never changed once it is there. `code` is the digest of its package, `code_size` the zip's bytes, `unpacked_size` its files'."""

    namespace: str
    name: str
    version: int
    runtimes: tuple[str, ...]
    description: str
    license: str
    code: str
    code_size: int
    unpacked_size: int
    created_at: float

    def to_json(self) -> dict[str, Any]:
        """REST's shape; `code_sha256` is the zip's."""
        shown = asdict(self)
        shown["code_sha256"] = shown.pop("code")
        return shown | {"runtimes": list(self.runtimes), "state": "Active", "created_at": rfc3339(self.created_at)}

    def to_row(self) -> dict[str, Any]:
        return asdict(self) | {"runtimes": orjson.dumps(self.runtimes).decode()}

    @classmethod
    def from_row(cls, row: RowMapping) -> LayerVersion:
        return cls(**{**row, "runtimes": tuple(orjson.loads(row["runtimes"]))})


def find_version(connection: Connection, namespace: str, name: str, version: int) -> LayerVersion:
    """Raises LayerNotFound, LayerVersionNotFound."""
    if not (is_layer_name(name) and is_name(namespace)):
        raise missing_layer(name)  # nothing a database should be asked for
    layer = select(table).where(table.c.namespace == namespace, table.c.name == name)
    if 0 < version <= MAX_LAYER_VERSION and (row := connection.execute(layer.where(table.c.version == version)).mappings().first()):
        return LayerVersion.from_row(row)
    if connection.execute(layer.limit(1)).first() is None:
        raise missing_layer(name)
    raise LayerVersionNotFound(f"layer {name} has no version {version}", hint=f"GET /v1/layers/{name}/versions lists what there is")


def missing_layer(name: str) -> LayerNotFound:
    return LayerNotFound(f"no layer {shown(name)}", hint="GET /v1/layers lists what there is")
