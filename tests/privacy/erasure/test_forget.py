"""Erasure, on a real chain of artifacts from the sources to the online store and a model version."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pyspark.sql import SparkSession
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmops import cli
from llmops.access.keys import keys_of
from llmops.access.usage import UsageCell, add_usage, read_usage
from llmops.config import Config
from llmops.data import spark
from llmops.data.annotate.split_ledger import SplitLedger
from llmops.data.collect.forgotten_list import RULE
from llmops.data.features.online import read_online
from llmops.events.events import emit
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, LlmopsError, RegistryError
from llmops.frame.records import Document, DroppedRow, Example, read_rows, write_rows
from llmops.pipeline import pipeline
from llmops.privacy.erasure import forget as forgetting
from llmops.privacy.erasure.forget import Erasure, forget_person
from llmops.privacy.retention import removal
from llmops.release.registry.registry import registry_of
from llmops.release.registry.version import Version
from llmops.state.database import database_of
from llmops.state.tables import erasures, forgotten, split_entries
from tests.release.conftest import facts

DAY = "2026-01-31"
MAIL = "ana.li@example.org"
SECRETS = (MAIL, "Ana.Li@Example.org", "Ana Li", "the blue parcel", "my cat Momo")  #: all that is known of the person
BO = "bo.ek@example.org"
HERS, HIS = ("blue parcel", "Momo", "found your account"), ("sofa", "lamp", "tea sold", "I am <EMAIL_ADDRESS>")
WORDS = ("order", "parcel", "refund", "invoice", "account", "voucher", "delivery", "warranty", "return", "size")


def write_sources(root: Path) -> None:
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


def make_config(home: Path, root: Path, **collect: Any) -> Config:
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


def finish_artifact(home: Path, stage: str, key: str, inputs: dict[str, Path], **files: Any) -> Path:
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
    with spark.open_spark_session(make_config(Path("x"), Path("x")).clean) as active:
        yield active


@pytest.fixture(scope="module")
def built(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sources` and `home`: real up to features, the rest by hand."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "sources").mkdir()
    write_sources(folder / "sources")
    home = folder / "home"
    config = make_config(home, folder / "sources", repository=str(home / "repository"))
    done = {name: pipeline.run_stage(name, config, DAY) for name in ("collect", "clean", "annotate")}
    select = finish_artifact(home, "select", "s1", {}, selection={"model": "tiny", "path": "base"})
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "parcel": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>").save_pretrained(
        select / "base"
    )
    done |= {"select": select}
    done["features"] = pipeline.run_stage("features", config, DAY, done)
    done["train"] = finish_artifact(home, "train", "t1", {"features": done["features"], "select": select}, loss=[1.0])
    done["compress"] = finish_artifact(home, "compress", "c1", {n: done[n] for n in ("annotate", "select", "train")})
    evaluate = done["evaluate"] = finish_artifact(
        home, "evaluate", "e1", {n: done[n] for n in ("annotate", "select", "compress")}
    )
    items = read_rows(done["annotate"] / "test.parquet", Example) + read_examples_of_person(done["annotate"])
    rows = [{"id": e.id, "question": e.question, "reference": e.answer, "answer": "Yes.", "model": m, "token_f1": 0.5}
            for e in items for m in ("base", "candidate")]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), evaluate / "answers.parquet")
    artifacts.commit(evaluate, artifacts.read_record(evaluate))
    finish_artifact(home, "govern", "g1", {n: done[n] for n in ("annotate", "compress", "evaluate")})
    publish(config, done)
    served = registry_of(config).folder / "index"  # made from documents that nobody knows any more
    served.mkdir()
    finish_artifact(home, "index", "i1", {}).rename(served / "i1")
    _, key = keys_of(config).create("user", owner="Ana Li <ana.li@example.org>")
    add_usage(database_of(config), {UsageCell(key.prefix, DAY, "bot:v1"): Counter(requests=1)})
    (home / "logs").mkdir()
    (home / "logs" / "serving.log").write_text(f"00:00 started\n00:01 key of {MAIL} is used\n00:02 Ana\n")
    emit(config.events, "llmops.text", {"llmops.prompt.text": MAIL})
    drain_spool(config.events, config.monitoring)
    emit(config.events, "llmops.text", {"llmops.prompt.text": f"{MAIL} again"})
    return folder


def read_examples_of_person(annotate: Path) -> list[Example]:
    rows = [e for s in ("train", "validation", "test") for e in read_rows(annotate / f"{s}.parquet", Example)]
    return [e for e in rows if e.group.startswith("ana") or "Momo" in e.question or "I have found" in e.answer]


def publish(config: Config, done: dict[str, Path]) -> None:
    known = facts(compared_with="base", compress="c1", base_model="tiny", interval=DAY)
    stages = [{"artifact": f"{p.parent.name}/{p.name}"} for p in done.values()]

    def documents(version: Version) -> dict[str, str]:
        card = f"# {version.name}\n\n## Training data\n\nRows.\n\n## Training\n\n| rank | 8 |\n"
        return {"README.md": card, "lineage.json": json.dumps({"stages": stages})}

    trees = {"answers.parquet": done["evaluate"] / "answers.parquet"}
    registry_of(config).publish(known, trees, documents, by="test", why="test")


def copy_site(built: Path, site: Path) -> Path:
    shutil.copytree(built, site)
    answers = site / "home" / "registry" / "support-bot" / "versions" / "v1" / "answers.parquet"
    answers.unlink()
    answers.hardlink_to(site / "home" / "artifacts" / "evaluate" / "e1" / "answers.parquet")
    return site


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    return copy_site(built, tmp_path / "site")


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "FRESH_S", 0.0)


class Erased(NamedTuple):
    """A copy of `built` without the person, to be read only, and what a dry run and the erasure said."""

    site: Path
    would: Erasure
    did: Erasure


@pytest.fixture(scope="module")
def erased(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Erased:
    site = copy_site(built, tmp_path_factory.mktemp("erased") / "site")
    config = load_site(site)
    (key,) = keys_of(config).list()
    text = {"llmops.key.prefix": key.prefix, "llmops.prompt.text": "my cat Momo"}
    would = forget_person(config, MAIL, dry_run=True)
    with pytest.MonkeyPatch.context() as patch:  # an app that still knows the key writes a text meanwhile
        waiting = SimpleNamespace(sleep=lambda _: emit(config.events, "llmops.text", text))
        patch.setattr(forgetting, "time", waiting)
        return Erased(site, would, forget_person(config, MAIL.upper(), by="admin"))


@pytest.fixture
def after(erased: Erased, tmp_path: Path) -> Path:
    return Path(shutil.copytree(erased.site, tmp_path / "site"))


def load_site(site: Path, **collect: Any) -> Config:
    home = site / "home"
    return make_config(home, site / "sources", **{"repository": str(home / "repository"), **collect})


def find_files_with(home: Path, *texts: str) -> set[str]:
    """The files under the home that hold one of the texts: in their names, bytes, rows or statistics of Parquet."""
    found = set()
    for path in (p for p in home.rglob("*") if p.is_file()):
        name, body = str(path.relative_to(home)), path.read_bytes()
        content = name + body.decode("latin-1") + body.decode("utf-8", "replace")
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            content += str(file.read().to_pylist())
            content += str([group.column(c).to_dict() for group in groups for c in range(group.num_columns)])
        found |= {name} if any(text.lower() in content.lower() for text in texts) else set()
    return found


def find_only_artifact(config: Config, stage: str) -> Path:
    (path,) = (p for p in (config.artifacts / stage).iterdir() if p.is_dir() and artifacts.is_done(p))
    return path


def read_ids(path: Path, column: str = "id") -> set[str]:
    return set(pq.read_table(path, columns=[column])[column].to_pylist())


def count_entries(config: Config, *texts: str) -> int:
    with database_of(config).read() as connection:
        rows = connection.execute(sa.select(split_entries.c.compared, split_entries.c.example)).all()
    return sum(any(text.lower() in str(row).lower() for text in texts) for row in rows)


def test_nothing_of_a_person_is_left_anywhere_and_what_was_made_of_them_is_gone(built: Path, erased: Erased) -> None:
    config, before, receipt = load_site(erased.site), load_site(built), erased.did.receipt
    gone = {e.id for e in read_examples_of_person(find_only_artifact(before, "annotate"))}
    assert len(gone) == 4 and all(read_online(find_only_artifact(before, "features"), sorted(gone)))
    assert (
        len({p.split("/")[0] for p in find_files_with(before.home, *SECRETS)}) >= 5
        and count_entries(before, *HERS) >= 4
    )
    assert find_files_with(config.home, *SECRETS) == set() and receipt.remaining == [] and receipt.documents == 5
    assert not count_entries(config, *HERS) and receipt.deleted["entries"] >= 4
    chain = ("collect", "clean", "annotate", "features", "train", "compress", "evaluate", "govern")
    assert {ref.split("/")[0] for ref in receipt.artifacts} == {*chain}
    for ref in receipt.artifacts:
        path = config.artifacts / ref
        assert artifacts.is_removed(path) and [p.name for p in path.iterdir()] == [artifacts.REMOVED_RECORD]
    assert artifacts.is_done(config.artifacts / "select" / "s1"), "nothing of it was made of a document"
    with pytest.raises(ArtifactError, match="needs collect, whose data was erased on .*receipt 1"):
        pipeline.run_stage(
            "clean", config, DAY, {"collect": config.artifacts / "collect" / find_only_artifact(before, "collect").name}
        )
    for store in (config.features.store).rglob("*.db"):
        assert not any(id_.encode() in store.read_bytes() for id_ in gone)
    log = (config.home / "logs" / "serving.log").read_text()
    assert log == "00:00 started\n<FORGOTTEN>\n00:02 Ana\n"
    assert not list((registry_of(config).folder / "index").iterdir())
    assert keys_of(config).list() == () and receipt.deleted["keys"] == 1
    assert read_usage(database_of(config), DAY[:7]).keys == []


def test_the_dry_run_tells_what_is_then_done_and_the_receipt_names_nobody(erased: Erased) -> None:
    would, did = erased.would.receipt, erased.did.receipt
    for name in ("documents", "artifacts", "deleted", "versions", "searched", "unreached"):
        assert getattr(would, name) == getattr(did, name), name
    places = {(p["source"], p["position"].split(",")[0]) for p in erased.did.documents}
    assert places == {("faq", "row 12"), ("faq", "row 13"), ("faq", "row 14"), ("chats", "line 1")}
    with database_of(load_site(erased.site)).read() as connection:
        row = connection.execute(sa.select(erasures)).one()
        hashes = connection.execute(sa.select(forgotten)).all()
    assert row.number == did.number == 1 and row.ended and row.plan is None
    stored = f"{row.receipt}{hashes}"
    assert not [word for word in (*SECRETS, "faq.csv", "row 12", "example.org") if word.lower() in stored.lower()]


def test_the_next_run_brings_nobody_back_and_keeps_the_test(built: Path, after: Path, session: SparkSession) -> None:
    config, before = load_site(after), load_site(built)
    tested = {e.id: e for e in read_rows(find_only_artifact(before, "annotate") / "test.parquet", Example)}
    theirs = {e.id for e in read_examples_of_person(find_only_artifact(before, "annotate"))}
    assert theirs & tested.keys()
    shutil.rmtree(config.collect.cache)  # the sources are read again, and still hold the person
    annotate = run_day(config, DAY)
    assert find_files_with(config.home, *SECRETS) == set()
    assert {e.id: e for e in read_rows(annotate / "test.parquet", Example)} == {
        id_: e for id_, e in tested.items() if id_ not in theirs
    }  # fmt: skip
    suppressed = [
        r for r in read_rows(find_only_artifact(config, "collect") / "quarantine.parquet", DroppedRow) if r.rule == RULE
    ]
    assert len(suppressed) == 5 and not any(row.content for row in suppressed)
    faq = after / "sources" / "faq.csv"  # and others stand in their places later
    head, *rows = faq.read_text().splitlines()
    faq.write_text("\n".join([head, "Is it new?,Yes it is brand new.,new", *rows]) + "\n")
    repeated = pipeline.run_stage("collect", config, "2026-02-01")
    assert find_files_with(config.home, *SECRETS) == set()
    assert any(d.question == "Is it new?" for d in read_rows(repeated / "documents.parquet", Document))


def test_the_champion_that_learned_from_them_goes_on_and_no_such_version_comes_back(built: Path, after: Path) -> None:
    registry = registry_of(load_site(after))
    version = registry.champion()
    assert version and [(e["receipt"], e["examples"] > 0) for e in version.erasures] == [(1, True)]
    card = (version.path / "README.md").read_text()
    assert card.index("## Training data") < card.index("## Erasure") < card.index("## Training\n")
    answers = read_ids(version.path / "answers.parquet")
    assert answers and answers.isdisjoint(
        e.id for e in read_examples_of_person(find_only_artifact(load_site(built), "annotate"))
    )
    version.servable.mkdir()
    registry.publish(facts(compared_with="v1", compress="c2"), {}, lambda _: {}, by="gate", why="no worse")
    assert registry.aliases()["champion"] == "v2"
    with pytest.raises(RegistryError, match="receipt 1"):
        registry.rollback()


def test_the_event_tells_and_the_repository_loses_the_rows(built: Path, erased: Erased) -> None:
    config = load_site(erased.site)
    drain_spool(config.events, config.monitoring)
    (event,) = LocalStore(config.events).find("llmops.erasure")
    assert event["llmops.erasure.versions"] == ["support-bot v1"] and event["llmops.erasure.documents"] == 5
    assert event["user.name"] == "admin" and event["event.outcome"] == "success"
    assert list(LocalStore(config.events).find("llmops.text")) == []
    file = Path("repository") / "documents" / f"interval={DAY}" / "documents.parquet"
    before, now = (pq.read_metadata(home / file).num_rows for home in (built / "home", config.home))
    assert before - now == 4


@pytest.mark.parametrize("step", ["feedback.forget_events", "removal.finish", "erase_persons", "_hide_in_state"])
def test_a_kill_is_mended_by_repeating(site: Path, erased: Erased, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    config = load_site(site)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if step == "removal.finish":  # it is called before, too
            real, calls = forgetting.removal.finish, iter((False, True))
            patch.setattr(forgetting.removal, "finish", lambda c: die() if next(calls) else real(c))
        else:
            where, _, name = step.rpartition(".")
            patch.setattr(getattr(forgetting, where) if where else forgetting, name, die)
        forget_person(config, MAIL, by="admin")
    if step == "feedback.forget_events":  # a full disk, unused keys, and what goes by itself
        assert artifacts.is_removed(config.artifacts / "evaluate" / "e1") and keys_of(config).list() == ()
        shutil.rmtree(config.collect.cache)
        registry_of(config).get("v1").path.joinpath("answers.parquet").unlink()
    with database_of(config).read() as connection:
        assert not any(secret in str(connection.execute(sa.select(erasures)).one()) for secret in SECRETS)
    with pytest.raises(LlmopsError, match="erasure 1, begun at 20.* by admin, was interrupted"):
        forget_person(config, "somebody@example.org")
    with pytest.raises(LlmopsError, match="erasure 1, begun at 20.* by admin, was interrupted"):
        pipeline.run_stage("collect", config, DAY)
    receipt = forget_person(config, MAIL).receipt
    assert receipt.remaining == [] and find_files_with(config.home, *SECRETS) == set()
    assert (receipt.artifacts, receipt.deleted, receipt.number) == (*list_deleted(erased), 1)
    assert len(registry_of(config).get("v1").erasures) == 1


def list_deleted(erased: Erased) -> tuple[list[str], dict[str, int]]:
    return erased.did.receipt.artifacts, erased.did.receipt.deleted


def test_an_unknown_person_a_dry_run_and_a_running_stage_change_nothing(site: Path) -> None:
    config = load_site(site)
    own = (".lock", "-shm", "-wal")

    def contents() -> dict[Path, bytes]:
        """Every file but locks and what SQLite makes when somebody reads."""
        found = sorted(p for p in config.home.rglob("*") if p.is_file() and not p.name.endswith(own))
        return {path: path.read_bytes() for path in found}

    before = contents()
    for nobody in ("nobody@example.org", "diana.li@example.org", "a", "??"):
        with pytest.raises(LlmopsError) as error:
            forget_person(config, nobody)
        assert nobody == "a" or nobody not in str(error.value)
    forget_person(config, MAIL, dry_run=True)
    with artifacts.hold_lock(config.artifacts, shared=True), pytest.raises(LlmopsError, match="running"):
        forget_person(config, MAIL)
    assert contents() == before


def test_what_interrupted_runs_left_goes_too(site: Path) -> None:
    config = load_site(site)
    broken = config.artifacts / "collect" / "half"
    row = DroppedRow(id="1", source="s", location="l", position="p", rule="r", detail="", content=MAIL)
    write_rows(broken / "quarantine.parquet", [row], DroppedRow)
    (config.artifacts / "train" / "half").mkdir()
    (config.artifacts / "collect" / ".x.parquet.123").write_text(MAIL)
    (config.collect.cache / "downloads" / "1").mkdir(parents=True)
    (config.collect.cache / "downloads" / "1" / "faq.csv").write_text(MAIL)
    assert forget_person(config, MAIL).receipt.remaining == []
    assert not broken.exists() and not (config.artifacts / "train" / "half").exists()
    assert find_files_with(config.home, MAIL) == set()


def test_the_command_names_what_cannot_be_changed_and_shows_receipts(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_site(site)
    monkeypatch.setattr(cli.config, "load", lambda *_: config)
    assert cli.main(["data", "forget", MAIL, "--dry-run"]) == 0
    planned = capsys.readouterr()
    assert "would be deleted" in planned.out and "were deleted" not in planned.out
    assert cli.main(["data", "forget", MAIL, "--json"]) == 0
    printed = capsys.readouterr()
    assert not any(secret.lower() in (planned.out + planned.err).lower() for secret in SECRETS)
    assert not any(secret.lower() in (printed.out + printed.err).lower() for secret in SECRETS)
    receipt = json.loads(printed.out.splitlines()[-1])["receipt"]
    assert cli.main(["data", "forget", MAIL]) == 1 and cli.main(["data", "receipt", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == receipt and receipt["documents"] == 5
    assert cli.main(["data", "receipt", "2"]) == cli.main(["data", "receipt", "x"]) == 1
    (config.home / "keys.json").write_text(json.dumps([{"owner": MAIL}]))
    (config.home / f"{MAIL}.txt").write_text("named after them")
    for _ in range(2):  # and again, as long as it is so
        assert cli.main(["data", "forget", MAIL]) == 1
        output = capsys.readouterr().out
        assert "keys.json" in output and "named after the person" in output and MAIL not in output


def test_other_files_that_name_somebody(site: Path) -> None:
    config, max_ = load_site(site), "Max Muster"
    evaluate, version = config.artifacts / "evaluate" / "e1", registry_of(config).get("v1").path
    record = evaluate / artifacts.RECORD
    record.write_text(record.read_text().replace('"config": {}', json.dumps({"config": {"owner": max_}})[1:-1]))
    caches = [config.home / name / "support-bot" / "v1" / "1.json" for name in ("drift", "decay")]
    vocabulary, stays = version / "servable" / "vocab.txt", [config.artifacts / "a.txt", config.artifacts / "tune.txt"]
    for path in (evaluate / "report.json", version / "notes.json", *caches, vocabulary, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps({'by': max_})}\n")
    (config.artifacts / "select" / "a.txt").write_text("no artifact")
    receipt = forget_person(config, max_).receipt
    assert receipt.versions == [] and registry_of(config).get("v1").erasures == (), "it learned nothing from him"
    assert artifacts.is_removed(evaluate) and artifacts.is_done(config.artifacts / "compress" / "c1")
    assert receipt.remaining == sorted(map(str, stays)) and receipt.deleted == {"texts": 1, "leftovers": 3}
    assert find_files_with(config.home, max_) == {str(path.relative_to(config.home)) for path in (*stays, vocabulary)}


# --- over days


def run_day(config: Config, day: str, stages: tuple[str, ...] = ("collect", "clean", "annotate")) -> Path:
    return [pipeline.run_stage(stage, config, day) for stage in stages][-1]


def replace_rows(root: Path, mail: str, things: tuple[str, ...]) -> None:
    """The person's rows of the sources leave, and others stand in their places."""
    head, *rows = (root / "faq.csv").read_text().splitlines()
    others = [f'"Which {word} does {mail} have?","The {word} that was asked for.",{word}s' for word in things[:2]]
    (root / "faq.csv").write_text("\n".join([head, *rows[:10], *others, "one cell,too many,for,me"]) + "\n")
    turns = [("user", f"I am {mail}."), ("assistant", "Good."), ("user", f"Is {things[2]} sold?")]
    turns.append(("assistant", f"{things[2].title()} is on floor 3."))
    chat = {"topic": things[2], "messages": [{"role": role, "content": text} for role, text in turns]}
    rest = (root / "chats.jsonl").read_text().splitlines()[1]
    (root / "chats.jsonl").write_text(f"{json.dumps(chat)}\n{rest}\n")


