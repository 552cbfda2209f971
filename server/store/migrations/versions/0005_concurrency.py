"""Concurrency: totals of namespaces, reservations of functions, provisioned workers of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("namespace", sa.String(60), primary_key=True),
        sa.Column("total_mb", sa.BigInteger),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("function_id", sa.String(36), primary_key=True),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("reserved_mb", sa.BigInteger, nullable=False),
    )
    op.create_index("reservations_namespace", "reservations", ["namespace"])
    op.create_table(
        "provisioned",
        sa.Column("function_id", sa.String(36), primary_key=True),
        sa.Column("family", sa.String(36), nullable=False),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("function", sa.String(60), nullable=False),
        sa.Column("version", sa.String(60), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("peak", sa.Integer, nullable=False),
        sa.Column("memory_mb", sa.Integer, nullable=False),
        sa.Column("schedule", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_index("provisioned_family", "provisioned", ["family"])
    op.create_index("provisioned_namespace", "provisioned", ["namespace"])
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "quotas", "value": 0}])


def downgrade() -> None:
    for table in ("provisioned", "reservations", "quotas"):
        op.drop_table(table)
    op.execute("DELETE FROM counters WHERE name = 'quotas'")
