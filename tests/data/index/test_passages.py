"""Where documents are cut into passages, and what each stands under."""

from __future__ import annotations

import re

import pytest

from llmops.data.index.passages import SHORT, passages, size_of
from llmops.data.index.terms import terms_of
from llmops.records import Document

SENTENCE = "The tent number {} stands in the yard behind the shop until a customer comes to fetch it."  # of 17 words


def document(**parts: str) -> Document:
    return Document(**({"id": "d1", "source": "help", "location": "a.html", "position": "section 2"} | parts))


def prose(*numbers: int) -> str:
    return " ".join(SENTENCE.format(n) for n in numbers)


def test_a_question_and_its_answer_are_one_passage_under_both_headings() -> None:
    (found,) = passages(
        document(question="Who pays?", answer="We do.", context="Returns › Refunds", licence="MIT"), 120
    )
    assert (found.title, found.headings, found.text) == ("Returns", "Returns › Refunds › Who pays?", "We do.")
    assert (found.document, found.source, found.location, found.position) == ("d1", "help", "a.html", "section 2")
    assert found.licence == "MIT"


def test_a_context_that_is_a_text_can_be_found_too() -> None:
    context = "Customer: Can it go back?\nAgent: Within 30 days."
    (found,) = passages(document(question="And the blue one?", answer="No.", context=context), 120)
    assert found.headings == found.title == "And the blue one?" and found.text == f"{context}\n\nNo."


@pytest.mark.parametrize(
    "parts", [{}, {"text": " \n\n "}, {"question": "Who?"}, {"question": "Who?", "same_as": "Which?"}, {"context": "A"}]
)
def test_what_says_nothing_makes_no_passage(parts: dict[str, str]) -> None:
    assert passages(document(**parts), 120) == []


def test_a_passage_ends_where_a_paragraph_does() -> None:
    paragraphs = [prose(1, 2, 3), prose(4, 5, 6), prose(7, 8), prose(9, 10, 11, 12)]
    found = passages(document(text="\n\n".join(paragraphs)), 120)
    assert [passage.text for passage in found] == ["\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[2:])]


def test_a_long_paragraph_ends_where_a_sentence_does_and_nothing_is_lost() -> None:
    text = prose(*range(40))
    found = passages(document(text=text), 120)
    assert " ".join(passage.text for passage in found) == text
    assert all(60 <= size_of(passage.text) <= 120 for passage in found[:-1])


def test_numbered_headings_cut_and_are_the_path_and_a_lone_one_goes_with_what_follows() -> None:
    text = f"Chapter 5. Tents\n\n5.1. Care\n\n{prose(1)}\n\n5.2. Repair\n\n{prose(2)}"
    first, second = passages(document(text=text, context="Handbook"), 120)
    assert first.headings == "Handbook › Tents › Care" and first.text.startswith(
        "Chapter 5. Tents\n\n5.1. Care\n\nThe tent"
    )
    assert second.headings == "Handbook › Tents › Repair" and second.text == f"5.2. Repair\n\n{prose(2)}"


def test_a_short_rest_is_joined_with_what_precedes_it() -> None:
    (found,) = passages(document(text=f"{prose(*range(6))}\n\nThat is all."), size_of(prose(*range(6))))
    assert found.text.endswith("That is all.") and size_of("That is all.") < SHORT


def test_a_table_of_contents_does_not_grow_without_end() -> None:
    text = "\n\n".join(f"{n}.{m}. The chapter about number {m}" for n in range(1, 9) for m in range(1, 30))
    assert all(size_of(passage.text) < 150 for passage in passages(document(text=text), 120))


def test_a_row_of_a_table_is_one_passage_or_a_few() -> None:
    row = "name: Lantern\nprice: 9.90\nmaterial: steel"
    (found,) = passages(document(text=row), 120)
    assert found.text == row
    long = "\n".join(f"field {n}: value {n} of the row" for n in range(60))
    parts = passages(document(text=long), 120)
    assert 3 <= len(parts) <= 5 and "\n".join(part.text for part in parts) == long


def test_an_id_stays_while_text_and_place_do() -> None:
    text = "\n\n".join(prose(n, n + 1, n + 2, n + 3, n + 4) for n in range(0, 20, 5))
    before = passages(document(text=text), 120)
    again = passages(document(text=text.replace("tent number 7", "lamp number 7"), licence="MIT"), 120)
    assert [a.id == b.id for a, b in zip(before, again, strict=True)] == [True, False, True, True]
    assert {p.id for p in before}.isdisjoint(p.id for p in passages(document(id="d2", text=text), 120))
    same = passages(document(text="\n\n".join([prose(*range(6))] * 3)), 120)
    assert len({p.text for p in same}) == 1 and len({p.id for p in same}) == 3


def test_chinese_is_cut_at_its_marks_and_without_them_anyway() -> None:
    sentence = "收到商品后三十天内可以申请退货，退款将在五个工作日内原路返回您的账户。"
    found = passages(document(text=sentence * 30), 120)
    assert "".join(p.text for p in found) == sentence * 30 and all(p.text.endswith("。") for p in found)
    bare = re.sub("[，。]", "", sentence) * 30
    parts = passages(document(text=bare), 120)
    assert "".join(p.text for p in parts) == bare and all(size_of(p.text) <= 150 for p in parts)


@pytest.mark.parametrize("unit", ["a", SENTENCE.format(1) + " ", "word ", "退货", "x = {1: 2}\n", "\u0301", "A.\n\n"])
def test_a_megabyte_of_anything_is_cut(unit: str) -> None:
    found = passages(document(text=unit * (1_000_000 // len(unit.encode()))), 120)
    assert max(len(p.text) for p in found) < 4_000


def test_words_of_scripts_without_spaces_are_known_wherever_they_stand() -> None:
    assert set(terms_of("退货")) <= set(terms_of("如何退货需要几天"))
    assert terms_of("Don't use the Café's 退货 page") == ["don't", "use", "the", "café's", "退货", "page"]
    assert terms_of("退") == ["退"] and terms_of("") == []