@pytest.fixture(scope="module")
def lived(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sources` and `home` after two days, on the second of which others stand in the person's places."""
    folder = tmp_path_factory.mktemp("lived")
    (folder / "sources").mkdir()
    write_sources(folder / "sources")
    config = load_site(folder, repository="")
    run_day(config, DAY)
    replace_rows(folder / "sources", BO, ("sofa", "lamp", "tea"))
    run_day(config, "2026-02-01")
    return folder


@pytest.fixture
def left(lived: Path, tmp_path: Path) -> Config:
    shutil.copytree(lived, tmp_path / "left")
    return load_site(tmp_path / "left", repository="")


@pytest.mark.parametrize(
    ("who", "gone", "stays", "kept"), [(BO, HIS, HERS, True), (BO, HIS, HERS, False), (MAIL, HERS, HIS, True)]
)
def test_who_stands_where_another_stood_goes_alone(
    left: Config, who: str, gone: tuple[str, ...], stays: tuple[str, ...], kept: bool
) -> None:
    first = [p for p in artifacts.list_finished(left.artifacts / "collect") if artifacts.read_record(p).interval == DAY]
    for path in first if not kept else ():  # what the first day read is gone by its age
        removal.remove(path, "2026-02-01")
        removal.finish(left)
    before = count_entries(left, *stays)
    assert before and count_entries(left, *gone)
    assert forget_person(left, who).receipt.remaining == []
    assert count_entries(left, *stays) == before and not count_entries(left, *gone)
    questions = {e.question for e in read_rows(run_day(left, "2026-02-02") / "test.parquet", Example)}
    assert not [q for q in questions if any(word in q for word in gone)]
    assert [q for q in questions if any(word in q for word in stays)] or who == MAIL


def test_what_a_killed_run_has_written_into_the_ledger_goes_too(
    left: Config, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_rows(left.collect.root, "cy.oz@example.org", ("shelf", "stool", "milk"))
    write = SplitLedger.write

    def die(*args: Any) -> None:
        write(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SplitLedger, "write", die)
        run_day(left, "2026-02-02")
    theirs = ("shelf", "stool", "milk sold")
    assert count_entries(left, *theirs) >= 3
    assert forget_person(left, "cy.oz@example.org").receipt.remaining == []
    assert not count_entries(left, *theirs)


def test_a_row_of_a_table_stays_out_when_the_name_is_taken_from_it(tmp_path: Path) -> None:
    def ask(*statements: str) -> None:
        with sqlite3.connect(tmp_path / "shop.db") as database:
            for statement in statements:
                database.execute(statement)
        database.close()

    ask(
        "create table tickets (id, text, changed)",
        "insert into tickets values (1, 'Who am I?', '2026-01-01'), (2, 'I asked first.', '2026-01-01')",
    )
    table = {
        **{"name": "tickets", "kind": "sql", "location": "sqlite:///shop.db", "query": "select * from tickets"},
        **{"cursor": "changed", "key": ["id"], "fields": {"question": "text"}},
    }
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [table]})
    first = pipeline.run_stage("collect", config, "2026-01-01")
    ask("update tickets set text = 'I am Ana Li. Why?', changed = '2026-01-02' where id = 2")
    pipeline.run_stage("collect", config, "2026-01-02")
    assert forget_person(config, "Ana Li").receipt.remaining == []
    assert artifacts.is_removed(first) and not find_files_with(config.home, "I asked first."), (
        "an older version of her row"
    )
    ask("update tickets set text = 'Somebody asked why.', changed = '2026-01-03' where id = 2")
    ask("insert into tickets values (3, 'I am ana li, too?', '2026-01-03')")
    pipeline.run_stage("collect", config, "2026-01-03")
    ask("update tickets set text = 'It says nothing now.', changed = '2026-01-04' where id = 3")
    collected = pipeline.run_stage("collect", config, "2026-01-04")
    documents = read_rows(collected / "documents.parquet", Document)
    assert [row.question for row in documents] == ["Who am I?"]
    assert artifacts.read_record(collected).metrics["forgotten"] == 2
