"""Runs migrations on the connection that `search.database` hands over."""

from alembic import context

from search.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
