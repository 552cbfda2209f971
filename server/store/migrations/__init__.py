"""Alembic's environment and the schema's history; run by `server.store.migrate` only."""
