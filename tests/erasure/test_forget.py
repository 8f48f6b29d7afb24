"""Erasure, on a real chain of artifacts from the sources to the online store and a model version."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pyspark.sql import SparkSession
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmops import artifacts, cli, pipeline
from llmops.artifacts import Record
from llmops.config import Config, Retention
from llmops.data import spark
from llmops.data.collect import forgotten
from llmops.data.index import filling
from llmops.data.index.elasticsearch import opener
from llmops.data.index.search import open_index
from llmops.erasure import derived, erase, passages, search
from llmops.erasure.forget import forget
from llmops.erasure.plans import ErasurePlan
from llmops.erasure.subject import Subject
from llmops.errors import IndexUnavailable, LlmopsError
from llmops.features.examples import read_offline
from llmops.features.online import read_online
from llmops.monitoring.events import emit
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from llmops.records import Document, Dropped, Example, Finding, Passage, read_rows, write_rows
from llmops.registry.indexes import serve_index
from llmops.registry.registry import Registry, registry_of
from llmops.registry.version import Version
from llmops.retention import removal
from llmops.retention.gc import gc
from llmops.state.database import database_of
from llmops.state.tables import served_indexes, split_entries

from ..event_server import EventServer

DAY = "2026-01-31"
MAIL = "ana.li@example.org"
SECRETS = (MAIL, "Ana.Li@Example.org", "Ana Li", "the blue parcel", "my cat Momo")  #: all that is known of the person
WORDS = ("order", "parcel", "refund", "invoice", "account", "voucher", "delivery", "warranty", "return", "size")


def sources(root: Path) -> None:
    faq = [f"How do I ask about my {word}?,Open the page of your {word} and press the button.,{word}" for word in WORDS]
    faq += [
        f'"Where is the blue parcel of {MAIL}?","It is on its way to you, Ana.",ana1',
        '"Can I change the name on the blue parcel? Write to ANA.LI&#64;example.org.","Yes, we have done so.",ana2',
        f"one cell,too many,for the header,{MAIL}",
    ]
    (root / "faq.csv").write_text("question,answer,topic\n" + "\n".join(faq) + "\n")
    turns = [
        ("user", "My address is " + MAIL.title()), ("assistant", "Thank you, I have found your account."),
        ("user", "Is my cat Momo insured with it?"), ("assistant", "Pets are insured for a year."),
    ]  # fmt: skip
    chats = [
        {"topic": "pets", "messages": [{"role": role, "content": text} for role, text in turns]},
        {"topic": "thanks", "messages": [{"role": "user", "content": "Is there a café in it?"},
                                         {"role": "assistant", "content": "There is one on each floor."}]},
    ]  # fmt: skip
    (root / "chats.jsonl").write_text("".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats))


def configured(home: Path, root: Path, **collect: Any) -> Config:
    fields = {"question": "question", "answer": "answer", "group": "topic"}
    return Config(
        home=home,
        collect={
            "root": root,
            "sources": [
                {"name": "faq", "kind": "csv", "location": "faq.csv", "fields": fields},
                {"name": "chats", "kind": "chat", "location": "chats.jsonl"},
            ],
            **collect,
        },
        clean={"master": "local[1]", "driver_memory": "512m", "partitions": 1},
        annotate={"min_test_items": 1, "test": 0.3, "validation": 0.2, "seed": 3},
    )


def finish(home: Path, stage: str, key: str, inputs: dict[str, Path], **files: Any) -> Path:
    """An artifact of a stage that would cost too much here."""
    path = home / "artifacts" / stage / key
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    refs = {name: f"{p.parent.name}/{p.name}" for name, p in inputs.items()}
    record = Record(
        stage=stage, fingerprint=key, config={}, inputs=refs, interval=DAY, code="c", metrics={}, files={},
        git_commit="", started=DAY, finished=DAY,
    )  # fmt: skip
    artifacts.commit(path, record)
    return path


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    with spark.session(configured(Path("x"), Path("x")).clean) as active:
        yield active


@pytest.fixture(scope="module")
def built(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sources` and `home`: real up to features and the index, the rest by hand."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "sources").mkdir()
    sources(folder / "sources")
    home = folder / "home"
    config = configured(home, folder / "sources", repository=str(home / "repository"))
    done = {name: pipeline.run_stage(name, config, DAY) for name in ("collect", "clean", "index", "annotate")}
    select = finish(home, "select", "s1", {}, selection={"model": "tiny", "path": "base"})
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "parcel": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>").save_pretrained(
        select / "base"
    )
    done |= {"select": select}
    done["features"] = pipeline.run_stage("features", config, DAY, done)
    done["train"] = finish(home, "train", "t1", {"features": done["features"], "select": select}, loss=[1.0])
    done["compress"] = finish(home, "compress", "c1", {n: done[n] for n in ("annotate", "select", "train")})
    evaluate = done["evaluate"] = finish(
        home, "evaluate", "e1", {n: done[n] for n in ("annotate", "select", "compress")}
    )
    items = read_rows(done["annotate"] / "test.parquet", Example) + persons(done["annotate"])
    rows = [{"id": e.id, "question": e.question, "reference": e.answer, "answer": "Yes.", "model": m, "token_f1": 0.5}
            for e in items for m in ("base", "candidate")]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), evaluate / "answers.parquet")
    artifacts.commit(evaluate, artifacts.read_record(evaluate))
    govern = finish(home, "govern", "g1", {n: done[n] for n in ("annotate", "compress", "evaluate")})
    findings = [Finding(scan="pii", rule="X", severity="low", where=f"item {e.id}", detail="") for e in items]
    write_rows(govern / "findings.parquet", findings, Finding)
    (govern / "report.md").write_text("# Report\n" + "".join(f"| pii | {f.where} |  |\n" for f in findings))
    artifacts.commit(govern, artifacts.read_record(govern))
    publish(config, done)
    (home / "logs").mkdir()
    (home / "logs" / "serving.log").write_text(f"00:00 started\n00:01 key of {MAIL} is used\n00:02 Ana\n")
    emit(config.events, "llmops.text", {"llmops.prompt.text": MAIL})
    drain(config.events, config.monitoring)
    emit(config.events, "llmops.text", {"llmops.prompt.text": f"{MAIL} again"})
    return folder


def persons(annotate: Path) -> list[Example]:
    """The person's examples."""
    rows = [e for s in ("train", "validation", "test") for e in read_rows(annotate / f"{s}.parquet", Example)]
    return [e for e in rows if e.group.startswith("ana") or "Momo" in e.question or "I have found" in e.answer]


