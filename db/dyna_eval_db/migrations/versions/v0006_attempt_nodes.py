"""Where an attempt runs, and when its actor was last heard. Both are NULL where nobody noted them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KNOWN_NODES = """
UPDATE attempt SET node = (SELECT result.node FROM result WHERE result.attempt_id = attempt.id)
"""


def upgrade() -> None:
    op.add_column("attempt", sa.Column("node", sa.Text(), nullable=True))
    op.add_column("attempt", sa.Column("heard_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(KNOWN_NODES)


def downgrade() -> None:
    op.drop_column("attempt", "heard_at")
    op.drop_column("attempt", "node")
