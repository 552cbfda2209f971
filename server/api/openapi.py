"""The OpenAPI document, made from what stands beside each responder: `@operation(...)` describes, `document` collects.

A responder without a description is an error at start, so path and document cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

from sandbox.settings import Settings
from server.api.auth import OPEN_PATHS
from server.api.schemas import LAYER_NAME, LAYER_VERSION, NAME, SOURCE_NAME, reference, schemas

METHODS: Final = ("get", "put", "post", "delete", "patch")
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
_ATTRIBUTE: Final = "__operation__"

Responder = TypeVar("Responder", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of query, header or path."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"

    def document(self) -> dict[str, Any]:
        required = {"required": True} if self.place == "path" else {}
        return {"name": self.name, "in": self.place, "description": self.description, "schema": dict(self.schema), **required}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: its media type and schema (a name of `schemas.SCHEMAS` or a schema), and its headers."""

    description: str
    schema: str | Mapping[str, Any] | None = None
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Further media types it may come in, with their schemas.
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"description": self.description}
        if self.headers:
            shown["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in self.headers.items()}
        if self.schema is not None:
            media = {self.media: self.schema, **self.also}
            shown["content"] = {name: {"schema": _schema(schema)} for name, schema in media.items()}
        return shown


@dataclass(frozen=True, slots=True)
class Operation:
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    bodies: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    body_required: bool = True


def problem(description: str, **headers: str) -> Answer:
    return Answer(description, "Problem", PROBLEM, {name.replace("_", "-"): text for name, text in headers.items()})


def operation(
    summary: str,
    tag: str,
    answers: Mapping[int, Answer],
    *,
    parameters: tuple[Parameter, ...] = (),
    bodies: Mapping[str, str | Mapping[str, Any]] | None = None,
    body_required: bool = True,
) -> Callable[[Responder], Responder]:
    """Describe a responder; it stays as it is."""

    def describe(responder: Responder) -> Responder:
        setattr(responder, _ATTRIBUTE, Operation(summary, tag, answers, parameters, bodies or {}, body_required))
        return responder

    return describe


#: What any request may be answered, by the server before an operation is looked at or when one fails.
COMMON: Final = {
    400: problem("Not a valid request of HTTP/1.1, or a parameter or field is wrong; `detail` names it"),
    408: problem("The request did not arrive whole in time"),
    414: problem("The request line is too long"),
    431: problem("The request's headers are too large"),
    500: problem("A fault of the server's"),
    503: problem("No room for another connection, or the database is away", Retry_After="seconds"),
}
_NAMES_OF_COMMON: Final = {status: f"Common{status}" for status in COMMON}


def document(routes: Mapping[str, object], settings: Settings) -> dict[str, Any]:
    """The whole document for `routes` (path template → resource), with the limits that `settings` has."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hearth",
            "version": _version(),
            "description": "Runs functions in sandboxes of its own making. Memory and tmp in MB, timeout in seconds, times RFC 3339 UTC. "
            "Below /_/{url-id}/ are the URLs of HTTP triggers: any method, any path, and each is what its function makes of it.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": {path: _path(path, resource) for path, resource in routes.items()},
        "components": {
            "schemas": schemas(settings),
            "responses": {_NAMES_OF_COMMON[status]: answer.document() for status, answer in COMMON.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(path: str, resource: object) -> dict[str, Any]:
    found = {method: getattr(resource, f"on_{method}", None) for method in METHODS}
    return {method: _operation(path, method, responder) for method, responder in found.items() if responder is not None}


def _operation(path: str, method: str, responder: Callable[..., Any]) -> dict[str, Any]:
    described: Operation | None = getattr(responder, _ATTRIBUTE, None)
    if described is None:
        raise TypeError(f"{method} {path} has no description")
    names = re.findall(r"{(\w+)}", path)
    parameters = [NAMES[name] for name in names] + list(described.parameters)
    answers = dict(described.answers)
    shown: dict[str, Any] = {
        "summary": described.summary,
        "operationId": "_".join([method, *re.findall(r"[a-z_]+", path.removeprefix("/v1"))]),
        "tags": [described.tag],
        "parameters": [parameter.document() for parameter in parameters],
    }
    if path in OPEN_PATHS:
        shown["security"] = []
    else:
        answers.setdefault(401, problem("No credential, or a wrong one", WWW_Authenticate="Bearer"))
    if described.bodies:
        content = {media: {"schema": _schema(schema)} for media, schema in described.bodies.items()}
        shown["requestBody"] = {"required": described.body_required, "content": content}
    responses = {status: {"$ref": f"#/components/responses/{name}"} for status, name in _NAMES_OF_COMMON.items()}
    responses |= {status: answer.document() for status, answer in answers.items()}
    return shown | {"responses": {str(status): responses[status] for status in sorted(responses)}}


NAMESPACE: Final = Parameter("namespace", "Whose they are", {**NAME, "default": "default"})

QUALIFIER: Final = Parameter("qualifier", "A version's number, an alias, $LATEST or $DEFAULT", {"type": "string", "default": "$LATEST"})

NAMES: Final = {
    "name": Parameter("name", "A function's name", NAME, "path"),
    "namespace": Parameter("namespace", "A namespace's name", NAME, "path"),
    "version": Parameter("version", "A version's number, or $LATEST", place="path"),
    "alias": Parameter("alias", "An alias's name", place="path"),
    "layer": Parameter("layer", "A layer's name", LAYER_NAME, "path"),
    "layer_version": Parameter("layer_version", "The number of a layer's version", LAYER_VERSION, "path"),
    "secret_id": Parameter("secret_id", "A secret pair's id", place="path"),
    "source": Parameter("source", "A source's name", SOURCE_NAME, "path"),
    "secret": Parameter("secret", "The source's secret", place="path"),
    "trigger": Parameter("trigger", "A trigger's name", place="path"),
    "request_id": Parameter("request_id", "A call's id, as X-Scf-Request-Id gave it", place="path"),
}


def _version() -> str:
    try:
        return version("hearth")
    except PackageNotFoundError:
        return "0"  # a checkout that was not installed


def _schema(schema: str | Mapping[str, Any]) -> dict[str, Any]:
    return reference(schema) if isinstance(schema, str) else dict(schema)
