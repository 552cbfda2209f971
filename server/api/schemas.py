"""The shapes of the REST interface, for the OpenAPI document (JSON Schema 2020-12), with the limits that hold here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sandbox.settings import Settings
from server.events.configs import LONGEST_TTL_SECONDS, MOST_RETRIES, SHORTEST_TTL_SECONDS, TARGETS
from server.functions.checks import (
    MAX_DESCRIPTION,
    MAX_INIT_TIMEOUT_SECONDS,
    MAX_LAYER_VERSION,
    MEMORY_STEP_MB,
    RESERVED_PREFIXES,
    SMALLEST_MEMORY_MB,
)
from server.functions.concurrency import MOST_MB
from server.functions.layerchecks import MAX_LICENSE, MAX_RUNTIMES
from server.functions.routing import MAX_RULES
from server.keys.model import SCOPES

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}
BASE64: Final[Schema] = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
TEXT: Final[Schema] = {"type": "string", "pattern": "^[^\\u0000]*$"}
NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]$"}
LAYER_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$"}
LAYER_VERSION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_LAYER_VERSION}
LAYER_RUNTIME: Final[Schema] = {
    "type": "string",
    "pattern": "^([Pp][Yy][Tt][Hh][Oo][Nn][23](\\.[0-9]{1,2})?|(Nodejs|Php|Go|Java)[0-9]{1,2}(\\.[0-9]{1,2})?|CustomRuntime|CustomImage)$",
    "examples": ["Python3.9"],
}

VERSION: Final[Schema] = {"type": "string", "pattern": "^([1-9][0-9]{0,8}|\\$LATEST)$"}
ALIAS: Final[Schema] = {"type": "string", "pattern": "^([A-Za-z][A-Za-z0-9_-]{0,63}|\\$DEFAULT)$"}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def listing(key: str, name: str) -> Schema:
    """`{key: [name, …]}`."""
    return _object({key: {"type": "array", "items": reference(name)}}, required=[key])


def nullable(schema: Schema) -> Schema:
    kinds: Schema = {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema:
        kinds["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    if "enum" in schema:
        kinds["enum"] = [*schema["enum"], None]
    return kinds


def _object(properties: Mapping[str, Schema], required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": dict(properties), **({"required": required} if required else {})}


def _between(low: int, high: int, description: str) -> Schema:
    return {**INTEGER, "minimum": low, "maximum": high, "description": description}


def configuration(settings: Settings) -> dict[str, Schema]:
    """A function's fields as requests give them. What cannot be said here: the environment's size, that the handler's file is there."""
    return {
        "runtime": {
            **STRING,
            "pattern": "^[Pp][Yy][Tt][Hh][Oo][Nn][23](\\.[0-9]{1,2})?$",
            "description": "Python2.7, Python3.6 … or python3: the default image's",
            "examples": ["python3"],
        },
        "handler": {
            **STRING,
            "pattern": "^[A-Za-z0-9_./-]{1,128}\\.[A-Za-z_][A-Za-z0-9_]{0,127}$",
            "description": "file.function",
            "examples": ["index.main_handler"],
        },
        "memory": {
            **_between(SMALLEST_MEMORY_MB, settings.limit_memory_mb, f"MB: {SMALLEST_MEMORY_MB}, or steps of {MEMORY_STEP_MB}"),
            "anyOf": [{"const": SMALLEST_MEMORY_MB}, {"multipleOf": MEMORY_STEP_MB}],
        },
        "timeout": _between(1, settings.limit_timeout_seconds, "seconds a call may run"),
        "init_timeout": _between(3, MAX_INIT_TIMEOUT_SECONDS, "seconds the code may take to load"),
        "concurrency": _between(1, settings.limit_concurrency, "calls at once; one more is refused with 429"),
        "tmp": _between(1, settings.limit_tmp_mb, "MB of /tmp"),
        "environment": {
            "type": "object",
            "description": f"names and values together at most {settings.limit_environment_bytes} bytes",
            "propertyNames": {"pattern": f"^(?!{'|'.join(RESERVED_PREFIXES)})[a-zA-Z][a-zA-Z0-9_]*$"},
            "additionalProperties": TEXT,
        },
        "network": {"type": "string", "enum": ["none", "nat"]},
        "layers": {
            "type": "array",
            "items": {**reference("LayerUse"), "description": "of the same namespace"},
            "maxItems": settings.limit_function_layers,
            "uniqueItems": True,
            "description": "merged at /opt in this order, later ones win; code and layers unpack to at most "
            f"{settings.limit_unpacked_bytes} bytes",
        },
        "description": {**TEXT, "maxLength": MAX_DESCRIPTION},
    }


