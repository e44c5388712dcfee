"""Alembic's entry. Runs only inside `upgrade`, which owns the connection, the lock and the one transaction around everything."""

from alembic import context

from mosaic_grants.adapters.schema.names import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
