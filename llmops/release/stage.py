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
from llmops.data.retrieval.files import only_adds
from llmops.data.text.comparable import comparable
from llmops.events.datasets import GATE
from llmops.events.events import emit
from llmops.frame import artifacts
from llmops.frame.artifacts import Record, input_path, write_json
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.frame.records import CLOSED_BOOK, KEY, Example, read_rows
from llmops.release import card, ledger, lineage
from llmops.release.gate import Decision, decide_refresh
from llmops.release.judgement import Bundle, Candidate, publish, read_items, read_scores
from llmops.release.registry.indexes import served_index
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version, read_version
from llmops.release.registry.view import BASE
from llmops.release.untrained import against_champion, untrained
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

    The decision is also an event in the folder `events`. The opponent is the one that `evaluate` answered with: the
    champion at that time, else the base model. If nothing was trained, the base with documents is the candidate; if it
    is the champion already, its decision stands.

    Raises:
        ArtifactError: if the answers are not those of the same items, or the champion given is not the one evaluated.
    """
    known = lineage.records(govern)
    opponent = champion.name if champion else BASE
    candidate_scores, opponent_scores = read_scores(evaluate / "answers.parquet", "champion" if champion else "base")
    if (seen := known["evaluate"].inputs.get("champion", BASE).rpartition("/")[2]) != opponent:
        raise ArtifactError(
            f"The candidate was evaluated against {seen}, but is to be compared with {opponent}: the champion changed "
            "between the stages. Run evaluate, govern and release again."
        )
    selection, evaluation = _read(select / "selection.json"), _read(evaluate / "evaluation.json")
    told = _told_since(champion, annotate) if champion else None
    like = {**known, "annotate": replace(known["annotate"], files=told[1].files)} if told else {}
    candidate = Candidate(
        scores=candidate_scores,
        opponent_scores=opponent_scores,
        opponent=opponent,
        compress=compress.name,
        identity=ledger.identity(known, config, selection),
        items=read_items(evaluate / "answers.parquet"),
        told=told[0] if told else 0,
        marked=bool(champion and read_version(champion).erasures),
        index=evaluation.get("retrieval", {}).get("index", ""),
        like=ledger.identity(like, config, selection) if like else "",
    )
    registry = Registry(config.registry, config.name, database_at(database))
    serving = registry.champion() if candidate.index else None
    refreshed, worse = _refreshed(candidate, serving, registry, config, evaluate.parents[1] / candidate.index)
    candidate = replace(candidate, worse=worse)
    facts: dict[str, Any] = {
        "compared_with": opponent,
        "compress": compress.name,
        "base_model": str(selection["model"]),
        "base_revision": str(selection["revision"]),
        "licence": str(selection["licence"]),
        "quantisation": str(known["compress"].metrics["chosen"]),
        "interval": known["train"].interval,
        "run": known["train"].run,
        "dataset": lineage.dataset_hash(known),
    }
    trees = {
        "adapter": train / "adapter",
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
        governance=_read(govern / "governance.json"),
    )

    def documents(bundle: Bundle, version: Version, final: Decision) -> dict[str, str]:
        trained = bundle.records.get("train")
        if trained:
            _declare_features(config.name, version, input_path(train, "features"), out / "features")
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
            sources=_sources(annotate, history),
            training={key: trained.metrics[key] for key in _HYPERPARAMETERS if trained and key in trained.metrics},
            chat=card.has_chat_template(compress / "servable"),
            file=card.gguf_file(compress / "servable"),
        )
        values = {
            "lineage.json": history,
            "evaluation.json": bundle.evaluation,
            "governance.json": bundle.governance,
            "decision.json": {"version": version.name, **final.document()},
        }
        texts = {name: json.dumps(value, indent=1, ensure_ascii=False, default=str) for name, value in values.items()}
        return {"README.md": readme, **{name: f"{text}\n" for name, text in texts.items()}}

    idle, scratch = artifacts.is_skipped(train), out / ".base"

    def base() -> Bundle:
        scores = read_scores(evaluate / "answers.parquet", CLOSED_BOOK, BASE)
        paths = {"select": select, "compress": compress, "evaluate": evaluate, "out": scratch}
        return untrained(bundle, scores, config, selection, _read(govern / "base.json"), **paths)

    if idle:
        bundle = base() if opponent == BASE else against_champion(bundle, compress=compress, evaluate=evaluate)
    share, version = config.canary_share if config.canary else 0.0, serving
    if idle and serving and serving.compress == compress.name:  # its decision stands
        decision = Decision.of(_read(serving.path / "decision.json"))
    else:
        version, decision = publish(bundle, config, registry, documents, share)
    published = [(version, decision)]
    # With later documents the decision stands, and an index that changes daily must not spend the test on the base.
    rejected = (decision.outcome, opponent, decision.index) == ("rejected", BASE, candidate.index)
    if candidate.index and rejected and not idle:
        other, now = base(), registry.champion()
        if other.governance["verdict"] != "passed":
            log.warning("the base with documents is not judged: %s", "; ".join(other.governance["reasons"]))
        elif now is None or now.compress == other.candidate.compress:
            published.append(publish(other, config, registry, documents))
    shutil.rmtree(scratch, ignore_errors=True)
    other_version = published[-1][0] if len(published) > 1 else None
    instead = {"instead": other_version.name} if other_version else {}
    name = version.name if version else BASE
    document = {"version": name, **decision.document(), **instead}
    if serving and registry.aliases().get("champion") == serving.name and refreshed:
        document["documents"] = refreshed
    document |= {"model": config.name, "registry": str(config.registry), "aliases": registry.aliases()}
    write_json(out / "decision.json", document)
    for one, said in published:
        if one:
            _announce(config, events, one, said)
        log.info(
            "%s %s against %s: %s", one.name if one else BASE, said.outcome, said.opponent, "; ".join(said.reasons)
        )
    numbers = {key: getattr(decision, key) for key in _NUMBERS}
    return {"version": name, "reasons": list(decision.reasons), **numbers, **instead}


def _refreshed(
    candidate: Candidate, champion: Version | None, registry: Registry, config: Release, index: Path
) -> tuple[dict[str, Any], str]:
    """Compare the champion's answers with those that it was judged by, if these are from other documents.

    Return the comparison, and the reason against the candidate: while an index is held back for its opponent, it has to
    be as good as the opponent is with the documents that stay.
    """
    version = registry.made_from(candidate.compress)
    measured = {candidate.opponent: candidate.opponent_scores, version.name if version else "": candidate.scores}
    if champion and not champion.dataset and candidate.opponent == BASE:
        measured[champion.name] = candidate.opponent_scores  # it is the base
    if not (candidate.index and champion and champion.name in measured):
        return {}, ""
    before = _read(champion.path / "decision.json").get("index", "")
    earlier, name = read_scores(champion.path / "answers.parquet", "candidate")[0], f"{champion.name} with {before}"
    if before in ("", candidate.index) or not {config.primary, *config.guardrails} <= earlier.values.keys():
        return {}, ""  # other metrics decide by now
    said, worse = decide_refresh(measured[champion.name], earlier, config, name), ""
    log.info("%s with %s: %s", champion.name, candidate.index, "; ".join(said.reasons))
    held = said.outcome == "rejected" and only_adds(index, served_index(registry.folder))
    if held and candidate.opponent == champion.name:
        against = decide_refresh(candidate.scores, earlier, config, name)
        worse = f"{candidate.index} is held back: {against.reasons[0]}" if against.outcome == "rejected" else ""
    compared = {"index": candidate.index, "before": before, "outcome": said.outcome, "reasons": list(said.reasons)}
    return compared, worse


def _sources(annotate: Path, history: Mapping[str, Any]) -> list[dict[str, Any]]:
    owners = {source["name"]: source["owner"] for source in history["sources"]}
    counts = Counter((row.source, row.licence) for row in read_rows(annotate / lineage.DATASET, Example))
    return [
        {"source": source, "licence": licence, "owner": owners.get(source, ""), "examples": count}
        for (source, licence), count in sorted(counts.items())
    ]


def _declare_features(model: str, version: Version, features: Path, out: Path) -> None:
    from llmops.data.features.declarations import declare_version, service_name

    name = service_name(model, version.name)
    tags = {"model": model, "version": version.name, "features": features.name, "compress": version.compress}
    declare_version(features, name, tags, out, version.path / "features")


def _announce(config: Release, events: Path, version: Version, decision: Decision) -> None:
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


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _told_since(version: Path, annotate: Path) -> tuple[int, Record] | None:
    """Return on how many topics users gave feedback since a version was trained, and the record of its training rows.

    None if other rows are new or gone, too, or if the rows that the version was trained on are not there any more. A
    row that users have corrected may be gone.
    """
    try:
        before = annotate.parent.parent / lineage.lineage(read_version(version))["dataset"]["artifact"]
    except RegistryError:
        return None
    if not artifacts.is_done(before) or not (before / lineage.DATASET).is_file():
        return None
    mine, theirs = ({row.id: row for row in read_rows(path / lineage.DATASET, Example)} for path in (annotate, before))
    new = [row for row in mine.values() if row.id not in theirs]
    corrected = {comparable(row.question, closing=False) for row in new}
    gone = [
        row
        for row in theirs.values()
        if row.id not in mine and comparable(row.question, closing=False) not in corrected
    ]
    if gone or not all(row.location == FEEDBACK and row.position.startswith(KEY) for row in new):
        return None
    return len({row.group for row in new}), artifacts.read_record(before)