def schemas(settings: Settings) -> dict[str, Schema]:
    """All shapes by name."""
    fields = configuration(settings)
    optional = {name: nullable(schema) for name, schema in fields.items() if name not in ("runtime", "handler")}
    code = {**_object({"zip": {**BASE64, "description": "a zip file"}}, ["zip"]), "additionalProperties": False}
    triggers = nullable({"type": "array", "items": reference("TriggerCreation"), "maxItems": settings.limit_triggers_at_creation})
    creation = {"name": NAME, **fields, **optional, "code": reference("Code"), "triggers": triggers}
    beside = {"handler": nullable(fields["handler"]), "configuration": {"anyOf": [reference("FunctionChange"), {"type": "null"}]}}
    alias = {
        "version": VERSION,
        "description": nullable(fields["description"]),
        "routing": {"anyOf": [reference("Routing"), {"type": "null"}]},
    }
    return {
        "Code": code,
        "CodeUpdate": {
            "description": "The zip, or the object of a creation; handler and configuration change with it, at once, where they are given",
            "anyOf": [
                {**_object({"zip": BASE64, **beside}, ["zip"]), "additionalProperties": False},
                {**_object({"code": reference("Code"), **beside}, ["code"]), "additionalProperties": False},
            ],
        },
        "FunctionCreation": {**_object(creation, ["name", "runtime", "handler", "code"]), "additionalProperties": False},
        "LayerPublication": {
            **_object(
                {
                    "runtimes": {"type": "array", "items": LAYER_RUNTIME, "minItems": 1, "maxItems": MAX_RUNTIMES},
                    "code": reference("Code"),
                    "description": nullable(fields["description"]),
                    "license": nullable({**TEXT, "maxLength": MAX_LICENSE}),
                },
                ["runtimes", "code"],
            ),
            "additionalProperties": False,
        },
        "KeyCreation": {
            **_object(
                {
                    "scope": nullable({**STRING, "enum": list(SCOPES)}),
                    "namespace": nullable({**NAME, "description": "the only one it is good for; null: all"}),
                    "description": nullable({**STRING, "pattern": "^[ -~]*$", "maxLength": MAX_DESCRIPTION}),
                }
            ),
            "additionalProperties": False,
        },
        "FunctionChange": {**_object(fields), "additionalProperties": False},
        "VersionCreation": {**_object({"description": nullable(fields["description"])}), "additionalProperties": False},
        "Routing": ROUTING,
        "AliasCreation": {**_object({"name": ALIAS, **alias}, ["name", "version"]), "additionalProperties": False},
        "AliasChange": {**_object({**alias, "version": nullable(VERSION)}), "additionalProperties": False},
        "NamespaceCreation": {
            **_object({"name": NAME, "description": nullable(fields["description"])}, ["name"]),
            "additionalProperties": False,
        },
        "NamespaceChange": {**_object({"description": nullable(fields["description"])}), "additionalProperties": False},
        "Reservation": {**_object({"reserved_mb": _between(0, MOST_MB, "MB; 0 shuts the function off")}, ["reserved_mb"]), **CLOSED},
        "Total": {**_object({"namespace": NAME, "total_mb": _between(1, settings.limit_total_mb, "MB")}, ["total_mb"]), **CLOSED},
        "Provisioning": {
            **_object({"number": _provisioned(settings), "schedule": nullable(_schedule(settings))}, ["number"]),
            **CLOSED,
        },
        "EventConfigChange": {**_object(_event_config(settings)), "additionalProperties": False},
        "TriggerCreation": {
            **_object({"name": TRIGGER_NAME, "type": TRIGGER_TYPE, "config": TIMER, **_TRIGGER}, ["name", "type", "config"]),
            "additionalProperties": False,
        },
        "SourceCreation": {
            **_object({"name": SOURCE_NAME, "description": nullable({**TEXT, "maxLength": MAX_DESCRIPTION})}, ["name"]),
            **CLOSED,
        },
        "TriggerChange": {**_object({"config": TIMER, **_TRIGGER}), "additionalProperties": False},
        **ANSWERS,
    }


