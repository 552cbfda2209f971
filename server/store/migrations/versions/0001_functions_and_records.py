"""Functions, invocation records and usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "functions",
        sa.Column("function_id", sa.String(36), primary_key=True),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("runtime", sa.String(40), nullable=False),
        sa.Column("handler", sa.String(300), nullable=False),
        sa.Column("memory", sa.Integer, nullable=False),
        sa.Column("timeout", sa.Integer, nullable=False),
        sa.Column("init_timeout", sa.Integer, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("tmp", sa.Integer, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("network", sa.String(10), nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("code_size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.UniqueConstraint("namespace", "name", name="functions_name"),
    )
    op.create_table(
        "invocations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("function", sa.String(60), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.Column("log", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("request_id", name="invocations_request_id"),
    )
    op.create_index("invocations_function", "invocations", ["namespace", "function", "seq"])
    op.create_table(
        "usage",
        sa.Column("namespace", sa.String(60), primary_key=True),
        sa.Column("function", sa.String(60), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("throttled", sa.BigInteger, nullable=False),
        sa.Column("gb_seconds", sa.Double, nullable=False),
        sa.Column("billed_ms", sa.BigInteger, nullable=False),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "invocations", "value": 0}, {"name": "functions", "value": 0}])


def downgrade() -> None:
    for table in ("counters", "usage", "invocations", "functions"):
        op.drop_table(table)
