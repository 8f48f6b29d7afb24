"""A receiver of events that misbehaves."""

from collections.abc import Iterator

import pytest

from .receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that misbehaves as it is told."""
    with Receiver() as made:
        yield made
