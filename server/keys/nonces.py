"""Nonces that have been used, remembered by all processes for as long as the request with them could still be good."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select, tuple_
from sqlalchemy.exc import IntegrityError

from server.store.engine import writing
from server.store.tables import nonces as table


class Nonces:
    """Blocking. Only nonces of requests whose signature is right come here: nobody else's can fill the table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def use(self, secret_id: str, nonce: str, *, now: float, good_until: float) -> bool:
        """Take it; False where it has been taken before. Both times in seconds since the epoch."""
        # Two that clean up at once must not wait for each other's rows in turn: PostgreSQL would end one of them.
        over = select(table.c.secret_id, table.c.nonce).where(table.c.good_until < now).with_for_update(skip_locked=True)
        try:
            with writing(self._engine) as connection:
                connection.execute(delete(table).where(tuple_(table.c.secret_id, table.c.nonce).in_(over)))
                connection.execute(insert(table).values(secret_id=secret_id, nonce=nonce, good_until=good_until))
        except IntegrityError:
            return False
        return True
