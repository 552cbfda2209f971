"""Sources: other stores that may send notifications. Each has a secret of its own, of which only the SHA-256 is kept. Blocking."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from server.errors import BadRequest, Conflict, NotFound
from server.functions.checks import MAX_DESCRIPTION, shown
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER, sources, triggers
from server.store.times import rfc3339
from server.triggers.kinds import OBJECT
from server.triggers.model import Trigger
from server.triggers.objects import SOURCE_NAME

PATH: Final = "/v1/notifications/"
MAX_SOURCES: Final = 1000
#: For a source that there is not: it takes as long to be refused.
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    description: str
    created_at: float

    def to_json(self) -> dict[str, Any]:
        path = f"{PATH}{self.name}"
        return {"name": self.name, "description": self.description, "path": path, "created_at": rfc3339(self.created_at)}


class Sources:
    """All of one installation."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock

    def create(self, payload: Any) -> tuple[Source, str]:
        """A source and its secret, which nobody can read again. Raises BadRequest, Conflict."""
        name, description = _checked(payload)
        source, secret = Source(name, description, self._clock()), new_secret()
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)  # one at a time with what makes triggers of it
            known = connection.execute(select(sources.c.name)).scalars().all()
            if name in known:
                raise Conflict(f"there is a source {name!r} already", code="source_exists", hint="give it another secret, or delete it")
            if len(known) >= MAX_SOURCES:
                raise Conflict(f"there are {MAX_SOURCES} sources, the limit", code="limit_exceeded", hint="delete one")
            values = {"name": name, "description": description, "digest": digest_of(secret), "created_at": source.created_at}
            connection.execute(insert(sources).values(values))
        return source, secret

    def renew(self, name: str) -> tuple[Source, str]:
        """Another secret; the old one is good for nothing from now on. Raises NotFound."""
        secret = new_secret()
        with writing(self._engine) as connection:
            source = _one(connection, name)
            connection.execute(update(sources).where(sources.c.name == name).values(digest=digest_of(secret)))
        return source, secret

    def list(self) -> list[Source]:
        """By name."""
        columns = sources.c
        query = select(columns.name, columns.description, columns.created_at).order_by(columns.name)
        with self._engine.connect() as connection:
            return [Source(*row) for row in connection.execute(query)]

    def delete(self, name: str) -> None:
        """Raises Conflict while triggers name it, NotFound."""
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)
            _one(connection, name)
            query = select(triggers).where(triggers.c.type == OBJECT)
            for trigger in (Trigger.from_row(row) for row in connection.execute(query).mappings()):
                if trigger.config.get("source") == name:
                    detail = f"trigger {trigger.name!r} of function {trigger.function} takes events of source {name}"
                    raise Conflict(detail, code="source_in_use", hint="remove that trigger first")
            connection.execute(delete(sources).where(sources.c.name == name))

    def exists(self, name: str) -> bool:
        return self._digest(name) is not None

    def admits(self, name: str, secret: bytes) -> bool:
        """Whether it is that source's secret."""
        digest = self._digest(name)
        return hmac.compare_digest(hashlib.sha256(secret).hexdigest(), digest or _NOBODY) and digest is not None

    def _digest(self, name: str) -> str | None:
        if SOURCE_NAME.fullmatch(name) is None:
            return None
        with self._engine.connect() as connection:
            return connection.execute(select(sources.c.digest).where(sources.c.name == name)).scalar_one_or_none()


def new_secret() -> str:
    """Letters, digits, - and _ alone: it may stand in a URL's path and as its user's password."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checked(payload: Any) -> tuple[str, str]:
    if not isinstance(payload, dict):
        raise BadRequest("a source is not a JSON object")
    if unknown := sorted(payload.keys() - {"name", "description"}):
        raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint="known are name, description")
    name, description = payload.get("name"), payload.get("description")
    if not isinstance(name, str) or re.fullmatch(SOURCE_NAME, name) is None:
        raise BadRequest(f"name: {shown(name)} is no source's name", field="name", hint="1 to 60 letters, digits, _ or -, a letter first")
    description = "" if description is None else description
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION or not _storable(description):
        raise BadRequest(f"description is no text of at most {MAX_DESCRIPTION} characters", field="description")
    return name, description


def _storable(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def _one(connection: Connection, name: str) -> Source:
    columns = sources.c
    if SOURCE_NAME.fullmatch(name) is not None:
        query = select(columns.name, columns.description, columns.created_at).where(columns.name == name)
        if (row := connection.execute(query).one_or_none()) is not None:
            return Source(*row)
    raise NotFound(f"there is no source {shown(name)}", code="source_not_found")
