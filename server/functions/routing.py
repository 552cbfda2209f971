"""How an alias spreads its calls over versions: rules on the caller's routing key first, then one additional version by weight.

SCF's RoutingConfig. A routing key is what the caller says of the call, a JSON object of strings; a rule's key `invoke.headers.NAME` is the
value that it has under NAME. Everything here is pure: the choice needs no database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import orjson

from server.errors import BadRequest
from server.functions.checks import checked_fields, checked_text, shown

Method = Literal["exact", "range"]

KEY_PREFIX: Final = "invoke.headers."
MAX_ROUTING_KEY_BYTES: Final = 1024
MAX_RULES: Final = 10
_RANGE = re.compile(r"(?:\(\s*(-?\d{1,18})\s*,\s*(-?\d{1,18})\s*\)|\[\s*(-?\d{1,18})\s*,\s*(-?\d{1,18})\s*\])", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)

RoutingKey = Mapping[str, str]
NO_KEY: Final[RoutingKey] = {}


def no_key() -> RoutingKey:
    """Of a call that gives none: always the same."""
    return NO_KEY


@dataclass(frozen=True, slots=True)
class Match:
    """A rule: calls go to `version` whose routing key has under `name` the `expression` (exact), or an integer within it (range).

    `low` and `high` are a range's first and last.
    """

    version: str
    name: str
    method: Method
    expression: str
    low: int = 0
    high: int = 0

    def holds(self, key: RoutingKey) -> bool:
        value = key.get(self.name)
        if value is None or self.method == "exact":
            return value == self.expression
        return _INTEGER.fullmatch(value) is not None and self.low <= int(value) <= self.high

    def to_json(self) -> dict[str, str]:
        return {"version": self.version, "key": KEY_PREFIX + self.name, "method": self.method, "expression": self.expression}


@dataclass(frozen=True, slots=True)
class Routing:
    """`weights` has at most one additional version and its share of the calls, from 0 to 1."""

    weights: tuple[tuple[str, float], ...] = ()
    matches: tuple[Match, ...] = ()

    @property
    def versions(self) -> set[str]:
        return {version for version, _ in self.weights} | {match.version for match in self.matches}

    def choose(self, main: str, key: RoutingKey, draw: float) -> str:
        """The version of one call; `draw` is random, from 0 to below 1."""
        for match in self.matches:
            if match.holds(key):
                return match.version
        for version, weight in self.weights:
            if draw < weight:
                return version
        return main

    def without(self, version: str) -> Routing:
        """What is left of it when that version is gone."""
        return Routing(
            tuple(weight for weight in self.weights if weight[0] != version),
            tuple(match for match in self.matches if match.version != version),
        )

    def to_json(self) -> dict[str, Any]:
        weights = [{"version": version, "weight": weight} for version, weight in self.weights]
        return {"weights": weights, "matches": [match.to_json() for match in self.matches]}


def checked_routing(value: Any) -> Routing:
    """From `{weights: [{version, weight}], matches: [{version, key, method, expression}]}`. Raises BadRequest."""
    given = checked_fields(value, ("weights", "matches"), "routing")
    weights = [_weight(item) for item in _list("weights", given.get("weights", []))]
    matches = [_match(item) for item in _list("matches", given.get("matches", []))]
    if len(weights) > 1:
        raise BadRequest(f"routing.weights: {len(weights)} additional versions, there may be one", field="routing.weights")
    if len(matches) > MAX_RULES:
        raise BadRequest(f"routing.matches: {len(matches)} rules, limit {MAX_RULES}", field="routing.matches")
    return Routing(tuple(weights), tuple(matches))


def checked_routing_key(text: str | None) -> RoutingKey:
    """A call's routing key from its JSON text; None is an empty one. Raises BadRequest."""
    if text is None:
        return NO_KEY
    if len(text.encode(errors="surrogatepass")) > MAX_ROUTING_KEY_BYTES:
        raise _wrong_key(f"longer than {MAX_ROUTING_KEY_BYTES} bytes")
    try:
        key = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _wrong_key("not JSON") from None
    if not isinstance(key, dict) or not all(isinstance(item, str) for item in key.values()):
        raise _wrong_key("not an object of strings")
    return key


def _wrong_key(why: str) -> BadRequest:
    # 436: SCF's InvalidParameterValue for what a call asks for
    return BadRequest(
        f"the routing key is {why}", field="X-Scf-Routing-Key", code="invalid_routing_key", hint='{"user": "7"}', scf_status=436
    )


def _list(field: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"routing.{field}: {shown(value)} is not a list", field=f"routing.{field}")
    return value


def _item(field: str, value: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    given = checked_fields(value, parts, f"routing.{field}")
    if lacking := [part for part in parts if part not in given]:
        raise BadRequest(f"routing.{field}: {lacking[0]} is missing", field=f"routing.{field}")
    return given


def _weight(value: Any) -> tuple[str, float]:
    given = _item("weights", value, ("version", "weight"))
    weight = given["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or not 0 <= weight <= 1:
        raise BadRequest(f"routing.weights: {shown(weight)} is not a number from 0 to 1", field="routing.weights")
    return checked_text("routing.weights", given["version"]), float(weight)


def _match(value: Any) -> Match:
    parts = ("version", "key", "method", "expression")
    given = _item("matches", value, parts)
    version, key, method, expression = (checked_text(f"routing.matches.{part}", given[part]) for part in parts)
    if not key.startswith(KEY_PREFIX) or key == KEY_PREFIX or len(key) > MAX_ROUTING_KEY_BYTES:
        raise BadRequest(f"routing.matches: the key {shown(key)} is not {KEY_PREFIX}NAME", field="routing.matches.key")
    if method not in get_args(Method):
        raise BadRequest(f"routing.matches: the method {shown(method)} is neither exact nor range", field="routing.matches.method")
    if not expression or len(expression) > MAX_ROUTING_KEY_BYTES:
        raise BadRequest("routing.matches: the expression is empty or too long", field="routing.matches.expression")
    low, high = _bounds(expression) if method == "range" else (0, 0)
    return Match(version, key.removeprefix(KEY_PREFIX), "range" if method == "range" else "exact", expression, low, high)


def _bounds(expression: str) -> tuple[int, int]:
    """Of `(a,b)` or `[a,b]`, both as they are included."""
    found = _RANGE.fullmatch(expression)
    if found is None:
        raise BadRequest(
            f"routing.matches: {shown(expression)} is no range", field="routing.matches.expression", hint="(a,b) or [a,b], whole numbers"
        )
    above, below, low, high = found.groups()
    first, last = (int(above) + 1, int(below) - 1) if above is not None else (int(low), int(high))
    if first > last:
        raise BadRequest(f"routing.matches: no whole number is in {shown(expression)}", field="routing.matches.expression")
    return first, last
