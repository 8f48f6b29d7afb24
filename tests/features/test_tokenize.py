"""Tokenising: what gives way when an example is too long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmops.features.tokenize import tokenize
from llmops.prompts import answer_ids, training_ids
from llmops.records import Example

TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=(lambda t: (setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()), t)[1])(
        Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "word": 2, "answer": 3}, unk_token="<unk>"))
    ),
    eos_token="<eos>",
    unk_token="<unk>",
)


def example(question: str = "word", answer: str = "answer", context: str = "") -> Example:
    return Example(
        id="e", question=question, answer=answer, context=context, group="g", split="train", source="s",
        location="l", position="p",
    )  # fmt: skip


def test_an_example_that_fits_is_what_the_prompt_format_makes_of_it() -> None:
    item = example(context="word word")
    tokens, cut = tokenize(TOKENIZER, item, 100)
    ids, prompt = training_ids(TOKENIZER, item.question, item.answer, item.context)
    assert tokens is not None and not cut
    assert (tokens.id, tokens.token_ids, tokens.prompt_tokens) == ("e", ids, prompt)


def test_a_long_context_gives_way_by_as_little_as_needed() -> None:
    tokens, cut = tokenize(TOKENIZER, example(context="word " * 200), 64)
    assert tokens is not None and cut
    assert len(tokens.token_ids) == 64
    assert tokens.token_ids[tokens.prompt_tokens :] == answer_ids(TOKENIZER, "answer")


def test_a_context_that_leaves_no_room_goes_entirely() -> None:
    bare = len(training_ids(TOKENIZER, "word", "answer")[0])
    tokens, cut = tokenize(TOKENIZER, example(context="word " * 9), bare)
    assert tokens is not None and cut
    assert tokens.token_ids == training_ids(TOKENIZER, "word", "answer")[0]


@pytest.mark.parametrize("context", ["", "word " * 50])
def test_an_answer_is_never_cut(context: str) -> None:
    assert tokenize(TOKENIZER, example(answer="answer " * 100, context=context), 64) == (None, False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(16, 90))
def test_never_longer_than_allowed_and_the_answer_is_whole(context: int, answer: int, limit: int) -> None:
    item = example(answer="answer " * answer, context="word " * context)
    tokens, _ = tokenize(TOKENIZER, item, limit)
    if tokens is None:
        assert len(training_ids(TOKENIZER, item.question, item.answer)[0]) > limit
    else:
        assert len(tokens.token_ids) <= limit
        assert tokens.token_ids[tokens.prompt_tokens :] == answer_ids(TOKENIZER, item.answer)
