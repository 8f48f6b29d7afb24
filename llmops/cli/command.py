"""What all commands have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Protocol

from llmops.config import Config

Command = Callable[[Config, argparse.Namespace], int | None]  #: does it; returns the exit status, None for 0


class Add(Protocol):
    """Adds a command, named and described like its function; with `overrides`, `--set` changes the configuration."""

    def __call__(self, function: Command, overrides: bool = True) -> argparse.ArgumentParser: ...


def who() -> str:
    """Who runs the command, for audits and histories."""
    return os.environ.get("USER") or "cli"
