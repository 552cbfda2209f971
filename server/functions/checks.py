"""Every check of what a client says about a function: one clear error that names the field, the value and the limit.

`Checks` has one function for each field; a new field is one entry there and one in CONFIGURATION. Values come out normalised.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.settings import Settings
from server.errors import BadRequest, PayloadTooLarge
from server.functions.handlers import normalised_runtime, split_handler

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]", re.ASCII)
_VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*", re.ASCII)
RESERVED_PREFIXES: Final = ("SCF_", "QCLOUD_", "TENCENTCLOUD_")
MAX_DESCRIPTION: Final = 1000
MAX_INIT_TIMEOUT_SECONDS: Final = 300
MAX_LAYER_VERSION: Final = 2**31 - 1
MEMORY_STEP_MB: Final = 128
SMALLEST_MEMORY_MB: Final = 64

#: What `create` takes and what `update` takes; `code` and `triggers` are looked at apart.
REQUIRED: Final = ("name", "runtime", "handler", "code")
CONFIGURATION: Final = (
    "runtime",
    "handler",
    "memory",
    "timeout",
    "init_timeout",
    "concurrency",
    "tmp",
    "environment",
    "network",
    "layers",
    "description",
)


def is_name(value: str) -> bool:
    """Whether a function or a namespace can have that name."""
    return _NAME.fullmatch(value) is not None


def checked_name(value: Any, field: str = "name") -> str:
    """A function's or namespace's name. Raises BadRequest."""
    if isinstance(value, str) and is_name(value):
        return value
    raise BadRequest(
        f"{field}: {shown(value)} is not a valid name",
        field=field,
        hint="2 to 60 letters, digits, _ or -; a letter first, no _ or - last",
    )


def checked_description(value: Any) -> str:
    """Raises BadRequest."""
    text = checked_text("description", value)
    if len(text) > MAX_DESCRIPTION:
        raise BadRequest(f"description: {len(text)} characters, limit {MAX_DESCRIPTION}", field="description")
    return text


def checked_fields(payload: Any, known: tuple[str, ...], what: str = "the body") -> dict[str, Any]:
    """The fields that an object gives, those with null left out. Raises BadRequest for what is no object and for unknown fields."""
    given = {key: value for key, value in _object(payload, what).items() if value is not None}
    _refuse_unknown(given, known)
    return given


def shown(value: Any) -> str:
    """A value for a message: short and printable."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Checks:
    """The checks with this installation's limits and defaults."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fields: dict[str, Callable[[Any], Any]] = {
            "runtime": self._runtime,
            "handler": self._handler,
            "memory": self._memory,
            "timeout": lambda value: checked_integer("timeout", value, 1, settings.limit_timeout_seconds),
            "init_timeout": lambda value: checked_integer("init_timeout", value, 3, MAX_INIT_TIMEOUT_SECONDS),
            "concurrency": lambda value: checked_integer("concurrency", value, 1, settings.limit_concurrency),
            "tmp": lambda value: checked_integer("tmp", value, 1, settings.limit_tmp_mb),
            "environment": self._environment,
            "network": self._network,
            "layers": self._layers,
            "description": checked_description,
        }
        #: Of the fields that a creation may leave out.
        self.defaults: dict[str, Any] = {
            "memory": settings.default_memory_mb,
            "timeout": settings.default_timeout_seconds,
            "init_timeout": settings.default_init_timeout_seconds,
            "concurrency": settings.default_concurrency,
            "tmp": settings.default_tmp_mb,
            "environment": {},
            "network": "nat",
            "layers": (),
            "description": "",
        }

    def creation(self, payload: Any) -> dict[str, Any]:
        """The configuration of a new function, whole; `name` with it, `code` and `triggers` not. null means not given."""
        given = {key: value for key, value in _object(payload).items() if value is not None}
        _refuse_unknown(given, (*CONFIGURATION, "name", "code", "triggers"))
        for field in REQUIRED:
            if field not in given:
                raise BadRequest(f"{field} is missing", field=field, hint=f"a function needs {', '.join(REQUIRED)}")
        return {"name": checked_name(given["name"]), **self.defaults, **self._checked(given)}

    def changes(self, payload: Any) -> dict[str, Any]:
        """The fields that an update gives."""
        given = _object(payload)
        if "code" in given:
            raise BadRequest("code can't be changed here", field="code", hint="PUT /v1/functions/{name}/code")
        for fixed in ("name", "namespace"):
            if fixed in given:
                raise BadRequest(f"{fixed} can't be changed", field=fixed, hint="create another function")
        _refuse_unknown(given, CONFIGURATION)
        return self._checked(given)

    def code(self, value: Any) -> bytes:
        """The zip of a `{"zip": base64}` object, or of one with the bytes, which is not JSON's: a facade has read them.

        Raises BadRequest, or PayloadTooLarge above `limit_code_bytes`.
        """
        if not isinstance(value, Mapping) or set(value) != {"zip"} or not isinstance(value["zip"], str | bytes):
            raise BadRequest('code is not an object {"zip": base64}', field="code")
        if isinstance(value["zip"], bytes):
            return self.code_bytes(value["zip"])
        text = value["zip"]
        if len(text) // 4 * 3 > self._settings.limit_code_bytes + 3:
            raise self._code_too_large(len(text) // 4 * 3)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(
                f"code.zip is not base64: {str(error).lower()}", field="code.zip", hint="the standard alphabet, padded, without line breaks"
            ) from error
        return self.code_bytes(data)

    def code_bytes(self, data: bytes) -> bytes:
        """A zip as it came over the wire."""
        if len(data) > self._settings.limit_code_bytes:
            raise self._code_too_large(len(data))
        return data

    def _code_too_large(self, size: int) -> PayloadTooLarge:
        limit = self._settings.limit_code_bytes
        return PayloadTooLarge(f"code package: {size} bytes, limit {limit}", code="code_too_large", hint="the setting limit_code_bytes")

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {field: check(given[field]) for field, check in self._fields.items() if field in given}

    def _runtime(self, value: Any) -> str:
        return normalised_runtime(checked_text("runtime", value))

    def _handler(self, value: Any) -> str:
        split_handler(checked_text("handler", value))
        return str(value)

    def _memory(self, value: Any) -> int:
        limit = self._settings.limit_memory_mb
        memory = checked_integer("memory", value, SMALLEST_MEMORY_MB, limit)
        if memory != SMALLEST_MEMORY_MB and memory % MEMORY_STEP_MB:
            raise BadRequest(
                f"memory: {memory} is not {SMALLEST_MEMORY_MB} or a multiple of {MEMORY_STEP_MB}",
                field="memory",
                hint=f"{SMALLEST_MEMORY_MB}, or {MEMORY_STEP_MB} to {limit} MB in steps of {MEMORY_STEP_MB}",
            )
        return memory

    def _environment(self, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise BadRequest(f"environment: {shown(value)} is not an object", field="environment", hint='{"KEY": "value"}')
        total = 0
        for key, text in value.items():
            total += len(_variable(key).encode()) + len(checked_text(f"environment.{key}", text).encode())
        if total > (limit := self._settings.limit_environment_bytes):
            raise BadRequest(f"environment: {total} bytes, limit {limit}", field="environment", code="environment_too_large")
        return dict(value)

    def _network(self, value: Any) -> str:
        if value not in ("none", "nat"):
            raise BadRequest(f"network: {shown(value)} is neither none nor nat", field="network")
        return str(value)

    def _layers(self, value: Any) -> tuple[tuple[str, int], ...]:
        """(name, version) in order; whether they exist, `bindings` finds out."""
        if not isinstance(value, list):
            raise BadRequest(f"layers: {shown(value)} is not a list", field="layers")
        if len(value) > (limit := self._settings.limit_function_layers):
            raise BadRequest(f"layers: {len(value)} of them, limit {limit}", field="layers", code="too_many_layers")
        found = tuple(_layer(item) for item in value)
        if len(set(found)) != len(found):
            raise BadRequest("layers: the same version is there more than once", field="layers")
        return found


def _layer(item: Any) -> tuple[str, int]:
    if not isinstance(item, Mapping) or set(item) != {"name", "version"} or not isinstance(item["name"], str):
        raise BadRequest(f"layers: {shown(item)} is not a layer's version", field="layers", hint='{"name": "numpy", "version": 1}')
    return item["name"], checked_integer("layers.version", item["version"], 1, MAX_LAYER_VERSION)


def _object(payload: Any, what: str = "the body") -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        raise BadRequest(f"{what} is not a JSON object but {shown(payload)}")
    return payload


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for field in given:
        if field not in known:
            raise BadRequest(f"unknown field {shown(field)}", field=str(field), hint=f"known are {', '.join(sorted(known))}")


def checked_text(field: str, value: Any) -> str:
    """A string that a process's environment, a file name and every database can hold."""
    if not isinstance(value, str):
        raise BadRequest(f"{field}: {shown(value)} is not a string", field=field)
    if "\0" in value:
        raise BadRequest(f"{field}: NUL in {shown(value)}", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{field}: half a surrogate pair in {shown(value)}", field=field) from None
    return value


def _variable(key: Any) -> str:
    if not isinstance(key, str) or not _VARIABLE.fullmatch(key):
        raise BadRequest(
            f"environment: {shown(key)} is not a variable's name", field="environment", hint="letters, digits, _; a letter first"
        )
    if key.startswith(RESERVED_PREFIXES):
        raise BadRequest(
            f"environment: {key} is reserved", field="environment", code="environment_reserved", hint=f"not {', '.join(RESERVED_PREFIXES)}"
        )
    return key


def checked_integer(field: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of numbers: 128.0 is 128
    # bool is a subclass of int: {"memory": true} is a mistake, not one megabyte.
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{field}: {shown(value)} is not a whole number", field=field, hint=f"{low} to {high}")
    if not low <= value <= high:
        raise BadRequest(f"{field}: {shown(value)} is out of range", field=field, hint=f"{low} to {high}")
    return value
