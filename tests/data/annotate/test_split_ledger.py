"""The split ledger over days: tested examples stay tested, trained ones are not tested, repetitions change nothing."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.annotate import split_ledger
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.split_history import SplitEntry
from llmops.data.annotate.split_ledger import SplitLedger, open_split_ledger
from llmops.data.text.normalization import hash_wording
from llmops.frame.errors import StateError, TransientError
from llmops.frame.records import Document, Example, make_content_id, read_rows, write_rows
from llmops.privacy.erasure import split_entries
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import database_at
from llmops.state.tables import audit, split_runs
from llmops.state.tables import split_entries as table
from tests.data.annotate.test_decontaminate import find_overlaps

SPLITS = ("train", "validation", "test")
FILES = ("train.parquet", "validation.parquet", "test.parquet", "dropped.parquet", "findings.parquet", "train.txt")
NUMBERS = itertools.count()
SEEN: dict[str, str] = {}  #: id → text of the documents of all homes, whose ledgers are in one database
TOPICS = ("tent", "boat", "lamp", "sofa", "desk", "bike")
# Ways to ask the same: with other punctuation, with one word more, in other words.
WAYS = (
    "How do I send back the {} that I bought in your shop last week?",
    "How do I send back the {}, that I bought in your shop last week!",
    "So, how do I send back the {} that I bought in your shop last week?",
    "May one return a {}?",
)
ANSWERS = ("Bring your {} to us.", "Write to us about the {} and wait.", "We take everything back.")


def make_document(source: str, question: str = "", answer: str = "", group: str = "", fields: str = "{}") -> Document:
    key = make_content_id(source, question, answer, group, fields)
    asker = next((f"{topic}@example.org" for topic in TOPICS if topic in question), "nobody")
    parts = {"question": question, "answer": answer, "group": group, "fields": fields, "text": f"asked by {asker}"}
    return Document(id=key, source=source, location=f"{source}.csv", position=f"row {key}", **parts)


BASE = [make_document("faq", f"Question {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]
BASE += [make_document("chat", f"Asked otherwise {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]

QuestionKey = tuple[str, int, int, int]  #: source, topic, way, answer


def make_documents(keys: Iterable[QuestionKey], by: str) -> list[Document]:
    rows = []
    for source, topic, way, answer in keys:
        question, answer_text = (text.format(TOPICS[topic]) for text in (WAYS[way], ANSWERS[answer]))
        rows.append(make_document(source, question, answer_text, TOPICS[topic] if by == "wording" else ""))
    return list({row.id: row for row in rows + BASE}.values())


@dataclass
class Home:
    """Runs of annotate over days, their artifacts by fingerprint."""

    folder: Path
    config: Annotate
    model: str = field(default_factory=lambda: f"model {next(NUMBERS)}")
    made: dict[str, tuple[str, list[Example], dict[str, bytes]]] = field(default_factory=dict)

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'state.db'}"

    def run(self, interval: str, rows: list[Document]) -> tuple[str, bool]:
        SEEN.update({row.id: row.text for row in rows})
        inputs = make_content_id(*(str(row) for row in sorted(rows, key=lambda row: row.id)))
        ledger = open_split_ledger(
            self.database, self.model, self.config, interval, lambda read: make_content_id(inputs, read)
        )
        if ledger.fingerprint in self.made:
            return ledger.fingerprint, False
        work = self.folder / f"work {next(NUMBERS)}"
        write_rows(work / "clean" / "documents" / "part-00000.parquet", rows, Document)
        (work / "out").mkdir()
        annotate.run(self.config, clean=work / "clean", out=work / "out", ledger=ledger)
        examples = [e for split in SPLITS for e in read_rows(work / "out" / f"{split}.parquet", Example)]
        contents = {name: (work / "out" / name).read_bytes() for name in FILES}
        shutil.rmtree(work)
        self.made[ledger.fingerprint] = interval, examples, contents
        return ledger.fingerprint, True

    def read_split(self, fingerprint: str, split: str) -> list[Example]:
        return [e for e in self.made[fingerprint][1] if e.split == split]

    def forget(self, topic: str) -> None:
        """Erase the person who asked about a topic, as `llmops data forget` does: by the ids of their documents."""
        database, subject = database_at(self.database), Subject(f"{topic}@example.org")
        others = [row for row in self.read_entries() if topic not in row.compared]
        ids = {id_ for id_, text in SEEN.items() if topic in text}
        split_entries.forget_entries(
            database, split_entries.find_entries(database, subject, lambda fingerprint: ids, set())
        )
        assert self.read_entries() == others
        for key, (interval, examples, _) in self.made.items():
            self.made[key] = interval, [e for e in examples if topic not in e.question], {}

    def read_entries(self) -> list[Any]:
        if not (database := database_at(self.database)).exists:
            return []
        with database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.scope, table.c.number, table.c.id)))


def list_wordings(examples: Iterable[Example]) -> set[str]:
    return {hash_wording(e.question, e.context) for e in examples}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


change_parts = (st.sampled_from(["faq", "chat"]), st.integers(0, 5), st.integers(0, len(WAYS) - 1), st.integers(0, 2))
changes = st.lists(st.tuples(*change_parts), max_size=8)
whens = st.sampled_from(["next", "next", "next", "again", "between"])
day = st.tuples(whens, changes, st.lists(st.integers(0, 7), max_size=3), st.sampled_from([None, None, 0, 1]))
days = st.lists(day, min_size=2, max_size=6)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(days, st.sampled_from(["group", "wording"]), st.sampled_from([(), ("faq",)]), st.integers(0, 30))
def test_no_sequence_of_days_trains_on_a_tested_example(
    folder: Path,
    days: list[tuple[str, list[QuestionKey], list[int], int | None]],
    by: str,
    sources: tuple[str, ...],
    seed: int,
) -> None:
    """Sources and near duplicates appear; items change, leave, are erased; days are repeated or run late."""
    config = Annotate(
        split_by=by, test_sources=sources, seed=seed, test=0.4, validation=0.1, min_test_items=1, redact=()
    )
    home = Home(folder, config)
    current: dict[tuple[str, int, int], int] = {}  # the question's source, topic and way → its answer
    newest, ran = 0, list[tuple[str, list[Document], str]]()
    for when, come, go, gone in days:
        current |= {(source, topic, way): answer for source, topic, way, answer in come}  # new, or edited
        for number in go[: len(current)]:
            del current[[*current][number % len(current)]]
        if gone is not None:
            home.forget(TOPICS[gone])
            current = {key: answer for key, answer in current.items() if key[1] != gone}
        if when == "again" and ran:
            interval = ran[-1][0]
        elif when == "between" and newest:
            interval = f"{newest - 1:03d}"
        else:
            newest += 2
            interval = f"{newest:03d}"
        rows = make_documents([(*key, answer) for key, answer in current.items()], by)
        key, new = home.run(interval, rows)
        if new:
            before = [k for k, (day, *_) in home.made.items() if day <= interval]
            assert set().union(*(list_wordings(home.read_split(k, "test")) for k in before)) == list_wordings(
                home.read_split(key, "test")
            )
            assert all(e.interval <= interval for e in home.made[key][1])
        ran.append((interval, rows, key))
        assert home.run(interval, rows) == (key, False)
    check_no_leak(home, config)
    for interval, rows, key in ran:
        day, examples, contents = home.made[key]
        if day == interval and contents:  # and nobody was forgotten since
            del home.made[key]
            assert home.run(interval, rows) == (key, True)
            assert home.made[key] == (day, examples, contents)


def check_no_leak(home: Home, config: Annotate) -> None:
    """Check that no artifact trains or validates with a tested example, its near duplicate or (by groups) its topic."""
    tested = [e for key in home.made for e in home.read_split(key, "test")]
    used = [e for key in home.made for split in ("train", "validation") for e in home.read_split(key, split)]
    assert not list_wordings(tested) & list_wordings(used)
    if config.split_by == "group":
        assert not {e.group for e in tested} & {e.group for e in used}

    def get_compared(e: Example) -> str:
        return e.question if config.split_by == "wording" else f"{e.question}\n{e.answer}"

    close = find_overlaps(map(get_compared, used), [*map(get_compared, tested)])
    assert not close, {get_compared(used[a]): get_compared(tested[b]) for a, (b, _) in close.items()}


def test_a_near_duplicate_of_a_trained_example_is_not_tested(folder: Path) -> None:
    home = Home(folder, Annotate(test_sources=("faq",), test=0.9, validation=0.05, min_test_items=1, redact=()))
    twins = [("chat", topic, 0, 0) for topic in range(6)]
    home.run("001", make_documents(twins, "group"))
    key, _ = home.run("002", make_documents([*twins, *(("faq", topic, 2, 0) for topic in range(6))], "group"))
    assert not [e for e in home.read_split(key, "test") if "send back" in e.question]
    check_no_leak(home, home.config)


NAMES = [a + b + c for a in "bdfgkl" for b in "aeiou" for c in ("ba", "ko")]


def test_a_wording_that_was_trained_on_is_not_tested_when_a_test_source_asks_it(folder: Path) -> None:
    home = Home(folder, Annotate(split_by="wording", test_sources=("survey",), test=0.3, min_test_items=1, redact=()))
    chat = [make_document("chat", f"What is a {t}?", f"Thing {t}.", t) for t in NAMES]
    survey = [make_document("survey", f"Why a {t}?", f"Thing {t}.", t) for t in NAMES]
    before, _ = home.run("001", [*chat, *survey[:30]])
    same = [make_document("survey", row.question.replace("?", "!"), row.answer, row.group) for row in chat]
    after, _ = home.run("002", [*chat, *survey, *same])
    trained = list_wordings(home.read_split(before, "train"))
    assert trained and not trained & list_wordings(home.read_split(after, "test"))
    assert list_wordings(home.read_split(before, "test")) < list_wordings(home.read_split(after, "test")), (
        "and new wordings still become test items"
    )


def test_an_answer_whose_source_no_longer_asks_stays_in_the_test(folder: Path) -> None:
    """Two sources answer the same questions otherwise; one of them is a daily file."""
    home = Home(folder, Annotate(test=0.5, min_test_items=1, redact=()))
    faq = [make_document("faq", f"What does a {t} cost?", f"A {t} costs nine euros.", t) for t in NAMES]
    chat = [make_document("chat", row.question, f"{row.group} will be yours for nine euros.", row.group) for row in faq]
    before = home.read_split(home.run("001", [*faq, *chat])[0], "test")
    assert len(before) == 2 * len(list_wordings(before)) > 10
    edited = [make_document("faq", f"What does a {t} cost?", f"A {t} costs nine dollars.", t) for t in NAMES]
    after = home.read_split(home.run("002", [*edited, make_document("chat", "Is this a new one?", "Yes.")])[0], "test")
    assert {e.id for e in before if e.source == "chat"} <= {e.id for e in after}
    assert list_wordings(before) <= list_wordings(after)
    now = [e for e in after if e.source == "faq" and list_wordings([e]) <= list_wordings(before)]
    assert len(now) == len(list_wordings(before)) and all("dollars" in e.answer and e.interval == "002" for e in now)
    assert {e.interval for e in after if e.source == "chat" and e.group in NAMES} == {"001"}


@pytest.mark.parametrize(
    ("tested", "first", "by"), [("stock", "faq", "group"), ("faq", "stock", "group"), ("faq", "stock", "wording")]
)
def test_a_rendered_example_does_not_train_if_its_plain_twin_is_tested(
    folder: Path, tested: str, first: str, by: str
) -> None:
    template = {
        "question": "What does the {product} cost in the shop on a working day?",
        "answer": "It costs {price} euros, and you can pay with a card there.",
        "group": "{product}",
    }
    config = {"test": 0.5, "split_by": by, "test_sources": (tested,), "templates": {"stock": (template,)}}
    home = Home(folder, Annotate(min_test_items=1, redact=(), **config))
    stock = [
        make_document("stock", fields=json.dumps({"product": t, "price": str(n)})) for n, t in enumerate(NAMES[:40])
    ]
    question, answer = template["question"].replace("cost in", "cost, in"), template["answer"]  # typed otherwise
    faq = [
        make_document("faq", question.format(product=t), answer.format(price=n), f"of {t}")
        for n, t in enumerate(NAMES[:40])
    ]
    more = [make_document("faq", f"Where is the {t} made?", f"In town {n}.", t) for n, t in enumerate(NAMES[40:])]
    rest = [make_document("stock", fields=json.dumps({"product": t, "price": "9"})) for t in NAMES[50:]]
    home.run("001", [*({"stock": stock, "faq": faq}[first]), *more, *rest])
    home.run("002", [*stock, *faq, *more, *rest])
    held, used = (
        {
            (e.question.replace(",", ""), e.answer)
            for key in home.made
            for split in splits
            for e in home.read_split(key, split)
        }
        for splits in (("test",), ("train", "validation"))
    )
    assert held and used and not held & used


@pytest.mark.parametrize("still_asked", [0, len(TOPICS)], ids=["nobody", "one source"])
def test_carried_over_examples_are_redacted_by_todays_rules(folder: Path, still_asked: int) -> None:
    rows = [make_document("faq", f"Whom do I ask about {t}?", f"Ask {t}@example.org about it.", t) for t in TOPICS]
    rows += [
        make_document("chat", row.question, row.answer.replace("@", "s@"), row.group) for row in rows
    ]  # soon the same
    home = Home(folder, Annotate(test=0.5, min_test_items=1, redact=()))
    key, _ = home.run("001", [*rows, *BASE])
    shown = {e.question for e in home.read_split(key, "test") if "@example.org" in e.answer}
    assert shown
    home.config = home.config.model_copy(update={"redact": ("EMAIL_ADDRESS",)})
    key, _ = home.run("002", [*rows[:still_asked], *BASE])
    assert {e.question for e in home.read_split(key, "test") if "<EMAIL_ADDRESS>" in e.answer} == shown
    assert not any("@" in e.answer for e in home.read_split(key, "test"))
    carried = [e for e in home.read_split(key, "test") if e.question in shown]
    assert len(carried) == len(shown)
    assert still_asked or all(e.position.endswith(", as of 001") for e in carried)
    made_of = {row.id: row.documents for row in home.read_entries()}  # by which an erasure finds it
    assert {made_of[e.id] for e in carried} <= {row.id for row in rows}


def make_entry(name: str, split: str = "train") -> SplitEntry:
    tested = Example(id=name, question=name, answer="a", group="g", split=split, source="s", location="l", position="p")
    return SplitEntry(
        0, "", name, name, f"group {name}", split, f"said {name}", tested if split == "test" else None, "d"
    )


def plan_ledger(url: str, interval: str, inputs: str = "", model: str = "bot", **config: Any) -> SplitLedger:
    return open_split_ledger(url, model, Annotate(**config), interval, lambda read: make_content_id(inputs, read))


def test_a_run_reads_the_runs_before_it_and_a_repetition_reads_the_same(database_url: str) -> None:
    first = plan_ledger(database_url, "001", "a")
    assert list(first.read_entries()) == [] and list(first.read_trained_texts()) == []
    first.write([make_entry("x", "test"), make_entry("y")])
    first.write([make_entry("z")])  # killed before its record was written, and run again
    assert plan_ledger(database_url, "001", "a") == first and list(first.read_entries()) == []
    assert plan_ledger(database_url, "002", "a").fingerprint == first.fingerprint, "a day without change"
    second = plan_ledger(database_url, "002", "b")
    assert [(e.run, e.interval, e.id, e.compared, e.example) for e in second.read_entries()] == [
        (1, "001", "x", "said x", make_entry("x", "test").example),
        (1, "001", "y", "", None),
    ]
    assert list(second.read_trained_texts()) == [["said y"]]
    second.write([make_entry("v", "validation")])
    late = plan_ledger(database_url, "000", "c")
    assert [e.id for e in late.read_entries()] == ["x", "y", "v"] and sum(map(len, late.read_trained_texts())) == 2
    late.write([make_entry("w", "test")])
    assert plan_ledger(database_url, "002", "b") == second and [e.id for e in second.read_entries()] == ["x", "y"]
    assert plan_ledger(database_url, "003", "b").fingerprint not in {one.fingerprint for one in (first, second, late)}
    assert [e.id for e in plan_ledger(database_url, "003", "b").read_entries()] == ["w", "x", "y", "v"], "by interval"
    with database_at(database_url).read() as connection:
        recorded = connection.scalars(sa.select(audit.c.fields).order_by(audit.c.id)).all()
    assert [(fields["interval"], fields.get("test", 0)) for fields in recorded] == [("001", 1), ("002", 0), ("000", 1)]


def test_many_entries_are_written_and_read_page_by_page(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_ledger, "BATCH", 3)
    names = [f"{number:02d}" for number in range(10)]
    plan_ledger(database_url, "002", "a").write(make_entry(name, "test" if name > "06" else "train") for name in names)
    plan_ledger(database_url, "001", "b").write(iter([make_entry("x"), make_entry("y", "test")]))
    after = plan_ledger(database_url, "003", "c")
    assert [e.id for e in after.read_entries()] == ["x", "y", *names]
    pages = list(after.read_trained_texts())
    assert sum(pages, []) == [f"said {name}" for name in [*names[:7], "x"]] and [*map(len, pages)] == [3, 3, 2]

    def yield_and_fail() -> Iterator[SplitEntry]:
        yield from map(make_entry, names)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        after.write(yield_and_fail())
    assert plan_ledger(database_url, "003", "c") == after and not after.written


def test_a_day_without_change_is_not_a_backfill_of_the_same(database_url: str) -> None:
    plan_ledger(database_url, "003", "more").write([make_entry("x", "test")])
    late = plan_ledger(database_url, "001", "a")
    late.write([make_entry("y")])
    after = plan_ledger(database_url, "004", "a")
    assert after.fingerprint != late.fingerprint and [e.id for e in after.read_entries()] == ["y", "x"]
    assert plan_ledger(database_url, "002", "a") == late, "no day up to this one has tested more"


def test_an_artifact_that_is_made_again_keeps_its_date(folder: Path) -> None:
    home = Home(folder, Annotate(test=0.4, min_test_items=1, redact=()))
    key, _ = home.run("001", BASE)
    first = home.made.pop(key)
    assert home.run("002", BASE) == (key, True) and home.made[key][1:] == first[1:]


def test_the_second_of_two_concurrent_runs_fails(database_url: str) -> None:
    one, other = plan_ledger(database_url, "001", "a"), plan_ledger(database_url, "002", "b")
    one.write([make_entry("x", "test")])
    with pytest.raises(TransientError, match="run annotate again"):
        other.write([make_entry("x")])
    plan_ledger(database_url, "002", "b").write([make_entry("y")])


def test_another_split_or_model_has_its_own_ledger_and_planning_creates_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    assert list(plan_ledger(url, "001").read_entries()) == [] and list(tmp_path.iterdir()) == []
    plan_ledger(url, "001").write([make_entry("x", "test")])
    for other in (
        plan_ledger(url, "002", model="other"),
        plan_ledger(url, "002", seed=1),
        plan_ledger(url, "002", test_sources=("faq",)),
    ):
        assert list(other.read_entries()) == []
    assert len(list(plan_ledger(url, "002", "new", max_answer_chars=9).read_entries())) == 1
    plan_ledger(url, "001", test_sources=("faq", "chat")).write([make_entry("x", "test")])
    assert len(list(plan_ledger(url, "002", "new", test_sources=("chat", "faq", "chat")).read_entries())) == 1


def test_a_ledger_without_its_earlier_runs_is_an_error(database_url: str) -> None:
    plan_ledger(database_url, "001", "a").write([make_entry("x")])
    second = plan_ledger(database_url, "002", "b")
    with database_at(database_url).change() as connection:
        connection.execute(sa.delete(split_runs))
    with pytest.raises(StateError, match="lacks runs"):
        list(second.read_entries())
