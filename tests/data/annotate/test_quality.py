"""Pairs that are not worth learning from, and good ones that look like them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.quality import broken_off, find_broken_rule

LINES = "\n".join(["Opening hours", "Monday to Friday", "Opening hours", "Opening hours", "Saturday"])
PHRASE = "Please note that our offices are closed on that day"


@pytest.mark.parametrize(
    ("rule", "question", "answer"),
    [
        ("no_words", "Where is the form?", "https://example.com/forms/returns.pdf"),
        ("no_words", "Who?", "<EMAIL_ADDRESS>, <PHONE_NUMBER>."),
        ("no_words", "<SECRET>", "Yes."),
        ("echo", "How do I pay?", "how do I pay"),
        ("broken_off", "What do I need?", "You need a passport and"),
        ("repeated_lines", "When?", LINES),
        ("stuttering", "Ha?", "Well ha ha ha ha ha ha."),
        ("repeated_phrases", "Open?", f"{PHRASE}. {PHRASE}."),
        ("repeated_phrases", "几点开门？", "请注意我们的办公室在那一天不开门营业。" * 3),
    ],
)
def test_bad_pairs_are_named(rule: str, question: str, answer: str) -> None:
    found = find_broken_rule(question, answer)
    assert found and found[0] == rule and found[1]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where is the form?", "At https://example.com/forms"),
        ("Where?", "In Portland, OR"),
        ("PIN?", "Dial 1 1 1 1 1 1 1."),
        ("Numbers?", "<PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> each"),
        ("Sure?", "Yes, yes, yes, you can."),
        ("Hours?", "Monday: 9 to 5\nTuesday: 9 to 5\nWednesday: 9 to 5\nThursday: 9 to 5"),
        ("Which?", "| Tent | a | b | c | d | e |\n|---|---|---|---|---|---|\n| A | yes | yes | yes | yes | yes |"),
        ("Code?", "Write:\nif (a) {\n}\nif (b) {\n}\nif (c) {\n}\nif (d) {\n}"),
    ],
)
def test_good_pairs_stay(question: str, answer: str) -> None:
    assert find_broken_rule(question, answer) is None


WHOLE = {
    "de": ["Rufen Sie uns einfach an", "Das kommt auf den Umfang an"],
    "fr": ["La médaille du vainqueur est en or"],
    "sv": ["Det beror på vad vädret ställer an"],
    "es": ["Los ejes se llaman x e y"],
    "en": ["It is on drive C:", "The interval is ]0, 1[", "Sorry to hear that :("],
    "zh": ["可以退货", "三十天之内（含周末）", "价格是：五元"],
}
BROKEN = {
    "de": ["Sie brauchen einen gültigen Ausweis und", "Bitte bringen Sie Folgendes mit:"],
    "fr": ["Vous payez par carte ou", "Voici ce qu'il vous faut :"],
    "en": ["You need a valid passport and", "It depends on the", "Bring your card,"],
    "zh": ["您需要以下材料：", "护照、签证、", "三十天之内（", "护照，"],
    "ar": ["تحتاج إلى ما يلي:", "جواز سفر،"],
}
QUESTION = {"de": "Was muss ich tun?", "fr": "Que dois-je faire ?", "en": "What do I have to do?"}


def test_a_whole_sentence_in_any_language_stays_and_one_that_breaks_off_is_found() -> None:
    for texts, breaks in ((WHOLE, False), (BROKEN, True)):
        for language, answers in texts.items():
            assert [bool(broken_off(QUESTION.get(language, "?!?"), text)) for text in answers] == [breaks] * len(
                answers
            )


def test_real_strings_of_many_languages_stay() -> None:
    strings = json.loads((Path(__file__).parents[1] / "clean" / "corpus" / "interface.json").read_text("utf-8"))
    broken = [text for texts in strings.values() for text in texts if broken_off("?", text)]
    assert [text for text in broken if not text.endswith((":", "："))] == []


@given(st.text(max_size=80), st.text("ab :,(\n<>_@./", max_size=80))
def test_any_text_is_judged(question: str, answer: str) -> None:
    assert find_broken_rule(question, answer) is None or all(find_broken_rule(question, answer) or ())


@pytest.mark.parametrize(
    "answer",
    [
        "See recommendations for reporting, testing, and specimen collection at Interim Guidance for Doctors.",
        "For more information, see the handbook. Please refer to chapter 4.",
    ],
)
def test_an_answer_that_only_names_what_to_read_is_dropped(answer: str) -> None:
    assert (find_broken_rule("How do I return it?", answer) or ("",))[0] == "pointer_only"
    assert find_broken_rule("Where can I read it?", answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "Visit the Returns page and choose Return.",
        "See the guide at https://example.org/returns.",
        "Within 14 days. See the returns page for more.",
        "See your doctor.",
        "Siehe Kapitel 4 des Handbuchs.",
    ],
)
def test_an_answer_that_says_something_itself_stays(answer: str) -> None:
    assert find_broken_rule("How do I return it?", answer) is None
