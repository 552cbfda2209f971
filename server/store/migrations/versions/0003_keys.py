"""Secret pairs, nonces of signing clients, and what SCF's clients configure of a function."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("secret_id", sa.String(128), primary_key=True),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("namespace", sa.String(60), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "nonces",
        sa.Column("secret_id", sa.String(128), primary_key=True),
        sa.Column("nonce", sa.String(20), primary_key=True),
        sa.Column("good_until", sa.Double, nullable=False),
    )
    op.create_index("nonces_good_until", "nonces", ["good_until"])
    op.add_column("functions", sa.Column("scf", sa.Text, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("functions", "scf")
    for table in ("nonces", "keys"):
        op.drop_table(table)
