"""Namespaces, published versions and aliases."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = time.time()
    namespaces = op.create_table(
        "namespaces",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.bulk_insert(namespaces, [{"name": "default", "description": "", "created_at": now, "updated_at": now}])
    op.add_column("functions", sa.Column("published", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "versions",
        sa.Column("version_id", sa.String(36), primary_key=True),
        sa.Column("function_id", sa.String(36), sa.ForeignKey("functions.function_id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("function_id", "number", name="versions_number"),
    )
    op.create_table(
        "aliases",
        sa.Column("function_id", sa.String(36), sa.ForeignKey("functions.function_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("routing", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.execute(
        "INSERT INTO aliases (function_id, name, version, description, routing, created_at, updated_at) "
        "SELECT function_id, '$DEFAULT', '$LATEST', '', '{}', created_at, created_at FROM functions"
    )


def downgrade() -> None:
    op.drop_table("aliases")
    op.drop_table("versions")
    op.drop_column("functions", "published")
    op.drop_table("namespaces")
