"""Erasure, on a real chain of artifacts from the sources to the online store and a model version."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

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
from llmops.data.annotate.ledger import SplitLedger
from llmops.data.collect import forgotten
from llmops.erasure import erase
from llmops.erasure.forget import ErasureReport, _write_texts, forget
from llmops.errors import LlmopsError
from llmops.features.examples import read_offline
from llmops.features.online import read_online
from llmops.monitoring.events import emit
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from llmops.records import Document, Dropped, Example, Finding, read_rows, write_rows
from llmops.registry.registry import registry_of
from llmops.registry.version import Version
from llmops.retention import removal
from llmops.retention.gc import gc
from llmops.state.database import database_of
from llmops.state.tables import split_entries

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
    """A folder with `sources` and `home`: real up to features, the rest by hand."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "sources").mkdir()
    sources(folder / "sources")
    home = folder / "home"
    config = configured(home, folder / "sources", repository=str(home / "repository"))
    done = {name: pipeline.run_stage(name, config, DAY) for name in ("collect", "clean", "annotate")}
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
    registry_of(config).publish(facts, trees, documents, by="test", why="test")


def copied(built: Path, site: Path) -> Path:
    """Copy `built`, hard links of the registry included."""
    shutil.copytree(built, site)
    answers = site / "home" / "registry" / "support-bot" / "versions" / "v1" / "answers.parquet"
    answers.unlink()
    answers.hardlink_to(site / "home" / "artifacts" / "evaluate" / "e1" / "answers.parquet")
    return site


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    return copied(built, tmp_path / "site")


class Erased(NamedTuple):
    """A copy of `built` without the person, to be read only, and the reports of a dry run and of the erasure."""

    site: Path
    would: ErasureReport
    did: ErasureReport


