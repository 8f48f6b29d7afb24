"""The split ledger over days: what was tested stays tested, what was trained on is never tested, and nothing twice."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.annotate import ledger
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.decontaminate import overlaps
from llmops.data.annotate.ledger import SplitLedger, planned
from llmops.data.annotate.past import Entry
from llmops.data.annotate.split import wording_id
from llmops.erasure import split_entries
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found
from llmops.errors import StateError, TransientError
from llmops.records import Document, Example, content_id, read_rows, write_rows
from llmops.state.database import database_at
from llmops.state.tables import audit, split_runs
from llmops.state.tables import split_entries as table

SPLITS = ("train", "validation", "test")
FILES = ("train.parquet", "validation.parquet", "test.parquet", "dropped.parquet", "findings.parquet", "train.txt")
NUMBERS = itertools.count()
TOPICS = ("tent", "boat", "lamp", "sofa", "desk", "bike")
# Ways to ask the same: with other punctuation, with one word more, in other words.
WAYS = (
    "How do I send back the {} that I bought in your shop last week?",
    "How do I send back the {}, that I bought in your shop last week!",
    "So, how do I send back the {} that I bought in your shop last week?",
    "May one return a {}?",
)
ANSWERS = ("Bring your {} to us.", "Write to us about the {} and wait.", "We take everything back.")


def document(source: str, question: str, answer: str, group: str = "") -> Document:
    key = content_id(source, question, answer, group)
    asker = next((f"{topic}@example.org" for topic in TOPICS if topic in question), "nobody")
    return Document(
        id=key, source=source, location=f"{source}.csv", position=f"row {key}", question=question, answer=answer,
        group=group, text=f"asked by {asker}",
    )  # fmt: skip


BASE = [document("faq", f"Question {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]
BASE += [document("chat", f"Asked otherwise {i}?", f"Answer {i}.", f"base {i % 12}") for i in range(24)]

Asked = tuple[str, int, int, int]  #: source, topic, way, answer


def documents(asked: Iterable[Asked], by: str) -> list[Document]:
    rows = [
        document(
            source, WAYS[way].format(TOPICS[topic]), ANSWERS[answer].format(TOPICS[topic]),
            TOPICS[topic] if by == "wording" else "",
        )
        for source, topic, way, answer in asked
    ]  # fmt: skip
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
        """The fingerprint of the day's artifact, and whether it had to be made."""
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
        """As an erasure does of who asked of a topic: their entries in the ledger, and the rows of all artifacts.

        No example says who asked, and no artifact is there that could tell.
        """
        database = database_at(self.database)
        others = [row for row in self.entries() if topic not in row.compared]
        split_entries.erase(database, split_entries.find(database, Subject(f"{topic}@example.org"), Found()))
        assert self.entries() == others
        for key, (interval, examples, _) in self.made.items():
            self.made[key] = interval, [e for e in examples if topic not in e.question], {}

    def entries(self) -> list[Any]:
        if (database := database_at(self.database)).absent:
            return []
        with database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.scope, table.c.number, table.c.id)))


def asked(examples: Iterable[Example]) -> set[str]:
    return {wording_id(e.question, e.context) for e in examples}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


