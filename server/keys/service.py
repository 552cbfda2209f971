"""The table of secret pairs. Blocking: called through a thread. Nothing is cached, so a revoked pair is gone at once for everybody."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, RowMapping, delete, insert, select

from server.errors import NotFound
from server.functions.checks import shown
from server.keys.model import KeyPair, checked_creation, is_secret_id, new_secret_id, new_secret_key
from server.keys.vault import Vault
from server.store.engine import writing
from server.store.tables import keys as table


class Keys:
    """All pairs of one installation. Methods raise `server.errors.ApiError`s, ConfigError and SQLAlchemyError."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine, self._vault = engine, vault

    def create(self, payload: Any) -> tuple[KeyPair, str]:
        """From `{scope, namespace, description}`, all of them optional: the pair and its secret, which is told only here.

        Raises BadRequest.
        """
        pair = KeyPair(secret_id=new_secret_id(), created_at=time.time(), **checked_creation(payload))  # type: ignore[arg-type]
        secret = new_secret_key()
        row = {name: getattr(pair, name) for name in KeyPair.__slots__} | {"sealed": self._vault.seal(secret, pair.rights)}
        with writing(self._engine) as connection:
            connection.execute(insert(table).values(**row))
        return pair, secret

    def list(self) -> list[KeyPair]:
        """In the order in which they were made."""
        with self._engine.connect() as connection:
            return [_pair(row) for row in connection.execute(select(table).order_by(table.c.created_at, table.c.secret_id)).mappings()]

    def revoke(self, secret_id: str) -> None:
        """Raises NotFound."""
        gone = 0
        if is_secret_id(secret_id):
            with writing(self._engine) as connection:
                gone = connection.execute(delete(table).where(table.c.secret_id == secret_id)).rowcount
        if not gone:
            raise NotFound(f"no key {shown(secret_id)}", code="key_not_found", hint="GET /v1/keys lists what there is")

    def find(self, secret_id: str) -> tuple[KeyPair, str] | None:
        """A pair and its secret; None for an id that is not there."""
        with self._engine.connect() as connection:
            row = connection.execute(select(table).where(table.c.secret_id == secret_id)).mappings().one_or_none()
        if row is None:
            return None
        pair = _pair(row)
        return pair, self._vault.open(bytes(row["sealed"]), pair.rights)


def _pair(row: RowMapping) -> KeyPair:
    return KeyPair(**{name: row[name] for name in KeyPair.__slots__})
