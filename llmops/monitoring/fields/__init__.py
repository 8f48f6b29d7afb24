"""The registry of fields: what an event may say, of what type, and what that means.

Index templates, the columns of the local store, the table of the docs and the fields of the panels are made from it.
Names are those of the Elastic Common Schema (ECS) and of OpenTelemetry's conventions for generative AI; what neither
knows is under `llmops.`. Whoever adds a field to an event adds it here, with the dataset that it is in: the tests
refuse an event that says more.
"""

from __future__ import annotations

from functools import cache

from llmops.monitoring.fields import common, pipeline, requests, watch
from llmops.monitoring.fields.field import Field

FIELDS: tuple[Field, ...] = (*common.FIELDS, *requests.FIELDS, *pipeline.FIELDS, *watch.FIELDS)


LONGEST_KEYWORD = 8191  #: characters: of four bytes each, the most that Lucene takes as one term (32,766)
LONGEST_TEXT = 100_000  #: characters of any other text in an event


@cache
def _keywords() -> frozenset[str]:
    return frozenset(field.name for field in FIELDS if field.type == "keyword")


def longest(name: str) -> int:
    """The most characters that a text in this field of an event has."""
    return LONGEST_KEYWORD if name in _keywords() else LONGEST_TEXT


@cache
def names_of(dataset: str) -> frozenset[str]:
    """The fields that events of a dataset may have."""
    return frozenset(field.name for field in FIELDS if not field.datasets or dataset in field.datasets)
