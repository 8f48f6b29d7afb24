"""Features of texts: what they say of a text, with and without the training data, and that they never repeat it."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.words import split_words
from llmops.monitoring.drift.features import detect_script, extract_features, is_refusal
from llmops.monitoring.drift.lexicon import (
    TrainingRow,
    build_lexicon,
    load_version_lexicon,
    read_lexicon,
    read_training_examples,
)
from llmops.monitoring.drift.topics import NO_TOPIC

TRAINED = [
    *(TrainingRow(q, "It takes three days.", "", "delivery", "faq") for q in (
        "When will my parcel arrive?", "How long does delivery take?", "Is my parcel delivered on Monday?",
    )),
    *(TrainingRow(q, "Send it back within 45 days.", "", "returns", "faq") for q in (
        "How do I return an item?", "May I send the item back?", "What is the return window for an item?",
    )),
    TrainingRow("What is my club level? I am C-17.", "You are a silver member.", "C-17: silver", "C-17", "customers"),
]  # fmt: skip


def test_a_text_is_described_without_training_data():
    [found] = extract_features(["Wie lange dauert die Lieferung nach Norwegen?"])
    assert (found.characters, found.words, found.language, found.script) == (45, 7, "de", "Latin")
    assert found.unknown_share is None and found.topics is None
    assert set(found.to_event_fields("prompt")) == {
        f"llmops.prompt.{n}" for n in ("characters", "words", "language", "script")
    }


def test_words_that_training_never_had_are_counted_and_numbers_are_not():
    lexicon = build_lexicon(TRAINED)
    texts = ["When will my parcel arrive?", "my zebra", "17 2026-11-27", ""]
    known, half, digits, none = extract_features(texts, lexicon)
    assert known.unknown_share == 0 and half.unknown_share == 0.5
    assert digits.unknown_share is None and none.unknown_share is None and none.words == 0


def test_the_nearest_topic_is_the_group_of_the_training_examples_and_of_small_groups_the_source():
    lexicon = build_lexicon(TRAINED)
    delivery, level, other = extract_features(
        ["when will the parcel arrive", "what is my club level", "Zebras eat grass"], lexicon
    )
    assert delivery.topics[0] == "delivery"
    assert level.topics[0] == "customers"  # a group of one may be a person
    assert other.topics == (NO_TOPIC,)
    assert not any("C-17" in name for name in (*lexicon.prompt.names, *lexicon.answer.names))
    [answer] = extract_features(["Send it back within 10 days."], lexicon, "answer")
    assert answer.topics[0] == "returns"
    [found] = extract_features(["hello world"], build_lexicon([]))
    assert found.unknown_share == 1 and found.topics == (NO_TOPIC,)


def test_scripts_and_words():
    texts = {"Привет мир": "Cyrillic", "你好世界 ok": "Han", "नमस्ते": "Devanagari", "12 + 4": "unknown"}
    assert {text: detect_script(text) for text in texts} == texts
    assert split_words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]  # with their marks
    assert split_words("I’m NOT sure_about e\u0301tudes.") == ["i’m", "not", "sure", "about", "e\u0301tudes"]
    assert len(split_words("我想退回这件商品")) > 1


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ("I don’t have information about this.", True),
        ("Es tut mir leid, nein.", True),
        ("Unfortunately we are unable to answer this.", True),
        ("Opened food can not be returned.", False),
        ("We are sorry for the delay; it is here.", False),
        ("Sure. " * 100 + "I cannot", False),
    ],
)
def test_refusals(answer, refusal):
    assert is_refusal(answer) == refusal


@given(st.text(max_size=300))
def test_any_text_has_features_that_are_json_and_the_same_each_time(text):
    lexicon = build_lexicon(TRAINED)
    once, again = (extract_features([text], lexicon)[0] for _ in range(2))
    assert once == again
    json.dumps(once.to_event_fields("answer"), allow_nan=False)


def test_a_version_that_was_not_trained_has_no_training_split(tmp_path, caplog):
    version = SimpleNamespace(name="v1", path=tmp_path, status="promoted", compared_with="base")
    (tmp_path / "lineage.json").write_text('{"dataset": {"artifact": ""}}')
    assert (
        load_version_lexicon(version, tmp_path) is None and "v1 are not known here (it was not trained)" in caplog.text
    )


def test_a_training_split_is_read_evenly(tmp_path):
    rows = [TrainingRow(f"question {n}", "yes", "", "g", "s")._asdict() for n in range(5_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    taken = [row.question for row in read_training_examples(tmp_path / "train.parquet", max_examples=1_000)]
    assert taken == [f"question {n}" for n in range(0, 5_000, 5)]
    assert read_lexicon(tmp_path / "train.parquet").compute_unknown_share(["question", "zebra"]) == 0.5
