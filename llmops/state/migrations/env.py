"""The entry point of Alembic: runs the revisions in the transaction begun by `llmops.state.database`."""

from __future__ import annotations

from alembic import context

from llmops.state.tables import REVISION, metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, version_table=REVISION)
context.run_migrations()
