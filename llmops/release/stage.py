"""Release: serve the index of the documents, decide by the gate, publish the version, move the aliases.

The index is served whatever the gate decides of the model, so that what was deleted or forgotten is found no more. It
lies in the registry, where another run may have served another one since: so `stands` sees to it at every run.

python -m llmops run release
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.artifacts import Record, file_sha256, input_path, write_json
from llmops.config import Release, SearchServer
from llmops.data.annotate.split import normalized, wording_id
from llmops.data.feedback.documents import is_said
from llmops.data.index.filling import serve
from llmops.errors import ArtifactError, RegistryError
from llmops.monitoring.datasets import GATE
from llmops.monitoring.events import emit
from llmops.records import Example, read_rows
from llmops.registry.registry import Registry
from llmops.registry.version import MODEL, Version, read_version
from llmops.registry.view import BASE
from llmops.release import card, ledger, lineage
from llmops.release.gate import Decision, Scores
from llmops.release.judgement import Candidate, alike, judge
from llmops.release.ledger import LedgerMoved
from llmops.state.database import database_at

log = logging.getLogger(__name__)

_HYPERPARAMETERS = (
    "learning_rate", "rank", "batch", "epochs", "alpha", "dropout", "warmup", "steps", "examples", "tokens", "seconds",
    "final_loss",
)  # fmt: skip


def run(
    config: Release,
    *,
    train: Path,
    compress: Path,
    select: Path,
    annotate: Path,
    evaluate: Path,
    govern: Path,
    index: Path,
    champion: Path | None = None,
    interval: str,
    events: Path,
    database: str,
    search_server: SearchServer | None = None,
    out: Path,
) -> dict[str, Any]:
    """Write `decision.json`, and index and version into the registry.

    The decision is also an event in the folder `events`. The opponent is the one that `evaluate` answered with: the
    champion at that time, else the base model.

    Raises:
        ArtifactError: if the answers are not those of the same items, or the champion given is not the one evaluated.
    """
    registry = Registry(config.registry, config.name, database_at(database))
    serve(registry, index, interval, search_server, by="pipeline")
    known = lineage.records(govern)
    opponent = champion.name if champion else BASE
    candidate_scores, opponent_scores = read_scores(evaluate / "answers.parquet", "champion" if champion else "base")
    if (seen := _champion_of(known["evaluate"])) != opponent:
        raise ArtifactError(
            f"The candidate was evaluated against {seen}, but is to be compared with {opponent}: the champion changed "
            "between the stages. Run evaluate, govern and release again."
        )
    selection: dict[str, Any] = _read(select / "selection.json")
    lessons, alone = _news(annotate, champion, known, selection)
    evaluation = _read(evaluate / "evaluation.json")
    way = evaluation.get("served", {}).get("answers", MODEL)
    candidate = Candidate(
        scores=candidate_scores,
        opponent_scores=opponent_scores,
        opponent=opponent,
        compress=compress.name,
        identity=ledger.identity(known, config, selection, "served" in evaluation),
        items=read_items(evaluate / "answers.parquet"),
        lessons=lessons,
        same=alike(champion, compress / "servable", way) if champion and "served" in evaluation else "",
        alone=alone,
    )
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
        "answers": way,
    }
    if erasures := [e for e in known["train"].erasures if e.get("examples")]:
        facts["erasures"] = tuple({key: e[key] for key in ("time", "examples")} for e in erasures)
    trees = {
        **({"adapter": train / "adapter"} if (train / "adapter").is_dir() else {}),
        "servable": compress / "servable",
        "compression.json": compress / "compression.json",
        "answers.parquet": evaluate / "answers.parquet",
        "features": out / "features",
    }

    def documents(version: Version) -> dict[str, str]:
        _declare_features(config.name, version, input_path(train, "features"), out / "features")
        history = lineage.build(known, version, selection)
        governance = _read(govern / "governance.json")
        final = judgement.counting(version)
        readme = card.render(
            config.name,
            version,
            decision=final,
            evaluation=evaluation,
            governance=governance,
            lineage=history,
            sources=_sources(annotate, history),
            training={key: known["train"].metrics[key] for key in _HYPERPARAMETERS if key in known["train"].metrics},
            chat=card.has_chat_template(compress / "servable"),
            file=card.gguf_file(compress / "servable"),
        )
        values = {
            "lineage.json": history,
            "evaluation.json": evaluation,
            "governance.json": governance,
            "decision.json": {"version": version.name, **asdict(final)},
        }
        return {"README.md": readme, **{name: _json(value) for name, value in values.items()}}

    share = config.canary_share if config.canary else 0.0
    while True:
        judgement = judge(candidate, config, registry)
        decided = judgement.decision
        why, numbers = "; ".join(decided.reasons), {**judgement.numbers(), "compress": compress.name}
        now = {**facts, "status": decided.outcome}
        with contextlib.suppress(LedgerMoved):  # somebody else was decided on meanwhile: the level is another
            version = registry.publish(
                now, trees, documents, by="gate", why=why, numbers=numbers, canary=share, also=judgement.spend
            )
            break
    decision = judgement.counting(version)
    document = {"version": version.name, **asdict(decision)}
    document |= {"model": config.name, "registry": str(config.registry), "aliases": registry.aliases()}
    write_json(out / "decision.json", document)
    _announce(config, events, version, decision)
    log.info("%s %s against %s: %s", version.name, decision.outcome, decision.opponent, "; ".join(decision.reasons))
    return {
        "outcome": decision.outcome,
        "version": version.name,
        "opponent": decision.opponent,
        "reasons": list(decision.reasons),
        "items": decision.items,
        "attempt": decision.attempt,
        "level": decision.level,
        "left": decision.left,
    }


def stands(
    config: Release, *, index: Path, interval: str, database: str, search_server: SearchServer | None, **others: Any
) -> bool:
    """Serve the index of the run, though all else is as it was decided; the rest is as `run` takes it."""
    serve(Registry(config.registry, config.name, database_at(database)), index, interval, search_server, by="pipeline")
    return True


def read_scores(answers: Path, opponent: str) -> tuple[Scores, Scores]:
    """The candidate's scores and those of `opponent` ("base" or "champion") from an `answers.parquet`.

    Raises:
        ArtifactError: if a model has no answers in it.
    """
    table = pq.read_table(answers)
    texts = {"id", "question", "context", "reference", "source", "group", "model", "answer"}
    metrics = [name for name in table.column_names if name not in texts]
    rows = table.to_pylist()

    def scores(model: str) -> Scores:
        mine = [row for row in rows if row["model"] == model]
        if not mine:
            raise ArtifactError(f"{answers} has no answers of the model {model!r}; run `llmops run evaluate` again.")
        values = {m: [float("nan") if row[m] is None else float(row[m]) for row in mine] for m in metrics}
        return Scores(tuple(row["id"] for row in mine), tuple(row["group"] for row in mine), values)

    return scores("candidate"), scores(opponent)


def read_items(answers: Path) -> tuple[str, ...]:
    """The ids by which the ledger knows the test items of an `answers.parquet`, as the split tells questions apart."""
    rows = pq.read_table(answers, columns=["question", "context"]).to_pylist()
    return tuple(sorted({wording_id(row["question"], row["context"]) for row in rows}))


def _news(
    annotate: Path, champion: Path | None, known: Mapping[str, Record], selection: Mapping[str, Any]
) -> tuple[int | None, frozenset[str]]:
    """`Candidate.lessons` and `Candidate.alone`: by what it and the champion were trained on, as far as that is known.

    All that is new is what users have said if the champion was made alike, of all the other rows, and of none besides
    but what users have corrected; and if its dataset is there as it was.
    """
    if not champion or not champion.is_dir():
        return None, frozenset()
    opponent = read_version(champion)
    try:
        told = lineage.lineage(opponent)
    except RegistryError as error:
        log.warning("What is new since %s cannot be told. %s", opponent.name, error)
        return None, frozenset()
    if not (dataset := lineage.dataset_of(told, annotate.parent.parent)):
        return None, frozenset()
    mine, theirs = ({row.id: row for row in read_rows(path, Example)} for path in (annotate / lineage.DATASET, dataset))
    before = {row.group for row in theirs.values()} | {row.group for row in mine.values() if row.id in theirs}
    alone = frozenset(row.group for row in mine.values()) - before
    new = [row for row in mine.values() if row.id not in theirs]
    corrected = {normalized(row.question) for row in new}
    gone = [row for row in theirs.values() if row.id not in mine and normalized(row.question) not in corrected]
    if not new or gone or not all(is_said(row.location, row.position) for row in new):
        return None, alone
    if file_sha256(dataset) != opponent.dataset or not ledger.made_alike(known, selection, told):
        return None, alone
    tested = {row.group for row in read_rows(annotate / "test.parquet", Example)}
    return len(tested.intersection(row.group for row in new)), alone


def _champion_of(evaluate: Record) -> str:
    """The version that `evaluate` answered with besides the candidate, or "base"."""
    return evaluate.inputs["champion"].rpartition("/")[2] if "champion" in evaluate.inputs else BASE


def _sources(annotate: Path, history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Training examples by source and licence."""
    owners = {source["name"]: source["owner"] for source in history["sources"]}
    counts = Counter((row.source, row.licence) for row in read_rows(annotate / lineage.DATASET, Example))
    return [
        {"source": source, "licence": licence, "owner": owners.get(source, ""), "examples": count}
        for (source, licence), count in sorted(counts.items())
    ]


def _declare_features(model: str, version: Version, features: Path, out: Path) -> None:
    """Make `out` the version's feature store: what it is served by, with a feature service named after it."""
    from llmops.features.declarations import declare_version, service_name

    name = service_name(model, version.name)
    tags = {"model": model, "version": version.name, "features": features.name, "compress": version.compress}
    declare_version(features, name, tags, out, version.path / "features")


def _announce(config: Release, events: Path, version: Version, decision: Decision) -> None:
    fields: dict[str, Any] = {
        "event.action": "decide",
        "event.outcome": "success",
        "llmops.model.name": config.name,
        "llmops.model.version": version.name,
        "llmops.gate.outcome": decision.outcome,
        "llmops.gate.opponent": decision.opponent,
        "llmops.gate.reasons": list(decision.reasons),
        "llmops.gate.items": decision.items,
        "llmops.gate.attempt": decision.attempt,
        "llmops.gate.level": decision.level,
        "llmops.gate.left": decision.left,
        "llmops.gate.power": decision.power,
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
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
