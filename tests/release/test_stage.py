"""From finished artifacts to a version: decision, card, lineage, event."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import ModelCard

from llmops import cli
from llmops.config import Config, Features
from llmops.data.features.declarations import declare, open_store
from llmops.data.features.online import read_online
from llmops.events.spool import Spool
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.frame.records import Example, write_rows, write_table
from llmops.release import card, judgement, ledger, rollout
from llmops.release import stage as publish
from llmops.release.ledger import ALPHA, Attempt
from llmops.release.lineage import format_lineage, read_lineage
from llmops.release.registry.registry import Registry, registry_of

ITEMS = 40
Second = Callable[..., dict[str, Any]]
PASSWORD = "s3cr3tPassw0rd"


def finish(home: Path, stage: str, key: str, inputs: dict[str, str], files: dict[str, Any], **known: Any) -> Path:
    path = home / "artifacts" / stage / key
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            write_rows(path / name, content, Example)
        elif isinstance(content, pa.Table):
            write_table(path / name, content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    record = {"config": {}, "metrics": {}, "run": "manual__1", "interval": "2026-01-31", "code": "c0de", **known}
    times = {"started": "2026-01-31T00:00:00+00:00", "finished": "2026-01-31T00:01:00+00:00", "git_commit": "abc123"}
    artifacts.commit(path, Record(stage=stage, fingerprint=key, inputs=inputs, files={}, **record, **times))
    return path


def answers(items: int, wording: str = "question {}", **models: float) -> pa.Table:
    rest = {"context": "", "reference": "r", "source": "faq", "answer": "a", "exact_match": 0.0}
    return pa.Table.from_pylist(
        [
            {**rest, "id": f"{wording}{n}", "question": wording.format(n), "group": f"g{n // 2}", "model": model}
            | dict.fromkeys(("token_f1", "rouge_l", "hamming_loss"), score)
            for model, score in models.items()
            for n in range(items)
        ]
    )


def example(id: str, location: str = "t", position: str = "row 1") -> Example:
    texts = {"question": f"q {id}", "answer": "a", "group": f"g {id}", "split": "train"}
    return Example(id=id, **texts, source="faq", location=location, position=position, licence="CC0-1.0")


def chain(
    home: Path,
    train: str = "t1",
    against: str = "",
    items: int = ITEMS,
    wording: str = "question {}",
    more: Sequence[Example] = (),
    index: str = "",
    verdict: str = "passed",
    **models: float,
) -> dict[str, Path]:
    """The finished artifacts in front of release; the shared ones are made once.

    What stands before the `-` of `train` are its settings, what is behind it its seed; `more` it is trained on besides.
    With an `index` the test was answered from its documents, and the base has a `verdict` of governance, too.
    """
    root = home / "artifacts"
    if not root.exists():
        faq = {"name": "faq", "kind": "sql", "location": f"postgres://ana:{PASSWORD}@db/shop", "licence": "CC0-1.0"}
        finish(home, "collect", "c1", {}, {}, config={"sources": [{**faq, "owner": "support | desk"}]})
        finish(home, "clean", "k1", {"collect": "collect/c1"}, {})
        finish(home, "annotate", "a1", {"clean": "clean/k1"}, {"train.parquet": [example("1")] * 2})
        selection = {"model": "org/tiny", "revision": "rev9", "licence": "apache-2.0", "path": "base"}
        selection["weights"] = {"tiny.gguf": "9e37", "config.json": "79b9"}
        finish(home, "select", "s1", {}, {"selection.json": selection, "base/model.safetensors": "weights"})
        features = finish(home, "features", "f1", {"annotate": "annotate/a1", "select": "select/s1"}, {})
        declare(Features(store=home / "feast"), "llmops_0", features)
    environment = {"torch": "2.13", "peft": "0.21", "gpu": "NVIDIA L4 (8.9)"}
    made = {"made": train.partition("-")[0], "seed": train}
    known = {"metrics": {"rank": 8, "learning_rate": 0.001}, "config": made, "environment": environment}
    adapter = {"adapter/model.bin": f"adapter {train}"}
    finish(home, "train", train, {"features": "features/f1", "select": "select/s1"}, adapter, **known)
    rows = f"a-{train}" if more else "a1"
    if more:
        splits = ("train", "validation")
        files = {f"{split}.parquet": [row for row in (example("1"), *more) if row.split == split] for split in splits}
        finish(home, "annotate", rows, {"clean": "clean/k1"}, files)
    inputs = {"annotate": f"annotate/{rows}", "select": "select/s1", "train": f"train/{train}"}
    servable = {"servable/model.bin": f"servable {known['config']['made']}", "compression.json": {"chosen": "nf4"}}
    finish(home, "compress", f"c-{train}", inputs, servable, metrics={"chosen": "nf4"})
    inputs |= {"compress": f"compress/c-{train}", "evaluate": f"evaluate/e-{train}", "govern": f"govern/g-{train}"}
    figures = {
        m: {"token_f1": {"mean": s, "low": s - 0.1, "high": s + 0.1}, "perplexity": 9.5} for m, s in models.items()
    }
    evaluation = {"items": items, "confidence": 0.95, "models": figures}
    files = {"answers.parquet": answers(items, wording, **models), "evaluation.json": evaluation}
    asked = {stage: inputs[stage] for stage in ("annotate", "select", "compress")}
    asked |= {"champion": f"versions/{against}"} if against else {}
    if index:
        passages = {"metrics": {"passages": 1}}
        finish(home, "index", index, {"clean": "clean/k1"}, {"index.db": f"passages {index}"}, **passages)
        asked |= {"index": f"index/{index}"}
        evaluation |= {"retrieval": asked, "beside": {"base_closed_book": figures.pop("base_closed_book")}}
    finish(home, "evaluate", f"e-{train}", asked, files)
    ends = {stage: inputs[stage] for stage in ("annotate", "compress", "evaluate")}
    report = {"verdict": "passed", "reasons": ["nothing found"], "counts": []}
    base = {"base.json": {**report, "verdict": verdict}} if index else {}
    finish(home, "govern", f"g-{train}", ends, {"governance.json": report, **base})
    return {stage: root / ref for stage, ref in inputs.items()}


def grounded(
    home: Path, train: str = "t1", index: str = "i1", verdict: str = "passed", serve: str = "gate", **models: float
) -> Any:
    """Decide on a first candidate that answered with documents, as the base did, which answers worse without."""
    scores = {"base": 0.4, "base_closed_book": 0.2, "candidate": 0.4}
    inputs = chain(home, train, index=index, verdict=verdict, **{**scores, **models})
    return release(home, inputs, serve_documents=serve)


def registry_in(home: Path) -> Registry:
    return registry_of(Config(home=home))


def release(home: Path, inputs: dict[str, Path], champion: Path | None = None, **changed: Any) -> dict[str, Any]:
    out = Path(tempfile.mkdtemp(dir=home))
    config = Config(home=home, release=changed)
    paths = {"events": config.events, "database": config.database}
    publish.run(config.release, **inputs, champion=champion, **paths, out=out)
    document: dict[str, Any] = json.loads((out / "decision.json").read_text())
    return document


def test_the_first_model_that_beats_the_base_becomes_champion_with_a_feature_service(tmp_path: Path) -> None:
    decision = release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    version = registry_in(tmp_path).get("champion")
    assert (decision["outcome"], decision["version"], decision["opponent"]) == ("promoted", "v1", "base")
    assert (version.base_model, version.base_revision, version.quantisation, version.run) == (
        "org/tiny", "rev9", "nf4", "manual__1",
    )  # fmt: skip
    assert (version.servable / "model.bin").read_text() == "servable t1"
    assert json.loads((version.path / "decision.json").read_text())["version"] == "v1"
    assert "index" not in {*decision, *registry_in(tmp_path).decisions()[0]["numbers"]}
    assert {"evaluation.json", "governance.json"} <= {path.name for path in version.path.iterdir()}
    (service,) = open_store(version.path / "features").list_feature_services()
    assert (service.name, service.tags["compress"]) == ("support_bot_v1", version.compress)
    assert read_online(version.path / "features", ["nobody"], service.name) == [None]


def test_a_candidate_with_documents_is_judged_with_them_and_the_record_says_so(tmp_path: Path) -> None:
    decision = grounded(tmp_path, candidate=0.6)
    version = registry_in(tmp_path).get("champion")
    assert (decision["outcome"], decision["version"], decision["index"]) == ("promoted", "v1", "index/i1")
    assert "it answered with the documents of index/i1, and so did base" in decision["reasons"]
    assert registry_in(tmp_path).decisions()[0]["numbers"]["index"] == "index/i1" and "instead" not in decision
    assert "with the documents of `index/i1`" in (version.path / "README.md").read_text()
    assert "index/i1" in {stage["artifact"] for stage in read_lineage(version)["stages"]}


def test_where_the_first_candidate_is_rejected_the_base_with_documents_is_champion(tmp_path: Path) -> None:
    first = grounded(tmp_path)
    registry = registry_in(tmp_path)
    version, told = registry.get("v2"), json.loads((registry.get("v2").path / "decision.json").read_text())
    assert (first["outcome"], first["instead"], registry.aliases()["champion"]) == ("rejected", "v2", "v2")
    assert (told["outcome"], told["opponent"], told["attempt"], told["index"]) == ("promoted", "base", 2, "index/i1")
    assert "it answered with the documents of index/i1, base without" in told["reasons"]
    assert (version.servable / "model.safetensors").read_text() == "weights" and not (version.path / "adapter").exists()
    assert (version.compared_with, version.quantisation, version.dataset) == ("base", "bf16", "")
    assert json.loads((version.path / "governance.json").read_text())["verdict"] == "passed"
    (mine, theirs), items = publish.read_scores(version.path / "answers.parquet", "base"), ITEMS
    assert (mine.values["token_f1"], theirs.values["token_f1"]) == ([0.4] * items, [0.2] * items)
    text = (version.path / "README.md").read_text()
    assert "nothing was trained" in text and "adapter" not in text and "{%" not in text
    assert ModelCard(text).data.library_name == "transformers"
    made = {stage["artifact"].split("/")[0] for stage in read_lineage(version)["stages"]}
    assert made == {"evaluate", "select", "index", "clean", "collect"}  # no rows that an erasure would have to look for
    assert "nothing was trained" in format_lineage(version) and "trained by" not in format_lineage(version)
    with Spool(tmp_path / "events") as spool:
        assert [event["llmops.model.version"] for event in spool.read("test")[1]] == ["v1", "v2"]
    before = ledger_of(tmp_path), registry.versions()
    shutil.rmtree(tmp_path / "artifacts")
    assert grounded(tmp_path)["instead"] == "v2"  # again: nothing is asked twice
    assert (ledger_of(tmp_path), registry.versions()) == before
    assert next_release(tmp_path, "t2", candidate=0.7)["opponent"] == "v2"
    shutil.rmtree(tmp_path / "artifacts")
    assert "instead" not in grounded(tmp_path, "t3") and registry.aliases()["champion"] == "v3"


def idle(home: Path, index: str = "i1", train: str = "t1", serve: str = "gate", **models: float) -> Any:
    """Decide where nothing was trained: the candidate is the base."""
    champion = registry_in(home).find_opponent(f"c-{train}")
    scores = {"base": 0.4, "base_closed_book": 0.2, "candidate": 0.4, **models}
    inputs = chain(home, train, champion.name if champion else "", index=index, **scores)
    for stage in ("train", "compress"):
        record = artifacts.read_record(inputs[stage])
        artifacts.commit(inputs[stage], replace(record, metrics={**record.metrics, "skipped": "nothing to train on"}))
    shutil.rmtree(inputs["train"] / "adapter")
    return release(home, inputs, champion, serve_documents=serve)


def test_where_nothing_was_trained_the_base_with_documents_is_the_candidate(tmp_path: Path) -> None:
    first, registry = idle(tmp_path), registry_in(tmp_path)
    assert (first["version"], first["outcome"], first["opponent"]) == ("v1", "promoted", "base")
    version = registry.get("champion")
    assert (version.name, version.dataset, version.compress) == ("v1", "", "c-t1") and not (
        version.path / "adapter"
    ).exists()
    assert (version.servable / "model.bin").read_text() == "servable t1"
    assert "nothing was trained" in (version.path / "README.md").read_text()
    told = idle(tmp_path, "i2", "t1-2", champion=0.4)  # another test of the same base: its decision stands, no attempt
    assert (told["version"], told["index"], told["documents"]["outcome"]) == ("v1", "index/i1", "promoted")
    assert [(a.version, a.outcome) for a in ledger_of(tmp_path)] == [("v1", "promoted")]
    assert next_release(tmp_path, "t2", candidate=0.7)["version"] == "v2"
    for train, index in (("t3", "i3"), ("t3-2", "i4")):  # another base, which is worse than the champion
        told = idle(tmp_path, index, train, champion=0.7)
        assert (told["version"], told["outcome"], told["index"]) == ("v3", "rejected", "index/i3")
    assert [attempt.version for attempt in ledger_of(tmp_path)] == ["v1", "v2", "v3"]
    told = idle(tmp_path, "i5", "t4", champion=0.3)  # and one that is better
    assert (told["version"], told["opponent"], registry.aliases()["champion"]) == ("v4", "v2", "v4")
    assert not registry.get("v4").dataset and not (registry.get("v4").path / "adapter").exists()


def test_a_rejected_base_is_a_version_with_its_reasons(tmp_path: Path) -> None:
    told, registry = idle(tmp_path, base_closed_book=0.4), registry_in(tmp_path)
    assert (told["version"], told["outcome"], told["aliases"]) == ("v1", "rejected", {"candidate": "v1"})
    shutil.rmtree(tmp_path / "artifacts")
    idle(tmp_path, base_closed_book=0.4)
    assert [(v.name, v.status) for v in registry.versions()] == [("v1", "rejected")] and len(ledger_of(tmp_path)) == 1
    assert "not above" in registry.decisions("v1")[0]["why"]


def test_the_first_documents_are_served_without_the_gate(tmp_path: Path) -> None:
    told, registry = idle(tmp_path, serve="first", base_closed_book=0.4), registry_in(tmp_path)
    assert (told["version"], told["outcome"], told["aliases"]["champion"]) == ("v1", "promoted", "v1")
    assert "the gate was not asked" in told["reasons"][0] and "0.400 against 0.400 of base" in told["reasons"][1]
    assert ledger_of(tmp_path) == [] and registry.get("v1").status == "promoted"
    assert told["reasons"][0] in (registry.get("v1").path / "README.md").read_text()
    shutil.rmtree(tmp_path / "artifacts")
    again = idle(tmp_path, "i2", serve="first", champion=0.4)  # later documents: the decision stands
    assert (again["version"], again["outcome"], again["index"]) == ("v1", "promoted", "index/i1")
    candidate = next_release(tmp_path, "t2", candidate=0.4)  # what replaces it has to pass the gate
    assert (candidate["outcome"], candidate["opponent"]) == ("rejected", "v1")


@pytest.mark.parametrize("items", [ITEMS, 4])
def test_documents_are_served_if_the_first_training_fails(tmp_path: Path, items: int) -> None:
    scores = {"base": 0.2, "base_closed_book": 0.2, "candidate": 0.2}
    told = release(tmp_path, chain(tmp_path, index="i1", items=items, **scores))
    assert (told["outcome"], told["instead"]) == ("rejected" if items == ITEMS else "inconclusive", "v2")
    assert registry_in(tmp_path).aliases()["champion"] == "v2"
    before = registry_in(tmp_path).versions()
    shutil.rmtree(tmp_path / "artifacts")
    assert release(tmp_path, chain(tmp_path, index="i1", items=items, **scores))["instead"] == "v2"
    assert registry_in(tmp_path).versions() == before


def test_a_base_that_was_rejected_becomes_the_first_version(tmp_path: Path) -> None:
    assert idle(tmp_path, base_closed_book=0.4)["outcome"] == "rejected"
    shutil.rmtree(tmp_path / "artifacts")
    told = idle(tmp_path, serve="first", base_closed_book=0.4)
    assert (told["version"], told["aliases"]["champion"]) == ("v1", "v1")


def test_documents_whose_answers_fail_governance_are_not_served(tmp_path: Path) -> None:
    assert "instead" not in grounded(tmp_path, verdict="failed", serve="first")
    assert registry_in(tmp_path).champion() is None


@pytest.mark.parametrize(("base", "outcome"), [(0.38, "promoted"), (0.05, "rejected")])
def test_a_base_that_is_champion_is_compared_with_its_answers_from_earlier_documents(
    tmp_path: Path, base: float, outcome: str
) -> None:
    assert "documents" not in grounded(tmp_path)
    shutil.rmtree(tmp_path / "artifacts")
    told = grounded(tmp_path, index="i2", base=base, candidate=base)
    assert (told["aliases"]["champion"], told["documents"]["outcome"]) == ("v2", outcome)


def test_a_base_whose_answers_fail_governance_takes_no_place_and_spends_nothing(tmp_path: Path) -> None:
    assert "instead" not in grounded(tmp_path, verdict="failed")
    assert registry_in(tmp_path).champion() is None and [a.version for a in ledger_of(tmp_path)] == ["v1"]


def test_documents_that_come_after_a_rejection_are_judged(tmp_path: Path) -> None:
    assert release(tmp_path, chain(tmp_path, base=0.2, candidate=0.2))["outcome"] == "rejected"
    shutil.rmtree(tmp_path / "artifacts")
    assert grounded(tmp_path)["instead"] == "v2" and [a.version for a in ledger_of(tmp_path)] == ["v1", "v1", "v2"]


def test_a_first_index_that_makes_the_champion_worse_is_told(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.6))
    scores = {"base": 0.1, "base_closed_book": 0.2, "candidate": 0.1, "champion": 0.1}
    inputs = chain(tmp_path, "t2", "v1", index="i1", **scores)
    told = release(tmp_path, inputs, registry_in(tmp_path).get("v1").path)["documents"]
    assert (told["before"], told["outcome"]) == ("", "rejected") and "v1 with no documents" in told["reasons"][0]


def test_a_base_that_documents_do_not_help_is_asked_once(tmp_path: Path) -> None:
    for train, index in (("t1", "i1"), ("t2", "i1"), ("t3", "i2"), ("t3", "i3"), ("t1", "i4")):
        decision = grounded(tmp_path, train, index, base_closed_book=0.4)
        shutil.rmtree(tmp_path / "artifacts")
        assert decision["outcome"] == "rejected" and not {"instead", "champion"} & {*decision, *decision["aliases"]}
    versions = [attempt.version for attempt in ledger_of(tmp_path)]
    assert versions == ["v1", "v2", "v3", "v4", "v5"]  # once for a candidate, and of other documents once more


@pytest.mark.parametrize(("champion", "outcome"), [(0.58, "promoted"), (0.3, "rejected")])
def test_a_refreshed_index_must_be_no_worse_for_the_champion_and_spends_no_attempt(
    tmp_path: Path, champion: float, outcome: str
) -> None:
    assert "documents" not in grounded(tmp_path, candidate=0.6)
    opponent, scores = registry_in(tmp_path).get("champion"), {"base": 0.4, "base_closed_book": 0.2}
    inputs = chain(tmp_path, "t2", "v1", index="i2", champion=champion, candidate=champion, **scores)
    told = release(tmp_path, inputs, opponent.path)["documents"]
    assert (told["before"], told["index"], told["outcome"]) == ("index/i1", "index/i2", outcome)
    assert "the documents are others: it is enough to be no worse" in told["reasons"]
    assert [a.version for a in ledger_of(tmp_path)] == ["v1", "v2"]
    shutil.rmtree(tmp_path / "artifacts")
    again = grounded(tmp_path, index="i2", candidate=champion)  # v1 by itself: its decision stands
    assert (again["outcome"], again["index"], again["documents"]["outcome"]) == ("promoted", "index/i1", outcome)
    assert [a.version for a in ledger_of(tmp_path)] == ["v1", "v2"]
    figures = json.loads((opponent.path / "evaluation.json").read_text())["models"]["candidate"]["token_f1"]
    assert figures["mean"] == 0.6 and "index/i1" in {s["artifact"] for s in read_lineage(opponent)["stages"]}
    assert "0.600 (0.500" in (opponent.path / "README.md").read_text()  # not the figures of i2 with the decision of i1


def test_a_champion_that_is_judged_anew_has_the_answers_of_that_index(tmp_path: Path) -> None:
    grounded(tmp_path, candidate=0.6)
    shutil.rmtree(tmp_path / "artifacts")
    inputs = chain(tmp_path, index="i2", base=0.3, base_closed_book=0.2, candidate=0.5)
    told = release(tmp_path, inputs, min_effect=0.02)
    version = registry_in(tmp_path).get("champion")
    assert told["index"] == json.loads((version.path / "decision.json").read_text())["index"] == "index/i2"
    assert publish.read_scores(version.path / "answers.parquet", "base")[0].values["token_f1"] == [0.5] * ITEMS
    assert (told["documents"]["before"], told["documents"]["outcome"]) == ("index/i1", "rejected")  # of before


@pytest.mark.parametrize(
    ("held", "candidate", "outcome"), [(True, 0.5, "rejected"), (True, 0.58, "promoted"), (False, 0.5, "promoted")]
)
def test_an_index_that_is_held_back_does_not_come_in_with_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool, candidate: float, outcome: str
) -> None:
    """v1, better with the earlier documents, is easily beaten with these."""
    grounded(tmp_path, candidate=0.6)
    index = tmp_path / "artifacts" / "index" / "i2"
    monkeypatch.setattr(publish, "is_extension", lambda added, served: held and added == index)
    scores = {"base": 0.4, "base_closed_book": 0.2, "champion": 0.4, "candidate": candidate}
    inputs = chain(tmp_path, "t2", "v1", index="i2", **scores)
    told = release(tmp_path, inputs, registry_in(tmp_path).find_opponent("c-t2"))
    assert (told["outcome"], told["attempt"], "documents" in told) == (outcome, 2, outcome == "rejected")
    assert ("index/i2 is held back" in told["reasons"][0]) == (outcome == "rejected")


def test_a_champion_that_changed_since_evaluation_is_an_error_or_inconclusive(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="base"):  # answers without the opponent
        release(tmp_path, chain(tmp_path, "t0", candidate=0.5))
    next_release(tmp_path, "t1")
    registry = registry_in(tmp_path)
    stale = chain(tmp_path, "t2", base=0.2, candidate=0.9)
    with pytest.raises(ArtifactError):  # evaluated against the base, to be compared with v1
        release(tmp_path, stale, registry.find_opponent("c-t2"))
    decision = release(tmp_path, stale)  # both stages saw no champion, but now there is one
    assert (decision["outcome"], decision["attempt"]) == ("inconclusive", 0) and len(ledger_of(tmp_path)) == 1
    assert registry.aliases()["champion"] == "v1"
    assert json.loads((registry.get("v2").path / "decision.json").read_text())["outcome"] == "inconclusive"
    (row,) = registry.decisions("v2")
    assert (row["outcome"], row["why"], row["numbers"]) == ("inconclusive", decision["reasons"][0], {})
    assert next_release(tmp_path, "t2-0", candidate=0.9)["attempt"] == 2


def test_the_card_has_the_metadata_of_the_hub(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    text = (registry_in(tmp_path).get("v1").path / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.language, data.library_name) == ("org/tiny", "apache-2.0", "en", "peft")
    assert {r.metric_type: r.metric_value for r in data.eval_results or []} == {"token_f1": 0.5, "perplexity": 9.5}
    assert "| faq | CC0-1.0 | support \\| desk | 2 |" in text and "0.500 (0.400 to 0.600)" in text
    assert "{{" not in text and "{%" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert all(len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_lineage_goes_from_the_answer_to_the_base_model_and_outlives_the_artifacts(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    for ref in ("collect/c1", "clean/k1", "annotate/a1"):  # made on the 29th, and found unchanged ever since
        file = tmp_path / "artifacts" / ref / "record.json"
        artifacts.write_json(file, json.loads(file.read_text()) | {"interval": "2026-01-29"})
    release(tmp_path, inputs)
    version = registry_in(tmp_path).get("v1")
    known, text = read_lineage(version), format_lineage(version)
    assert "data of 2026-01-31, unchanged since 2026-01-29" in text
    days = {stage["artifact"]: stage["interval"] for stage in known["stages"]}
    assert (days["collect/c1"], days["train/t1"]) == ("2026-01-29", "2026-01-31")
    digest = artifacts.read_record(inputs["annotate"]).files["train.parquet"]
    assert known["dataset"]["sha256"] == version.dataset == digest
    made_by, base = "torch 2.13, peft 0.21, on NVIDIA L4 (8.9)", ("org/tiny at rev9", "tiny.gguf sha256 9e37")
    places = [text.index(part) for part in ("v1", "manual__1", made_by, digest, "faq", *base)]
    assert places == sorted(places)
    assert {s["artifact"].split("/")[0] for s in known["stages"]} == {*inputs, "collect", "clean", "features"}
    everything = "".join(p.read_text() for p in version.path.rglob("*") if p.suffix in {".json", ".md"})
    assert PASSWORD not in everything + text
    (tmp_path / "artifacts").rename(tmp_path / "gone")
    assert format_lineage(registry_in(tmp_path).get("v1")) == text
    (version.path / "lineage.json").unlink()
    with pytest.raises(RegistryError, match="lineage"):
        read_lineage(version)


def test_card_and_lineage_tell_of_an_erasure(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, inputs)
    registry = registry_in(tmp_path)
    before = (registry.get("v1").path / "README.md").read_text()
    for examples in (2, 3, 3):  # the last one is tried again
        erasure = {"time": f"2026-02-0{examples}T00:00:00+00:00", "examples": examples, "receipt": examples}
        registry.record_erasure("v1", erasure, card.write_erasures)
    version = registry.get("v1")
    text = (version.path / "README.md").read_text()
    assert text.count("## Erasure") == 1 and "| 2026-02-03T00:00:00+00:00 | 3 | 3 |" in text
    assert format_lineage(version).count("training examples (receipt") == 2
    release(tmp_path, inputs)  # publishing again renders the card anew
    assert (version.path / "README.md").read_text() == text
    assert card.write_erasures(text, replace(version, erasures=())) == before


def next_release(
    home: Path,
    train: str,
    items: int = ITEMS,
    candidate: float = 0.5,
    wording: str = "question {}",
    more: Sequence[Example] = (),
    **changed: Any,
) -> dict[str, Any]:
    """Decide on one more candidate, against the champion."""
    registry = registry_in(home)
    champion = registry.find_opponent(f"c-{train}")
    against = champion.name if champion else ""
    scores = {"base": 0.2, "candidate": candidate} | ({"champion": 0.5} if champion else {})
    return release(home, chain(home, train, against, items, wording, more, **scores), champion, **changed)


def ledger_of(home: Path) -> list[Attempt]:
    registry = registry_in(home)
    with registry.database.read() as connection:
        return ledger.read(connection, registry.name)


@pytest.fixture
def second(tmp_path: Path) -> Second:
    """v1 is the champion; release t2, which is better by 0.2, by some rules."""
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    return partial(release, tmp_path, inputs, registry_in(tmp_path).find_opponent("c-t2"))


def test_every_candidate_asks_the_test_at_a_smaller_level_and_says_so(tmp_path: Path) -> None:
    decisions = [next_release(tmp_path, f"t{n}") for n in range(1, 10)]
    assert [d["outcome"] for d in decisions] == ["promoted"] + ["rejected"] * 8
    assert [d["opponent"] for d in decisions] == ["base"] + ["v1"] * 8
    assert [d["attempt"] for d in decisions] == list(range(1, 10))  # the first, against the base, is one
    assert [d["level"] for d in decisions] == pytest.approx([ALPHA / (k * (k + 1)) for k in range(1, 10)])
    assert [(a.number, a.version) for a in ledger_of(tmp_path)] == [(k, f"v{k}") for k in range(1, 10)]
    registry = registry_in(tmp_path)
    line = f"- attempt 7 on this frozen test (level 0.00089, left {decisions[6]['left']:.2g})"
    assert line in (registry.get("v7").path / "README.md").read_text()
    with Spool(tmp_path / "events") as spool:
        event = spool.read("test")[1][6]
    assert (event["event.dataset"], event["llmops.model.version"]) == ("llmops.gate", "v7")
    told = {name: event[f"llmops.gate.{name}"] for name in ("outcome", "attempt", "level", "left", "power")}
    assert told == {name: decisions[6][name] for name in told} and told["attempt"] == 7
    assert next_release(tmp_path, "t10", candidate=0.7)["outcome"] == "promoted"  # one that is better by enough
    assert registry.aliases() == {"candidate": "v10", "champion": "v10", "previous": "v1"}


@pytest.mark.parametrize(("candidate", "outcome"), [(0.46, "promoted"), (0.44, "rejected")])
def test_a_marked_champion_is_replaced_by_what_is_no_worse(tmp_path: Path, candidate: float, outcome: str) -> None:
    next_release(tmp_path, "t1")
    registry = registry_in(tmp_path)
    assert next_release(tmp_path, "t2", candidate=0.5)["outcome"] == "rejected", "as good is not good enough"
    registry.record_erasure("v1", {"time": "2026-02-01", "examples": 2, "receipt": 7}, card.write_erasures)
    decision = next_release(tmp_path, "t3", candidate=candidate)
    assert (decision["outcome"], decision["attempt"], len(ledger_of(tmp_path))) == (outcome, 0, 2)
    assert registry.aliases()["champion"] == ("v3" if outcome == "promoted" else "v1")
    again = next_release(tmp_path, "t4", candidate=0.51)  # one that is better by too little: by the rules of all others
    assert again["outcome"] == ("rejected" if outcome == "promoted" else "promoted")


def test_another_seed_is_no_other_candidate_and_spends_nothing(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    first = next_release(tmp_path, "t2-1", candidate=0.505)
    again = next_release(tmp_path, "t2-2", candidate=0.9)
    assert (first["outcome"], again["outcome"], again["attempt"]) == ("rejected", "inconclusive", 0)
    assert "v2" in again["reasons"][0] and again["left"] == first["left"]
    assert registry_in(tmp_path).aliases() == {"champion": "v1", "candidate": "v3"}
    assert next_release(tmp_path, "t1-9", candidate=0.9)["outcome"] == "inconclusive"  # the promoted one's twin
    assert next_release(tmp_path, "t3")["attempt"] == 3
    grown = next_release(tmp_path, "t2-3", items=44, candidate=0.9)  # another test: it may ask
    assert (grown["outcome"], grown["attempt"]) == ("promoted", 4)


SAID = [example(f"s{n}", "feedback", f"key {n}") for n in range(7)]


@pytest.mark.parametrize(
    ("train", "more", "outcome"),
    [
        ("t1-2", SAID[:1], "inconclusive"),  # a single topic that users have told of
        ("t1-2", SAID[:6], "inconclusive"),
        ("t1-2", [replace(SAID[0], split="validation")], "inconclusive"),  # its only topic does not train
        ("t1-2", SAID, "promoted"),
        ("t1-2", [*SAID[:1], example("other")], "promoted"),  # a row of another source is new, too
        ("t2-1", SAID[:1], "promoted"),  # and other settings
    ],
)
def test_a_topic_or_two_of_users_decide_nothing(tmp_path: Path, train: str, more: list[Example], outcome: str) -> None:
    next_release(tmp_path, "t1-1")
    decision = next_release(tmp_path, train, candidate=0.9, more=more)
    assert (decision["outcome"], decision["attempt"]) == (outcome, 0 if outcome == "inconclusive" else 2)
    if outcome == "inconclusive":
        topics = "1 topic" if len(more) == 1 else f"{len(more)} topics"
        said = f"since v1 is users' feedback on {topics}, and at least 7 are needed"
        assert (said if more[0].split == "train" else "the very rows that v1 was trained on") in decision["reasons"][0]


def test_new_items_refill_the_budget_and_questions_that_are_written_otherwise_do_not(tmp_path: Path) -> None:
    for n in range(1, 3):
        next_release(tmp_path, f"t{n}")
    left = ledger_of(tmp_path)[-1].left
    other = next_release(tmp_path, "t3", wording=" QUESTION   {}?")
    assert other["attempt"] == 3 and other["level"] + other["left"] == pytest.approx(left)
    grown = next_release(tmp_path, "t4", items=60)
    assert grown["attempt"] == 4
    assert grown["level"] + grown["left"] == pytest.approx(other["left"] + (ALPHA - other["left"]) * 20 / 60)


def test_each_question_of_the_gate_has_its_own_answer_whatever_came_since(tmp_path: Path, second: Second) -> None:
    strict = second(min_effect=0.3)
    next_release(tmp_path, "t3")
    lenient = second(min_effect=0.01)  # another question: another attempt
    assert (strict["outcome"], lenient["outcome"], lenient["attempt"]) == ("rejected", "promoted", 4)
    before = ledger_of(tmp_path)
    again = second(min_effect=0.3)
    assert {**again, "aliases": strict["aliases"]} == strict and again["aliases"]["champion"] == "v2"
    assert registry_in(tmp_path).get("v2").status == "rejected" and ledger_of(tmp_path) == before
    assert {**second(), "aliases": lenient["aliases"]} == lenient


def test_what_was_said_against_another_champion_is_no_answer(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, asked = judgement.judge_candidate, list[Any]()
    monkeypatch.setattr(judgement, "judge_candidate", lambda *given: asked.append(given) or judge(*given))
    second()
    ((candidate, *given),) = asked
    assert judge(candidate, *given).chance is None  # the decision there was
    again = judge(replace(candidate, opponent="v7"), *given)
    assert again.chance and again.decision.opponent == "v7"


class Killed(BaseException):
    """In the place of a signal: nobody catches it, and it is cheaper than a process."""


def die_in(second: Second, where: str, after: bool) -> None:
    """Release t2 and die when this function is called, or when it has returned."""
    function = resolve_name(where)

    def run(*given: Any, **named: Any) -> None:
        if after:
            function(*given, **named)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, run)
        second()


MOVE = "llmops.release.registry.registry.Registry._move"


@pytest.mark.parametrize(
    ("where", "after"),
    [
        ("llmops.release.ledger.record_attempt", False),
        ("llmops.release.ledger.record_attempt", True),
        (MOVE, False),
        (MOVE, True),
        ("llmops.release.stage.write_json", False),
        ("llmops.release.stage.emit", False),
    ],
)
def test_a_kill_spends_an_attempt_just_once(tmp_path: Path, second: Second, where: str, after: bool) -> None:
    die_in(second, where, after)
    registry = registry_in(tmp_path)
    if "stage" not in where:  # the database was told nothing
        assert {version.name: version.status for version in registry.versions()}.get("v2", "undecided") == "undecided"
        with pytest.raises(RegistryError, match="v2"):
            registry.promote("v2")
    decision = second()
    assert (decision["outcome"], decision["attempt"], decision["level"]) == ("promoted", 2, pytest.approx(ALPHA / 6))
    assert [(a.version, a.number) for a in ledger_of(tmp_path)] == [("v1", 1), ("v2", 2)]
    assert registry.aliases() == {"candidate": "v2", "champion": "v2", "previous": "v1"}


def test_one_that_is_decided_meanwhile_costs_the_other_a_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next_release(tmp_path, "t1")
    judge, raced = judgement.judge_candidate, list[str]()

    def slow(*given: Any) -> Any:
        decided = judge(*given)
        if not raced:
            raced.append("t3")
            next_release(tmp_path, "t3")
        return decided

    monkeypatch.setattr(judgement, "judge_candidate", slow)
    assert next_release(tmp_path, "t2")["attempt"] == 3
    assert [a.number for a in ledger_of(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("kept", [False, True])
def test_a_kill_while_a_version_is_judged_anew_lets_nothing_through(
    tmp_path: Path, second: Second, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder has been told already, the database has not."""
    assert second(min_effect=0.3)["outcome"] == "rejected"
    die_in(second, MOVE, after=False)
    registry = registry_in(tmp_path)
    assert json.loads((registry.get("v2").path / "version.json").read_text())["status"] == "promoted"
    assert read_lineage(registry.get("v2"))["status"] == registry.get("v2").status == "rejected"
    for words in (["promote", "v2"], ["canary", "v2"]):
        assert cli.main(["models", *words, "--set", f"home={tmp_path}"]) == 1
    assert cli.main(["models", "list", "--set", f"home={tmp_path}"]) == 0
    assert re.search(r"(?m)^v2 +rejected", capsys.readouterr().out)
    again = second(**({"min_effect": 0.3} if kept else {}))
    assert (again["outcome"], again["attempt"]) == (("rejected", 2) if kept else ("promoted", 3))


def test_a_canary_that_is_not_passed_now_ends(tmp_path: Path, second: Second) -> None:
    registry = registry_in(tmp_path)
    assert second(canary=True)["aliases"]["canary"] == "v2"
    assert second(canary=True, min_effect=0.3)["outcome"] == "rejected"
    assert registry.canary() is None and "its trial ends" in registry.history()[-1]["why"]
    registry.start_canary("v2", 0.1, override="the customer waits for it")
    second(canary=True, min_effect=0.31)
    assert registry.aliases()["canary"] == "v2"  # it is there for that reason, not by the gate


def test_what_its_canary_pulled_is_not_promoted_by_a_run_without_canaries(tmp_path: Path, second: Second) -> None:
    second(canary=True)
    registry = registry_in(tmp_path)
    trial = registry.canary()
    assert trial and rollout.pull(registry, tmp_path / "events", trial, "it is worse", {})
    assert second()["aliases"] == {"champion": "v1", "candidate": "v2"}
