"""The types of commands, and the user who runs them."""

import argparse
import os
from collections.abc import Callable
from typing import Protocol

from llmops.config import Config

Command = Callable[[Config, argparse.Namespace], int | None]  #: runs; returns the exit status, None for 0


class Add(Protocol):
    """A function that adds commands to the parser."""

    def __call__(self, function: Command, overrides: bool = True) -> argparse.ArgumentParser:
        """Add a command with the name and docstring of `function`. `overrides` allows `--set`."""


def get_user() -> str:
    """Return the user who runs the command, for audits and histories."""
    return os.environ.get("USER") or "cli"