def publish(config: Config, done: dict[str, Path]) -> None:
    """A version made of those artifacts."""
    facts = {
        "status": "promoted", "compared_with": "base", "compress": "c1", "base_model": "tiny", "base_revision": "1",
        "licence": "mit", "quantisation": "bf16", "interval": DAY, "run": "", "dataset": "d",
    }  # fmt: skip
    stages = [{"artifact": f"{p.parent.name}/{p.name}"} for p in done.values()]

    def documents(version: Version) -> dict[str, str]:
        card = f"# {version.name}\n\n## Training data\n\nRows.\n\n## Training\n\n| rank | 8 |\n"
        return {"README.md": card, "lineage.json": json.dumps({"stages": stages})}

    trees = {"answers.parquet": done["evaluate"] / "answers.parquet"}
    serve_index(registry_of(config), done["index"], DAY, by="test")
    registry_of(config).publish(facts, trees, documents, by="test", why="test")


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    """A copy of `built`, hard links of the registry included."""
    shutil.copytree(built, tmp_path / "site")
    home = tmp_path / "site" / "home"
    answers = home / "registry" / "support-bot" / "versions" / "v1" / "answers.parquet"
    answers.unlink()
    answers.hardlink_to(home / "artifacts" / "evaluate" / "e1" / "answers.parquet")
    for file in (home / "registry" / "support-bot" / "indexes").glob("*/*"):
        file.unlink()
        file.hardlink_to(home / "artifacts" / "index" / file.parent.name / file.name)
    return tmp_path / "site"


def at(site: Path, **collect: Any) -> Config:
    home = site / "home"
    return configured(home, site / "sources", **{"repository": str(home / "repository"), **collect})


def everything(home: Path) -> Iterator[tuple[Path, str]]:
    """Every byte under the home, Parquet unpacked, as text."""
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        yield path, str(path.relative_to(home))
        yield path, path.read_bytes().decode("latin-1")
        yield path, path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            yield path, str(file.read().to_pylist())
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            yield path, str([group.column(c).to_dict() for group in groups for c in range(group.num_columns)])


def holding(home: Path, *texts: str) -> set[str]:
    return {
        str(path.relative_to(home)) for path, text in everything(home) if any(t.lower() in text.lower() for t in texts)
    }


def only(config: Config, stage: str) -> Path:
    (path,) = (p for p in (config.artifacts / stage).iterdir() if p.is_dir())
    return path


def ids(path: Path, column: str = "id") -> set[str]:
    return set(pq.read_table(path, columns=[column])[column].to_pylist())


def test_nothing_of_a_person_is_left_anywhere(site: Path) -> None:
    config = at(site)
    home = config.home
    annotate = only(config, "annotate")
    gone = {e.id for e in persons(annotate)}
    trained = {e.id for e in persons(annotate) if e.split == "train"}
    others = {
        e.id for s in ("train", "validation", "test") for e in read_rows(annotate / f"{s}.parquet", Example)
    } - gone
    assert len(gone) == 4 and trained and len(others) == 11
    features = only(config, "features")
    assert all(read_online(features, sorted(gone)))
    assert len({p.split("/")[0] for p in holding(home, *SECRETS)}) >= 5

    report = forget(config, MAIL.upper(), by="admin")

    assert holding(home, *SECRETS) == set()
    assert report.remaining == {} and report.documents == 5 and report.online == 4
    assert read_online(features, sorted(gone)) == [None] * 4
    assert all(read_online(features, sorted(others)))
    assert ids(features / "features.parquet", "input_id") == others
    mapped = {s: {t.id for t in read_offline(features, s)} for s in ("train", "validation", "test")}
    assert set().union(*mapped.values()) == others and mapped["train"] == ids(annotate / "train.parquet")
    assert not [path for path in features.rglob("*") if any(id.encode() in path.read_bytes() for id in gone)]
    assert {i for s in ("train", "validation", "test") for i in ids(annotate / f"{s}.parquet")} == others
    text = (annotate / "train.txt").read_text()
    assert text.count("[Question]") == len(ids(annotate / "train.parquet")) == text.count("####\n")
    answers = home / "registry" / "support-bot" / "versions" / "v1" / "answers.parquet"
    assert (
        gone.isdisjoint(ids(answers))
        and ids(answers)
        and ids(answers) == ids(only(config, "evaluate") / "answers.parquet")
    )
    govern = only(config, "govern")
    assert not [f for f in read_rows(govern / "findings.parquet", Finding) if f.where.split()[-1] in gone]
    assert not any(i in (govern / "report.md").read_text() for i in gone)
    assert (govern / "report.md").read_text().startswith("# Report\n|")
    assert not [
        f for f in read_rows(annotate / "findings.parquet", Finding) if "row 12" in f.where or "line 1," in f.where
    ]
    assert (home / "logs" / "serving.log").read_text() == "00:00 started\n00:01 key of <FORGOTTEN> is used\n00:02 Ana\n"
    assert [v["examples"] for v in report.versions] == [len(trained)]


