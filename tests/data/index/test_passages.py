"""Where documents are cut into passages, and which headings are over each."""

import pytest

from llmops.data.index.passages import count_words, split_document
from llmops.frame.records import Document

SENTENCE = "The tent number {} stands in the yard behind the shop until a customer comes to fetch it."  # of 17 words


def make_document(**parts: str) -> Document:
    return Document(**({"id": "d1", "source": "help", "location": "a.html", "position": "section 2"} | parts))


def make_prose(*numbers: int) -> str:
    return " ".join(SENTENCE.format(n) for n in numbers)


def test_a_question_and_its_answer_are_one_passage_under_both_headings() -> None:
    (found,) = split_document(
        make_document(question="Who pays?", answer="We.", context="Returns › Refunds", licence="MIT"), 120
    )
    assert (found.title, found.headings, found.text) == ("Returns", "Returns › Refunds › Who pays?", "We.")
    assert (found.document, found.location, found.position, found.licence) == ("d1", "a.html", "section 2", "MIT")
    context = "Customer: Can it go back?\nAgent: Within 30 days."
    (found,) = split_document(make_document(question="And blue?", answer="No.", context=context), 120)
    assert found.headings == found.title == "And blue?" and found.text == f"{context}\n\nNo."


@pytest.mark.parametrize("parts", [{}, {"text": " \n\n "}, {"question": "Who?", "same_as": "Which?"}, {"context": "A"}])
def test_a_document_that_says_nothing_makes_no_passage(parts: dict[str, str]) -> None:
    assert split_document(make_document(**parts), 120) == []


def test_a_passage_ends_where_a_paragraph_does_and_in_a_long_one_where_a_sentence_does() -> None:
    paragraphs = [make_prose(1, 2, 3), make_prose(4, 5, 6), make_prose(7, 8), make_prose(9, 10, 11, 12)]
    found = split_document(make_document(text="\n\n".join(paragraphs)), 120)
    assert [passage.text for passage in found] == ["\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[2:])]
    found = split_document(make_document(text=make_prose(*range(40))), 120)
    assert " ".join(passage.text for passage in found) == make_prose(*range(40))
    assert all(60 <= count_words(passage.text) <= 120 for passage in found[:-1])
    (found_one,) = split_document(
        make_document(text=f"{make_prose(*range(6))}\n\nThat is all."), count_words(make_prose(*range(6)))
    )
    assert found_one.text.endswith("That is all.")
    (found_one,) = split_document(
        make_document(text=f"Please note.\n\n{make_prose(*range(6))}"), count_words(make_prose(*range(6)))
    )
    assert found_one.text.startswith("Please note.")


def test_numbered_headings_cut_and_are_the_path_and_a_lone_one_goes_with_the_next() -> None:
    text = f"Chapter 5. Tents\n\n5.1. Care\n\n{make_prose(1)}\n\n5.2. Repair\n\n{make_prose(2)}"
    first, second = split_document(make_document(text=text, context="Handbook"), 120)
    assert first.headings == "Handbook › Tents › Care" and first.text.startswith("Chapter 5. Tents\n\n5.1. Care\n\nThe")
    assert second.headings == "Handbook › Tents › Repair" and second.text == f"5.2. Repair\n\n{make_prose(2)}"


def test_each_passage_of_a_table_has_its_header_and_no_other_table_has() -> None:
    header, rows = "| Tent | Price |\n|---|---|", [f"| Number {n} of the tents | {n} |" for n in range(60)]
    found = split_document(
        make_document(text="\n".join([header, *rows, "", make_prose(*range(6)), "", "| a row without a header |"])), 120
    )
    tables = [passage.text for passage in found if "Number" in passage.text]
    assert len(tables) > 2 and all(text.startswith(f"{header}\n| Number") for text in tables)
    assert sum(passage.text.count(header) for passage in found) == len(tables)


@pytest.mark.parametrize(
    "unit", ["a", "word ", "退货", "x = {1: 2}\n", "\u0301", "A.\n\n", "收到商品后三十天内可以申请退货。"]
)
def test_any_text_is_cut_into_short_passages(unit: str) -> None:
    found = split_document(make_document(text=unit * (20_000 // len(unit))), 120)
    assert max(len(p.text) for p in found) < 4_000 and len({p.id for p in found}) == len(found)


def test_an_id_stays_while_text_and_document_do() -> None:
    text = "\n\n".join(make_prose(n, n + 1, n + 2, n + 3, n + 4) for n in range(0, 20, 5))
    before = split_document(make_document(text=text), 120)
    after = split_document(make_document(text=text.replace("tent number 7", "lamp number 7")), 120)
    assert [a.id == b.id for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    assert {p.id for p in before}.isdisjoint(p.id for p in split_document(make_document(id="d2", text=text), 120))
