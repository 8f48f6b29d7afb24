"""The split ledger over days: what was tested stays tested, what was trained on is never tested, and nothing twice."""

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
from llmops.data.annotate import ledger
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.ledger import SplitLedger, planned
from llmops.data.annotate.past import Entry
from llmops.data.text.comparable import wording_id
from llmops.frame.errors import StateError, TransientError
from llmops.frame.records import Document, Example, content_id, read_rows, write_rows
from llmops.privacy.erasure import split_entries
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import database_at
from llmops.state.tables import audit, split_runs
from llmops.state.tables import split_entries as table
from tests.data.annotate.test_decontaminate import overlaps

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


def document(source: str, question: str = "", answer: str = "", group: str = "", fields: str = "{}") -> Document:
    key = content_id(source, question, answer, group, fields)
    asker = next((f"{topic}@example.org" for topic in TOPICS if topic in question), "nobody")
    parts = {"question": question, "answer": answer, "group": group, "fields": fields, "text": f"asked by {asker}"}
    return Document(id=key, source=source, location=f"{source}.csv", position=f"row {key}", **parts)


BASE = [document("faq", f"Question {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]
BASE += [document("chat", f"Asked otherwise {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]

Asked = tuple[str, int, int, int]  #: source, topic, way, answer


def documents(asked: Iterable[Asked], by: str) -> list[Document]:
    rows = []
    for source, topic, way, answer in asked:
        question, said = (text.format(TOPICS[topic]) for text in (WAYS[way], ANSWERS[answer]))
        rows.append(document(source, question, said, TOPICS[topic] if by == "wording" else ""))
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
        inputs = content_id(*(str(row) for row in sorted(rows, key=lambda row: row.id)))
        ledger = planned(self.database, self.model, self.config, interval, lambda read: content_id(inputs, read))
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

    def of(self, fingerprint: str, split: str) -> list[Example]:
        return [e for e in self.made[fingerprint][1] if e.split == split]

    def forget(self, topic: str) -> None:
        """As an erasure does of who asked of a topic, whose documents it knows; no example says who asked."""
        database, subject = database_at(self.database), Subject(f"{topic}@example.org")
        others = [row for row in self.entries() if topic not in row.compared]
        ids = {id_ for id_, text in SEEN.items() if topic in text}
        split_entries.forget(database, split_entries.find(database, subject, lambda fingerprint: ids, set()))
        assert self.entries() == others
        for key, (interval, examples, _) in self.made.items():
            self.made[key] = interval, [e for e in examples if topic not in e.question], {}

    def entries(self) -> list[Any]:
        if not (database := database_at(self.database)).exists:
            return []
        with database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.scope, table.c.number, table.c.id)))


def asked(examples: Iterable[Example]) -> set[str]:
    return {wording_id(e.question, e.context) for e in examples}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


change = (st.sampled_from(["faq", "chat"]), st.integers(0, 5), st.integers(0, len(WAYS) - 1), st.integers(0, 2))
changes = st.lists(st.tuples(*change), max_size=8)
whens = st.sampled_from(["next", "next", "next", "again", "between"])
day = st.tuples(whens, changes, st.lists(st.integers(0, 7), max_size=3), st.sampled_from([None, None, 0, 1]))
days = st.lists(day, min_size=2, max_size=6)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(days, st.sampled_from(["group", "wording"]), st.sampled_from([(), ("faq",)]), st.integers(0, 30))
def test_whatever_happens_on_which_day_nothing_tested_is_ever_trained_on(
    folder: Path,
    days: list[tuple[str, list[Asked], list[int], int | None]],
    by: str,
    sources: tuple[str, ...],
    seed: int,
) -> None:
    """Sources appear, twins in any order and source, items change, leave, are forgotten, days are run again or late."""
    config = Annotate(
        split_by=by, test_sources=sources, seed=seed, test=0.4, validation=0.1, min_test_items=1, redact=()
    )
    home = Home(folder, config)
    there: dict[tuple[str, int, int], int] = {}
    newest, ran = 0, list[tuple[str, list[Document], str]]()
    for when, come, go, gone in days:
        there |= {(source, topic, way): answer for source, topic, way, answer in come}  # new, or edited
        for number in go[: len(there)]:
            del there[[*there][number % len(there)]]
        if gone is not None:
            home.forget(TOPICS[gone])
            there = {asked: answer for asked, answer in there.items() if asked[1] != gone}
        if when == "again" and ran:
            interval = ran[-1][0]
        elif when == "between" and newest:
            interval = f"{newest - 1:03d}"
        else:
            newest += 2
            interval = f"{newest:03d}"
        rows = documents([(*asked, answer) for asked, answer in there.items()], by)
        key, new = home.run(interval, rows)
        if new:
            before = [k for k, (day, *_) in home.made.items() if day <= interval]
            assert set().union(*(asked(home.of(k, "test")) for k in before)) == asked(home.of(key, "test"))
            assert all(e.interval <= interval for e in home.made[key][1])
        ran.append((interval, rows, key))
        assert home.run(interval, rows) == (key, False)
    check(home, config)
    for interval, rows, key in ran:
        day, examples, contents = home.made[key]
        if day == interval and contents:  # and nobody was forgotten since
            del home.made[key]
            assert home.run(interval, rows) == (key, True)
            assert home.made[key] == (day, examples, contents)


def check(home: Home, config: Annotate) -> None:
    """No artifact trains or validates with what any tests, or a near twin or, by groups, the topic of it."""
    tested = [e for key in home.made for e in home.of(key, "test")]
    used = [e for key in home.made for split in ("train", "validation") for e in home.of(key, split)]
    assert not asked(tested) & asked(used)
    if config.split_by == "group":
        assert not {e.group for e in tested} & {e.group for e in used}

    def said(e: Example) -> str:
        return e.question if config.split_by == "wording" else f"{e.question}\n{e.answer}"

    close = overlaps(map(said, used), [*map(said, tested)])
    assert not close, {said(used[a]): said(tested[b]) for a, (b, _) in close.items()}


def test_a_near_twin_of_what_was_trained_on_is_not_tested(folder: Path) -> None:
    home = Home(folder, Annotate(test_sources=("faq",), test=0.9, validation=0.05, min_test_items=1, redact=()))
    twins = [("chat", topic, 0, 0) for topic in range(6)]
    home.run("001", documents(twins, "group"))
    key, _ = home.run("002", documents([*twins, *(("faq", topic, 2, 0) for topic in range(6))], "group"))
    assert not [e for e in home.of(key, "test") if "send back" in e.question]
    check(home, home.config)


THINGS = [a + b + c for a in "bdfgkl" for b in "aeiou" for c in ("ba", "ko")]


def test_a_wording_that_was_trained_on_is_not_tested_when_a_test_source_asks_it(folder: Path) -> None:
    home = Home(folder, Annotate(split_by="wording", test_sources=("survey",), test=0.3, min_test_items=1, redact=()))
    chat = [document("chat", f"What is a {t}?", f"Thing {t}.", t) for t in THINGS]
    survey = [document("survey", f"Why a {t}?", f"Thing {t}.", t) for t in THINGS]
    before, _ = home.run("001", [*chat, *survey[:30]])
    same = [document("survey", row.question.replace("?", "!"), row.answer, row.group) for row in chat]
    after, _ = home.run("002", [*chat, *survey, *same])
    trained = asked(home.of(before, "train"))
    assert trained and not trained & asked(home.of(after, "test"))
    assert asked(home.of(before, "test")) < asked(home.of(after, "test")), "and new wordings still become test items"


def test_an_answer_whose_source_no_longer_asks_stays_in_the_test(folder: Path) -> None:
    """Two sources answer the same questions otherwise; one of them is a daily file."""
    home = Home(folder, Annotate(test=0.5, min_test_items=1, redact=()))
    faq = [document("faq", f"What does a {t} cost?", f"A {t} costs nine euros.", t) for t in THINGS]
    chat = [document("chat", row.question, f"{row.group} will be yours for nine euros.", row.group) for row in faq]
    before = home.of(home.run("001", [*faq, *chat])[0], "test")
    assert len(before) == 2 * len(asked(before)) > 10
    edited = [document("faq", f"What does a {t} cost?", f"A {t} costs nine dollars.", t) for t in THINGS]
    after = home.of(home.run("002", [*edited, document("chat", "Is this a new one?", "Yes.")])[0], "test")
    assert {e.id for e in before if e.source == "chat"} <= {e.id for e in after} and asked(before) <= asked(after)
    now = [e for e in after if e.source == "faq" and asked([e]) <= asked(before)]
    assert len(now) == len(asked(before)) and all("dollars" in e.answer and e.interval == "002" for e in now)
    assert {e.interval for e in after if e.source == "chat" and e.group in THINGS} == {"001"}


@pytest.mark.parametrize(
    ("tested", "first", "by"), [("stock", "faq", "group"), ("faq", "stock", "group"), ("faq", "stock", "wording")]
)
def test_what_a_template_made_does_not_train_beside_plain_words(folder: Path, tested: str, first: str, by: str) -> None:
    template = {
        "question": "What does the {product} cost in the shop on a working day?",
        "answer": "It costs {price} euros, and you can pay with a card there.",
        "group": "{product}",
    }
    config = {"test": 0.5, "split_by": by, "test_sources": (tested,), "templates": {"stock": (template,)}}
    home = Home(folder, Annotate(min_test_items=1, redact=(), **config))
    stock = [document("stock", fields=json.dumps({"product": t, "price": str(n)})) for n, t in enumerate(THINGS[:40])]
    asked, said = template["question"].replace("cost in", "cost, in"), template["answer"]  # typed otherwise
    faq = [document("faq", asked.format(product=t), said.format(price=n), f"of {t}") for n, t in enumerate(THINGS[:40])]
    more = [document("faq", f"Where is the {t} made?", f"In town {n}.", t) for n, t in enumerate(THINGS[40:])]
    rest = [document("stock", fields=json.dumps({"product": t, "price": "9"})) for t in THINGS[50:]]
    home.run("001", [*({"stock": stock, "faq": faq}[first]), *more, *rest])
    home.run("002", [*stock, *faq, *more, *rest])
    held, used = (
        {(e.question.replace(",", ""), e.answer) for key in home.made for split in splits for e in home.of(key, split)}
        for splits in (("test",), ("train", "validation"))
    )
    assert held and used and not held & used


@pytest.mark.parametrize("still_asked", [0, len(TOPICS)], ids=["nobody", "one source"])
def test_what_is_redacted_today_is_redacted_in_what_is_carried(folder: Path, still_asked: int) -> None:
    rows = [document("faq", f"Whom do I ask about {t}?", f"Ask {t}@example.org about it.", t) for t in TOPICS]
    rows += [document("chat", row.question, row.answer.replace("@", "s@"), row.group) for row in rows]  # soon the same
    home = Home(folder, Annotate(test=0.5, min_test_items=1, redact=()))
    key, _ = home.run("001", [*rows, *BASE])
    shown = {e.question for e in home.of(key, "test") if "@example.org" in e.answer}
    assert shown
    home.config = home.config.model_copy(update={"redact": ("EMAIL_ADDRESS",)})
    key, _ = home.run("002", [*rows[:still_asked], *BASE])
    assert {e.question for e in home.of(key, "test") if "<EMAIL_ADDRESS>" in e.answer} == shown
    assert not any("@" in e.answer for e in home.of(key, "test"))
    carried = [e for e in home.of(key, "test") if e.question in shown]
    assert len(carried) == len(shown)
    assert still_asked or all(e.position.endswith(", as of 001") for e in carried)
    made_of = {row.id: row.documents for row in home.entries()}  # by which an erasure finds it
    assert {made_of[e.id] for e in carried} <= {row.id for row in rows}


def entry(name: str, split: str = "train") -> Entry:
    tested = Example(id=name, question=name, answer="a", group="g", split=split, source="s", location="l", position="p")
    return Entry(0, "", name, name, f"group {name}", split, f"said {name}", tested if split == "test" else None, "d")


def plan(url: str, interval: str, inputs: str = "", model: str = "bot", **config: Any) -> SplitLedger:
    return planned(url, model, Annotate(**config), interval, lambda read: content_id(inputs, read))


def test_a_run_reads_those_before_it_and_again_only_those(database_url: str) -> None:
    first = plan(database_url, "001", "a")
    assert list(first.entries()) == [] and list(first.trained()) == []
    first.write([entry("x", "test"), entry("y")])
    first.write([entry("z")])  # killed before its record was written, and run again
    assert plan(database_url, "001", "a") == first and list(first.entries()) == []
    assert plan(database_url, "002", "a").fingerprint == first.fingerprint, "a day without change"
    second = plan(database_url, "002", "b")
    assert [(e.run, e.interval, e.id, e.compared, e.example) for e in second.entries()] == [
        (1, "001", "x", "said x", entry("x", "test").example),
        (1, "001", "y", "", None),
    ]
    assert list(second.trained()) == [["said y"]]
    second.write([entry("v", "validation")])
    late = plan(database_url, "000", "c")
    assert [e.id for e in late.entries()] == ["x", "y", "v"] and sum(map(len, late.trained())) == 2
    late.write([entry("w", "test")])
    assert plan(database_url, "002", "b") == second and [e.id for e in second.entries()] == ["x", "y"]
    assert plan(database_url, "003", "b").fingerprint not in {one.fingerprint for one in (first, second, late)}
    assert [e.id for e in plan(database_url, "003", "b").entries()] == ["w", "x", "y", "v"], "by interval"
    with database_at(database_url).read() as connection:
        noted = connection.scalars(sa.select(audit.c.fields).order_by(audit.c.id)).all()
    assert [(fields["interval"], fields.get("test", 0)) for fields in noted] == [("001", 1), ("002", 0), ("000", 1)]


def test_many_entries_are_written_and_read_page_by_page(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BATCH", 3)
    names = [f"{number:02d}" for number in range(10)]
    plan(database_url, "002", "a").write(entry(name, "test" if name > "06" else "train") for name in names)
    plan(database_url, "001", "b").write(iter([entry("x"), entry("y", "test")]))
    after = plan(database_url, "003", "c")
    assert [e.id for e in after.entries()] == ["x", "y", *names]
    pages = list(after.trained())
    assert sum(pages, []) == [f"said {name}" for name in [*names[:7], "x"]] and [*map(len, pages)] == [3, 3, 2]

    def broken() -> Iterator[Entry]:
        yield from map(entry, names)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        after.write(broken())
    assert plan(database_url, "003", "c") == after and not after.written


def test_a_day_without_change_is_not_a_backfill_of_the_same(database_url: str) -> None:
    plan(database_url, "003", "more").write([entry("x", "test")])
    late = plan(database_url, "001", "a")
    late.write([entry("y")])
    after = plan(database_url, "004", "a")
    assert after.fingerprint != late.fingerprint and [e.id for e in after.entries()] == ["y", "x"]
    assert plan(database_url, "002", "a") == late, "no day up to this one has tested more"


def test_what_is_made_again_on_a_later_day_is_dated_as_it_was(folder: Path) -> None:
    home = Home(folder, Annotate(test=0.4, min_test_items=1, redact=()))
    key, _ = home.run("001", BASE)
    first = home.made.pop(key)
    assert home.run("002", BASE) == (key, True) and home.made[key][1:] == first[1:]


def test_of_two_runs_at_once_the_second_has_to_honour_the_first(database_url: str) -> None:
    one, other = plan(database_url, "001", "a"), plan(database_url, "002", "b")
    one.write([entry("x", "test")])
    with pytest.raises(TransientError, match="run annotate again"):
        other.write([entry("x")])
    plan(database_url, "002", "b").write([entry("y")])


def test_another_split_or_model_has_a_ledger_of_its_own_and_planning_makes_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    assert list(plan(url, "001").entries()) == [] and list(tmp_path.iterdir()) == []
    plan(url, "001").write([entry("x", "test")])
    for other in (plan(url, "002", model="other"), plan(url, "002", seed=1), plan(url, "002", test_sources=("faq",))):
        assert list(other.entries()) == []
    assert len(list(plan(url, "002", "new", max_answer_chars=9).entries())) == 1
    plan(url, "001", test_sources=("faq", "chat")).write([entry("x", "test")])
    assert len(list(plan(url, "002", "new", test_sources=("chat", "faq", "chat")).entries())) == 1


def test_a_ledger_that_lost_runs_is_told(database_url: str) -> None:
    plan(database_url, "001", "a").write([entry("x")])
    second = plan(database_url, "002", "b")
    with database_at(database_url).change() as connection:
        connection.execute(sa.delete(split_runs))
    with pytest.raises(StateError, match="lacks runs"):
        list(second.entries())