def test_what_only_the_split_ledger_still_yields_is_forgotten_too(site: Path, session: SparkSession) -> None:
    """The person's rows have left the sources, and the test carries what they said from day to day."""
    config = at(site)
    tested = {e.id for e in persons(only(config, "annotate")) if e.split == "test"}
    assert tested
    head, *rows = (site / "sources" / "faq.csv").read_text().splitlines()
    (site / "sources" / "faq.csv").write_text("\n".join([head, *(r for r in rows if "ana" not in r.lower())]) + "\n")
    (site / "sources" / "chats.jsonl").write_text((site / "sources" / "chats.jsonl").read_text().splitlines()[1] + "\n")
    days = ("2026-02-01", "2026-02-02")
    later = [pipeline.run_stage(stage, config, days[0]) for stage in ("collect", "clean", "annotate")][-1]
    assert tested <= ids(later / "test.parquet")
    report = forget(config, MAIL)
    assert report.remaining == {} and holding(config.home, *SECRETS) == set()
    assert report.rows["splits"] == 4 and tested.isdisjoint(ids(later / "test.parquet"))
    with open(site / "sources" / "faq.csv", "a") as faq:
        faq.write("What is new?,All of it.,new\n")
    last = [pipeline.run_stage(stage, config, days[1]) for stage in ("collect", "clean", "annotate")][-1]
    assert tested.isdisjoint(ids(last / "test.parquet")) and ids(later / "test.parquet") <= ids(last / "test.parquet")


def run_day(config: Config, day: str, stages: tuple[str, ...] = ("collect", "clean", "annotate")) -> Path:
    return [pipeline.run_stage(stage, config, day) for stage in stages][-1]


def replaced_rows(root: Path, mail: str) -> None:
    """The person's rows of the sources leave, and others stand in their places."""
    head, *rows = (root / "faq.csv").read_text().splitlines()
    others = [f'"Which {word} does {mail} have?","The {word} that was asked for.",{word}s' for word in ("sofa", "lamp")]
    (root / "faq.csv").write_text("\n".join([head, *rows[:10], *others, "one cell,too many,for,me"]) + "\n")
    turns = [("user", f"I am {mail}."), ("assistant", "Good."), ("user", "Is tea sold?"), ("assistant", "On floor 3.")]
    chat = {"topic": "tea", "messages": [{"role": role, "content": text} for role, text in turns]}
    rest = (root / "chats.jsonl").read_text().splitlines()[1]
    (root / "chats.jsonl").write_text(f"{json.dumps(chat)}\n{rest}\n")


def entries(config: Config, *texts: str) -> int:
    """How many entries of the split ledger hold one of the texts."""
    with database_of(config).read() as connection:
        rows = connection.execute(sa.select(split_entries.c.compared, split_entries.c.example)).all()
    return sum(any(text.lower() in str(row).lower() for text in texts) for row in rows)


