"""What Alembic runs for each command: the connection and its transaction belong to `server.store.migrate`."""

from __future__ import annotations

from alembic import context

from server.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite's DDL is transactional; Alembic assumes the worst of the driver, whose habits `engine` has switched off.
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
