"""The store: every sweep, job, attempt and result, in SQLite or Postgres."""
