"""Directory triggers as configuration: files of a directory of this machine, and of those below it, are its objects."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select

from sandbox.settings import Settings
from server.errors import BadRequest
from server.functions.checks import shown
from server.store.tables import triggers
from server.triggers.model import Trigger
from server.triggers.objects import parse_rule
from server.watching.index import DIRECTORY, register
from server.watching.paths import allowed_above, opened

MAX_PATH: Final = 1024
EVERY_FILE: Final = "cos:ObjectCreated:*"


class DirectoryKind:
    """config: {"path": the directory, absolute, "event": "cos:ObjectCreated:*", "filter": {"Prefix", "Suffix"} of the path below it}."""

    name = DIRECTORY
    one_per_qualifier = False

    def __init__(self, settings: Settings) -> None:
        self._allowed, self._user = settings.watched_paths, settings.user

    def limit(self, settings: Settings) -> int:
        return settings.limit_directory_triggers

    def checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(config.keys() - {"path", "event", "filter"}):
            raise BadRequest(
                f"config: unknown field {shown(unknown[0])}", field="config", hint="a directory trigger has path, event, filter"
            )
        path = config.get("path")
        if not isinstance(path, str) or not _is_plain(path):
            hint = f"absolute, at most {MAX_PATH} bytes, without .. and empty parts, as in /srv/incoming"
            raise BadRequest(f"config.path: {shown(path)} is no directory's path", field="config.path", hint=hint)
        rule = parse_rule({"event": EVERY_FILE, **config})
        return {"path": path, "event": rule.event, "filter": {"Prefix": rule.prefix, "Suffix": rule.suffix}}

    def next_at(self, config: Mapping[str, Any], after: float) -> float | None:
        return None

    def admit(self, connection: Connection, config: Mapping[str, Any], trigger_id: str) -> None:
        """A directory that this trigger did not have before must be there, and be among those that may be watched."""
        row = connection.execute(select(triggers).where(triggers.c.trigger_id == trigger_id)).mappings().one_or_none()
        if row is None or Trigger.from_row(row).config["path"] != config["path"]:
            self._check(config["path"])
        register(connection, config["path"], time.time())

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        return trigger.config

    def _check(self, path: str) -> None:
        if allowed_above(self._allowed, path) is None:
            known = ", ".join(self._allowed) or "none"
            hint = f"the setting watch_dirs names the directories that may be watched: {known}"
            raise BadRequest(f"config.path: {path} may not be watched", field="config.path", hint=hint, code="directory_not_allowed")
        try:
            with opened(self._allowed, path):
                return
        except OSError as error:
            hint = f"the user {self._user} must be able to list it, and no part of it may be a symbolic link"
            raise BadRequest(f"config.path: {path}: {(error.strerror or '').lower()}", field="config.path", hint=hint) from error


def _is_plain(path: str) -> bool:
    try:
        return path.startswith("/") and os.path.normpath(path) == path and len(path.encode()) <= MAX_PATH and path.isprintable()
    except UnicodeEncodeError:
        return False
