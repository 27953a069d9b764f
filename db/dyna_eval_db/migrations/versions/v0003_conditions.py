"""Conditions: what the machine did while a job was measured. Unknown, so NULL, for older results."""

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


def downgrade() -> None:
    op.drop_column("result", "conditions")
