"""Layers and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "layers",
        sa.Column("namespace", sa.String(60), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("last_version", sa.Integer, nullable=False),
    )
    op.create_table(
        "layer_versions",
        sa.Column("namespace", sa.String(60), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("runtimes", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("license", sa.Text, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("code_size", sa.BigInteger, nullable=False),
        sa.Column("unpacked_size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.execute("INSERT INTO counters (name, value) VALUES ('layers', 0)")


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE name = 'layers'")
    op.drop_table("layer_versions")
    op.drop_table("layers")
