"""Sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.sentences import split_sentences, take_sentences, truncate_text


@pytest.mark.parametrize(
    "text",
    [
        "See No. 5, e.g. on 3 Jan. 2026, at shop.example.com.",
        "J. R. Tolkien wrote it",
        "Das gilt u. a. für Zelte, d. h. evtl. Über\u00adgrößen, gem. Abs. 5, am 3. Mai 2026 um 8 Uhr.",
        "Écrivez à M. Dupont, p. ex. Paris, c.-à-d. Île-de-France, n. 5.",
        "Pregunte al Sr. García o a la Sra. Díaz, p. ej. Madrid, pág. 3, EE. UU. también.",
        "Позвоните на ул. Ленина, т. е. Москва, стр. 5.",
        "Er fragt: warum? etwa um 5 Uhr. österreichweit",
    ],
)
def test_one_sentence_stays_one(text: str) -> None:
    assert split_sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('Is it "fine?" (Yes.) Good! Ja', ['Is it "fine?"', "(Yes.)", "Good!", "Ja"]),
        ("Steps:\n- one\n- two\n\nEnd", ["Steps:", "- one", "- two", "End"]),
        ("A broken\nline. Über alles", ["A broken\nline.", "Über alles"]),
        ("Ich fange an. Das war so. Ein Test. Ja", ["Ich fange an.", "Das war so.", "Ein Test.", "Ja"]),
        ("真的?!他说。「好。」 Mac版。Ok", ["真的?!", "他说。", "「好。」", "Mac版。", "Ok"]),
        ("هل هذا صحيح؟ نعم. هذا جيد.", ["هل هذا صحيح؟", "نعم.", "هذا جيد."]),
        ("", []),
    ],
)
def test_sentences_end(text: str, parts: list[str]) -> None:
    assert split_sentences(text) == parts


def test_cutting_keeps_the_text_as_it_stands() -> None:
    assert take_sentences("One.  Two\nwords.\n\nThree.", 2) == "One.  Two\nwords."
    assert (
        take_sentences("One. Two.", 0)
        == take_sentences("One. Two.", 2)
        == take_sentences("One. Two.", 9)
        == "One. Two."
    )


@given(st.text('aB1.!?") \n-。？」「好।', max_size=60), st.integers(1, 5))
def test_nothing_but_white_space_is_lost(text: str, count: int) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
    assert text.strip().startswith(take_sentences(text, count).strip())
    assert len(split_sentences(take_sentences(text, count))) <= max(count, 1) or take_sentences(text, count) == text


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("One is here. Two is there. Three", 26, "One is here. Two is there."),
        ("One is here. Two is there. Three", 25, "One is here. Two is"),
        ("您可以退货。请保留收据。谢谢", 13, "您可以退货。请保留收据。"),
        ("a" * 5 + "e\u0301", 6, "a" * 5),
        ("🇩🇪🇫🇷", 3, "🇩🇪"),
    ],
)
def test_a_text_is_cut_where_it_may_end(text: str, most: int, kept: str) -> None:
    assert truncate_text(text, most) == kept


@given(st.text("aB1.! \n。你ก็\u200d👩🇩🇪", max_size=60), st.integers(0, 60))
def test_a_cut_text_is_a_beginning_and_no_longer(text: str, most: int) -> None:
    kept = truncate_text(text, most)
    assert len(kept) <= most and kept in text and (text.strip().startswith(kept) or len(text) <= most)