changes = st.lists(
    st.tuples(st.sampled_from(["faq", "chat"]), st.integers(0, 5), st.integers(0, len(WAYS) - 1), st.integers(0, 2)),
    max_size=8,
)
days = st.lists(
    st.tuples(
        st.sampled_from(["next", "next", "next", "again", "between"]),
        changes,
        st.lists(st.integers(0, 7), max_size=3),
        st.sampled_from([None, None, 0, 1]),
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
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


def told(question: str, answer: str) -> Document:
    """What users have said of a question."""
    return replace(document("users", question, answer), location="feedback", position=f"key {content_id(question)}")


@pytest.mark.parametrize("by", ["group", "wording"])
def test_what_users_tell_of_is_taught_and_asked_in_other_words_from_the_second_wording_on(
    folder: Path, by: str
) -> None:
    answer = (
        "No, we send parcels to addresses within the European Union only, and Norway is none of its members so far."
    )
    ways = (
        "Do you ship to Norway?",
        "Can you send it to Oslo?",
        "Is Bergen too far?",
        "And what of parcels to Norway?",
    )
    home = Home(folder, Annotate(split_by=by, test=0.4, validation=0.1, min_test_items=1, redact=()))
    home.run("001", BASE)
    tested, trained = set[str](), set[str]()
    for day, number in (("002", 1), ("003", 2), ("004", 4)):
        key, _ = home.run(day, [*BASE, *(told(way, answer) for way in ways[:number])])
        now, then = ({e.question for e in home.of(key, s) if e.source == "users"} for s in ("test", "train"))
        assert tested <= now and trained <= then and len(now) + len(then) == number
        tested, trained = now, then
    assert len(tested) == 1 and len(trained) == 3


def test_what_users_say_gives_away_nothing_that_others_are_tested_on(folder: Path) -> None:
    home = Home(folder, Annotate(test=0.5, validation=0.1, min_test_items=1, redact=()))
    answers = {
        t: f"Our own drivers bring the {t} and carry it up to the third floor for no more than a smile." for t in TOPICS
    }
    faq = [document("faq", f"How does the {topic} come to me?", answer, topic) for topic, answer in answers.items()]
    more = [told(f"Who brings {topic}s?", f"{answer} Really.") for topic, answer in answers.items()]
    key, _ = home.run("001", [*BASE, *faq, *more])
    tested = {e.group for e in home.of(key, "test") if e.source == "faq"} & {*TOPICS}
    assert tested
    taught = {topic for e in home.of(key, "train") if e.source == "users" for topic in TOPICS if topic in e.question}
    assert taught == {e.group for e in home.of(key, "train") if e.source == "faq"} & {*TOPICS} and not taught & tested


@pytest.mark.parametrize("label", ["card_limit", ""])
def test_users_who_repeat_an_answer_take_no_topic_of_another_source_out_of_training(folder: Path, label: str) -> None:
    answer = "You may change the limit of your card in the app under cards and then limits and it holds at once."
    ways = ("What is my card limit?", "How do I raise it?", "Where do I see it?", "Can I lower it?", "Who sets it?")
    faq = [document("faq", way, answer, label) for way in ways]
    home = Home(folder, Annotate(test=0.22, validation=0.1, min_test_items=1, redact=()))
    seen = []
    for day, more in (("001", []), ("002", ["Can the limit go up?", "I want to pay more a day"]), ("003", [])):
        key, _ = home.run(day, [*BASE, *faq, *(told(way, answer) for way in more)])
        seen.append({split: {e.question for e in home.of(key, split)} & {*ways} for split in SPLITS})
    assert seen[0] == seen[1] == seen[2] and {*ways} in (seen[0]["train"], seen[0]["validation"]), seen


NORWAY = "No, we send parcels to addresses within the European Union only, and Norway is none of its members so far."
LONG = "ow long does it take until a parcel arrives in Norway from you?"


def users(home: Home, key: str) -> dict[str, set[str]]:
    """What users asked, by split."""
    return {split: {e.question for e in home.of(key, split) if e.source == "users"} for split in SPLITS}


@pytest.mark.parametrize("by", ["group", "wording"])
def test_a_lesson_of_two_near_twins_is_taught_from_the_third_wording_on(folder: Path, by: str) -> None:
    home = Home(folder, Annotate(split_by=by, test=0.2, validation=0.1, min_test_items=1, redact=()))
    ways = ["H" + LONG, "So h" + LONG, "Is Bergen too far?", "And what of Oslo?"]
    key, _ = home.run("001", [*BASE, *(told(way, NORWAY) for way in ways[:2])])
    first = users(home, key)
    assert len(first["test"]) == 1 and not first["train"]
    for day, number in (("002", 3), ("003", 4)):
        key, _ = home.run(day, [*BASE, *(told(way, NORWAY) for way in ways[:number])])
        assert users(home, key) == {"test": first["test"], "train": {*ways[2:number]}, "validation": set()}


def test_what_another_source_says_of_a_lesson_that_was_only_tested_trains(folder: Path) -> None:
    home = Home(folder, Annotate(test=0.2, validation=0.1, min_test_items=1, redact=()))
    home.run("001", [*BASE, *(told(way, NORWAY) for way in ("H" + LONG, "So h" + LONG))])
    faq = [document("faq", way, NORWAY) for way in ("Is Oslo served?", "And Alta?", "And Tromso?", "Do you go north?")]
    for day, rows in (("002", [*faq, told("H" + LONG, NORWAY), told("So h" + LONG, NORWAY)]), ("003", faq)):
        key, _ = home.run(day, [*BASE, *rows])
        assert {e.question for e in home.of(key, "train") if e.answer == NORWAY} == {row.question for row in faq}
        assert len(users(home, key)["test"]) == 1


def test_what_one_user_says_moves_no_validation_item_of_another_source(folder: Path) -> None:
    home = Home(folder, Annotate(split_by="wording", test=0.2, validation=0.2, min_test_items=1, redact=()))
    faq = [document("faq", f"Way number {n} of asking about the tent {n * 7}?", ANSWERS[2]) for n in range(40)]
    seen = []
    for day, more in (("001", []), ("002", [told("Something a user asked of tents", ANSWERS[2])]), ("003", [])):
        key, _ = home.run(day, [*BASE, *faq, *more])
        seen.append({split: {e.question for e in home.of(key, split) if e.source == "faq"} for split in SPLITS})
    assert seen[0] == seen[1] == seen[2] and seen[0]["validation"]


@pytest.mark.parametrize("first", ["faq", "users", "both"])
def test_a_topic_that_is_tested_as_a_whole_is_not_taught_when_one_user_adds_a_word(folder: Path, first: str) -> None:
    """Of 20 topics of frequently asked questions, none is both tested and taught, whoever was first."""
    home = Home(folder, Annotate(test=0.5, validation=0.1, min_test_items=1, redact=()))
    faq, more = list[Document](), list[Document]()
    for n in range(20):
        answer = f"No, we send parcel {n} within the European Union only."
        faq += [document("faq", f"{way} {n}?", answer) for way in ("Do you ship it to Norway as", "Is Oslo served by")]
        said = (
            (f"May I order {n}?", answer),
            (f"What of {n} then?", answer),
            (f"Could I get {n}?", f"{answer} Sorry."),
        )
        more += [replace(told(*pair), group=f"said {n}") for pair in said]
    days = {"faq": (faq, [*faq, *more], more), "users": (more, [*faq, *more], faq), "both": ([*faq, *more],) * 2}[first]
    tested, used = set[str](), set[str]()
    for day, rows in enumerate(days):
        key, _ = home.run(f"{day:03}", [*BASE, *rows])
        tested |= {e.answer for e in home.of(key, "test") if e.source == "faq"}
        used |= {e.answer.removesuffix(" Sorry.") for e in home.of(key, "train") if e.source != "chat"}
    assert not {a for a in tested & used if a.startswith("No")}
    assert any(a.startswith("No") for a in used)


@pytest.mark.parametrize("order", [("users", "faq"), ("faq", "users"), ("faq+users",)])
def test_no_near_twin_of_what_users_are_tested_on_trains_from_another_source(folder: Path, order: list[str]) -> None:
    """Answered otherwise and at length, which whole texts would not show."""
    home = Home(folder, Annotate(test=0.2, validation=0.1, min_test_items=1, redact=(), seed=3))
    ask = "ow much {0} oil does one {0} need up {0} hill?"
    answer = "Ask the {0} man in the {0} hall, and take a {0} can with you, since {0} oil has none; {0}s take a can."
    ways = {t: ask.format(t) for t in TOPICS}
    faq = [document("faq", f"So h{way}", answer.format(t)) for t, way in ways.items()]
    said = [told(text, f"No {t} needs any.") for t, way in ways.items() for text in (f"H{way}", f"What of {t}s?")]
    there = list[Document]()
    for day, names in enumerate(order):
        there += [row for name in names.split("+") for row in (faq if name == "faq" else said)]
        key, _ = home.run(f"{day:03}", [*BASE, *there])
    tested, used = users(home, key)["test"], {e.question for s in SPLITS[:2] for e in home.of(key, s)}
    assert len(tested) == 6 and not overlaps(used, sorted(tested))
    if order[0] != "users":  # what others ask is not theirs to take out
        assert {row.question for row in faq} <= {e.question for split in SPLITS for e in home.of(key, split)}
        assert all(question.startswith("What of") for question in tested)


def test_a_lesson_is_tested_from_the_third_wording_on_where_the_second_is_a_near_twin(folder: Path) -> None:
    """Whichever hash is least: a wording that cannot be tested is no reason to test none."""
    home = Home(folder, Annotate(test=0.2, validation=0.1, min_test_items=1, redact=()))
    topics = [[f"{start} {n} h{LONG}" for start in ("Case", "So case")] + [f"Is {n} too far?"] for n in range(12)]
    for day in (1, 2, 3):
        rows = [told(way, f"It is {n * 'm'}.") for n, ways in enumerate(topics, 3) for way in ways[:day]]
        key, _ = home.run(f"{day:03}", [*BASE, *rows])
    assert users(home, key)["test"] == {ways[2] for ways in topics}


def test_what_is_redacted_today_is_redacted_in_what_is_carried(folder: Path) -> None:
    rows = [document("faq", f"Whom do I ask about {t}?", f"Ask {t}@example.org about it.", t) for t in TOPICS]
    home = Home(folder, Annotate(test=0.5, min_test_items=1, redact=()))
    key, _ = home.run("001", [*rows, *BASE])
    shown = {e.question for e in home.of(key, "test") if "@example.org" in e.answer}
    assert shown
    home.config = home.config.model_copy(update={"redact": ("EMAIL_ADDRESS",)})
    key, _ = home.run("002", BASE)
    assert {e.question for e in home.of(key, "test") if "<EMAIL_ADDRESS>" in e.answer} == shown
    assert not any("@" in e.answer for e in home.of(key, "test"))
    carried = [e for e in home.of(key, "test") if e.question in shown]
    assert all(e.position.endswith(", as of 001") for e in carried)
    for e in carried:  # what it said before is known of it still, so that an erasure finds it
        mail = next(f"{topic}@example.org" for topic in TOPICS if topic in e.question)
        assert e.id in split_entries.named(database_at(home.database), Subject(mail))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    fresh: Callable[[], str] = request.getfixturevalue("postgresql")
    return fresh()


def entry(name: str, split: str = "train") -> Entry:
    tested = Example(id=name, question=name, answer="a", group="g", split=split, source="s", location="l", position="p")
    return Entry(0, "", name, name, f"group {name}", split, f"said {name}", tested if split == "test" else None)


def plan(url: str, interval: str, inputs: str = "", model: str = "bot", **config: Any) -> SplitLedger:
    return planned(url, model, Annotate(**config), interval, lambda read: content_id(inputs, read))


def test_a_run_reads_those_before_it_and_again_only_those(url: str) -> None:
    first = plan(url, "001", "a")
    assert list(first.entries()) == [] and list(first.trained()) == []
    first.write([entry("x", "test"), entry("y")])
    first.write([entry("z")])  # killed before its record was written, and run again
    assert plan(url, "001", "a") == first and list(first.entries()) == []
    assert plan(url, "002", "a").fingerprint == first.fingerprint, "a day without change"
    second = plan(url, "002", "b")
    assert [(e.run, e.interval, e.id, e.compared, e.example) for e in second.entries()] == [
        (1, "001", "x", "said x", entry("x", "test").example),
        (1, "001", "y", "", None),
    ]
    assert list(second.trained()) == [["said y"]]
    second.write([entry("v", "validation")])
    late = plan(url, "000", "c")
    assert [e.id for e in late.entries()] == ["x", "y", "v"] and sum(map(len, late.trained())) == 2
    late.write([entry("w", "test")])
    assert plan(url, "002", "b") == second and [e.id for e in second.entries()] == ["x", "y"]
    assert plan(url, "003", "b").fingerprint not in {one.fingerprint for one in (first, second, late)}
    assert [e.id for e in plan(url, "003", "b").entries()] == ["w", "x", "y", "v"], "by interval"
    with database_at(url).read() as connection:
        noted = connection.scalars(sa.select(audit.c.fields).order_by(audit.c.id)).all()
    assert [(fields["interval"], fields.get("test", 0)) for fields in noted] == [("001", 1), ("002", 0), ("000", 1)]


def test_many_entries_are_written_and_read_page_by_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BATCH", 3)
    names = [f"{number:02d}" for number in range(10)]
    plan(url, "002", "a").write(entry(name, "test" if name > "06" else "train") for name in names)
    plan(url, "001", "b").write(iter([entry("x"), entry("y", "test")]))
    after = plan(url, "003", "c")
    assert [e.id for e in after.entries()] == ["x", "y", *names]
    assert list(after.trained()) == [
        ["said 00", "said 01", "said 02"],
        ["said 03", "said 04", "said 05"],
        ["said 06", "said x"],
    ]

    def broken() -> Iterator[Entry]:
        yield from map(entry, names)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        after.write(broken())
    assert plan(url, "003", "c") == after and not after.written, "whole or not at all"


def test_a_day_without_change_is_not_a_backfill_of_the_same(url: str) -> None:
    plan(url, "003", "more").write([entry("x", "test")])
    late = plan(url, "001", "a")
    late.write([entry("y")])
    after = plan(url, "004", "a")
    assert after.fingerprint != late.fingerprint and [e.id for e in after.entries()] == ["y", "x"]
    assert plan(url, "002", "a") == late, "no day up to this one has tested more"


def test_what_is_made_again_on_a_later_day_is_dated_as_it_was(folder: Path) -> None:
    home = Home(folder, Annotate(test=0.4, min_test_items=1, redact=()))
    key, _ = home.run("001", BASE)
    first = home.made.pop(key)
    assert home.run("002", BASE) == (key, True) and home.made[key][1:] == first[1:]


def test_of_two_runs_at_once_the_second_has_to_honour_the_first(url: str) -> None:
    one, other = plan(url, "001", "a"), plan(url, "002", "b")
    one.write([entry("x", "test")])
    with pytest.raises(TransientError, match="run annotate again"):
        other.write([entry("x")])
    plan(url, "002", "b").write([entry("y")])


def test_another_split_or_model_has_a_ledger_of_its_own(url: str) -> None:
    plan(url, "001").write([entry("x", "test")])
    for other in (plan(url, "002", model="other"), plan(url, "002", seed=1), plan(url, "002", test_sources=("faq",))):
        assert list(other.entries()) == []
    assert len(list(plan(url, "002", "new", max_answer_chars=9).entries())) == 1
    plan(url, "001", test_sources=("faq", "chat")).write([entry("x", "test")])
    assert len(list(plan(url, "002", "new", test_sources=("chat", "faq", "chat")).entries())) == 1


def test_a_ledger_that_lost_runs_is_told(url: str) -> None:
    plan(url, "001", "a").write([entry("x")])
    second = plan(url, "002", "b")
    with database_at(url).change() as connection:
        connection.execute(sa.delete(split_runs))
    with pytest.raises(StateError, match="lacks runs"):
        list(second.entries())


def test_planning_makes_no_database(tmp_path: Path) -> None:
    assert list(plan(f"sqlite:///{tmp_path / 'state.db'}", "001").entries()) == []
    assert list(tmp_path.iterdir()) == []
