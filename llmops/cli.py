"""The command line: `llmops …` or `python -m llmops …`.

Errors go to stderr in one line with a non-zero exit. `--json` prints for scripts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmops import artifacts, config, pipeline
from llmops.config import Config
from llmops.errors import ConfigError, LlmopsError
from llmops.machine import spin_briefly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    spin_briefly(os.environ)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("httpx", "py4j", "hyperopt", "presidio-analyzer", "bitsandbytes", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    command: Callable[[Config, argparse.Namespace], int | None] = options.command
    try:
        return command(config.load(options.config, _overrides(options.set)), options) or 0
    except LlmopsError as error:
        print(f"llmops: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llmops: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130


def run(settings: Config, options: argparse.Namespace) -> None:
    """Run one stage, or all of them in order; what is done already is skipped."""
    interval = config.parse_interval(options.interval)
    names = list(pipeline.STAGES) if options.stage == "all" else [options.stage]
    done: dict[str, Path] = {}  # what the stages before made, so that a source that changes meanwhile changes nothing
    for name in names:
        path = done[name] = pipeline.run_stage(name, settings, interval, done, run=options.run_id)
        if options.json:
            print(json.dumps({"stage": name, "artifact": str(path), "metrics": artifacts.read_record(path).metrics}))
        else:
            print(f"{name:<10} {path}")


def status(settings: Config, options: argparse.Namespace) -> None:
    """Which artifacts the configuration and interval ask for, and which of them are there."""
    interval = config.parse_interval(options.interval)
    plans = [pipeline.plan(name, settings, interval) for name in pipeline.STAGES]
    if options.json:
        print(json.dumps([{"stage": p.stage, "artifact": str(p.path), "done": p.done} for p in plans]))
        return
    for plan in plans:
        print(f"{plan.stage:<10} {'done   ' if plan.done else 'missing'} {plan.path}")


def lineage(settings: Config, options: argparse.Namespace) -> None:
    """Answer → model version → run → dataset hash → sources → base-model revision."""
    from llmops.registry.registry import registry_of
    from llmops.release import lineage as trace

    version = registry_of(settings).get(options.version)
    print(json.dumps(trace.lineage(version), indent=1) if options.json else trace.lineage_text(version))


def models(settings: Config, options: argparse.Namespace) -> None:
    """List, show, promote and roll back model versions, and try one as a canary."""
    from llmops.registry.registry import registry_of
    from llmops.release import rollout

    _check_words(options)
    registry = registry_of(settings)
    by: dict[str, Any] = {"by": _who(), "why": f"llmops models {options.action}"}
    if options.action == "promote":
        rollout.promote(registry, settings.events, options.version, **by)
    elif options.action == "rollback":
        rollout.rollback(registry, settings.events, **by)
    elif options.action == "canary":
        if options.stop:
            rollout.stop(registry, settings.events, **by)
        elif options.version:
            share = 0.1 if options.share is None else options.share
            rollout.start(registry, settings.events, options.version, share, **by)
        print(json.dumps(rollout.state(registry), indent=1))
        return
    elif options.action == "show":
        print(json.dumps(_version(registry.get(options.version or "champion")), indent=1))
        return
    names: dict[str, list[str]] = {}
    for alias, name in registry.aliases().items():
        names.setdefault(name, []).append(alias)
    rows = [{**_version(v), "aliases": names.get(v.name, [])} for v in registry.versions()]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['name']:<5} {row['status']:<13} {row['created'][:19]}  {', '.join(row['aliases'])}")
    if not rows:
        print("There is no model version yet; `llmops run all` makes one.")


def keys(settings: Config, options: argparse.Namespace) -> None:
    """Create, list, rotate and revoke API keys."""
    from llmops.access.keys import KeyStore

    if options.prefix and options.action in ("create", "list"):
        raise ConfigError(f"keys {options.action}: it takes no prefix; an owner is --owner {options.prefix}.")
    store = KeyStore(settings.keys, events=settings.events)
    if options.action in ("create", "rotate"):
        if options.action == "create":
            limits = {name: getattr(options, name) for name in ("requests_per_minute", "tokens_per_minute")}
            secret, key = store.create(options.role, options.owner, options.days, **limits, who=_who())
        else:
            secret, key = store.rotate(options.prefix, options.hours, who=_who())
        print(json.dumps({"key": secret, **key.shown()}) if options.json else secret)
        print("Shown this once; only its hash is kept.", file=sys.stderr)
    elif options.action == "revoke":
        store.revoke(options.prefix, who=_who())
    else:
        rows = [key.shown() for key in store.list()]
        if options.json:
            print(json.dumps(rows))
        for row in [] if options.json else rows:
            shown = [row[name] for name in ("prefix", "role", "owner", "created", "expires", "revoked")]
            print("  ".join(f"{value or '-'}" for value in shown))


def generate(settings: Config, options: argparse.Namespace) -> None:
    """Answer one question with a model version on this machine, without the serving app."""
    from llmops.batch.batch import servable
    from llmops.model.base.generate import answer
    from llmops.model.base.load import load_servable

    model, tokenizer = load_servable(servable(settings, options.version)[1])
    text = answer(model, tokenizer, [(options.prompt, options.context)], options.max_new_tokens)[0]
    print(json.dumps({"response": text, "version": options.version}) if options.json else text)


def batch(settings: Config, options: argparse.Namespace) -> None:
    """Answer a Parquet file of questions; interrupted, the same command goes on."""
    from dataclasses import asdict

    from llmops.batch import batch as work

    done = work.batch(
        settings,
        options.input,
        options.output,
        version=options.version,
        url=options.url,
        max_new_tokens=options.max_new_tokens,
        size=options.batch,
    )
    if options.json:
        print(json.dumps(asdict(done)))
        return
    print(f"{done.rows} rows, {done.errors} with an error  {done.output}")


def serve(settings: Config, options: argparse.Namespace) -> None:
    """Serve the champion over HTTP until stopped."""
    from serving.app import serve as start

    start(settings)


def data(settings: Config, options: argparse.Namespace) -> int:
    """Forget a person: erase their rows everywhere, mark the models trained on them, and search for what is left."""
    from dataclasses import asdict

    from llmops.erasure.forget import forget

    report = forget(settings, options.subject, by=_who(), dry_run=options.dry_run)
    if options.json:
        print(json.dumps(asdict(report)))
        return 1 if report.remaining else 0
    print(f"{'would forget' if report.dry_run else 'forgot'} {report.documents} rows of the sources:")
    for place, rows in [*report.rows.items(), ("online store", report.online), ("marks in texts", report.texts)]:
        print(f"  {place:<28} {rows}")
    for v in report.versions:
        names = f" ({', '.join(v['aliases'])})" if v["aliases"] else ""
        print(f"trained on {v['examples']} of them: {v['model']} {v['version']}{names}")
    for p in report.sources:
        print(f"delete it in the source {p['source']}: {p['location']}, {p['position']}")
    for note in report.notes:
        print(f"note: {note}")
    for place in report.unreached:
        print(f"not reached: {place}")
    for path, where in report.remaining.items():
        print(f"STILL NAMED: {path}, {where}")
    if not report.dry_run and not report.remaining:
        print("searched all files again: nothing names this person any more")
    return 1 if report.remaining else 0


def doctor(settings: Config, options: argparse.Namespace) -> int:
    """Check that this machine has what the pipeline needs, each failure with its remedy."""
    from llmops.doctor import check

    checks = check(settings)
    if options.json:
        print(json.dumps([{"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks]))
    for c in [] if options.json else checks:
        print(f"{'ok  ' if c.ok else 'FAIL'}  {c.name}: {c.detail}" + ("" if c.ok else f"  → {c.remedy}"))
    return 0 if all(c.ok for c in checks) else 1


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="YAML configuration file (default: $LLMOPS_CONFIG)")
    common.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a value")
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="llmops", description="From scattered data to a served, watched model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function: Callable[[Config, argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    sub = add(run)
    sub.add_argument("stage", choices=[*pipeline.STAGES, "all"], metavar="STAGE|all", help=", ".join(pipeline.STAGES))
    sub.add_argument("--interval", default="", help="data interval as a date (default: today)")
    sub.add_argument("--run-id", default="", help="name of the run, kept in the records")
    add(status).add_argument("--interval", default="", help="data interval as a date (default: today)")
    add(lineage).add_argument("version", nargs="?", default="champion", help="version or alias")
    sub = add(models)
    sub.add_argument("action", choices=["list", "show", "promote", "rollback", "canary"])
    sub.add_argument("version", nargs="?", default="", help="version or alias; canary without one tells how it does")
    sub.add_argument("--share", type=float, help="of the callers that a canary answers (default: 0.1)")
    sub.add_argument("--stop", action="store_true", help="end the canary's trial")
    sub = add(keys)
    sub.add_argument("action", choices=["create", "list", "rotate", "revoke"])
    sub.add_argument("prefix", nargs="?", default="", help="for rotate and revoke: the key's prefix")
    sub.add_argument("--role", default="user", choices=["admin", "developer", "user"])
    sub.add_argument("--owner", default=_who(), help="whose key it is")
    sub.add_argument("--days", type=float, default=None, help="days until it expires")
    sub.add_argument("--requests-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--tokens-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--hours", type=float, default=24.0, help="for rotate: how long the old secret is good, too")
    sub = add(generate)
    sub.add_argument("prompt")
    sub.add_argument("--context", default="")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--max-new-tokens", type=int, default=96)
    sub = add(batch)
    sub.add_argument("input", type=Path, help="Parquet file with a column `question`, and perhaps `context`")
    sub.add_argument("output", type=Path, help="Parquet file to write: the same rows, each with its answer or error")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--url", default="", help="let the serving app there answer; its key is in LLMOPS_API_KEY")
    sub.add_argument("--max-new-tokens", type=int, default=96, help="longest answer, in tokens")
    sub.add_argument("--batch", type=int, default=16, help="requests at a time")
    sub = add(data)
    sub.add_argument("action", choices=["forget"])
    sub.add_argument("subject", help="e-mail address, full name, customer or phone number; one at a time")
    sub.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    add(serve)
    add(doctor)
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


def _check_words(options: argparse.Namespace) -> None:
    """Refuse words of `llmops models` that do not go together: something else would be done than was asked."""
    action, version, stop, share = options.action, options.version, options.stop, options.share is not None
    if action == "promote" and not version:
        raise ConfigError("models promote: name the version.")
    if action in ("list", "rollback") and version:
        raise ConfigError(f"models {action}: it takes no version; to make {version} the champion, promote it.")
    if ((stop or share) and action != "canary") or (stop and (version or share)) or (share and not version):
        raise ConfigError(f"models {action}: only a canary has a --share, with its version, or a --stop, alone.")


def _version(version: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((version.path / "version.json").read_text(encoding="utf-8"))
    return {"name": version.name, **document}


def _who() -> str:
    return os.environ.get("USER") or "cli"
