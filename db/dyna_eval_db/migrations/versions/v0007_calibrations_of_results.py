"""Every calibration is kept, and a result names its own.

There was one of each pair and environment, from which the speedups of all results from there were predicted:
those results get it, so that their reports stay as they are. Taken back, the latest one of each is kept.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
DIGEST = sa.String(64)

CALIBRATION = sa.table(
    "calibration",
    sa.column("id", ID),
    sa.column("pair_key", DIGEST),
    sa.column("environment", DIGEST),
    sa.column("digest", DIGEST),
    sa.column("draft_seconds", JSON),
    sa.column("verify_seconds", JSON),
    sa.column("measured_at", TIME),
)
KEPT = ("pair_key", "environment", "draft_seconds", "verify_seconds", "measured_at")
SWEEP = sa.table("sweep", sa.column("id", ID), sa.column("pairs", JSON))
JOB = sa.table("job", sa.column("id", ID), sa.column("sweep_id", ID), sa.column("pair", sa.Text()))
RESULT = sa.table(
    "result", sa.column("job_id", ID), sa.column("environment", DIGEST), sa.column("calibration_id", ID)
)


def upgrade() -> None:
    rows = [row | {"digest": _digest(_costs(row))} for row in _rows()]
    op.drop_table("calibration")
    op.create_table(
        "calibration",
        sa.Column("id", ID, nullable=False),
        sa.Column("pair_key", DIGEST, nullable=False),
        sa.Column("environment", DIGEST, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("draft_seconds", JSON, nullable=False),
        sa.Column("verify_seconds", JSON, nullable=False),
        sa.Column("measured_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["env.digest"], name=op.f("fk_calibration_environment")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibration")),
        sa.UniqueConstraint(
            "pair_key", "environment", "digest", name=op.f("uq_calibration_pair_key_environment_digest")
        ),
    )
    op.bulk_insert(CALIBRATION, rows)
    with op.batch_alter_table("result") as result:
        result.add_column(sa.Column("calibration_id", ID, nullable=True))
        result.create_foreign_key(op.f("fk_result_calibration_id"), "calibration", ["calibration_id"], ["id"])
    _name_calibrations_of_results()


def _rows() -> list[dict[str, Any]]:
    """Read the calibrations as both schemas have them, the latest last."""
    columns = [CALIBRATION.c[name] for name in KEPT]
    rows = op.get_bind().execute(sa.select(*columns).order_by(CALIBRATION.c.measured_at))
    return [dict(row) for row in rows.mappings()]


def _costs(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("draft_seconds", "verify_seconds")}


def _digest(value: object) -> str:
    """As `dyna_eval.jobs.digest` when this schema was made."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _name_calibrations_of_results() -> None:
    connection = op.get_bind()
    of_place = sa.select(CALIBRATION.c.pair_key, CALIBRATION.c.environment, CALIBRATION.c.id)
    calibrations = connection.execute(of_place).all()
    for sweep_id, pairs in connection.execute(sa.select(SWEEP.c.id, SWEEP.c.pairs)).all():
        for pair in pairs:
            of_pair = sa.and_(JOB.c.sweep_id == sweep_id, JOB.c.pair == pair["spec"]["name"])
            jobs = sa.select(JOB.c.id).where(of_pair)
            for pair_key, environment, number in calibrations:
                if pair_key == _pair_key(pair):
                    own = sa.and_(RESULT.c.environment == environment, RESULT.c.job_id.in_(jobs))
                    connection.execute(sa.update(RESULT).where(own).values(calibration_id=number))


def _pair_key(pair: dict[str, Any]) -> str:
    """As `dyna_eval.jobs.calibration_key` when this schema was made; schema 0001 knew no backends."""
    names = ("target_digest", "draft_digest", "dtype")
    return _digest([*(pair[name] for name in names), pair.get("backend", "auto")])


def downgrade() -> None:
    latest = {(row["pair_key"], row["environment"]): row for row in _rows()}
    with op.batch_alter_table("result") as result:
        result.drop_constraint(op.f("fk_result_calibration_id"), type_="foreignkey")
        result.drop_column("calibration_id")
    op.drop_table("calibration")
    op.create_table(
        "calibration",
        sa.Column("pair_key", DIGEST, nullable=False),
        sa.Column("environment", DIGEST, nullable=False),
        sa.Column("draft_seconds", JSON, nullable=False),
        sa.Column("verify_seconds", JSON, nullable=False),
        sa.Column("measured_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["env.digest"], name=op.f("fk_calibration_environment")),
        sa.PrimaryKeyConstraint("pair_key", "environment", name=op.f("pk_calibration")),
    )
    op.bulk_insert(CALIBRATION, list(latest.values()))
