"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
DIGEST = sa.String(64)
WORD = sa.String(32)


def upgrade() -> None:
    op.create_table(
        "env",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("facts", JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_env")),
    )
    op.create_table(
        "prompt",
        sa.Column("prompt_set", DIGEST, nullable=False),
        sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("token_ids", JSON, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("category", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("prompt_set", "index", name=op.f("pk_prompt")),
    )
    op.create_table(
        "sweep",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("pairs", JSON, nullable=False),
        sa.Column("prompt_sets", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweep")),
        sa.UniqueConstraint("digest", name=op.f("uq_sweep_digest")),
    )
    op.create_index(op.f("ix_sweep_name"), "sweep", ["name"])
    op.create_table(
        "controller_lease",
        sa.Column("sweep_id", ID, autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("acquired_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name=op.f("fk_controller_lease_sweep_id")),
        sa.PrimaryKeyConstraint("sweep_id", name=op.f("pk_controller_lease")),
    )
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("key", DIGEST, nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("method", WORD, nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.Column("prompt_set", DIGEST, nullable=False),
        sa.Column("generation", JSON, nullable=False),
        sa.Column("generation_digest", DIGEST, nullable=False),
        sa.Column("measure", JSON, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_job_state")
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name=op.f("fk_job_sweep_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "sweep_id", "key", "repeat", "pair", name=op.f("uq_job_sweep_id_key_repeat_pair")
        ),
    )
    op.create_index(
        op.f("ix_job_sweep_id_state_pair_position"), "job", ["sweep_id", "state", "pair", "position"]
    )
    op.create_table(
        "sentinel",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("environment", DIGEST, nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["env.digest"], name=op.f("fk_sentinel_environment")),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name=op.f("fk_sentinel_sweep_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sentinel")),
        sa.UniqueConstraint(
            "sweep_id", "actor", "sequence", "pair", name=op.f("uq_sentinel_sweep_id_actor_sequence_pair")
        ),
    )
    op.create_table(
        "attempt",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("outcome", WORD, nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_attempt_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("job_id", "epoch", name=op.f("uq_attempt_job_id_epoch")),
    )
    op.create_table(
        "event",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_event_job_id")),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name=op.f("fk_event_sweep_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_sweep_id_id"), "event", ["sweep_id", "id"])
    op.create_table(
        "result",
        sa.Column("job_id", ID, autoincrement=False, nullable=False),
        sa.Column("attempt_id", ID, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("environment", DIGEST, nullable=False),
        sa.Column("wall_seconds", sa.Double(), nullable=False),
        sa.Column("peak_memory_bytes", ID, nullable=True),
        sa.Column("landed_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_result_attempt_id")),
        sa.ForeignKeyConstraint(["environment"], ["env.digest"], name=op.f("fk_result_environment")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_result_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_result")),
        sa.UniqueConstraint("attempt_id", name=op.f("uq_result_attempt_id")),
    )
    op.create_table(
        "sample",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("sentinel_id", ID, nullable=True),
        sa.Column("prompt_index", sa.Integer(), nullable=False),
        sa.Column("prompt_digest", DIGEST, nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("token_ids", JSON, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("prefill_seconds", sa.Double(), nullable=False),
        sa.Column("decode_seconds", sa.Double(), nullable=False),
        sa.Column("ttft_seconds", sa.Double(), nullable=False),
        sa.Column("exactness", WORD, nullable=True),
        sa.Column("divergence_index", sa.Integer(), nullable=True),
        sa.Column("divergence_margin_ulp", sa.Double(), nullable=True),
        sa.Column("distinct_2", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("drafted_nodes", sa.Integer(), nullable=False),
        sa.Column("verified_nodes", sa.Integer(), nullable=False),
        sa.Column("drafted_levels", sa.Integer(), nullable=False),
        sa.Column("accepted_tokens", sa.Integer(), nullable=False),
        sa.Column("capped_rounds", sa.Integer(), nullable=False),
        sa.Column("draft_seconds", sa.Double(), nullable=True),
        sa.Column("verify_seconds", sa.Double(), nullable=True),
        sa.Column("accepted_by_depth", JSON, nullable=False),
        sa.CheckConstraint("(job_id IS NULL) <> (sentinel_id IS NULL)", name=op.f("ck_sample_one_owner")),
        sa.ForeignKeyConstraint(["job_id"], ["result.job_id"], name=op.f("fk_sample_job_id")),
        sa.ForeignKeyConstraint(["sentinel_id"], ["sentinel.id"], name=op.f("fk_sample_sentinel_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample")),
        sa.UniqueConstraint("job_id", "prompt_index", name=op.f("uq_sample_job_id_prompt_index")),
        sa.UniqueConstraint("sentinel_id", "prompt_index", name=op.f("uq_sample_sentinel_id_prompt_index")),
    )
    op.create_table(
        "round",
        sa.Column("sample_id", ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("drafted", sa.Integer(), nullable=False),
        sa.Column("verified", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("emitted", sa.Integer(), nullable=False),
        sa.Column("capped", sa.Boolean(), nullable=False),
        sa.Column("draft_seconds", sa.Double(), nullable=True),
        sa.Column("verify_seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["sample_id"], ["sample.id"], name=op.f("fk_round_sample_id")),
        sa.PrimaryKeyConstraint("sample_id", "number", name=op.f("pk_round")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("round")
    op.drop_table("sample")
    op.drop_table("result")
    op.drop_index(op.f("ix_event_sweep_id_id"), table_name="event")
    op.drop_table("event")
    op.drop_table("attempt")
    op.drop_table("sentinel")
    op.drop_index(op.f("ix_job_sweep_id_state_pair_position"), table_name="job")
    op.drop_table("job")
    op.drop_table("controller_lease")
    op.drop_index(op.f("ix_sweep_name"), table_name="sweep")
    op.drop_table("sweep")
    op.drop_table("prompt")
    op.drop_table("env")
