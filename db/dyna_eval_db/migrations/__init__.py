"""Alembic's scripts. They ship in the package, so that an installed dyna-eval can upgrade its database."""
