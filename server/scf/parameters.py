"""An action's parameters, however they came: a JSON object, or a flat query or form that is folded up first.

    Filters.0.Name=a&Filters.0.Values.0=b   ─▶   {"Filters": [{"Name": "a", "Values": ["b"]}]}

Flat ones are all text, so each is coerced when it is read as what it must be; in JSON a number is a number. Unknown ones are never
looked at, as SCF does. Every reader raises ScfError for what is not of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from server.api.parameters import parsed
from server.errors import BadRequest
from server.scf.errors import ScfError

MAX_FLAT: Final = 2000
MAX_DEPTH: Final = 12
_TRUE: Final = ("true", "1")
_FALSE: Final = ("false", "0", "")
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?", re.ASCII)


class Parameters:
    """Read by name. null means not given. `path` is where this object lies, for messages."""

    def __init__(self, values: Mapping[str, Any], *, flat: bool = False, path: str = "") -> None:
        self._values, self._flat, self._path = values, flat, path

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def raw(self, name: str) -> Any:
        return self._values.get(name)

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise self._missing(name)
        return value

    def integer(self, name: str, default: int = 0) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, str) and self._flat and value.isascii() and len(value) <= 20:
            digits = value.removeprefix("-")
            value = int(value) if digits.isdecimal() else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "an integer")
        return value

    def required_integer(self, name: str) -> int:
        if name not in self or (self._flat and self._values[name] == ""):
            raise self._missing(name)
        return self.integer(name)

    def numeral(self, name: str, default: int = 0) -> int:
        """A whole number that SCF's model has as a string; one that comes as a number is as good."""
        return Parameters(self._values, flat=True, path=self._path).integer(name, default)

    def number(self, name: str) -> int | float:
        """Required."""
        value = self._values.get(name)
        if value is None:
            raise self._missing(name)
        if isinstance(value, str) and self._flat and _NUMBER.fullmatch(value):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(name, "a number")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean, or SCF's "TRUE" | "FALSE"; Python's str(True) too."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            return value.lower() in _TRUE
        raise self._wrong(name, "TRUE or FALSE")

    def object(self, name: str) -> Parameters | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object")
        return Parameters(value, flat=self._flat, path=f"{self._path}{name}.")

    def objects(self, name: str) -> list[Parameters]:
        return [
            Parameters(item, flat=self._flat, path=f"{self._path}{name}.{at}.")
            for at, item in enumerate(self._list(name))
            if isinstance(item, Mapping) or self._refuse(name, "a list of objects")
        ]

    def texts(self, name: str) -> list[str]:
        return [item for item in self._list(name) if isinstance(item, str) or self._refuse(name, "a list of strings")]

    def _list(self, name: str) -> list[Any]:
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def _missing(self, name: str) -> ScfError:
        return ScfError("MissingParameter", f"the request is missing the required parameter `{self._path}{name}`")

    def _refuse(self, name: str, kind: str) -> bool:
        raise self._wrong(name, kind)

    def _wrong(self, name: str, kind: str) -> ScfError:
        return ScfError("InvalidParameter", f"the parameter `{self._path}{name}` is not {kind}")


def read_flat(text: str | bytes) -> dict[str, str]:
    """The pairs of a query or a form; the last of a name counts. Raises ScfError."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        pairs = parse_qsl(decoded, keep_blank_values=True, errors="strict", max_num_fields=MAX_FLAT)
    except (UnicodeDecodeError, ValueError) as error:
        raise ScfError("InvalidParameter", "the query or form is not url-encoded UTF-8, or has too many fields") from error
    return dict(pairs)


def unflatten(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Fold dotted names up; an object whose names are 0, 1, 2 … is a list. Raises ScfError."""
    root: dict[str, Any] = {}
    for name, value in pairs.items():
        *outer, last = name.split(".")
        if len(outer) >= MAX_DEPTH:
            raise ScfError("InvalidParameter", "a parameter's name is too deep")
        place = root
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise _both(name)
        if isinstance(place.get(last), dict):
            raise _both(name)
        place[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _both(name: str) -> ScfError:
    return ScfError("InvalidParameter", f"the parameter {name[:80]!a} is a value and an object")


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(item) for name, item in value.items()}
    # By number, not by the order in which they came.
    indices = [str(at) for at in range(len(inner))]
    return [inner[at] for at in indices] if inner.keys() == set(indices) else inner


def read_json(body: bytes) -> dict[str, Any]:
    """Raises ScfError."""
    try:
        given = parsed(body) if body.strip() else {}
    except BadRequest as error:
        raise ScfError("InvalidParameter", error.detail) from error
    if not isinstance(given, dict):
        raise ScfError("InvalidParameter", "the body is not a JSON object")
    return given
