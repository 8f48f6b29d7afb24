"""Asynchronous tests run with asyncio."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
