"""A function as data: what the database keeps, what REST shows, what a sandbox must know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import orjson
from sqlalchemy import RowMapping

from sandbox.spec import FunctionSpec, Network
from server.store.times import rfc3339

LATEST: Final = "$LATEST"
DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Function:
    """One generation of one function.

    `memory` and `tmp` in MB, `timeout` and `init_timeout` in seconds, `code` the digest of its package, `code_size` the zip's
    bytes, times in seconds since the epoch. `function_id` is never used twice, `generation` grows with every change.
    """

    namespace: str
    name: str
    function_id: str
    generation: int
    runtime: str
    handler: str
    memory: int
    timeout: int
    init_timeout: int
    concurrency: int
    tmp: int
    environment: dict[str, str]
    network: Network
    layers: tuple[str, ...]
    description: str
    code: str
    code_size: int
    created_at: float
    updated_at: float
    version: str = LATEST

    def to_json(self) -> dict[str, Any]:
        """REST's shape; `code_sha256` is the zip's."""
        shown = asdict(self)
        shown["code_sha256"] = shown.pop("code")
        return shown | {
            "layers": list(self.layers),
            "state": "Active",
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }

    def spec(self) -> FunctionSpec:
        """What an acquire carries."""
        return FunctionSpec(
            function_id=self.function_id,
            generation=self.generation,
            name=self.name,
            namespace=self.namespace,
            version=self.version,
            runtime=self.runtime,
            handler=self.handler,
            code=self.code,
            memory_mb=self.memory,
            tmp_mb=self.tmp,
            timeout_seconds=self.timeout,
            init_timeout_seconds=self.init_timeout,
            concurrency=self.concurrency,
            environment=dict(self.environment),
            layers=self.layers,
            network=self.network,
        )

    def to_row(self) -> dict[str, Any]:
        """The columns of the table `functions`."""
        row = asdict(self)
        del row["version"]  # a row of this table is always $LATEST
        return row | {"environment": _text(self.environment), "layers": _text(list(self.layers))}

    @classmethod
    def from_row(cls, row: RowMapping) -> Function:
        known = {field.name for field in fields(cls)} - {"version", "environment", "layers"}
        return cls(
            **{key: row[key] for key in known},
            environment=orjson.loads(row["environment"]),
            layers=tuple(orjson.loads(row["layers"])),
        )


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