@pytest.fixture(scope="module")
def lived(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sources` and `home` after two days: the person was there on the first, another one, Bo, since."""
    folder = tmp_path_factory.mktemp("lived")
    (folder / "sources").mkdir()
    sources(folder / "sources")
    config = at(folder, repository="")
    run_day(config, DAY)
    replaced_rows(folder / "sources", BO)
    run_day(config, "2026-02-01")
    return folder


@pytest.fixture
def left(lived: Path, tmp_path: Path) -> Config:
    """A copy of `lived`."""
    shutil.copytree(lived, tmp_path / "left")
    return at(tmp_path / "left", repository="")


BO = "bo.ek@example.org"
HERS, HIS = ("blue parcel", "Momo", "found your account"), ("sofa", "lamp", "tea sold", "I am <EMAIL_ADDRESS>")


def asked(config: Config, day: str = "2026-02-01") -> tuple[set[str], set[str]]:
    """What the day's test asks and what it trains and validates with."""
    folder = pipeline.plan("annotate", config, day).path
    of = {s: {e.question for e in read_rows(folder / f"{s}.parquet", Example)} for s in ("train", "validation", "test")}
    return of["test"], of["train"] | of["validation"]


def about(questions: set[str], words: tuple[str, ...]) -> set[str]:
    return {question for question in questions if any(word in question for word in words)}


def test_who_stands_where_a_carried_item_stood_takes_nothing_along(left: Config) -> None:
    tested, used = asked(left)
    assert about(tested, HERS) and about(used, HIS)
    assert forget(left, BO).remaining == {}
    assert about(asked(left)[0], HERS) == about(tested, HERS) and not about(set().union(*asked(left)), HIS)
    assert entries(left, *HERS) and not entries(left, *HIS)


def test_and_is_not_taken_along_by_it(left: Config) -> None:
    before = asked(left)
    assert forget(left, MAIL).remaining == {}
    after = asked(left)
    assert [about(one, HIS) for one in after] == [about(one, HIS) for one in before]
    assert not about(set().union(*after), HERS) and not entries(left, *HERS) and entries(left, *HIS)


def test_they_are_found_in_the_ledger_when_all_else_is_gone(left: Config, session: SparkSession) -> None:
    with open(left.collect.root / "faq.csv", "a") as faq:
        faq.write("What is new?,All of it.,new\n")
    run_day(left, "2026-02-02")
    few = left.model_copy(update={"retention": Retention(runs=1)})
    gc(few, now=datetime.now(UTC) + timedelta(days=100))
    assert not {name for name in holding(left.home, MAIL, "Ana Li") if "state.db" not in name}
    assert entries(left, *HERS) >= 4 and about(asked(left, "2026-02-02")[0], HERS)
    assert forget(few, MAIL).remaining == {} and holding(left.home, *SECRETS) == set()
    assert not entries(left, *HERS) and not about(asked(left, "2026-02-02")[0], HERS)
    with open(left.collect.root / "faq.csv", "a") as faq:
        faq.write("What is newer?,All of that.,newer\n")
    run_day(left, "2026-02-03")
    assert not about(set().union(*asked(left, "2026-02-03")), HERS)


def test_what_a_killed_run_has_written_into_the_ledger_goes_too(left: Config, session: SparkSession) -> None:
    replaced_rows(left.collect.root, "cy.oz@example.org")
    for name in ("faq.csv", "chats.jsonl"):
        path = left.collect.root / name
        path.write_text(path.read_text().replace("sofa", "shelf").replace("lamp", "stool").replace("tea", "milk"))
    run_day(left, "2026-02-02", ("collect", "clean"))
    code = """
import os, pickle, signal, sys
from llmops import pipeline
from llmops.data.annotate.ledger import SplitLedger
write = SplitLedger.write
def dying(*args):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)
SplitLedger.write = dying
pipeline.run_stage("annotate", pickle.load(sys.stdin.buffer), "2026-02-02")
"""
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(left), capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    theirs = ("shelf", "stool", "milk sold")
    assert entries(left, *theirs) >= 3 and not pipeline.plan("annotate", left, "2026-02-02").done
    assert forget(left, "cy.oz@example.org").remaining == {}
    assert not entries(left, *theirs) and entries(left, *HERS) and entries(left, *HIS)
    run_day(left, "2026-02-02", ("annotate",))
    assert not about(set().union(*asked(left, "2026-02-02")), theirs)


def test_where_data_was_removed_the_rest_is_followed_and_the_records_stay(site: Path) -> None:
    config = at(site)
    removed = [only(config, stage) for stage in ("select", "train", "compress", "evaluate", "govern")]
    gone = {e.id for e in persons(only(config, "annotate"))}
    for path in removed:
        removal.remove(path, DAY)
    report = forget(config, MAIL)
    assert report.remaining == {} and report.notes == [] and holding(config.home, *SECRETS) == set()
    assert report.online == 4 and [v["version"] for v in report.versions] == ["v1"]
    answers = config.registry / "support-bot" / "versions" / "v1" / "answers.parquet"
    assert ids(answers) and gone.isdisjoint(ids(answers))
    assert all(artifacts.is_gone(path) and len(list(path.iterdir())) == 1 for path in removed)


def test_artifacts_keep_their_folders_and_their_records_tell(site: Path) -> None:
    config = at(site)
    before = {
        p.name: p
        for s in ("collect", "clean", "index", "annotate", "features", "evaluate", "govern", "train")
        for p in [only(config, s)]
    }
    report = forget(config, MAIL)
    for name, path in before.items():
        assert artifacts.verify(path) == [], name
        (erasure,) = artifacts.read_record(path).erasures
        assert erasure["time"] == report.time and MAIL not in json.dumps(erasure)
    assert artifacts.read_record(only(config, "train")).erasures[0]["examples"] == report.versions[0]["examples"]
    for stage in ("collect", "clean", "index", "annotate"):
        assert pipeline.run_stage(stage, config, DAY) in before.values()
    assert pipeline.plan("annotate", config, DAY).done


@pytest.mark.parametrize("published", [False, True])
def test_an_index_finds_nothing_of_a_person_any_more_and_the_others_as_before(site: Path, published: bool) -> None:
    config = at(site)
    folder = only(config, "index")
    if published:
        folder = config.release.registry / "support-bot" / "indexes" / folder.name
    before = dict(zip(read_rows(folder / "passages.parquet", Passage), np.load(folder / "vectors.npy"), strict=True))
    with open_index(folder) as index:
        assert "blue parcel" in index.search("Where is the blue parcel?", 1, "bm25")[0].passage.headings
        assert "Pets are insured" in index.search("Is a kitten insured?", 1, "dense")[0].passage.text
    report = forget(config, MAIL)
    left = read_rows(folder / "passages.parquet", Passage)
    assert report.rows[f"index/{folder.name}"] == len(before) - len(left) == 4
    assert artifacts.verify(folder) == []
    assert [note["rows"] for note in artifacts.read_record(folder).erasures] == [4]
    assert not [p for p in left if any(s.lower() in f"{p.headings} {p.text}".lower() for s in SECRETS)]
    rows = np.load(folder / "vectors.npy")
    assert [p for p in before if p in left] == left
    assert all((row == before[p]).all() for p, row in zip(left, rows, strict=True))
    assert not any(before[p].tobytes() in rows.tobytes() for p in before if p not in left)
    with open_index(folder) as index:
        for word in ("blue", "momo", "ana", "cat"):
            assert index.search(word, 5, "bm25") == [], word
        found = index.search("Is my cat Momo insured? Where is the blue parcel of Ana?", 50)
        assert {hit.passage for hit in found} == set(left)


def test_an_index_that_is_served_forgets_though_its_artifact_is_gone(site: Path) -> None:
    config = at(site)
    folder = config.release.registry / "support-bot" / "indexes" / only(config, "index").name
    shutil.rmtree(only(config, "index"))
    assert forget(config, MAIL).remaining == {} and holding(config.home, *SECRETS) == set()
    with open_index(folder) as index:
        assert index.search("momo", 5, "bm25") == [] and index.search("warranty", 1, "bm25")


def on(site: Path, server: EventServer) -> Config:
    more = {"index": {"backend": "elasticsearch"}, "monitoring": {"elasticsearch_url": server.url}}
    return Config.model_validate({**at(site).model_dump(), **more})


@pytest.fixture
def searched(site: Path, elasticsearch: EventServer) -> Config:
    """The site, whose served index is on a server, where an older one that nobody asks names the person, too."""
    config = on(site, elasticsearch)
    registry, folder = registry_of(config), only(config, "index")
    older = folder.with_name("0" * 16)
    shutil.copytree(folder, older)
    artifacts.commit(older, replace(artifacts.read_record(older), fingerprint=older.name))
    for artifact in (older, folder):
        filling.serve(registry, artifact, DAY, config.search_server, by="test")
    shutil.rmtree(older)
    shutil.rmtree(registry.folder / "indexes" / older.name)
    return config


def on_server(config: Config) -> dict[str, int]:
    assert config.search_server
    with filling.Copies(config.search_server, registry_of(config)) as copies:
        return copies.sizes()


def test_an_index_on_a_server_forgets_and_nothing_older_stays_there(
    searched: Config, elasticsearch: EventServer
) -> None:
    config, folder = searched, only(searched, "index")
    before = on_server(config)
    assert len(before) == 2
    with opener(config)(folder) as index:
        assert index.search("momo", 5, "bm25")
    assert passages.where_named(config, Subject("Momo")).keys() == {f"{name} in Elasticsearch" for name in before}
    assert forget(config, MAIL).remaining == {} and passages.where_named(config, Subject("Momo")) == {}
    after = on_server(config)
    assert len(after) == 1 and not before.keys() & after.keys()
    said = httpx.get(f"{elasticsearch.url}/{next(iter(after))}/_search?size=1000").text
    assert "warranty" in said and not [secret for secret in SECRETS if secret.lower() in said.lower()]
    with opener(config)(folder) as index:
        for word in ("blue", "momo", "ana", "cat"):
            assert index.search(word, 5, "bm25") == [], word
        left = {passage.id for passage in read_rows(folder / "passages.parquet", Passage)}
        found = index.search("Is my cat Momo insured? Where is the blue parcel of Ana?", 50)
        assert {hit.passage.id for hit in found} == left


def test_what_a_release_that_was_killed_has_left_on_a_server_goes_though_nothing_is_decided(
    site: Path, elasticsearch: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, subject = on(site, elasticsearch), Subject("Momo")
    with database_of(config).change() as connection:
        connection.execute(sa.delete(served_indexes))
    put = filling.Copies._put

    def killed(*asked: Any) -> None:
        put(*asked)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(filling.Copies, "_put", killed)
        filling.serve(registry_of(config), only(config, "index"), DAY, config.search_server, by="test")
    [name] = on_server(config)
    with pytest.raises(IndexUnavailable, match="not whole"):
        passages.where_named(config, subject)
    httpx.put(f"{elasticsearch.url}/{name}/_settings", json={"index.blocks.read": None})
    assert passages.where_named(config, subject).keys() == {f"{name} in Elasticsearch"}
    assert forget(config, MAIL).remaining == {} and on_server(config) == {}


def test_a_model_whose_index_was_never_on_the_server_is_not_put_there(searched: Config) -> None:
    other = Registry(searched.registry, "embedded-one", database_of(searched))
    serve_index(other, only(searched, "index"), DAY, by="test")
    assert forget(searched, MAIL).remaining == {}
    assert not (other.folder / "indexes" / filling.ID).exists()


def test_while_the_server_is_away_nothing_is_forgotten_and_the_erasure_is_finished_later(
    searched: Config, elasticsearch: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    elasticsearch.kill()
    try:
        with pytest.raises(IndexUnavailable):
            forget(searched, MAIL)
        assert not searched.erasure_journal.exists()
    finally:
        elasticsearch.start()

    def away(*_: Any) -> None:
        raise IndexUnavailable("It went meanwhile.")

    with monkeypatch.context() as patch:
        patch.setattr("llmops.erasure.passages.renew", away)
        with pytest.raises(IndexUnavailable):
            forget(searched, MAIL)
    assert searched.erasure_journal.exists()
    assert forget(searched, MAIL).remaining == {} and len(on_server(searched)) == 1
    with opener(searched)(only(searched, "index")) as index:
        assert index.search("momo", 5, "bm25") == [] and index.search("warranty", 1, "bm25")


def test_a_server_that_is_asked_no_more_is_told_as_one_that_was_not_reached(searched: Config) -> None:
    embedded = searched.model_copy(update={"index": searched.index.model_copy(update={"backend": "embedded"})})
    assert [line for line in forget(embedded, MAIL).unreached if "llmops-passages-*" in line]


def test_an_erasure_that_breaks_off_within_an_index_is_finished(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = at(site)
    folder = only(config, "index")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for place in ("llmops.data.index.database.rewrite", "llmops.data.index.database.write"):
        with monkeypatch.context() as patch:
            patch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                forget(config, MAIL)
    assert forget(config, MAIL).remaining == {} and holding(config.home, *SECRETS) == set()
    with open_index(folder) as index:
        assert index.search("momo", 5, "bm25") == [] and index.search("warranty", 1, "bm25")


@pytest.mark.parametrize("state", ["cut", "without database", "empty vectors", "no vectors", "gone", "no record"])
def test_an_index_in_any_state_keeps_no_erasure_from_its_end(
    site: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    config = at(site)
    folder = only(config, "index")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llmops.data.index.database.rewrite", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(config, MAIL)
    if state == "cut":
        (folder / "index.db").write_bytes((folder / "index.db").read_bytes()[:5_000])
    elif state == "without database":
        (folder / "index.db").unlink()
    elif state == "empty vectors":
        artifacts.write_whole(folder / "vectors.npy", b"")  # not in place: the one in the registry stays whole
    elif state == "no vectors":
        vectors = np.load(folder / "vectors.npy")[1:]
        (folder / "vectors.npy").unlink()
        np.save(folder / "vectors.npy", vectors)
    elif state == "gone":
        shutil.rmtree(folder)
    else:
        (folder / artifacts.RECORD).unlink()
    report = forget(config, MAIL)
    assert report.remaining == {} and holding(config.home, *SECRETS) == set()
    assert not config.erasure_journal.exists()
    kept = state in ("cut", "without database")
    assert folder.exists() == kept and [folder.name in note for note in report.notes] == [True] * (not kept)
    again = pipeline.run_stage("index", config, DAY) if kept else None
    assert again in (folder, None)
    if kept:
        assert artifacts.verify(folder) == [] and len(np.load(folder / "vectors.npy")) > 0
    published = config.release.registry / "support-bot" / "indexes" / folder.name
    with open_index(published) as index:
        assert artifacts.verify(published) == [] and index.search("momo", 5, "bm25") == []


def test_words_that_end_or_begin_as_the_person_are_none_that_remain(tmp_path: Path) -> None:
    config = configured(tmp_path / "home", tmp_path)
    rows = ["Customer smith has returned the lamp.", "A goldsmith buys gold.", "The smiths and smith-jones sell tents."]
    place = {"source": "help", "location": "a.html"}
    documents = [Document(id=f"{n:032x}", **place, position=f"section {n}", text=row) for n, row in enumerate(rows)]
    done = finish(config.home, "clean", "c1", {})
    write_rows(done / "documents" / "part-00000.parquet", documents, Document)
    artifacts.commit(done, artifacts.read_record(done))
    folder = pipeline.run_stage("index", config, DAY, {"clean": done})
    database = (folder / "index.db").read_bytes()
    assert forget(config, "smith").remaining == {}
    assert len(read_rows(folder / "passages.parquet", Passage)) == 2
    (folder / "index.db").write_bytes(database)
    assert "passages" in search.where_named(folder / "index.db", Subject("smith"))


def test_a_file_that_an_app_replaces_meanwhile_stops_no_search(tmp_path: Path) -> None:
    for name in ("gone.parquet", "gone.json", "store.db", "index.db", ".store.db.new"):
        assert search.where_named(tmp_path / name, Subject("smith")) == ""


def test_what_a_killed_run_of_the_index_left_goes_too(site: Path) -> None:
    config = at(site)
    left = config.artifacts / "index" / "0123456789abcdef"
    left.mkdir()
    (left / ".index.db.new").write_bytes(b"the pets are insured for a year")  # of the person, without a name
    forget(config, MAIL)
    assert not left.exists()


def test_collect_does_not_bring_the_rows_back(site: Path) -> None:
    config = at(site)
    documents = len(read_rows(only(config, "collect") / "documents.parquet", Document))
    forget(config, MAIL)
    shutil.rmtree(config.artifacts / "collect")
    shutil.rmtree(config.collect.cache)  # the sources are read again, and still hold the person
    again = pipeline.run_stage("collect", config, DAY)
    assert holding(config.home, *SECRETS) == set()
    assert len(read_rows(again / "documents.parquet", Document)) == documents - 4
    suppressed = [r for r in read_rows(again / "quarantine.parquet", Dropped) if r.rule == forgotten.RULE]
    assert len(suppressed) == 5 and not any(row.content for row in suppressed)
    assert {row.location for row in suppressed} == {"faq.csv", "chats.jsonl"}


def test_a_changed_source_does_not_bring_them_back_either(site: Path) -> None:
    config = at(site)
    forget(config, MAIL)
    faq = site / "sources" / "faq.csv"
    head, *rows = faq.read_text().splitlines()
    faq.write_text("\n".join([head, "Is it new?,Yes it is brand new.,new", *rows]) + "\n")
    again = pipeline.run_stage("collect", config, "2026-02-01")
    assert holding(config.home, *SECRETS) == set()
    assert any(d.question == "Is it new?" for d in read_rows(again / "documents.parquet", Document))


def test_a_changed_row_does_not_bring_them_back_on_its_way_to_the_examples(site: Path, session: SparkSession) -> None:
    config = at(site)
    forget(config, MAIL)
    faq = site / "sources" / "faq.csv"
    faq.write_text(
        faq.read_text()
        .replace("It is on its way to you, Ana.", "It came on Monday, Ana; you have 11 points.")
        .replace("Where is the blue parcel of ana.li@", "And where is the blue parcel of\xa0Ana.Li@")
        .replace("my refund?", "my refund of Ana Roe?")
    )
    roles, texts = ("user", "assistant") * 2, (f"I moved, {MAIL.upper()}", "Fine.", "Is my cat Momo well?", "She is.")
    again = {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}
    with open(site / "sources" / "chats.jsonl", "a") as chats:
        chats.write(json.dumps(again) + "\n")
    done = {name: pipeline.run_stage(name, config, "2026-02-01") for name in ("collect", "clean", "annotate")}
    assert holding(config.home, *SECRETS) == set()
    metrics = artifacts.read_record(done["collect"]).metrics
    quarantine = read_rows(done["collect"] / "quarantine.parquet", Dropped)
    assert metrics["forgotten"] == sum(row.rule == forgotten.RULE for row in quarantine) >= 5
    assert metrics["sources"]["faq"]["forgotten"] == 3
    splits = [done["annotate"] / f"{split}.parquet" for split in ("train", "validation", "test")]
    assert any("Ana Roe" in example.question for path in splits for example in read_rows(path, Example))


def test_a_customer_number_is_no_number_of_a_row(tmp_path: Path, session: SparkSession) -> None:
    """What is tested stands in the row of that number, and is nobody's."""
    config, faq = configured(tmp_path / "home", tmp_path), tmp_path / "faq.csv"
    rows = [f"What does chair {n} of row {n % 7} cost?,Chair {n} costs {n} euros,{n}" for n in range(1000, 1120)]
    chat = {"messages": [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is not."}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    faq.write_text("\n".join(["question,answer,topic", *rows]) + "\n")
    run_day(config, DAY)
    number = next(
        e.position for e in read_rows(only(config, "annotate") / "test.parquet", Example) if len(e.position) == 7
    )
    faq.write_text("\n".join(["question,answer,topic", *rows, f"Is it mine?,It is of customer {number[4:]}.,m"]) + "\n")
    last = run_day(config, "2026-02-01")
    before = {split: ids(last / f"{split}.parquet") for split in ("train", "validation", "test")}
    forget(config, number[4:])
    after = {split: ids(last / f"{split}.parquet") for split in before}
    assert sum(len(before[split] - after[split]) for split in before) == 1
    faq.write_text("\n".join(["question,answer,topic", *rows[:50], "What is new?,All of it.,new"]) + "\n")
    assert after["test"] <= ids(run_day(config, "2026-02-02") / "test.parquet")


def test_a_customer_number_is_no_count(tmp_path: Path, session: SparkSession) -> None:
    config, faq = configured(tmp_path / "home", tmp_path), tmp_path / "faq.csv"
    sources(tmp_path)
    rows = [f"What does chair {n} cost?,Chair {n} costs {n} euros,{n}" for n in range(1000, 1100)]
    faq.write_text("\n".join(["question,answer,topic", *rows, "Is it mine?,It is of customer 104.,m"]) + "\n")
    emit(config.events, "llmops.text", {"llmops.prompt.text": "customer 104", "llmops.prompt.words": 104})
    record = artifacts.read_record(run_day(config, DAY, ("collect", "clean")))
    (config.home / "logs").mkdir()
    (config.home / "logs" / "days.log").write_text(json.dumps({"day": DAY, "rows": 104}) + "\n")
    assert record.metrics["kept"] == 104
    report = forget(config, "104")
    assert report.remaining == {} and report.rows[f"clean/{record.fingerprint}"] == 1
    assert artifacts.read_record(config.artifacts / "clean" / record.fingerprint).metrics == record.metrics
    assert not holding(config.home, "customer 104") and "104" in (config.home / "logs" / "days.log").read_text()


@pytest.mark.parametrize(
    ("who", "asks"), [("李小龙", "我叫{}，我的订单在哪里？"), ("Ana Lima", "Where is the order of _{}_ now?")]
)
def test_a_name_in_running_text_of_any_script_is_forgotten_for_good(
    tmp_path: Path, session: SparkSession, who: str, asks: str
) -> None:
    config, faq = configured(tmp_path / "home", tmp_path), tmp_path / "faq.csv"
    sources(tmp_path)
    faq.write_text(faq.read_text() + f"{asks.format(who)},It has been sent on its way today.,theirs\n")
    first = run_day(config, DAY)
    assert holding(config.home, who)
    assert forget(config, who).remaining == {} and holding(config.home, who) == set()
    faq.write_text(faq.read_text().replace("today", "on Monday"))
    assert run_day(config, "2026-02-01") != first and holding(config.home, who) == set()


def test_a_row_of_a_table_stays_out_when_the_name_is_taken_from_it(tmp_path: Path) -> None:
    def ask(*statements: str) -> None:
        with sqlite3.connect(tmp_path / "shop.db") as database:
            for statement in statements:
                database.execute(statement)
        database.close()

    ask(
        "create table tickets (id, text, changed)",
        "insert into tickets values (1, 'Who am I?', '2026-01-01'), (2, 'I am Ana Li. Why?', '2026-01-01')",
    )
    table = {
        **{"name": "tickets", "kind": "sql", "location": "sqlite:///shop.db", "query": "select * from tickets"},
        **{"cursor": "changed", "key": ["id"], "fields": {"question": "text"}},
    }
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [table]})
    pipeline.run_stage("collect", config, "2026-01-01")
    assert forget(config, "Ana Li").remaining == {}
    ask("update tickets set text = 'Somebody asked why.', changed = '2026-01-02' where id = 2")
    ask("insert into tickets values (3, 'I am ana li, too?', '2026-01-02')")
    pipeline.run_stage("collect", config, "2026-01-02")
    ask("update tickets set text = 'It says nothing now.', changed = '2026-01-03' where id = 3")
    collected = pipeline.run_stage("collect", config, "2026-01-03")
    assert [row.question for row in read_rows(collected / "documents.parquet", Document)] == ["Who am I?"]
    assert artifacts.read_record(collected).metrics["forgotten"] == 2


def test_the_list_of_what_is_forgotten_tells_nothing(site: Path) -> None:
    config = at(site)
    forget(config, MAIL)
    path = config.collect.forgotten
    assert path.stat().st_mode & 0o777 == 0o600
    list_ = path.read_text()
    assert set(json.loads(list_)) == {"key", "rows", "people"} and not any(secret in list_ for secret in SECRETS)
    assert not {word for word in ("ana", "Ana", "parcel", "faq", "example") if word in list_}
    row = Document(
        id="1", source="other", location="moved.csv", position="row 99",
        question=f"Where is the blue parcel of {MAIL}?", answer="It is on its way to you,  ana.",
    )  # fmt: skip
    other = Document(id="2", source="faq", location="faq.csv", position="row 11", question="Yes?", answer="Thank you.")
    empty = Dropped(id="", source="", location="", position="", rule="empty", detail="", content="")
    gone, *kept = forgotten.load(path).without([row, other, empty, None])
    assert isinstance(gone, Dropped) and kept == [other, empty, None]
    assert list(forgotten.load(config.home / "none.json").without([row])) == [row]


@pytest.mark.parametrize("after", [1, 7])
def test_a_kill_in_the_middle_is_mended_by_repeating(site: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    config = at(site)
    other = site.parent / "other"
    shutil.copytree(site, other)
    forget(at(other), MAIL)
    calls = 0
    real = erase.take_rows

    def dying(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erase, "take_rows", dying)
        forget(config, MAIL)
    journal = config.erasure_journal
    assert not any(secret in journal.read_text() for secret in SECRETS)
    with pytest.raises(LlmopsError, match="interrupted"):
        forget(config, "somebody@example.org")
    report = forget(config, MAIL)
    assert not journal.exists() and report.remaining == {} and holding(config.home, *SECRETS) == set()
    assert state(config) == state(at(other))


def state(config: Config) -> dict[str, Any]:
    """What every artifact and version holds."""
    rows = {
        str(p.relative_to(config.home)): pq.read_table(p).to_pylist() for p in sorted(config.home.rglob("*.parquet"))
    }
    folders = [p.parent for p in sorted(config.artifacts.rglob("record.json"))]
    records = [artifacts.read_record(folder) for folder in folders]
    version = registry_of(config).get("v1")
    notes = [{k: v for k, v in e.items() if k != "time"} for r in records for e in r.erasures]
    return {
        "rows": rows,
        "notes": notes,
        "version": [e["examples"] for e in version.erasures],
        "damaged": [name for folder in folders for name in artifacts.verify(folder)],
    }


def test_an_unknown_person_is_an_error_and_nothing_changes(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = at(site)
    before = contents(config.home)
    for nobody in ("nobody@example.org", "diana.li@example.org", "a", "??"):
        with pytest.raises(LlmopsError) as error:
            forget(config, nobody)
        assert nobody == "a" or nobody not in str(error.value)
    forget(config, MAIL, dry_run=True)
    assert contents(config.home) == before


def contents(home: Path) -> dict[Path, bytes]:
    """Every file but locks and what SQLite makes when somebody reads."""
    own = (".lock", "-shm", "-wal")
    return {p: p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file() and not p.name.endswith(own)}


def test_what_it_would_do_is_what_it_does(site: Path) -> None:
    config = at(site)
    would, did = forget(config, MAIL, dry_run=True), forget(config, MAIL)
    names = ("documents", "rows", "texts", "online", "versions", "sources")
    assert {n: asdict(would)[n] for n in names} == {n: asdict(did)[n] for n in names}
    assert {(p["source"], p["position"].split(",")[0]) for p in did.sources} == {
        ("faq", "row 12"),
        ("faq", "row 13"),
        ("faq", "row 14"),
        ("chats", "line 1"),
    }
    with pytest.raises(LlmopsError):
        forget(config, MAIL)


def test_the_model_version_and_its_card_say_so(site: Path) -> None:
    config = at(site)
    forget(config, MAIL)
    version = registry_of(config).get("v1")
    assert len(version.erasures) == 1
    card = (version.path / "README.md").read_text()
    assert card.index("## Training data") < card.index("## Erasure") < card.index("## Training\n")
    assert MAIL not in card + (version.path / "version.json").read_text()


def test_a_version_that_was_not_trained_has_learned_nothing_of_the_person(site: Path) -> None:
    config = at(site)
    version = registry_of(config).get("v1")
    history = json.loads((version.path / "lineage.json").read_text())
    for stage in history["stages"]:
        if stage["artifact"].startswith("train/"):
            stage["config"] = {"enabled": False}
    (version.path / "lineage.json").write_text(json.dumps(history))
    assert forget(config, MAIL).versions == [] and registry_of(config).get("v1").erasures == ()
    assert "## Erasure" not in (version.path / "README.md").read_text()


def test_no_stage_may_run_meanwhile(site: Path) -> None:
    config = at(site)
    with artifacts.locked(config.artifacts, shared=True), pytest.raises(LlmopsError, match="running"):
        forget(config, MAIL)
    forget(config, MAIL)


def test_what_interrupted_runs_left_goes_too(site: Path) -> None:
    config = at(site)
    broken = config.artifacts / "collect" / "half"
    row = Dropped(id="1", source="s", location="l", position="p", rule="r", detail="", content=MAIL)
    write_rows(broken / "quarantine.parquet", [row], Dropped)
    (config.artifacts / "train" / "half").mkdir()
    (config.artifacts / "collect" / ".x.parquet.123").write_text(MAIL)
    (config.collect.cache / "downloads" / "1").mkdir(parents=True)
    (config.collect.cache / "downloads" / "1" / "faq.csv").write_text(MAIL)
    assert forget(config, MAIL).remaining == {}
    assert not broken.exists() and not (config.artifacts / "train" / "half").exists()
    assert holding(config.home, MAIL) == set()


def test_what_cannot_be_changed_is_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = at(site)
    (config.home / "keys.json").write_text(json.dumps([{"owner": MAIL}]))
    report = forget(config, MAIL)
    assert list(report.remaining) == [str(config.home / "keys.json")]
    assert list(forget(config, MAIL).remaining) == list(report.remaining)  # and again, as long as it is so


def test_the_event_counts_and_does_not_name(site: Path) -> None:
    config = at(site)
    forget(config, MAIL, by="admin")
    drain(config.events, config.monitoring)
    (event,) = LocalStore(config.events).find("llmops.erasure")
    assert event["llmops.erasure.versions"] == ["support-bot v1"] and event["llmops.erasure.documents"] == 5
    assert event["user.name"] == "admin" and event["event.outcome"] == "success"
    names = [e["llmops.prompt.text"] for e in LocalStore(config.events).find("llmops.text")]
    assert sorted(names) == ["<FORGOTTEN>", "<FORGOTTEN> again"]
    with Spool(config.events) as spool:
        assert list(spool.rejected()) == []


def test_the_repository_loses_the_rows(site: Path) -> None:
    config = at(site)
    folder = config.home / "repository" / "documents" / f"interval={DAY}"
    before = sum(pq.read_metadata(p).num_rows for p in folder.glob("*.parquet"))
    report = forget(config, MAIL)
    manifest = json.loads((folder / "_manifest.json").read_text())
    parts = {p.name for p in folder.glob("*.parquet")}
    assert {part["name"] for part in manifest["parts"]} == parts
    assert report.rows["repository"] == before - manifest["rows"] == 4


def test_the_command(site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = at(site)
    monkeypatch.setattr(cli.config, "load", lambda *_: config)
    assert cli.main(["data", "forget", MAIL, "--dry-run"]) == 0
    assert cli.main(["data", "forget", MAIL, "--json"]) == 0
    printed = capsys.readouterr()
    assert not any(secret.lower() in (printed.out + printed.err).lower() for secret in SECRETS)
    assert json.loads(printed.out.splitlines()[-1])["documents"] == 5
    assert cli.main(["data", "forget", MAIL]) == 1
    (config.home / "keys.json").write_text(json.dumps([{"owner": MAIL}]))
    assert cli.main(["data", "forget", MAIL]) == 1
    assert "keys.json" in capsys.readouterr().out


def test_the_page_of_an_evaluation_is_made_of_the_answers_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[Path, int]] = []
    monkeypatch.setattr("llmops.model.evaluate.page.write", lambda folder, worst: written.append((folder, worst)))
    folder = tmp_path / "evaluate" / "e1"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("old")
    record = {name: "" for name in ("interval", "code", "git_commit", "started", "finished")}
    artifacts.commit(folder, Record("evaluate", "e1", {"worst": 7}, inputs={}, metrics={}, files={}, **record))
    derived.write(folder, ErasurePlan(time=""))
    assert written == [(folder, 7)]
