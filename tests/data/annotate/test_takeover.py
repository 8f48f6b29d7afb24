"""What 0.1.0's versions were trained and tested on, taken into the split ledger at the first run after the upgrade."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops import artifacts, pipeline
from llmops.artifacts import Record
from llmops.config import Annotate, Config, load
from llmops.data.annotate.ledger import planned
from llmops.data.annotate.past import TEST
from llmops.data.annotate.split import wording_id
from llmops.data.annotate.takeover import take_over
from llmops.erasure import split_entries
from llmops.erasure.subject import Subject
from llmops.records import Document, Example, content_id, read_rows, write_rows
from llmops.state.database import database_at, database_of
from llmops.state.tables import audit, split_runs

HOME = Path(__file__).parents[2] / "fixtures" / "home-0.1.0"
OLD = ("be0444b504180958", "73a2133835c6fce2")  #: artifacts of annotate of v1, and of v2 (champion), v3 and v4
DAY = "2026-02-01"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration of a copy of the home of 0.1.0."""
    shutil.copytree(HOME, tmp_path / "home")
    return load(tmp_path / "home" / "config.yaml", environ={"LLMOPS_HOME": str(tmp_path / "home")})


def examples(folder: Path, *splits: str) -> list[Example]:
    return [e for split in splits for e in read_rows(folder / f"{split}.parquet", Example)]


def asked(found: list[Example]) -> set[str]:
    return {wording_id(e.question, e.context) for e in found}


