"""Draft trees of the rounds that a sweep asks to keep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "draft_tree",
        sa.Column(
            "sample_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tree", JSON, nullable=False),
        sa.ForeignKeyConstraint(["sample_id"], ["sample.id"], name=op.f("fk_draft_tree_sample_id")),
        sa.PrimaryKeyConstraint("sample_id", "number", name=op.f("pk_draft_tree")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("draft_tree")
