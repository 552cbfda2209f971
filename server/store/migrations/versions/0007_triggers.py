"""Triggers, and the ticks that fired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "triggers",
        sa.Column("trigger_id", sa.String(36), primary_key=True),
        sa.Column("function_id", sa.String(36), nullable=False),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("function", sa.String(60), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("qualifier", sa.String(64), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("next_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.UniqueConstraint("function_id", "name", name="triggers_name"),
    )
    op.create_index("triggers_next", "triggers", ["next_at"])
    op.create_index("triggers_type", "triggers", ["type"])
    op.create_table(
        "firings",
        sa.Column("trigger_id", sa.String(36), primary_key=True),
        sa.Column("tick", sa.Double, primary_key=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("fired_at", sa.Double, nullable=False),
    )
    op.create_index("firings_fired", "firings", ["fired_at"])


def downgrade() -> None:
    for table in ("firings", "triggers"):
        op.drop_table(table)
