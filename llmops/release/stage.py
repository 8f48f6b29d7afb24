"""Release: decide by the gate, publish the version, move the aliases.

python -m llmops run release
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops.config import Release
from llmops.data.feedback.documents import LOCATION as FEEDBACK
from llmops.data.retrieval.file_store import is_extension
from llmops.data.text.normalization import hash_wording
from llmops.events.datasets import GATE
from llmops.events.events import emit
from llmops.frame import artifacts
from llmops.frame.artifacts import Record, get_input_path, write_json
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.frame.records import CLOSED_BOOK, KEY_PREFIX, Example, read_rows
from llmops.release import card, ledger, lineage
from llmops.release.gate import GateDecision, judge_documents
from llmops.release.judgement import Bundle, GateCandidate, publish, read_items, read_scores
from llmops.release.registry.indexes import find_served_index
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version, read_version
from llmops.release.registry.view import BASE
from llmops.release.untrained import find_decided, make_untrained, make_untrained_challenger
from llmops.state.database import database_at

log = logging.getLogger(__name__)

_HYPERPARAMETERS = (
    "learning_rate", "rank", "batch", "epochs", "alpha", "dropout", "warmup", "steps", "examples", "tokens", "seconds",
    "final_loss",
)  # fmt: skip
_NUMBERS = ("outcome", "opponent", "items", "attempt", "level", "left")  #: of a decision


def run(
    config: Release,
    *,
    train: Path,
    compress: Path,
    select: Path,
    annotate: Path,
    evaluate: Path,
    govern: Path,
    champion: Path | None = None,
    events: Path,
    database: str,
    out: Path,
) -> dict[str, Any]:
    """Write `decision.json`, and the version into the registry.

    The decision is also an event in the folder `events`. The opponent is that of the artifact `evaluate`: the champion
    at that time, else the base model. If nothing was trained, the base with documents is the candidate; if it is the
    champion already, or was judged against it, its decision stands. If nothing is served yet, it becomes the first
    version, unless `serve_documents` asks the gate.

    Raises:
        ArtifactError: if the answers are not of the same items, or `champion` is not the evaluated opponent.
    """
    known = lineage.read_records(govern)
    opponent = champion.name if champion else BASE
    candidate_scores, opponent_scores = read_scores(evaluate / "answers.parquet", "champion" if champion else "base")
    if (evaluated := known["evaluate"].inputs.get("champion", BASE).rpartition("/")[2]) != opponent:
        raise ArtifactError(
            f"The candidate was evaluated against {evaluated}, but is to be compared with {opponent}: the champion "
            "changed between the stages. Run evaluate, govern and release again."
        )
    selection, evaluation = _read_json(select / "selection.json"), _read_json(evaluate / "evaluation.json")
    new_topics, trained_on = (_count_new_topics(champion, annotate) if champion else None) or (0, None)
    answer = str(evaluation.get("retrieval", {}).get("answer", ""))
    retrained = {**known, "annotate": replace(known["annotate"], files=trained_on.files)} if trained_on else {}
    candidate = GateCandidate(
        scores=candidate_scores,
        opponent_scores=opponent_scores,
        opponent=opponent,
        compress=compress.name,
        identity=ledger.hash_identity(known, config, selection, answer),
        items=read_items(evaluate / "answers.parquet"),
        new_topics=new_topics,
        opponent_erased=bool(champion and read_version(champion).erasures),
        index=evaluation.get("retrieval", {}).get("index", ""),
        retrained_identity=ledger.hash_identity(retrained, config, selection, answer) if retrained else "",
    )
    registry = Registry(config.registry, config.name, database_at(database))
    serving = registry.champion() if candidate.index else None
    index = evaluate.parents[1] / candidate.index
    comparison, why_held_back = _compare_documents(candidate, serving, registry, config, index)
    candidate = replace(candidate, why_held_back=why_held_back)
    facts: dict[str, Any] = {
        "compared_with": opponent,
        "compress": compress.name,
        "base_model": str(selection["model"]),
        "base_revision": str(selection["revision"]),
        "licence": str(selection["licence"]),
        "quantisation": str(known["compress"].metrics["chosen"]),
        "system_prompt": str(known["compress"].config.get("system_prompt", "")),
        "answer": answer,
        "interval": known["train"].interval,
        "run": known["train"].run,
        "dataset": lineage.get_dataset_hash(known),
    }
    trees = {
        **({"adapter": train / "adapter"} if (train / "adapter").is_dir() else {}),  # none if all weights trained
        "servable": compress / "servable",
        "compression.json": compress / "compression.json",
        "answers.parquet": evaluate / "answers.parquet",
        "features": out / "features",
    }
    bundle = Bundle(
        candidate=candidate,
        facts=facts,
        trees=lambda: trees,
        records=known,
        evaluation=evaluation,
        governance=_read_json(govern / "governance.json"),
    )

    def make_files(bundle: Bundle, version: Version, final: GateDecision) -> dict[str, str]:
        trained = bundle.records.get("train")
        if trained:
            _declare_features(config.name, version, get_input_path(train, "features"), out / "features")
        if version.compared_with and final.index != bundle.candidate.index:
            return {}  # the decision of an earlier index stands, with its figures
        history = lineage.build(bundle.records, version, selection)
        readme = card.render(
            config.name,
            version,
            decision=final,
            evaluation=bundle.evaluation,
            governance=bundle.governance,
            lineage=history,
            sources=_count_sources(annotate, history),
            training={key: trained.metrics[key] for key in _HYPERPARAMETERS if trained and key in trained.metrics},
            calibration=_read_json(compress / "compression.json").get("calibration", {}) if trained else {},
            chat=card.has_chat_template(compress / "servable"),
            file=card.find_gguf_file(compress / "servable"),
        )
        values = {
            "lineage.json": history,
            "evaluation.json": bundle.evaluation,
            "governance.json": bundle.governance,
            "decision.json": {"version": version.name, **final.as_json()},
        }
        texts = {name: json.dumps(value, indent=1, ensure_ascii=False, default=str) for name, value in values.items()}
        return {"README.md": readme, **{name: f"{text}\n" for name, text in texts.items()}}

    idle, scratch = artifacts.is_skipped(train), out / ".base"

    def make_base() -> Bundle:
        scores = read_scores(evaluate / "answers.parquet", CLOSED_BOOK, BASE)
        paths = {"select": select, "compress": compress, "evaluate": evaluate, "out": scratch}
        base = make_untrained(bundle, scores, config, selection, _read_json(govern / "base.json"), **paths)
        first = config.serve_documents == "first" and registry.champion() is None
        return replace(base, candidate=replace(base.candidate, replaces_nothing=first))

    if idle and opponent == BASE:
        bundle = make_base()
    elif idle:
        bundle = make_untrained_challenger(bundle, compress=compress, evaluate=evaluate)
    share = config.canary_share if config.canary else 0.0
    version = find_decided(registry, candidate, compress) if idle else None
    if version:
        decision = _read_decision(version)
    else:
        version, decision = publish(bundle, config, registry, make_files, share)
    published = [(version, decision)]
    # With later documents the decision stands, and an index that changes daily must not spend the test on the base.
    judged_with_index = (decision.outcome, decision.index) == ("rejected", candidate.index)
    if candidate.index and opponent == BASE and decision.outcome != "promoted" and not idle:
        base, now = make_base(), registry.champion()
        if base.governance["verdict"] != "passed":
            log.warning("the base with documents is not judged: %s", "; ".join(base.governance["reasons"]))
        elif now and now.compress == base.candidate.compress:
            published.append((now, _read_decision(now)))
        elif now is None and (judged_with_index or base.candidate.replaces_nothing):
            published.append(publish(base, config, registry, make_files))
    shutil.rmtree(scratch, ignore_errors=True)
    instead = {"instead": published[1][0].name} if len(published) > 1 and published[1][1].outcome == "promoted" else {}
    document = {"version": version.name, **decision.as_json(), **instead}
    if serving and registry.aliases().get("champion") == serving.name and comparison:
        document["documents"] = comparison
    document |= {"model": config.name, "registry": str(config.registry), "aliases": registry.aliases()}
    write_json(out / "decision.json", document)
    for one, final in published:
        _emit_decision(config, events, one, final)
        log.info("%s %s against %s: %s", one.name, final.outcome, final.opponent, "; ".join(final.reasons))
    numbers = {key: getattr(decision, key) for key in _NUMBERS}
    return {"version": version.name, "reasons": list(decision.reasons), **numbers, **instead}


def _compare_documents(
    candidate: GateCandidate, champion: Version | None, registry: Registry, config: Release, index: Path
) -> tuple[dict[str, Any], str]:
    """Compare the champion's answers with those of its decision, if these rest on other documents.

    Return the comparison, and the reason against the candidate. While an index is held back for its opponent, the
    candidate has to be as good as the opponent with the documents that stay.
    """
    version = registry.find_by_compress(candidate.compress)
    measured = {candidate.opponent: candidate.opponent_scores, version.name if version else "": candidate.scores}
    if champion and not champion.dataset and candidate.opponent == BASE:
        measured[champion.name] = candidate.opponent_scores  # the champion is the base model
    if not (candidate.index and champion and champion.name in measured):
        return {}, ""
    before = _read_json(champion.path / "decision.json").get("index", "")
    earlier = read_scores(champion.path / "answers.parquet", "candidate")[0]
    name = f"{champion.name} with {before or 'no documents'}"
    if before == candidate.index or not {config.primary, *config.guardrails} <= earlier.values.keys():
        return {}, ""  # other metrics decide by now
    decision, why = judge_documents(measured[champion.name], earlier, config, name), ""
    log.info("%s with %s: %s", champion.name, candidate.index, "; ".join(decision.reasons))
    held = decision.outcome == "rejected" and is_extension(index, find_served_index(registry.folder))
    if held and candidate.opponent == champion.name:
        against = judge_documents(candidate.scores, earlier, config, name)
        why = f"{candidate.index} is held back: {against.reasons[0]}" if against.outcome == "rejected" else ""
    outcome = {"outcome": decision.outcome, "reasons": list(decision.reasons)}
    return {"index": candidate.index, "before": before, **outcome}, why


def _count_sources(annotate: Path, history: Mapping[str, Any]) -> list[dict[str, Any]]:
    owners = {source["name"]: source["owner"] for source in history["sources"]}
    counts = Counter((row.source, row.licence) for row in read_rows(annotate / lineage.DATASET, Example))
    return [
        {"source": source, "licence": licence, "owner": owners.get(source, ""), "examples": count}
        for (source, licence), count in sorted(counts.items())
    ]


def _declare_features(model: str, version: Version, features: Path, out: Path) -> None:
    from llmops.data.features.declarations import declare_version, make_service_name

    name = make_service_name(model, version.name)
    tags = {"model": model, "version": version.name, "features": features.name, "compress": version.compress}
    declare_version(features, name, tags, out, version.path / "features")


def _emit_decision(config: Release, events: Path, version: Version, decision: GateDecision) -> None:
    fields: dict[str, Any] = {
        "event.action": "decide",
        "event.outcome": "success",
        "llmops.model.name": config.name,
        "llmops.model.version": version.name,
        "llmops.gate.reasons": list(decision.reasons),
        **{f"llmops.gate.{name}": getattr(decision, name) for name in (*_NUMBERS, "power")},
        "llmops.run": version.run,
    }
    for c in decision.comparisons:
        if c.role == "primary":
            fields |= {
                "llmops.gate.metric": c.metric,
                "llmops.gate.candidate": c.candidate,
                "llmops.gate.opponent_value": c.opponent,
                "llmops.gate.difference": c.difference,
                "llmops.gate.low": c.low,
                "llmops.gate.high": c.high,
            }
    emit(events, GATE, fields)


def _read_decision(version: Version) -> GateDecision:
    return GateDecision.from_json(_read_json(version.path / "decision.json"))


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _count_new_topics(version: Path, annotate: Path) -> tuple[int, Record] | None:
    """Return the number of topics with new feedback since a version was trained, and the record of its training rows.

    Return None if other rows are new or missing, too, or if the version's training rows are not there any more. A row
    that users have corrected may be missing.
    """
    try:
        before = annotate.parent.parent / lineage.read_lineage(read_version(version))["dataset"]["artifact"]
    except RegistryError:
        return None
    if not artifacts.is_done(before) or not (before / lineage.DATASET).is_file():
        return None
    now, then = ({row.id: row for row in read_rows(path / lineage.DATASET, Example)} for path in (annotate, before))
    new = [row for row in now.values() if row.id not in then]
    corrected = {hash_wording(row.question, row.context) for row in new}
    missing = {hash_wording(row.question, row.context) for row in then.values() if row.id not in now}
    if missing - corrected or not all(row.location == FEEDBACK and row.position.startswith(KEY_PREFIX) for row in new):
        return None
    return len({row.group for row in new}), artifacts.read_record(before)
