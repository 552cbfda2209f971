"""What sandboxd checks again of what the unprivileged API sends."""

from __future__ import annotations

import re
from typing import Any

from sandbox.errors import LaunchError
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

MAX_NAME = 512
MAX_REQUEST_ID = 64
MAX_HOPS = 1000
MAX_GENERATION = 1 << 53
MAX_QUOTA_MB = 1 << 40
MAX_PROVISIONED = 100_000
MAX_HOLD_SECONDS = 24 * 3600.0
_DIGEST = re.compile(r"[0-9a-z]{16,128}")
SPECS_KEPT = 4096


class CheckedSpecs:
    """`checked_spec` with a memory: a specification that comes again, equal in every field, is not looked at twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, tuple[dict[str, Any], FunctionSpec]] = {}

    def checked(self, data: Any) -> FunctionSpec:
        """Raises LaunchError as `checked_spec` does."""
        name = data.get("function_id") if isinstance(data, dict) else None
        known = self._known.get(name) if isinstance(name, str) else None
        if known is not None and known[0] == data:
            return known[1]
        spec = checked_spec(data, self._settings)
        if len(self._known) >= SPECS_KEPT:
            self._known.clear()
        self._known[spec.function_id] = (data, spec)
        return spec


def checked_spec(data: Any, settings: Settings) -> FunctionSpec:
    """A FunctionSpec within this instance's bounds. Raises LaunchError that names the field and the bound."""
    try:
        spec = FunctionSpec.from_json(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise LaunchError("request", f"specification: {error}") from error
    for name in ("function_id", "family", "name", "namespace", "version", "runtime", "handler", "code"):
        value = getattr(spec, name)
        if not isinstance(value, str) or not value or len(value) > MAX_NAME:
            raise LaunchError("request", f"specification: {name} is not a text of 1 to {MAX_NAME} characters")
    bounds = {
        "generation": (0, MAX_GENERATION),
        "memory_mb": (1, settings.limit_memory_mb),
        "tmp_mb": (1, settings.limit_tmp_mb),
        "timeout_seconds": (0.001, settings.limit_timeout_seconds),
        "init_timeout_seconds": (0.001, 300),
        "concurrency": (0, settings.limit_concurrency),
    }
    whole = ("generation", "memory_mb", "tmp_mb", "concurrency")
    for name, (low, high) in bounds.items():
        value = getattr(spec, name)
        if name in whole and not isinstance(value, int):
            raise LaunchError("request", f"specification: {name} {value!r} is not a whole number")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise LaunchError("request", f"specification: {name} {value!r} is not within {low} and {high}")
    for name, low, high in (("quota_epoch", 0, MAX_GENERATION), ("reserved_mb", 0, MAX_QUOTA_MB), ("unreserved_mb", 0, MAX_QUOTA_MB)):
        value = getattr(spec, name)
        if not (is_whole(value, low, high) or (value is None and name != "quota_epoch")):
            raise LaunchError("request", f"specification: {name} {value!r} is not a whole number within {low} and {high}")
    if spec.network not in ("none", "nat"):
        raise LaunchError("request", f"specification: network {spec.network!r} is neither none nor nat")
    if len(spec.layers) > settings.limit_function_layers:
        raise LaunchError("request", f"specification: {len(spec.layers)} layers, limit {settings.limit_function_layers}")
    for digest in (spec.code, *spec.layers):
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise LaunchError("request", "specification: a code digest is not 16 to 128 letters and digits")
    if not isinstance(spec.environment, dict) or any(
        not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value or "=" in key or not key
        for key, value in spec.environment.items()
    ):
        raise LaunchError("request", "specification: environment is not a table of text")
    # an exec takes it along in one message to the launcher, which must not be made longer than a message may be
    size = sum(len(key.encode()) + len(value.encode()) for key, value in spec.environment.items())
    if size > settings.limit_environment_bytes:
        raise LaunchError("request", f"specification: environment of {size} bytes, limit {settings.limit_environment_bytes}")
    return spec


def is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _text(message: dict[str, Any], field: str, *, shortest: int = 1) -> str:
    value = message.get(field)
    if not isinstance(value, str) or not shortest <= len(value) <= MAX_NAME:
        raise LaunchError("request", f"{message.get('op')}: {field} is not a text of {shortest} to {MAX_NAME} characters")
    return value


def _whole(message: dict[str, Any], field: str, high: int) -> int:
    value = message.get(field)
    if not is_whole(value, 0, high):
        raise LaunchError("request", f"{message.get('op')}: {field} is not a whole number within 0 and {high}")
    return int(value)  # type: ignore[arg-type]


def checked_quota(message: dict[str, Any]) -> tuple[str, int, str, bool]:
    """(namespace, epoch, family or "", whether it has a reservation) of a `quota`. Raises LaunchError."""
    is_reserved = message.get("is_reserved", False)
    if not isinstance(is_reserved, bool):
        raise LaunchError("request", "quota: is_reserved is neither true nor false")
    return _text(message, "namespace"), _whole(message, "epoch", MAX_GENERATION), _text(message, "family", shortest=0), is_reserved


def checked_demand(message: dict[str, Any]) -> tuple[str, int, int, float | None]:
    """(purpose, number, revision, seconds or None) of a `provision`. Raises LaunchError."""
    seconds = message.get("seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_HOLD_SECONDS):
        raise LaunchError("request", f"provision: seconds {seconds!r} is neither null nor within 0 and {MAX_HOLD_SECONDS:g}")
    number, revision = _whole(message, "number", MAX_PROVISIONED), _whole(message, "revision", MAX_GENERATION)
    return _text(message, "purpose"), number, revision, seconds


def checked_id(message: dict[str, Any]) -> str:
    """The function_id of a message. Raises LaunchError."""
    return _text(message, "function_id")


def checked_request_id(message: dict[str, Any]) -> str:
    """The request id of a call, "" where it is not said. Raises LaunchError: it is told to others again."""
    value = message.get("request_id", "")
    if not isinstance(value, str) or len(value) > MAX_REQUEST_ID:
        raise LaunchError("request", f"acquire: request_id is not a text of at most {MAX_REQUEST_ID} characters")
    return value


def checked_hops(message: dict[str, Any]) -> int:
    """How many calls lie behind an `acquire`'s, 0 where it is not said. Raises LaunchError."""
    return _whole(message, "hops", MAX_HOPS) if "hops" in message else 0


def checked_secret_id(message: dict[str, Any]) -> str:
    """The secret_id of a `credential`. Raises LaunchError."""
    return _text(message, "secret_id")


def checked_retirement(message: dict[str, Any]) -> tuple[str, int | None]:
    """(function_id, generation or None) of a `retire`. Raises LaunchError: what is kept of it is kept for as long as we live."""
    function_id, generation = checked_id(message), message.get("generation")
    if generation is not None and (type(generation) is not int or not 0 <= generation <= MAX_GENERATION):
        raise LaunchError("request", "retire: generation is neither null nor a whole number within bounds")
    return function_id, generation
