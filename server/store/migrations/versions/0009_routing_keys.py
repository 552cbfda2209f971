"""Events keep the routing key that they came with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("routing_key", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("events", "routing_key")
