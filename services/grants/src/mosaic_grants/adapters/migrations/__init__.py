"""Alembic's home in the package, with the SQL of roles and privileges beside it (symlinks into infra/postgres)."""
