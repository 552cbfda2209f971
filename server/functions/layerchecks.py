"""What a client may say about a layer, and about the layers of a function."""

from __future__ import annotations

import re
from typing import Any, Final

from sandbox.settings import Settings
from server.errors import BadRequest, Unsupported
from server.functions.checks import Checks, checked_description, checked_fields, checked_text, shown
from server.functions.handlers import normalised_runtime

MAX_LICENSE: Final = 1000
MAX_RUNTIMES: Final = 20
PUBLICATION: Final = ("runtimes", "code", "description", "license")

#: Layers may be for runtimes that no function has here: those that SCF knows.
_OTHER_RUNTIME = re.compile(r"(nodejs|php|go|java)\d{1,2}(\.\d{1,2})?|customruntime|customimage", re.IGNORECASE | re.ASCII)
_LAYER_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?", re.ASCII)


def is_layer_name(value: str) -> bool:
    return _LAYER_NAME.fullmatch(value) is not None


def checked_layer_name(value: Any) -> str:
    """Raises BadRequest."""
    if isinstance(value, str) and is_layer_name(value):
        return value
    hint = "1 to 64 letters, digits, _ or -; a letter first, no _ or - last"
    raise BadRequest(f"name: {shown(value)} is not a valid name of a layer", field="name", hint=hint)


def declared_runtime(value: Any) -> str:
    """A runtime that a layer may be for, spelled as functions spell theirs. Raises BadRequest."""
    text = checked_text("runtimes", value)
    if _OTHER_RUNTIME.fullmatch(text):
        return text
    try:
        return normalised_runtime(text)
    except Unsupported as error:
        raise BadRequest(f"runtimes: {shown(value)} is not known", field="runtimes", code="invalid_runtime", hint=error.hint) from error


class LayerChecks:
    """The checks with this installation's limits."""

    def __init__(self, settings: Settings) -> None:
        self._checks = Checks(settings)

    def publication(self, payload: Any) -> tuple[dict[str, Any], bytes]:
        """(runtimes, description and license of a new version, its zip). null means not given. Raises BadRequest, PayloadTooLarge."""
        given = checked_fields(payload, PUBLICATION)
        for field in ("runtimes", "code"):
            if field not in given:
                raise BadRequest(f"{field} is missing", field=field, hint="a layer needs runtimes, code")
        facts = {
            "runtimes": _runtimes(given["runtimes"]),
            "description": checked_description(given.get("description", "")),
            "license": _license(given.get("license", "")),
        }
        return facts, self._checks.code(given["code"])


def _runtimes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RUNTIMES:
        raise BadRequest(f"runtimes: {shown(value)} is not a list of 1 to {MAX_RUNTIMES} runtimes", field="runtimes")
    return tuple(dict.fromkeys(declared_runtime(one) for one in value))


def _license(value: Any) -> str:
    text = checked_text("license", value)
    if len(text) > MAX_LICENSE:
        raise BadRequest(f"license: {len(text)} characters, limit {MAX_LICENSE}", field="license")
    return text