def cleaned(config: Config, key: str, documents: list[Document]) -> Path:
    """An artifact of clean that holds these."""
    path = config.artifacts / "clean" / key
    write_rows(path / "documents" / "part-00000.parquet", documents, Document)
    record = Record("clean", key, {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY)
    artifacts.commit(path, record)
    return path


def regrouped(old: list[Example]) -> list[Document]:
    """Documents that ask the same in topics of their own, whose number decides anew."""
    where = {"source": "faq", "location": "faq.csv"}
    return [
        Document(
            id=content_id(str(i)), **where, position=f"row {i}", question=e.question, answer=e.answer,
            context=e.context, group=f"topic {i}",
        )
        for i, e in enumerate(old)
    ]  # fmt: skip


def test_what_was_trained_on_is_not_tested_and_what_was_tested_stays(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [config.artifacts / "annotate" / key for key in OLD]
    tested = asked([e for folder in folders for e in examples(folder, "test")])
    used = [e for folder in folders for e in examples(folder, "train", "validation")]
    clean = cleaned(config, "c1", regrouped(list({e.id: e for e in used}.values())))
    made = pipeline.run_stage("annotate", config, DAY, {"clean": clean})
    assert asked(examples(made, "test")) == tested and not asked(used) & tested
    assert asked(examples(made, "train", "validation")) <= asked(used)
    with database_of(config).read() as connection:
        runs = connection.execute(sa.select(split_runs).order_by(split_runs.c.number)).all()
        noted = connection.scalars(sa.select(audit.c.by).where(audit.c.action == "split").order_by(audit.c.id)).all()
    took = [("2026-01-30", OLD[0]), ("2026-01-31", OLD[1]), (DAY, made.name)]
    assert [(run.interval, run.fingerprint) for run in runs] == took
    assert noted == ["upgrade", "upgrade", "annotate"]
    assert not [r for r in caplog.records if "ledger" in r.message and r.levelno >= logging.WARNING]
    assert pipeline.run_stage("annotate", config, DAY, {"clean": clean}) == made  # once
    later = pipeline.run_stage("annotate", config, "2026-02-02", {"clean": cleaned(config, "c2", regrouped(used[:9]))})
    assert asked(examples(later, "test")) == tested


def test_and_an_erasure_finds_whom_the_old_documents_name(config: Config) -> None:
    database = database_of(config)
    versions = {"v1": config.artifacts / "annotate" / OLD[0]}
    take_over(database, "bot", config.annotate, versions)
    clean = config.artifacts / artifacts.read_record(versions["v1"]).inputs["clean"]
    documents = read_rows(clean / "documents", Document)
    (mail,) = {word.strip(".") for d in documents for word in d.answer.split() if "@" in word}
    redacted = [e for e in examples(versions["v1"], "train", "validation", "test") if "<EMAIL_ADDRESS>" in e.answer]
    assert split_entries.named(database, Subject(mail)) == {e.id for e in redacted} and len(redacted) > 20


def test_what_is_gone_or_made_for_another_test_is_named(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    folders = [config.artifacts / "annotate" / key for key in OLD]
    clean = cleaned(config, "c1", regrouped(examples(folders[1], "train", "validation", "test")))
    (folders[0] / "test.parquet").unlink()
    pipeline.run_stage("annotate", config, DAY, {"clean": clean})
    (told,) = [r.getMessage() for r in caplog.records if "is gone or damaged" in r.message]
    assert "v1 (previous)" in told and OLD[0] in told and "v2" not in told
    caplog.clear()
    other = config.model_copy(update={"annotate": config.annotate.model_copy(update={"seed": 1})})
    pipeline.run_stage("annotate", other, DAY, {"clean": clean})
    told = "\n".join(r.getMessage() for r in caplog.records)
    assert "The test of v2 (champion) and v3 and v4 (candidate) was another one" in told


def made(folder: Path, config: Annotate, key: str, day: str, rows: list[Example]) -> Path:
    """An artifact of annotate, as 0.1.0 left it."""
    path = folder / "artifacts" / "annotate" / key
    for split in ("train", "validation", "test"):
        write_rows(path / f"{split}.parquet", [e for e in rows if e.split == split], Example)
    values = config.model_dump(mode="json")
    record = Record("annotate", key, values, {"clean": "clean/gone"}, day, "c", {}, {}, "", started=day, finished=day)
    artifacts.commit(path, record)
    return path


def example(name: str, split: str, question: str = "", answer: str = "Yes.", group: str = "") -> Example:
    texts = {"question": question or f"What of {name}?", "answer": answer, "group": group or name}
    key = content_id("", texts["question"], answer)
    return Example(id=key, split=split, source="shop", location="l", position=name, **texts)


def honoured(url: str, config: Annotate) -> dict[str, str]:
    """What a later run reads: position of an example → split, and of trained ones their id."""
    ledger = planned(url, "bot", config, "003", lambda read: read)
    return {e.example.position if e.example else e.id: e.split for e in ledger.entries()}


def test_what_one_trained_on_and_another_tested_is_trained_on(url: str, tmp_path: Path) -> None:
    config = Annotate()
    first = [example("a", "test"), example("b", "train"), example("c", "train", group="topic")]
    then = [replace(example("a", "test", answer="No."), group="a"), example("b", "test")]
    then += [example("d", "test", group="topic")]
    versions = {
        "v1": made(tmp_path, config, "first", "001", first), "v2": made(tmp_path, config, "then", "002", then),
        "v3": tmp_path / "artifacts" / "annotate" / "first",
    }  # fmt: skip
    for _ in range(2):
        take_over(database_at(url), "bot", config, versions)
    assert honoured(url, config) == {"a": TEST, **{e.id: "train" for e in first[1:]}}
    ledger = planned(url, "bot", config, "003", lambda read: read)
    assert [(e.run, e.id) for e in ledger.entries() if e.split == TEST] == [(1, first[0].id), (2, then[0].id)]


def test_who_comes_at_once_takes_it_over_once(url: str, tmp_path: Path) -> None:
    config = Annotate()
    versions = {"v1": made(tmp_path, config, "first", "001", [example(str(i), "train") for i in range(500)])}
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: take_over(database_at(url), "bot", config, versions), range(3)))
    assert len(honoured(url, config)) == 500
    with database_at(url).read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(split_runs)) == 1


def test_of_what_a_template_made_the_values_are_compared(tmp_path: Path) -> None:
    template = {"question": "What does the {product} cost in {town}?", "answer": "It costs {price}, {product} fans."}
    config = Annotate(templates={"shop": [template]})
    rows = [
        example("1", "test", "What does the big tent cost in Ulm?", "It costs 7 <X>, big tent fans."),
        example("2", "test", "What does the boat cost in Bern?", "It costs"),
        example("3", "test", "Is it so?"),
    ]
    url = f"sqlite:///{tmp_path / 'state.db'}"
    take_over(database_at(url), "bot", config, {"v1": made(tmp_path, config, "first", "001", rows)})
    compared = {e.compared for e in planned(url, "bot", config, "003", lambda read: read).entries()}
    assert compared == {"shop.0 big tent Ulm\n7 <X> big tent", "shop.0 boat Bern\n", "Is it so?\nYes."}
