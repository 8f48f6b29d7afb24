"""Sentences."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.sentences import cut, sentences, within


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith pays 3.50 EUR at shop.example.com.",
        "See No. 5, e.g. on 3 Jan. 2026.",
        "J. R. Tolkien wrote it",
        "1. Open the app.",
        "It runs v1. and ends",
        "Wait... what?",
        "No end",
        "Sie zahlen z. B. Versand, d. h. Porto, bzw. Rücksendung.",
        "Das gilt u. a. für Zelte und evtl. Über\u00adgrößen, gem. Abs. 5, am 3. Mai 2026 um 8 Uhr.",
        "Hr. Müller und Fr. Weber, z.B. Montag, über bzw. ähnlich.",
        "Écrivez à M. Dupont, p. ex. Paris, c.-à-d. Île-de-France, n. 5.",
        "Pregunte al Sr. García o a la Sra. Díaz, p. ej. Madrid, pág. 3, EE. UU. también.",
        "Chieda al Sig. Rossi della Rossi S.p.A. Milano o all'avv. Bianchi, pag. 4.",
        "Pergunte à Sra. Silva, p. ex. Lisboa, pág. 2.",
        "Vraag dhr. Jansen, bijv. Amsterdam, m.b.t. Europa.",
        "Позвоните на ул. Ленина, т. е. Москва, стр. 5.",
        "Er fragt: warum? etwa um 5 Uhr. österreichweit",
    ],
)
def test_one_sentence_stays_one(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("He said no. I left.", ["He said no.", "I left."]),
        ('Is it "fine?" (Yes.) Good! Ja', ['Is it "fine?"', "(Yes.)", "Good!", "Ja"]),
        ("Steps:\n- one\n- two\n\nEnd", ["Steps:", "- one", "- two", "End"]),
        ("A broken\nline. Über alles", ["A broken\nline.", "Über alles"]),
        ("Costs 5. Then pay.", ["Costs 5.", "Then pay."]),
        ("Open till 5 p.m. The rest is shut.", ["Open till 5 p.m.", "The rest is shut."]),
        ("Ich fange an. Das war so. Ein Test. Ja", ["Ich fange an.", "Das war so.", "Ein Test.", "Ja"]),
        ("Kleidung, Zelte usw. Das ist alles.", ["Kleidung, Zelte usw.", "Das ist alles."]),
        ("你好。今天很好！我们去吗？好", ["你好。", "今天很好！", "我们去吗？", "好"]),
        ("真的?!他说。「好。」 Mac版。Ok", ["真的?!", "他说。", "「好。」", "Mac版。", "Ok"]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("هل هذا صحيح؟ نعم. هذا جيد.", ["هل هذا صحيح؟", "نعم.", "هذا جيد."]),
        ("What?Who!me", ["What?Who!me"]),
        ("1\n\n", ["1"]),
        ("", []),
    ],
)
def test_sentences_end(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_cutting_keeps_the_text_as_it_stands() -> None:
    assert cut("One.  Two\nwords.\n\nThree.", 2) == "One.  Two\nwords."
    assert cut("One. Two.", 0) == cut("One. Two.", 2) == cut("One. Two.", 9) == "One. Two."


@given(st.text('aB1.!?") \n-。？」「好।', max_size=60), st.integers(1, 5))
def test_nothing_but_white_space_is_lost(text: str, count: int) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert text.strip().startswith(cut(text, count).strip())
    assert len(sentences(cut(text, count))) <= max(count, 1) or cut(text, count) == text


THAI = "กรุณาติดต่อเราเพื่อขอคืนสินค้าภายในสามสิบวันหลังจากที่คุณได้รับสินค้า"
SCRIPTS = {
    "Chinese": "您可以在三十天内退货。请保留收据。" * 20,
    "Chinese without a mark": "退货" * 200,
    "Japanese": "三十日以内に返品できます。レシートを保管してください。" * 20,
    "Thai": THAI * 8,
    "Hindi": "आप तीस दिनों के भीतर वापस कर सकते हैं। रसीद रखें। " * 10,
    "emoji": "👩\u200d👩\u200d👧\u200d👦" * 60,
    "English": "You can return it within thirty days. Keep the receipt. " * 10,
    "one word": "x" * 500,
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("most", [40, 100, 333])
def test_a_text_of_any_script_fits_and_most_of_it_is_kept(script: str, most: int) -> None:
    text = SCRIPTS[script]
    kept = within(text, most)
    assert text.startswith(kept) and most / 2 < len(kept) <= most
    assert unicodedata.category(text[len(kept)])[0] != "M" and "\u200d" not in (kept[-1], text[len(kept)])


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("One is here. Two is there. Three", 27, "One is here. Two is there."),
        ("One is here. Two is there. Three", 26, "One is here. Two is there."),
        ("One is here. Two is there. Three", 25, "One is here. Two is"),
        ("您可以退货。请保留收据。谢谢", 13, "您可以退货。请保留收据。"),
        ("Ask Dr. Smith about it", 12, "Ask Dr."),
        ("short", 5, "short"),
        ("anything", 0, ""),
        ("a" * 5 + "e\u0301", 6, "a" * 5),
        ("🇩🇪🇫🇷", 3, "🇩🇪"),
    ],
)
def test_a_text_is_cut_where_it_may_end(text: str, most: int, kept: str) -> None:
    assert within(text, most) == kept


@given(st.text("aB1.! \n。你ก็\u200d👩🇩🇪", max_size=60), st.integers(0, 60))
def test_a_cut_text_is_a_beginning_and_no_longer(text: str, most: int) -> None:
    kept = within(text, most)
    assert len(kept) <= most and kept in text and (text.strip().startswith(kept) or len(text) <= most)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 13_000 + " " + "A. " * 2_300,
        "0123456789abcdef" * 500 + " " + " ".join(f"p. {number} Fig. {number}" for number in range(850)),
        "1. " + "1. Mai " * 2_900,
        "a" + " " * 10_000 + "\n" + " " * 10_000 + "b",
        "。" + '"' * 20_000 + ".",
        "!" + "'" * 20_000 + ".",
    ],
    ids=["word", "hex", "days", "white", "quotes", "apostrophes"],
)
def test_no_text_takes_long(text: str) -> None:
    assert sentences(text * 10)  # minutes to hours, if a sentence's time is more than its length
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
