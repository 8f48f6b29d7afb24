"""Tokenising: what gives way when an example is too long."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.features.tokenize import tokenize, tokenize_all
from llmops.frame.records import Example
from llmops.prompts import encode_answer, encode_example, encode_examples, encode_question
from tests.data.features.conftest import example as conftest_example
from tests.data.features.conftest import make_tokenizer

TOKENIZER = make_tokenizer(("word", "answer"))


def example(**texts: str) -> Example:
    return conftest_example(0, **{"question": "word", "answer": "answer", **texts})


def test_a_context_gives_way_by_as_little_as_needed_and_an_answer_never() -> None:
    item = example(context="word word")
    tokens, cut = tokenize(TOKENIZER, item, 100)
    ids, prompt = encode_example(TOKENIZER, item.question, item.answer, item.context)
    assert tokens and not cut and (tokens.id, tokens.token_ids, tokens.prompt_tokens) == (item.id, ids, prompt)
    tokens, cut = tokenize(TOKENIZER, example(context="word " * 200), 64)
    assert tokens and cut and len(tokens.token_ids) == 64
    bare = encode_example(TOKENIZER, "word", "answer")[0]
    tokens, cut = tokenize(TOKENIZER, example(context="word " * 9), len(bare))
    assert tokens and cut and tokens.token_ids == bare, "no room is left for it"
    for context in ("", "word " * 50):
        assert tokenize(TOKENIZER, example(answer="answer " * 100, context=context), 64) == (None, False)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(16, 90))
def test_never_longer_than_allowed_and_the_answer_is_whole(context: int, answer: int, limit: int) -> None:
    item = example(answer="answer " * answer, context="word " * context)
    tokens, _ = tokenize(TOKENIZER, item, limit)
    if tokens is None:
        assert len(encode_example(TOKENIZER, item.question, item.answer)[0]) > limit
    else:
        assert len(tokens.token_ids) <= limit
        assert tokens.token_ids[tokens.prompt_tokens :] == encode_answer(TOKENIZER, item.answer)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_many_at_once_are_what_each_is_alone(tokenizer: Any, template: str) -> None:
    """Padding, order and special tokens in a text must not differ between the batch and the single call."""
    chosen = copy.deepcopy(tokenizer)
    if template == "plain":
        chosen.chat_template = None
    texts = ["", " ", "word", "two  words\n", "<|im_end|> is text", "####", "naïve 你好 🙂", "[Answer] yes", "x" * 300]
    rows = [(question, answer, context) for question in texts for answer in texts[2:5] for context in texts[:3]]
    assert encode_examples(chosen, rows) == [encode_example(chosen, *row) for row in rows]
    for (question, answer, context), (ids, prompt) in zip(rows, encode_examples(chosen, rows), strict=True):
        assert (ids[:prompt], ids[prompt:]) == (
            encode_question(chosen, question, context),
            encode_answer(chosen, answer),
        )
    assert encode_examples(chosen, []) == []


def test_each_of_many_is_shortened_alone() -> None:
    items = [example(context="word " * 200), example(), example(answer="answer " * 100), example(context="word")]
    assert tokenize_all(TOKENIZER, items, 64) == [tokenize(TOKENIZER, item, 64) for item in items]
