"""Buckets, objects and multipart uploads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "buckets",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "objects",
        sa.Column("bucket", sa.String(63), primary_key=True),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("file", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("etag", sa.String(40), nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("modified_at", sa.Double, nullable=False),
    )
    op.create_index("objects_file", "objects", ["file"])
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.String(32), primary_key=True),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("uploads_key", "uploads", ["bucket", "key", "upload_id"])
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("file", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("etag", sa.String(40), nullable=False),
        sa.Column("checksum", sa.String(100), nullable=False),
        sa.Column("modified_at", sa.Double, nullable=False),
    )
    op.create_index("upload_parts_file", "upload_parts", ["file"])


def downgrade() -> None:
    for table in ("upload_parts", "uploads", "objects", "buckets"):
        op.drop_table(table)
