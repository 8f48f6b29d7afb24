"""The command line: `llmops …` or `python -m llmops …`.

Errors go to stderr in one line with a non-zero exit. `--json` prints for scripts.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from llmops import config
from llmops.cli import data, doctor, keys, models, stages
from llmops.cli.command import Command
from llmops.errors import ConfigError, LlmopsError
from llmops.machine import spin_briefly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    spin_briefly(os.environ)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("httpx", "py4j", "hyperopt", "presidio-analyzer", "bitsandbytes", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    command: Command = options.command
    try:
        return command(config.load(options.config, _overrides(options.set)), options) or 0
    except LlmopsError as error:
        print(f"llmops: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llmops: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="YAML configuration file (default: $LLMOPS_CONFIG)")
    common.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a value")
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="llmops", description="From scattered data to a served, watched model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function: Command) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    for group in (stages, models, keys, data, doctor):
        group.add_to(add)
    return parser


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        section, dot, field = key.partition(".")
        if not equals or (not dot and section != "home"):
            raise ConfigError(f"--set {pair!r}: write it as SECTION.FIELD=VALUE, e.g. train.seed=1.")
        value = config.parse_value(text)
        values = config.merge(values, {section: {field: value}} if dot else {section: text})
    return values
