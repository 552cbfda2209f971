"""The words for what a sandbox is doing, and which may follow which."""

from __future__ import annotations

from typing import Final

CREATING: Final = "creating"
PREPARED: Final = "prepared"
SPECIALISING: Final = "specialising"
LEASED: Final = "leased"
IDLE: Final = "idle"
FROZEN: Final = "frozen"
CLOSING: Final = "closing"
CLOSED: Final = "closed"

FOLLOWS: Final[dict[str, frozenset[str]]] = {
    CREATING: frozenset({PREPARED, CLOSING}),
    PREPARED: frozenset({SPECIALISING, CLOSING}),
    SPECIALISING: frozenset({LEASED, CLOSING}),
    LEASED: frozenset({IDLE, CLOSING}),
    IDLE: frozenset({LEASED, FROZEN, CLOSING}),
    FROZEN: frozenset({LEASED, CLOSING}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}
