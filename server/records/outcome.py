"""What a call came to, in plain values: all that the HTTP worker has to put together on the way of a reply.

The record's shape (times as text, its one attempt, JSON) is made where records are written, in another process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from server.records.model import DEFAULTS

LATEST = DEFAULTS["version"]
SUCCESS = DEFAULTS["status"]


class Outcome(NamedTuple):
    """A call that ran once, or that was refused: then everything from `result` on is left out.

    `status` is SCF's as the record shows it (499: the client had left), `call_status` how the call itself ended; times in seconds since
    the epoch, durations in milliseconds; `memory_mb` is the function's own limit; `caused_by` the request id of the
    call that made this one, or ""; `error` {"code", "message"[, "stack_trace"]}.
    """

    request_id: str
    function: str
    namespace: str
    qualifier: str
    version: str
    memory_mb: int
    caused_by: str
    status: int
    call_status: int
    created_at: float
    ended_at: float
    error: dict[str, str] | None
    result: bytes | None = None
    start: str | None = None
    why_cold: str | None = None
    started_at: float | None = None
    start_ms: float = 0
    run_ms: float = 0
    billed_ms: int = 0
    memory_bytes: int = 0
    sandbox: str = ""
    runtime: str = ""
    log: bytes = b""
    trigger: str = ""

    def to_record(self) -> dict[str, Any]:
        """The record (`model.InvocationRecord`) without keys that mostly have their default.

        That is half of its text, and so of what a call costs the disk.
        """
        record: dict[str, Any] = {
            "request_id": self.request_id,
            "function": self.function,
            "namespace": self.namespace,
            "created_at": self.created_at,
            "ended_at": self.ended_at,
        }
        if self.qualifier != LATEST or self.version != LATEST:
            record |= {"qualifier": self.qualifier, "version": self.version}
        if self.trigger:
            record["trigger"] = self.trigger
        if self.caused_by:
            record["caused_by"] = self.caused_by
        if self.status != SUCCESS or self.error is not None:
            record |= {"status": self.status, "state": "succeeded" if self.error is None else "failed", "error": self.error}
        return record if self.start is None else self._ran(record)

    def _ran(self, record: dict[str, Any]) -> dict[str, Any]:
        record |= {
            "result": self.result,
            "start": self.start,
            "started_at": self.started_at,
            "start_ms": self.start_ms,
            "run_ms": self.run_ms,
            "billed_ms": self.billed_ms,
            "memory_bytes": self.memory_bytes,
            "runtime": self.runtime,
            "attempts": [
                {
                    "number": 1,
                    "status": self.call_status,
                    "start": self.start,
                    "start_ms": self.start_ms,
                    "run_ms": self.run_ms,
                    "sandbox": self.sandbox,
                }
            ],
            "log": self.log,
        }
        if self.why_cold:
            record["why_cold"] = self.why_cold
        return record
