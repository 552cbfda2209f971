"""Sources of notifications, watched directories and what was in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "watches",
        sa.Column("watch_id", sa.String(36), primary_key=True),
        sa.Column("directory", sa.String(1024), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("inode", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.UniqueConstraint("directory", name="watches_directory"),
    )
    op.create_table(
        "watched_files",
        sa.Column("watch_id", sa.String(36), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("path", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("inode", sa.String(20), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("watched_files")
    op.drop_table("watches")
    op.drop_table("sources")
