"""What a call needs (FunctionSpec) and what it gives back (Reply), as plain data.

Both cross process borders: the API fills a FunctionSpec from its database, sandboxd checks every field again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from sandbox.errors import InvocationFailed

Network = Literal["none", "nat"]

#: A function that sets one of these is started by exec: the loader and the interpreter read them only then.
EXEC_ENVIRONMENT_PREFIXES = ("LD_", "PYTHON", "MALLOC_", "GLIBC_TUNABLES")


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One generation of one function or of one of its versions: everything a sandbox must know to serve it.

    `function_id` is never reused, `generation` grows with every change of code or configuration. A published version has an id of
    its own, so that no change of `$LATEST` touches its workers; `family` is the id of the function to which it belongs (given empty, it
    is the function's own), and the concurrency limit counts by it.
    `code` is the digest of a directory in the code store; `layers` are digests, merged at /opt in order.
    `runtime` as SCF spells it, case-insensitive ("Python3.6", "python3"). Sizes in MB, times in seconds.

    `family` is the id of the function whose versions are counted together; empty: its own. `reserved_mb` is the family's private share of
    its namespace's memory (None: it has none), `unreserved_mb` what the functions without one share (None: no bound of the namespace's).
    Both are as of `quota_epoch`, which grows with every change of a quota in the namespace.
    """

    function_id: str
    generation: int
    name: str
    namespace: str
    version: str
    runtime: str
    handler: str
    code: str
    memory_mb: int = 128
    tmp_mb: int = 512
    timeout_seconds: float = 3
    init_timeout_seconds: float = 65
    concurrency: int = 20
    environment: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    network: Network = "nat"
    family: str = ""
    quota_epoch: int = 0
    reserved_mb: int | None = None
    unreserved_mb: int | None = None

    def __post_init__(self) -> None:
        if self.family == "":
            object.__setattr__(self, "family", self.function_id)  # a frozen one's own way to finish itself

    @property
    def needs_exec(self) -> bool:
        """Whether the environment changes how an interpreter starts, so that a fork cannot serve it."""
        return any(key.startswith(EXEC_ENVIRONMENT_PREFIXES) for key in self.environment)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FunctionSpec:
        """Rebuild from `to_json`; unknown keys are refused with TypeError."""
        known = {f.name for f in fields(cls)}
        if unknown := set(data) - known:
            raise TypeError(f"unknown field {sorted(unknown)[0]!r} in a function's specification")
        return cls(**{**data, "layers": tuple(data.get("layers", ()))})


@dataclass(slots=True)
class Reply:
    """What one admitted call came to.

    `error` is None on success and then `body` is the return value as JSON text. Times are milliseconds, `started_at` and
    `ended_at` seconds since the epoch; `start_ms` is everything before the event was handed over (making or thawing a
    sandbox, loading the handler), `run_ms` from the event to the result. `log` is what the function wrote, at most
    `log_limit_bytes` and a marker where it was cut.
    """

    request_id: str
    start: Literal["cold", "warm"]
    why_cold: str
    body: bytes
    error: InvocationFailed | None
    log: bytes
    started_at: float
    ended_at: float
    start_ms: float
    run_ms: float
    memory_bytes: int
    sandbox: str
    runtime: str
    tree_dead: bool
