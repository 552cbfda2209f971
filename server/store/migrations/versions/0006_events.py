"""Events, their settings, dead letters and outcomes; records know their type."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("invocations", sa.Column("type", sa.String(5), nullable=False, server_default="sync"))
    asynchronous = sa.text("type = 'async'")
    op.create_index("invocations_async", "invocations", ["seq"], sqlite_where=asynchronous, postgresql_where=asynchronous)
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("lane", sa.String(121), nullable=False),
        sa.Column("qualifier", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("trigger", sa.String(200), nullable=False),
        sa.Column("caused_by", sa.String(64), nullable=False),
        sa.Column("hops", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ready_at", sa.Double, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("claimed_at", sa.Double),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.UniqueConstraint("request_id", name="events_request_id"),
    )
    op.create_index("events_lane", "events", ["state", "lane", "due_at", "seq"])
    op.create_table(
        "event_keys",
        sa.Column("lane", sa.String(121), primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("event_keys_created", "event_keys", ["created_at"])
    op.create_table(
        "event_settings",
        sa.Column("function_id", sa.String(36), primary_key=True),
        sa.Column("retries", sa.Integer),
        sa.Column("ttl", sa.Integer),
        sa.Column("target_type", sa.String(10), nullable=False),
        sa.Column("target", sa.String(2000), nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )

    op.create_table(
        "dead_letters",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("lane", sa.String(121), nullable=False),
        sa.Column("qualifier", sa.String(64), nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("trigger", sa.String(200), nullable=False),
        sa.Column("hops", sa.Integer, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("died_at", sa.Double, nullable=False),
        sa.Column("target_type", sa.String(10), nullable=False),
        sa.Column("target", sa.String(2000), nullable=False),
        sa.Column("delivery", sa.String(10), nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("deliver_at", sa.Double, nullable=False),
        sa.UniqueConstraint("request_id", name="dead_letters_request_id"),
    )
    op.create_index("dead_letters_lane", "dead_letters", ["lane", "seq"])
    op.create_index("dead_letters_delivery", "dead_letters", ["delivery", "deliver_at"])
    op.create_table(
        "event_outcomes",
        sa.Column("lane", sa.String(121), primary_key=True),
        sa.Column("outcome", sa.String(12), primary_key=True),
        sa.Column("status", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("event_outcomes", "dead_letters", "event_settings", "event_keys", "events"):
        op.drop_table(table)
    op.drop_index("invocations_async", "invocations")
    op.drop_column("invocations", "type")
