"""What a receiver is, and how it gets its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from llmops.errors import ConfigError
from llmops.variables import filled


class Receiver(Protocol):
    """Is told of alerts. `send` is given what `finding.document` makes, and may be given it again."""

    name: str
    timeout_s: float

    def send(self, document: Mapping[str, Any]) -> None:
        """Tell it; raises whatever keeps it from being told."""


def secrets(text: str, receiver: str, environ: Mapping[str, str]) -> str:
    """The text with its `${NAME}` filled from the environment.

    Raises:
        ConfigError: if a variable is not set.
    """

    def value(name: str) -> str:
        if name not in environ:
            raise ConfigError(f"The receiver {receiver} needs ${{{name}}}; set {name} in the environment.")
        return environ[name]

    return filled(text, value)
