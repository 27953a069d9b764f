"""Imported files: what other tools measured, a row per configuration, with samples where there are any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "imported_file",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name=op.f("fk_imported_file_sweep_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_file")),
        sa.UniqueConstraint("sha256", name=op.f("uq_imported_file_sha256")),
    )
    op.create_index(op.f("ix_imported_file_sweep_id_id"), "imported_file", ["sweep_id", "id"])
    op.create_table(
        "imported_row",
        sa.Column("id", ID, nullable=False),
        sa.Column("file_id", ID, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["imported_file.id"], name=op.f("fk_imported_row_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_row")),
    )
    op.create_index(op.f("ix_imported_row_file_id"), "imported_row", ["file_id"])
    op.create_table(
        "imported_sample",
        sa.Column("row_id", ID, autoincrement=False, nullable=False),
        sa.Column("prompt", ID, autoincrement=False, nullable=False),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("tokens", ID, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("rounds", ID, nullable=True),
        sa.Column("emitted", ID, nullable=True),
        sa.ForeignKeyConstraint(["row_id"], ["imported_row.id"], name=op.f("fk_imported_sample_row_id")),
        sa.PrimaryKeyConstraint("row_id", "prompt", name=op.f("pk_imported_sample")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Imported sweeps go with their files: nothing before can read them."""
    op.execute("DELETE FROM event WHERE sweep_id IN (SELECT sweep_id FROM imported_file)")
    op.execute("CREATE TEMPORARY TABLE imported AS SELECT sweep_id FROM imported_file")
    op.drop_table("imported_sample")
    op.drop_table("imported_row")
    op.drop_table("imported_file")
    op.execute("DELETE FROM sweep WHERE id IN (SELECT sweep_id FROM imported)")
    op.execute("DROP TABLE imported")
