"""What all commands have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from llmops.config import Config

Command = Callable[[Config, argparse.Namespace], int | None]  #: does it; returns the exit status, None for 0
Add = Callable[[Command], argparse.ArgumentParser]  #: adds a command, named and described like its function


def who() -> str:
    """Who runs the command, for audits and histories."""
    return os.environ.get("USER") or "cli"
