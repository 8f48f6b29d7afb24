"""The commands about model versions and their answers: models, generate, batch, serve."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame.errors import ConfigError, RegistryError, StateError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(models)
    actions = ["list", "show", "promote", "rollback", "canary", "ab", "decisions", "push", "export"]
    sub.add_argument("action", choices=actions)
    sub.add_argument(
        "version", nargs="?", default="", help="version or alias; canary and ab without one show the running trial"
    )
    sub.add_argument("--share", type=float, help="share of the callers that it answers (default: canary 0.1, ab 0.5)")
    sub.add_argument("--stop", action="store_true", help="end the trial; the champion answers everybody")
    sub.add_argument("--conclude", action="store_true", help="act on the verdict, if there was enough data")
    sub.add_argument("--promote", action="store_true", help="with ab --conclude: promote it if users like it better")
    sub.add_argument(
        "--override", default="", metavar="REASON", help="reason for using a version that the gate did not pass"
    )
    sub.add_argument("--to", choices=["gguf", "openvino", "hf"], help="with export: the form")
    sub.add_argument("--out", type=Path, help="with export: the folder to make")
    sub.add_argument("--check", action="store_true", help="with push: only compare with the Hub")
    sub = add(generate)
    sub.add_argument("prompt")
    sub.add_argument("--context", default="")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--max-new-tokens", type=int, default=96)
    sub = add(batch)
    sub.add_argument("input", type=Path, help="Parquet file with a column `question`, and optionally `context`")
    sub.add_argument("output", type=Path, help="Parquet file to write: the same rows, each with its answer or error")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--max-new-tokens", type=int, default=96, help="longest answer, in tokens")
    sub.add_argument("--batch", type=int, default=16, help="requests at a time")
    add(serve)


def models(settings: Config, options: argparse.Namespace) -> int | None:
    """List, show, promote, roll back and export model versions, try one on callers, show decisions, push to the Hub."""
    from llmops.cli import hub
    from llmops.release import rollout
    from llmops.release.registry.registry import registry_of

    _check_options(options)
    registry = registry_of(settings)
    by: dict[str, Any] = {"by": get_user(), "why": f"llmops models {options.action}"}
    if options.action == "promote":
        rollout.promote(registry, settings.events, options.version, override=options.override, **by)
        hub.remind(settings)
    elif options.action == "rollback":
        rollout.rollback(registry, settings.events, **by)
        hub.remind(settings)
    elif options.action == "push":
        return hub.push(settings, registry, check=options.check, as_json=options.json)
    elif options.action == "export":
        from llmops.release.export import export

        export(registry.get(options.version), options.to, options.out, settings.artifacts)
        print_line(str(options.out))
        return None
    elif options.action in ("canary", "ab"):
        _change_trial(settings, options, by)
        return None
    elif options.action == "show":
        shown = registry.get(options.version or "champion")
        print_text(json.dumps({**_describe_version(shown), "decisions": registry.decisions(shown.name)}, indent=1))
        return None
    elif options.action == "decisions":
        _print_decisions(registry.decisions(registry.get(options.version).name if options.version else ""), options)
        return None
    names: dict[str, list[str]] = {}
    for alias, name in registry.aliases().items():
        names.setdefault(name, []).append(alias)
    reasons = registry.overrides()
    rows = [
        {**_describe_version(v), "aliases": names.get(v.name, []), "override": reasons.get(v.name, "")}
        for v in registry.versions()
    ]
    if options.json:
        print_line(json.dumps(rows))
        return None
    for row in rows:
        override = f"  override: {row['override']}" if row["override"] else ""
        removed = f"  model removed on {row['removed'][:10]}" if row["removed"] else ""
        aliases = ", ".join(row["aliases"])
        print_line(f"{row['name']:<5} {row['status']:<13} {row['created'][:19]}  {aliases}{override}{removed}")
    if not rows:
        print_line("There is no model version yet; `llmops run all` makes one.")
    return None


def generate(settings: Config, options: argparse.Namespace) -> None:
    """Answer one question with a model version on this machine, without the serving app."""
    from llmops.model.base.inference import answer_questions, open_model
    from llmops.release.batch.batch import find_servable

    model = open_model(find_servable(settings, options.version)[1], settings.serving.classify_threshold)
    text = answer_questions(model, [(options.prompt, options.context)], options.max_new_tokens)[0]
    print_text(json.dumps({"response": text, "version": options.version}) if options.json else text)


def batch(settings: Config, options: argparse.Namespace) -> None:
    """Answer a Parquet file of questions. After an interruption, the same command continues."""
    from dataclasses import asdict

    from llmops.release.batch.batch import run_batch

    summary = run_batch(
        settings,
        options.input,
        options.output,
        version=options.version,
        max_new_tokens=options.max_new_tokens,
        size=options.batch,
    )
    if options.json:
        print_line(json.dumps(asdict(summary)))
        return
    print_line(f"{summary.rows} rows, {summary.errors} with an error  {summary.output}")


def serve(settings: Config, options: argparse.Namespace) -> None:
    """Serve the champion over HTTP until stopped."""
    from llmops.frame import doctor
    from llmops.release.registry.registry import registry_of
    from serving.app import serve as start

    host, port = settings.serving.host, settings.serving.port
    if ":" not in host and not doctor.is_free(port, host):
        raise ConfigError(
            f"Port {port} of {host} is in use, or needs more rights; set another by {doctor.SERVING_PORT}."
        )
    with suppress(StateError, RegistryError):  # the app starts without its database, waits for it, and says so
        if not registry_of(settings).champion():
            print_line("There is no champion yet: questions get 503 until a version is released.", to=sys.stderr)
    start(settings)


def _change_trial(settings: Config, options: argparse.Namespace, by: dict[str, Any]) -> None:
    from llmops.cli import hub
    from llmops.release import rollout, trials
    from llmops.release.registry.registry import registry_of

    registry, canary = registry_of(settings), options.action == "canary"
    kind: trials.TrialKind = "canary" if canary else "ab_test"
    if options.stop:
        rollout.stop(registry, settings.events, kind=kind, **by)
    elif options.conclude:
        trial = rollout.get_running(registry, kind).started
        rules = rollout.read_rules(settings, registry, trial)
        promote = canary or options.promote
        result = rollout.conclude(registry, settings.events, trial, rules, by=by["by"], promote=promote)
        print_text(json.dumps(result, indent=1))
        if result["promoted"]:
            hub.remind(settings)
        return
    elif options.version:
        share = options.share if options.share is not None else 0.1 if canary else 0.5
        rollout.start(registry, settings.events, options.version, share, kind=kind, override=options.override, **by)
    print_text(json.dumps(rollout.describe_trial(registry), indent=1))


def _check_options(options: argparse.Namespace) -> None:
    action, version, stop, share = options.action, options.version, options.stop, options.share is not None
    conclude, tries = options.conclude, action in ("canary", "ab")
    if action == "promote" and not version:
        raise ConfigError("models promote: name the version.")
    if action == "export" and not (version and options.to and options.out):
        raise ConfigError("models export: name the version, --to gguf, openvino or hf, and --out FOLDER.")
    if action != "export" and (options.to or options.out):
        raise ConfigError(f"models {action}: only export has --to and --out.")
    if options.check and action != "push":
        raise ConfigError(f"models {action}: only push has a --check.")
    if action == "push" and version:
        raise ConfigError("models push: it takes no version; all are pushed, and the champion is put on main.")
    if action in ("list", "rollback") and version:
        raise ConfigError(f"models {action}: it takes no version; to make {version} the champion, promote it.")
    if options.override and (not (tries or action == "promote") or not version):
        raise ConfigError(f"models {action}: --override goes with the version of promote, canary or ab.")
    if ((stop or share) and not tries) or (stop and (version or share)) or (share and not version):
        raise ConfigError(f"models {action}: only a canary or ab has a --share, with its version, or a --stop, alone.")
    if conclude and (not tries or version or stop):
        raise ConfigError(f"models {action}: only a canary or ab has --conclude, without a version.")
    if options.promote and (not conclude or action != "ab"):
        raise ConfigError(f"models {action}: only ab --conclude has --promote.")


def _print_decisions(decisions: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        print_line(json.dumps(decisions))
        return
    for d in decisions:
        print_line(f"{d['time'][:19]}  {d['version']:<5} {d['kind']:<9} {d['outcome']:<17} {d['by']}: {d['why']}")
    if not decisions:
        print_line("Nothing has been decided yet.")


def _describe_version(version: Any) -> dict[str, Any]:
    from llmops.release.registry.version import format_version

    known: dict[str, Any] = json.loads(format_version(version))
    return known | {"removed": version.removed_at}
