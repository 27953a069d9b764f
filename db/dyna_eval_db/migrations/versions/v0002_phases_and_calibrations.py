"""Phases and calibrations: where a round's time went, and what forward passes cost.

Columns are added in place, so that the long `round` table is not copied. Its older rows did not count the
draft's steps, which stand as 0, and did not time all phases, which are NULL.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
DIGEST = sa.String(64)
COUNTS, SECONDS = ("draft_steps", "draft_rows"), ("grow_seconds", "walk_seconds")


def upgrade() -> None:
    for table in ("round", "sample"):
        for name in COUNTS:
            op.add_column(table, sa.Column(name, sa.Integer(), server_default="0", nullable=False))
        for name in SECONDS:
            op.add_column(table, sa.Column(name, sa.Double(), nullable=True))
    op.create_table(
        "calibration",
        sa.Column("pair_key", DIGEST, nullable=False),
        sa.Column("environment", DIGEST, nullable=False),
        sa.Column("draft_seconds", JSON, nullable=False),
        sa.Column("verify_seconds", JSON, nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["env.digest"], name=op.f("fk_calibration_environment")),
        sa.PrimaryKeyConstraint("pair_key", "environment", name=op.f("pk_calibration")),
    )


def downgrade() -> None:
    op.drop_table("calibration")
    for table in ("round", "sample"):
        for name in (*COUNTS, *SECONDS):
            op.drop_column(table, name)