@pytest.fixture(scope="module")
def erased(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Erased:
    site = copied(built, tmp_path_factory.mktemp("erased") / "site")
    return Erased(site, forget(at(site), MAIL, dry_run=True), forget(at(site), MAIL.upper(), by="admin"))


@pytest.fixture
def after(erased: Erased, tmp_path: Path) -> Path:
    """Return a copy of the home without the person, to go on with."""
    return copied(erased.site, tmp_path / "site")


def at(site: Path, **collect: Any) -> Config:
    home = site / "home"
    return configured(home, site / "sources", **{"repository": str(home / "repository"), **collect})


def holding(home: Path, *texts: str) -> set[str]:
    """The files under the home that hold one of the texts: in their names, bytes, rows or statistics of Parquet."""
    found = set()
    for path in (p for p in home.rglob("*") if p.is_file()):
        name, body = str(path.relative_to(home)), path.read_bytes()
        said = name + body.decode("latin-1") + body.decode("utf-8", "replace")
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            said += str(file.read().to_pylist())
            said += str([group.column(c).to_dict() for group in groups for c in range(group.num_columns)])
        found |= {name} if any(text.lower() in said.lower() for text in texts) else set()
    return found


def only(config: Config, stage: str) -> Path:
    (path,) = (p for p in (config.artifacts / stage).iterdir() if p.is_dir())
    return path


def ids(path: Path, column: str = "id") -> set[str]:
    return set(pq.read_table(path, columns=[column])[column].to_pylist())


def test_nothing_of_a_person_is_left_anywhere(built: Path, erased: Erased) -> None:
    config, before, report = at(erased.site), at(built), erased.did
    gone = {e.id for e in persons(only(before, "annotate"))}
    trained = {e.id for e in persons(only(before, "annotate")) if e.split == "train"}
    splits = ("train", "validation", "test")
    others = set().union(*(ids(only(before, "annotate") / f"{s}.parquet") for s in splits)) - gone
    assert len(gone) == 4 and trained and len(others) == 11
    assert all(read_online(only(before, "features"), sorted(gone)))
    assert len({p.split("/")[0] for p in holding(before.home, *SECRETS)}) >= 5

    assert holding(config.home, *SECRETS) == set()
    assert report.remaining == {} and report.documents == 5 and report.online == 4
    features = only(config, "features")
    assert read_online(features, sorted(gone)) == [None] * 4
    assert all(read_online(features, sorted(others)))
    assert ids(features / "features.parquet", "input_id") == others
    mapped = {s: {t.id for t in read_offline(features, s)} for s in splits}
    annotate = only(config, "annotate")
    assert set().union(*mapped.values()) == others and mapped["train"] == ids(annotate / "train.parquet")
    assert not [path for path in features.rglob("*") if any(id.encode() in path.read_bytes() for id in gone)]
    assert set().union(*(ids(annotate / f"{s}.parquet") for s in splits)) == others
    text = (annotate / "train.txt").read_text()
    assert text.count("[Question]") == len(ids(annotate / "train.parquet")) == text.count("####\n")
    answers = ids(config.registry / "support-bot" / "versions" / "v1" / "answers.parquet")
    assert answers and gone.isdisjoint(answers) and answers == ids(only(config, "evaluate") / "answers.parquet")
    govern = only(config, "govern")
    assert not [f for f in read_rows(govern / "findings.parquet", Finding) if f.where.split()[-1] in gone]
    assert not any(i in (govern / "report.md").read_text() for i in gone)
    assert (govern / "report.md").read_text().startswith("# Report\n|")
    found = [f.where for f in read_rows(annotate / "findings.parquet", Finding)]
    assert not [where for where in found if "row 12" in where or "line 1," in where]
    log = (config.home / "logs" / "serving.log").read_text()
    assert log == "00:00 started\n00:01 key of <FORGOTTEN> is used\n00:02 Ana\n"
    assert [v["examples"] for v in report.versions] == [len(trained)]


def test_the_dry_run_tells_what_is_then_done(erased: Erased) -> None:
    names = ("documents", "rows", "texts", "online", "versions", "sources")
    assert {n: asdict(erased.would)[n] for n in names} == {n: asdict(erased.did)[n] for n in names}
    places = {(p["source"], p["position"].split(",")[0]) for p in erased.did.sources}
    assert places == {("faq", "row 12"), ("faq", "row 13"), ("faq", "row 14"), ("chats", "line 1")}


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


def test_what_a_killed_run_has_written_into_the_ledger_goes_too(
    left: Config, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced_rows(left.collect.root, "cy.oz@example.org")
    for name in ("faq.csv", "chats.jsonl"):
        path = left.collect.root / name
        path.write_text(path.read_text().replace("sofa", "shelf").replace("lamp", "stool").replace("tea", "milk"))
    write = SplitLedger.write

    def dying(*args: Any) -> None:
        write(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SplitLedger, "write", dying)
        run_day(left, "2026-02-02")
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


def test_artifacts_keep_their_folders_and_their_records_tell(built: Path, after: Path, erased: Erased) -> None:
    config = at(after)
    for stage in ("collect", "clean", "annotate", "features", "evaluate", "govern", "train"):
        path = only(config, stage)
        assert path.name == only(at(built), stage).name and artifacts.verify(path) == [], stage
        (erasure,) = artifacts.read_record(path).erasures
        assert erasure["time"] == erased.did.time and MAIL not in json.dumps(erasure)
    assert artifacts.read_record(only(config, "train")).erasures[0]["examples"] == erased.did.versions[0]["examples"]
    for stage in ("collect", "clean", "annotate"):
        assert pipeline.run_stage(stage, config, DAY) == only(config, stage)
    assert pipeline.plan("annotate", config, DAY).done


def test_collect_does_not_bring_the_rows_back(built: Path, after: Path) -> None:
    """Neither from the sources as they were, nor from changed ones."""
    config = at(after)
    documents = len(read_rows(only(at(built), "collect") / "documents.parquet", Document))
    shutil.rmtree(config.artifacts / "collect")
    shutil.rmtree(config.collect.cache)  # the sources are read again, and still hold the person
    again = pipeline.run_stage("collect", config, DAY)
    assert holding(config.home, *SECRETS) == set()
    assert len(read_rows(again / "documents.parquet", Document)) == documents - 4
    suppressed = [r for r in read_rows(again / "quarantine.parquet", Dropped) if r.rule == forgotten.RULE]
    assert len(suppressed) == 5 and not any(row.content for row in suppressed)
    assert {row.location for row in suppressed} == {"faq.csv", "chats.jsonl"}
    faq = after / "sources" / "faq.csv"
    head, *rows = faq.read_text().splitlines()
    faq.write_text("\n".join([head, "Is it new?,Yes it is brand new.,new", *rows]) + "\n")
    again = pipeline.run_stage("collect", config, "2026-02-01")
    assert holding(config.home, *SECRETS) == set()
    assert any(d.question == "Is it new?" for d in read_rows(again / "documents.parquet", Document))


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


def test_the_list_of_what_is_forgotten_tells_nothing(erased: Erased) -> None:
    config = at(erased.site)
    path = config.collect.forgotten
    assert path.stat().st_mode & 0o777 == 0o600
    list_ = path.read_text()
    assert set(json.loads(list_)) == {"key", "rows", "people"} and not any(secret in list_ for secret in SECRETS)
    assert not {word for word in ("ana", "Ana", "parcel", "faq", "example") if word in list_}


@pytest.mark.parametrize("after", [1, 7])
def test_a_kill_in_the_middle_is_mended_by_repeating(
    site: Path, erased: Erased, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    config = at(site)
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
    assert state(config) == state(at(erased.site))


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


def test_an_unknown_person_a_dry_run_and_a_running_stage_change_nothing(site: Path) -> None:
    config = at(site)
    before = contents(config.home)
    for nobody in ("nobody@example.org", "diana.li@example.org", "a", "??"):
        with pytest.raises(LlmopsError) as error:
            forget(config, nobody)
        assert nobody == "a" or nobody not in str(error.value)
    forget(config, MAIL, dry_run=True)
    with artifacts.locked(config.artifacts, shared=True), pytest.raises(LlmopsError, match="running"):
        forget(config, MAIL)
    assert contents(config.home) == before


def contents(home: Path) -> dict[Path, bytes]:
    """Every file but locks and what SQLite makes when somebody reads."""
    own = (".lock", "-shm", "-wal")
    return {p: p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file() and not p.name.endswith(own)}


def test_the_card_and_the_event_tell_and_do_not_name_and_the_repository_loses_the_rows(
    built: Path, erased: Erased
) -> None:
    config = at(erased.site)
    version = registry_of(config).get("v1")
    assert len(version.erasures) == 1
    card = (version.path / "README.md").read_text()
    assert card.index("## Training data") < card.index("## Erasure") < card.index("## Training\n")
    assert MAIL not in card + (version.path / "version.json").read_text()
    drain(config.events, config.monitoring)
    (event,) = LocalStore(config.events).find("llmops.erasure")
    assert event["llmops.erasure.versions"] == ["support-bot v1"] and event["llmops.erasure.documents"] == 5
    assert event["user.name"] == "admin" and event["event.outcome"] == "success"
    names = [e["llmops.prompt.text"] for e in LocalStore(config.events).find("llmops.text")]
    assert sorted(names) == ["<FORGOTTEN>", "<FORGOTTEN> again"]
    with Spool(config.events) as spool:
        assert list(spool.rejected()) == []
    folder = Path("repository") / "documents" / f"interval={DAY}"
    before = sum(pq.read_metadata(p).num_rows for p in (built / "home" / folder).glob("*.parquet"))
    manifest = json.loads((config.home / folder / "_manifest.json").read_text())
    assert {part["name"] for part in manifest["parts"]} == {p.name for p in (config.home / folder).glob("*.parquet")}
    assert erased.did.rows["repository"] == before - manifest["rows"] == 4


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


def test_the_command_names_what_cannot_be_changed(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = at(site)
    monkeypatch.setattr(cli.config, "load", lambda *_: config)
    assert cli.main(["data", "forget", MAIL, "--dry-run"]) == 0
    assert cli.main(["data", "forget", MAIL, "--json"]) == 0
    printed = capsys.readouterr()
    assert not any(secret.lower() in (printed.out + printed.err).lower() for secret in SECRETS)
    assert json.loads(printed.out.splitlines()[-1])["documents"] == 5
    assert cli.main(["data", "forget", MAIL]) == 1
    (config.home / "keys.json").write_text(json.dumps([{"owner": MAIL}]))
    for _ in range(2):  # and again, as long as it is so
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
    _write_texts(folder)
    assert written == [(folder, 7)]
