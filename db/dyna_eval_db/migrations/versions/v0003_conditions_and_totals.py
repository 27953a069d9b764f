"""Conditions and totals: what the machine did while a job was measured, and its samples' sums in one value.

Both are NULL for older results: conditions are unknown, and sums are read from the samples themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("result", sa.Column("conditions", JSON, nullable=True))
    for table in ("result", "sentinel"):
        op.add_column(table, sa.Column("totals", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    for table in ("result", "sentinel"):
        op.drop_column(table, "totals")
    op.drop_column("result", "conditions")
