"""The header by which a caller asks for one side of a canary."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

SideDep = Annotated[
    str,
    Header(
        alias="X-Llmops-Side", max_length=40, description="`champion` or `canary`: be answered by this side of a trial."
    ),
]
