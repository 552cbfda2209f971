"""A function as data: what the database keeps, what REST shows, what a sandbox must know."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import orjson
from sqlalchemy import RowMapping

from sandbox.spec import FunctionSpec, Network
from server.store.times import rfc3339

LATEST: Final = "$LATEST"
DEFAULT_ALIAS: Final = "$DEFAULT"
DEFAULT_NAMESPACE: Final = "default"
#: Changes are whole when they are answered: there is no other.
STATE: Final = "Active"


#: The one of SCF's extras that means something here.
ASYNC_RUN: Final = "AsyncRunEnable"
#: What a version has of its own, of its function, or in a column of its own.
_NOT_FROZEN: Final = frozenset(
    (
        "namespace",
        "name",
        "function_id",
        "generation",
        "concurrency",
        "description",
        "code",
        "created_at",
        "updated_at",
        "version",
        "family",
    )
)


@dataclass(frozen=True, slots=True)
class LayerUse:
    """A layer's version as a function has it, whatever becomes of the version: `code` is its package's digest."""

    name: str
    version: int
    code: str
    unpacked_size: int
    runtimes: tuple[str, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LayerUse:
        return cls(**{**data, "runtimes": tuple(data["runtimes"])})


@dataclass(frozen=True, slots=True)
class Function:
    """One generation of one function, or a version of it: then `version` is its number and `family` the function's id.

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
    layers: tuple[LayerUse, ...]
    description: str
    code: str
    code_size: int
    created_at: float
    updated_at: float
    version: str = LATEST
    family: str = ""
    #: What SCF's clients configure besides, by SCF's names; shown to them alone. `always_asynchronous` alone is acted on.
    scf: dict[str, Any] = field(default_factory=dict)

    @property
    def always_asynchronous(self) -> bool:
        """SCF's AsyncRunEnable: every call is queued and answered with its id at once, and is not tried again when it fails."""
        return self.scf.get(ASYNC_RUN) == "TRUE"

    def to_json(self) -> dict[str, Any]:
        """REST's shape; `code_sha256` is the zip's."""
        shown = asdict(self)
        shown["code_sha256"] = shown.pop("code")
        del shown["family"], shown["scf"]
        return shown | {
            "layers": [{"name": use.name, "version": use.version} for use in self.layers],
            "state": STATE,
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
            layers=tuple(use.code for use in self.layers),
            network=self.network,
            family=self.family,
        )

    def to_row(self) -> dict[str, Any]:
        """The columns of the table `functions`."""
        row = asdict(self)
        del row["version"], row["family"]  # a row of this table is always $LATEST
        return row | {"environment": _text(self.environment), "layers": _text(row["layers"]), "scf": _text(self.scf)}

    def frozen(self, number: int, description: str | None, created_at: float) -> dict[str, Any]:
        """The columns of the table `versions` for a version that is published of this function now; its id is new."""
        configuration = {key: value for key, value in asdict(self).items() if key not in _NOT_FROZEN}
        return {
            "version_id": str(uuid.uuid4()),
            "function_id": self.function_id,
            "number": number,
            "description": self.description if description is None else description,
            "code": self.code,
            "configuration": _text(configuration),
            "created_at": created_at,
        }

    def version_from_row(self, row: RowMapping) -> Function:
        """A version of this function. How many calls may run at once is the function's to say: the limit counts all of them together."""
        known = {field.name for field in fields(Function)} - _NOT_FROZEN
        frozen = {key: value for key, value in orjson.loads(row["configuration"]).items() if key in known}
        return Function(
            **{**frozen, "layers": _layers(frozen["layers"])},
            namespace=self.namespace,
            name=self.name,
            function_id=row["version_id"],
            generation=1,
            concurrency=self.concurrency,
            description=row["description"],
            code=row["code"],
            created_at=row["created_at"],
            updated_at=row["created_at"],
            version=str(row["number"]),
            family=self.function_id,
        )

    @classmethod
    def from_row(cls, row: RowMapping) -> Function:
        return cls(
            **{key: row[key] for key in _COLUMNS},
            environment=orjson.loads(row["environment"]),
            layers=_layers(orjson.loads(row["layers"])),
            scf=orjson.loads(row["scf"]),
        )


#: Columns that are taken as they are.
_COLUMNS: Final = {field.name for field in fields(Function)} - {"version", "family", "environment", "layers", "scf"}


def _layers(bound: list[dict[str, Any]]) -> tuple[LayerUse, ...]:
    return tuple(LayerUse.from_json(use) for use in bound)


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
