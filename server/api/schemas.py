"""The shapes of the REST interface, for the OpenAPI document (JSON Schema 2020-12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}
BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64"}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def listing(key: str, name: str) -> Schema:
    """`{key: [name, …]}`."""
    return _object({key: {"type": "array", "items": reference(name)}}, required=[key])


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: Mapping[str, Schema], required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": dict(properties), **({"required": required} if required else {})}


_CONFIGURATION: Final[dict[str, Schema]] = {
    "runtime": {**STRING, "description": "Python2.7, Python3.6 … or python3: the default image's", "examples": ["python3"]},
    "handler": {**STRING, "description": "file.function", "examples": ["index.main_handler"]},
    "memory": {**INTEGER, "description": "MB: 64, or 128 and more in steps of 128"},
    "timeout": {**INTEGER, "description": "seconds a call may run"},
    "init_timeout": {**INTEGER, "description": "seconds the code may take to load"},
    "concurrency": {**INTEGER, "description": "calls at once; one more is refused with 429"},
    "tmp": {**INTEGER, "description": "MB of /tmp"},
    "environment": {"type": "object", "additionalProperties": STRING},
    "network": {"type": "string", "enum": ["none", "nat"]},
    "layers": {"type": "array", "items": STRING},
    "description": STRING,
}
_CODE: Final = _object({"zip": {**BASE64, "description": "a zip file"}}, ["zip"])
_NAME: Final[Schema] = {**STRING, "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]$"}

SCHEMAS: Final[dict[str, Schema]] = {
    "Code": _CODE,
    "CodeUpdate": {
        "description": "The zip, or the object of a creation; handler changes with it where it is given",
        "anyOf": [
            _object({"zip": BASE64, "handler": STRING}, ["zip"]),
            _object({"code": reference("Code"), "handler": STRING}, ["code"]),
        ],
    },
    "FunctionCreation": {
        **_object(
            {"name": _NAME, **_CONFIGURATION, "code": reference("Code"), "triggers": {"type": "array", "maxItems": 0}},
            ["name", "runtime", "handler", "code"],
        ),
        "additionalProperties": False,
    },
    "FunctionChange": {**_object(_CONFIGURATION), "additionalProperties": False},
    "Function": _object(
        {
            "name": _NAME,
            "namespace": STRING,
            **_CONFIGURATION,
            "version": STRING,
            "function_id": {**STRING, "format": "uuid"},
            "generation": {**INTEGER, "description": "grows with every change"},
            "code_size": {**INTEGER, "description": "bytes of the zip"},
            "code_sha256": {**STRING, "description": "of the zip"},
            "state": STRING,
            "created_at": TIME,
            "updated_at": TIME,
            "served_by": {
                "type": ["object", "null"],
                "description": "in a description: image and runtime that serve it now, perhaps a newer minor; null where none does",
                "properties": {"image": STRING, "runtime": STRING},
            },
        }
    ),
    "Record": _object(
        {
            "request_id": STRING,
            "function": STRING,
            "namespace": STRING,
            "qualifier": STRING,
            "version": STRING,
            "type": {"type": "string", "enum": ["sync", "async"]},
            "trigger": nullable(STRING),
            "caused_by": nullable(STRING),
            "state": {"type": "string", "enum": ["queued", "running", "succeeded", "failed", "cancelled", "expired"]},
            "status": {**INTEGER, "description": "SCF's status: 200, 430, 433 …; 499 when the client left before the reply"},
            "result": ANYTHING,
            "error": ANYTHING,
            "start": {"type": ["string", "null"], "enum": ["cold", "warm", None]},
            "why_cold": nullable(STRING),
            "created_at": TIME,
            "started_at": nullable(TIME),
            "ended_at": nullable(TIME),
            "queue_ms": NUMBER,
            "start_ms": NUMBER,
            "run_ms": NUMBER,
            "billed_ms": INTEGER,
            "memory_bytes": INTEGER,
            "attempts": {"type": "array", "items": {"type": "object"}},
            "log": STRING,
            "runtime": {**STRING, "description": "the runtime that served it; absent where nothing ran"},
        }
    ),
    "LogEntry": _object({"cursor": INTEGER, "request_id": STRING, "time": TIME, "status": INTEGER, "log": STRING}),
    "Sandbox": _object(
        {"id": STRING, "state": STRING, "function": nullable(STRING), "image": STRING, "runtime": STRING, "memory_bytes": INTEGER}
    ),
    "Image": {"type": "object", "description": "an image's manifest"},
    "Usage": _object(
        {
            "namespace": STRING,
            "function": STRING,
            "day": {"type": "string", "format": "date"},
            "calls": INTEGER,
            "failures": INTEGER,
            "throttled": INTEGER,
            "gb_seconds": NUMBER,
            "billed_ms": INTEGER,
        }
    ),
    "FunctionError": _object(
        {
            "errorCode": INTEGER,
            "errorMessage": STRING,
            "requestId": STRING,
            "stackTrace": {**STRING, "description": "the function's own frames"},
            "statusCode": {**INTEGER, "description": "SCF's status"},
        },
        ["errorCode", "errorMessage", "requestId", "statusCode"],
    ),
    "Problem": _object(
        {
            "type": STRING,
            "title": STRING,
            "status": INTEGER,
            "detail": STRING,
            "code": {**STRING, "description": "stable, for programs"},
            "hint": STRING,
            "request_id": STRING,
            "scf_status": INTEGER,
        },
        ["type", "title", "status", "detail", "code"],
    ),
    "Health": _object({"status": STRING, "reasons": {"type": "array", "items": STRING}}, ["status"]),
}
