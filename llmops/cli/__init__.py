"""The command line: `llmops …` or `python -m llmops …`.

An error is one line on stderr and a non-zero exit status: 75 (EX_TEMPFAIL) if another try may succeed, so that a
scheduler can retry. `--json` prints for scripts.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from llmops import config
from llmops.cli import airflow, data, doctor, index, keys, models, plan, retention, stages
from llmops.cli.command import Command
from llmops.cli.monitoring import alerts, elk, events, improve, watch
from llmops.cli.output import print_line, print_text
from llmops.frame.errors import ConfigError, LlmopsError, TransientError
from llmops.frame.machine import shorten_thread_spin
from llmops.frame.printable import configure_logging

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _make_parser().parse_args(arguments)
    shorten_thread_spin(os.environ)
    configure_logging("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    noisy = "httpx httpx2 elastic_transport py4j hyperopt presidio-analyzer bitsandbytes matplotlib feast"
    for name in noisy.split():
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)  # deprecations within libraries
    # On newer processors it warns that it could not fetch a kernel from the Hub, which is intended.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    command: Command = options.command
    try:
        settings = config.load(options.config, _parse_overrides(options.set))
        if not options.json:
            source = options.config or os.environ.get("LLMOPS_CONFIG") or "defaults (no --config, no LLMOPS_CONFIG)"
            log.info("configuration: %s; home: %s", source, settings.home)
        return command(settings, options) or 0
    except LlmopsError as error:
        print_text("llmops: " + str(error).replace("\n", "\n  "), to=sys.stderr)
        return os.EX_TEMPFAIL if isinstance(error, TransientError) else 1
    except KeyboardInterrupt:
        print_line("llmops: interrupted; run the same command again to go on.", to=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="YAML configuration file (default: $LLMOPS_CONFIG)")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.set_defaults(set=[])
    change = argparse.ArgumentParser(add_help=False)
    change.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a value")
    parser = argparse.ArgumentParser(prog="llmops", description="From scattered data to a served, watched model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function: Command, overrides: bool = True) -> argparse.ArgumentParser:
        text, parents = (function.__doc__ or "").strip(), [common, change] if overrides else [common]
        sub = commands.add_parser(function.__name__, parents=parents, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    groups = (stages, plan, airflow, models, keys, data, index, retention, events, alerts, watch, improve, elk, doctor)
    for group in groups:
        group.add_to(add)
    return parser


def _parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        section, dot, field = key.partition(".")
        if not equals or (not dot and section != "home"):
            raise ConfigError(f"--set {pair!r}: write it as SECTION.FIELD=VALUE, e.g. train.seed=1.")
        value = config.parse_value(text)
        values = config.merge(values, {section: {field: value}} if dot else {section: text})
    return values
