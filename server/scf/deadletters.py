"""SCF's DeadLetterConfig over the targets that there are here.

    queue, CMQ-QUEUE    keeps messages until somebody takes them: the file Name.jsonl in the state directory's dead-letters
    topic, CMQ-TOPIC    hands each message to who subscribed to it: the function Name, in the function's own namespace

A URL can only be given by the operator (`hearth events config`): a pair that is good for one namespace must not make this server call
addresses of its choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.events.model import EventSettings
from server.functions.service import UNCHANGED

FIELD: Final = "DeadLetterConfig"
TARGETS: Final[Mapping[str, str]] = {"CMQ-TOPIC": "function", "CMQ-QUEUE": "file", "topic": "function", "queue": "file"}
_NAMES: Final = {"none": "", "file": "queue", "function": "topic", "url": "topic"}


def target_of(extras: Mapping[str, Any]) -> Any:
    """The service's `dead_letter` of a checked configuration: a target, None for an empty one, UNCHANGED where none is given."""
    if FIELD not in extras:
        return UNCHANGED
    given = extras[FIELD]
    return {"type": TARGETS[given["Type"]], "target": given["Name"]} if given["Type"] else None


def shown(given: Mapping[str, Any], settings: EventSettings) -> dict[str, Any]:
    """Model DeadLetterConfig: as it was `given` while that holds, else what holds in the same words."""
    kind, name = given.get("Type", ""), given.get("Name", "")
    if (TARGETS.get(kind, "none"), name) == (settings.target_type, settings.target):
        return dict(given)
    return {"Type": _NAMES[settings.target_type], "Name": settings.target, "FilterType": ""}