CLOSED: Final[Schema] = {"additionalProperties": False}


def _provisioned(settings: Settings) -> Schema:
    return _between(0, settings.limit_provisioned, "workers started, loaded and kept")


def _schedule(settings: Settings) -> Schema:
    """What cannot be said here: that two actions have two names, and which cron expressions there are."""
    action = {
        "name": {**STRING, "pattern": "^[A-Za-z0-9_-]{1,60}$"},
        "number": _provisioned(settings),
        "cron": {
            **STRING,
            "description": "second minute hour day month weekday year, in the setting timer_zone",
            "examples": ["0 0 9 * * MON-FRI *"],
        },
    }
    return {
        "type": "array",
        "items": {**_object(action, ["name", "number", "cron"]), **CLOSED},
        "maxItems": settings.limit_provisioned_actions,
        "description": "each action sets the number at its times, until the next action",
    }


SOURCE_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,59}$"}
TRIGGER_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"}
#: A timer's, as an example: other types of triggers have configurations of their own (docs/http-triggers.md).
TRIGGER_TYPE: Final[Schema] = {"type": "string", "enum": ["cos", "directory", "http", "timer"]}
TIMER: Final[Schema] = {
    "description": "Of a timer; docs/buckets.md, docs/outside-events.md and docs/http-triggers.md have the other types'",
    "type": "object",
    "properties": {
        "cron": {**STRING, "description": "second minute hour day month week year, or without the year, or minute hour day month week"},
        "argument": {**nullable(TEXT), "description": "the event's Message"},
        "zone": {**nullable(STRING), "description": "a time zone; null: the setting timer_zone"},
    },
    "examples": [{"cron": "0 */5 * * * * *", "argument": "hello"}],
}
_TRIGGER: Final[dict[str, Schema]] = {
    "qualifier": nullable({"type": "string", "pattern": "^(\\$LATEST|\\$DEFAULT|[A-Za-z0-9][A-Za-z0-9_-]{0,63})$"}),
    "enabled": nullable({"type": "boolean"}),
    "description": nullable({**TEXT, "maxLength": MAX_DESCRIPTION}),
}
_TARGET: Final[Schema] = {
    "type": ["object", "null"],
    "properties": {
        "type": {"type": "string", "enum": list(TARGETS)},
        "target": {**nullable(STRING), "description": "a file's name, a URL, a function's name"},
    },
    "required": ["type"],
    "additionalProperties": False,
}


def _event_config(settings: Settings) -> dict[str, Schema]:
    shortest = min(SHORTEST_TTL_SECONDS, settings.event_ttl_seconds)
    return {
        "retries": nullable(_between(0, MOST_RETRIES, "further attempts after an error of the function")),
        "ttl": nullable(_between(shortest, LONGEST_TTL_SECONDS, "seconds an event may wait")),
        "dead_letter": _TARGET,
    }


#: As answers give it: what was true when the function was made, whatever the limits are now.
_CONFIGURATION: Final[dict[str, Schema]] = {
    "runtime": STRING,
    "handler": STRING,
    "memory": {**INTEGER, "description": "MB"},
    "timeout": {**INTEGER, "description": "seconds"},
    "init_timeout": {**INTEGER, "description": "seconds"},
    "concurrency": INTEGER,
    "tmp": {**INTEGER, "description": "MB"},
    "environment": {"type": "object", "additionalProperties": STRING},
    "network": {"type": "string", "enum": ["none", "nat"]},
    "layers": {"type": "array", "items": reference("LayerUse")},
    "description": STRING,
}

