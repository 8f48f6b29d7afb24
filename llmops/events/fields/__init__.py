"""The registry of event fields: name, type and meaning.

Index templates, columns of the local store, the table in the docs and the panels are generated from it. To add a field
to an event, add it here with its dataset. The tests refuse an event with an unregistered field.
"""

from __future__ import annotations

from functools import cache

from llmops.events.fields import alerts, common, pipeline, requests
from llmops.events.fields.field import Field

FIELDS: tuple[Field, ...] = (*common.FIELDS, *requests.FIELDS, *pipeline.FIELDS, *alerts.FIELDS)


@cache
def list_field_names(dataset: str) -> frozenset[str]:
    """Return the names of the fields that events of a dataset may have."""
    return frozenset(field.name for field in FIELDS if not field.datasets or dataset in field.datasets)
