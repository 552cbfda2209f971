"""Namespaces."""

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


def downgrade() -> None:
    op.drop_table("namespaces")