_RANGE: Final = "^(\\(-?[0-9]{1,18},-?[0-9]{1,18}\\)|\\[-?[0-9]{1,18},-?[0-9]{1,18}\\])$"


def _rule(method: str, expression: Schema) -> Schema:
    key = {**STRING, "pattern": "^invoke\\.headers\\.[^\\u0000]{1,1000}$"}
    parts = {"version": VERSION, "key": key, "method": {"const": method}, "expression": expression}
    return {**_object(parts, list(parts)), "additionalProperties": False}


#: The matches come first, in their order; what they leave is spread by weight.
ROUTING: Final[Schema] = {
    **_object(
        {
            "weights": {
                "type": ["array", "null"],
                "maxItems": 1,
                "description": "an additional version and its share of the calls",
                "items": {
                    **_object({"version": VERSION, "weight": {**NUMBER, "minimum": 0, "maximum": 1}}, ["version", "weight"]),
                    "additionalProperties": False,
                },
            },
            "matches": {
                "type": ["array", "null"],
                "maxItems": MAX_RULES,
                "description": "rules on the call's X-Scf-Routing-Key",
                "items": {
                    "anyOf": [
                        _rule("exact", {**TEXT, "minLength": 1, "maxLength": 1024, "description": "the value"}),
                        _rule(
                            "range", {**STRING, "pattern": _RANGE, "description": "whole numbers: (a,b) without its ends, [a,b] with them"}
                        ),
                    ]
                },
            },
        }
    ),
    "additionalProperties": False,
}

_KEY: Final[dict[str, Schema]] = {
    "secret_id": STRING,
    "scope": {"type": "string", "enum": list(SCOPES)},
    "namespace": nullable(STRING),
    "description": STRING,
    "created_at": TIME,
}

