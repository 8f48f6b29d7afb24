"""Words as the database of an index knows them."""

from __future__ import annotations

from pathlib import Path

from llmops.data.index.search import open_index
from llmops.data.index.stems import Stems
from llmops.data.index.terms import terms_of

from .test_search import indexed, page


def test_words_lose_endings_and_accents_and_stay_in_their_order() -> None:
    stems = Stems()
    said = ["Vouchers, délivered", "", "can't", "東京都", "vouchers vouchers"]
    expected = [["voucher", "deliv"], [], ["can", "t"], ["東京", "京都"], ["voucher", "voucher"]]
    assert stems.of([terms_of(text) for text in said]) == expected
    assert stems.of([["delivery"]]) == [["deliveri"]], "what was asked before is gone"
    stems.close()


def test_they_are_those_by_which_an_index_finds(tmp_path: Path) -> None:
    texts = ["Vouchers are running out.", "He ran, and can't stop.", "Αθήνα и Привет", "naïve cafés"]
    with open_index(indexed(tmp_path, *(page(n, text) for n, text in enumerate(texts)))) as index:
        stems = Stems()
        for number, words in enumerate(stems.of([terms_of(text) for text in texts])):
            for word in words:
                assert any(hit.passage.location == f"{number}.html" for hit in index.search(word, way="bm25")), word
