"""The commands about model versions and their answers: models, generate, batch, serve."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from llmops.cli.command import Add, who
from llmops.config import Config
from llmops.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(models)
    sub.add_argument("action", choices=["list", "show", "promote", "rollback", "canary"])
    sub.add_argument("version", nargs="?", default="", help="version or alias; canary without one tells how it does")
    sub.add_argument("--share", type=float, help="of the callers that a canary answers (default: 0.1)")
    sub.add_argument("--stop", action="store_true", help="end the canary's trial")
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
    add(serve)


def models(settings: Config, options: argparse.Namespace) -> None:
    """List, show, promote and roll back model versions, and try one as a canary."""
    from llmops.registry.registry import registry_of
    from llmops.release import rollout

    _check_words(options)
    registry = registry_of(settings)
    by: dict[str, Any] = {"by": who(), "why": f"llmops models {options.action}"}
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