ANSWERS: Final[dict[str, Schema]] = {
    "Function": _object(
        {
            "name": NAME,
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
    "Alias": _object(
        {
            "name": ALIAS,
            "version": VERSION,
            "description": STRING,
            "routing": reference("Routing"),
            "created_at": TIME,
            "updated_at": TIME,
        }
    ),
    "Namespace": _object({"name": NAME, "description": STRING, "created_at": TIME, "updated_at": TIME}),
    "LayerUse": {**_object({"name": LAYER_NAME, "version": LAYER_VERSION}, ["name", "version"]), "additionalProperties": False},
    "LayerVersion": _object(
        {
            "name": LAYER_NAME,
            "namespace": STRING,
            "version": INTEGER,
            "runtimes": {"type": "array", "items": STRING},
            "description": STRING,
            "license": STRING,
            "code_size": {**INTEGER, "description": "bytes of the zip"},
            "code_sha256": {**STRING, "description": "of the zip"},
            "unpacked_size": {**INTEGER, "description": "bytes of its files"},
            "state": STRING,
            "created_at": TIME,
        }
    ),
    "Key": _object(_KEY),
    "NewKey": _object({**_KEY, "secret_key": STRING}, ["secret_id", "secret_key"]),
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
            "source": {**STRING, "description": "of an event: what made it: client, timer, resend, dead-letter …"},
            "hops": {**INTEGER, "description": "of an event: how many events led to it"},
            "due_at": {**nullable(TIME), "description": "of a waiting event: when its next attempt may begin"},
        }
    ),
    "Concurrency": _object(
        {
            "function": NAME,
            "namespace": NAME,
            "reserved_mb": {**nullable(INTEGER), "description": "the function's own share; null: none, it uses the unreserved part"},
            "total_mb": {**INTEGER, "description": "the namespace's"},
            "unreserved_mb": {**INTEGER, "description": "what functions without a reservation share"},
        },
        ["reserved_mb", "total_mb", "unreserved_mb"],
    ),
    "Provisioned": _object(
        {
            "function": NAME,
            "namespace": NAME,
            "version": STRING,
            "number": {**INTEGER, "description": "as configured"},
            "schedule": {"type": "array", "items": {"type": "object"}},
            "allocated": {**INTEGER, "description": "wanted now, by number and schedule"},
            "available": {**INTEGER, "description": "started, loaded and alive"},
            "status": {"type": "string", "enum": ["done", "in_progress", "failed"]},
            "reason": {**STRING, "description": "why the last start failed"},
            "updated_at": nullable(TIME),
        },
        ["number", "schedule", "allocated", "available", "status", "reason"],
    ),
    "Account": _object(
        {
            "namespaces": {"type": "array", "items": {"type": "object"}},
            "total_mb": INTEGER,
            "reserved_mb": INTEGER,
            "provisioned_mb": INTEGER,
            "limits": {"type": "object"},
        },
        ["namespaces", "total_mb", "reserved_mb", "provisioned_mb", "limits"],
    ),
    "EventConfig": _object({"retries": INTEGER, "ttl": INTEGER, "dead_letter": _TARGET}, ["retries", "ttl", "dead_letter"]),
    "DeadLetter": _object(
        {
            **dict.fromkeys(("request_id", "function", "namespace", "qualifier", "source"), STRING),
            "trigger": nullable(STRING),
            "state": {"type": "string", "enum": ["failed", "expired"]},
            "status": {**INTEGER, "description": "SCF's status of the last attempt"},
            "error": {"type": "object"},
            "retries": {**INTEGER, "description": "attempts that failed, the first not counted"},
            "event_bytes": INTEGER,
            "event": {**STRING, "description": "the event as JSON text, in a description of one letter"},
            "created_at": TIME,
            "died_at": TIME,
            "dead_letter": _TARGET,
            "delivery": {"type": "string", "enum": ["none", "pending", "delivered", "failed"]},
        }
    ),
    "Trigger": _object(
        {
            **dict.fromkeys(("name", "type", "function", "namespace", "qualifier", "description"), STRING),
            "config": {"type": "object"},
            "enabled": {"type": "boolean"},
            "next_at": {**nullable(TIME), "description": "when it fires next, where that is known"},
            "created_at": TIME,
            "updated_at": TIME,
        }
    ),
    "Source": _object({"name": STRING, "description": STRING, "path": STRING, "created_at": TIME}),
    "NewSource": _object(
        {"name": STRING, "description": STRING, "path": STRING, "created_at": TIME, "secret": STRING},
        ["name", "secret", "path"],
    ),
    "Notification": {
        "description": "An S3 event message, a test event, or nothing at all",
        "type": "object",
        "properties": {"Records": {"type": "array", "items": {"type": "object"}}},
        "examples": [
            {
                "Records": [
                    {
                        "eventName": "s3:ObjectCreated:Put",
                        "eventTime": "2026-11-25T08:00:00Z",
                        "s3": {"bucket": {"name": "photos"}, "object": {"key": "in/a.jpg", "size": 3, "sequencer": "17"}},
                    }
                ]
            }
        ],
    },
    "Receipt": _object(
        {
            "records": {**INTEGER, "description": "records in the body"},
            "ignored": {**INTEGER, "description": "of them: those that no trigger waits for"},
            "request_ids": {"type": "array", "items": STRING, "description": "the events they made, now or when they first came"},
        },
        ["records", "ignored", "request_ids"],
    ),
    "Accepted": _object({"request_id": STRING}, ["request_id"]),
    "LogEntry": _object({"cursor": INTEGER, "request_id": STRING, "time": TIME, "status": INTEGER, "log": STRING}),
    "Sandbox": _object(
        {
            "id": STRING,
            "state": STRING,
            "namespace": STRING,
            "function": nullable(STRING),
            "version": STRING,
            "image": STRING,
            "runtime": STRING,
            "network": STRING,
            "memory_bytes": INTEGER,
        }
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
