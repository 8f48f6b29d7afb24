"""What is told of an answer's tokens is what its text tells: not a token, nor half of one, that the text leaves out."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from llmops.model.base.generate import decode
from serving.engines.base import Chunk, Question, TokenLogprob
from serving.engines.detokenize import Writer
from serving.engines.logprobs import Aligned, Odds, Told, token_bytes
from serving.guard import Guard


def run(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = (), strip: bool = True) -> tuple[str, Any]:
    """The text of an answer and its tokens; each token's log-probability is its place, from 0 down."""
    writer, told = Writer(tokenizer, stops, strip), Told(tokenizer, strip)
    text, tokens = "", list[TokenLogprob]()
    for n, token in enumerate(ids):
        told.feed(token, Odds(-n, [(token, -n)]))
        piece, stopped = writer.feed(token)
        if last := stopped or n == len(ids) - 1:
            piece += writer.end()
        text += piece
        tokens += told.leave(piece, last=last)
        assert text.startswith("".join(token.text for token in tokens))
        if last:
            break
    return text, tokens


def holds(text: str, tokens: list[TokenLogprob]) -> None:
    """The tokens make the text, by their texts and by their bytes."""
    assert "".join(token.text for token in tokens) == text
    assert b"".join(token.data for token in tokens).decode(errors="replace") == text
    assert [token.logprob for token in tokens] == sorted((token.logprob for token in tokens), reverse=True)


@pytest.mark.parametrize("strip", [True, False])
def test_the_tokens_make_the_text_whatever_they_are(strip: bool, tokenizer: Any) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(300 if draw.random() < 0.3 else len(tokenizer)) for _ in range(draw.randrange(1, 12))]
        whole = decode(tokenizer, ids) if strip else str(tokenizer.decode(ids, skip_special_tokens=True))
        stop = whole[draw.randrange(len(whole)) :][:3] if whole and draw.random() < 0.5 else ""
        text, tokens = run(tokenizer, ids, (stop,), strip)
        holds(text, tokens)
        if stop:
            assert stop not in "".join(other.text for token in tokens for other in token.top) or stop in text


def test_a_character_of_several_tokens_has_the_bytes_of_each(tokenizer: Any) -> None:
    ids = tokenizer(" 🦜 ok", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3
    for strip in (True, False):
        text, tokens = run(tokenizer, ids, strip=strip)
        holds(text, tokens)
        assert len(tokens) == len(ids)
        assert [token.text for token in tokens if token.text][-1] == " ok"
        assert all(token.data for token in tokens)


def test_white_space_and_control_tokens_are_no_part_of_it(tokenizer: Any) -> None:
    ids = tokenizer("\n\n one two \n", add_special_tokens=False)["input_ids"]
    text, tokens = run(tokenizer, [tokenizer.eos_token_id, *ids, tokenizer.eos_token_id])
    assert [token.text for token in tokens] == ["one", " two"]
    assert text == "one two"


def test_a_token_is_among_its_own_alternatives_as_it_is_told(tokenizer: Any) -> None:
    for text in (" one two", "🦜 one"):
        tokens = run(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])[1]
        assert tokens
        assert [[(one.text, one.data) for one in token.top] for token in tokens] == [[(t.text, t.data)] for t in tokens]


def test_of_a_token_that_a_stop_string_ends_the_rest_is_not_told(tokenizer: Any) -> None:
    ids = tokenizer("Good morning", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2
    text, tokens = run(tokenizer, ids, ("ning",))
    assert text == "Good mor"
    assert [(token.text, token.data) for token in tokens] == [("Good", b"Good"), (" mor", b" mor")]
    assert tokens[0].top
    assert not tokens[1].top


def test_of_what_the_guard_cuts_no_token_is_told_wherever_tokens_end(tokenizer: Any) -> None:
    secret, draw = "hf_" + "aB3dE" * 6, random.Random(1)
    for before in ("Of course. It is ", "令牌是", "Its name is "):
        for _ in range(20):
            watch, waiting = Guard(("SECRET",)).watch(Question("Tell me")), f"{before}{secret} and no more"
            left, told, alternatives = "", "", ""
            while waiting:
                size = draw.randint(1, 6)
                part, waiting = waiting[:size], waiting[size:]
                token = TokenLogprob(part, part.encode(), -1.0, (TokenLogprob(part, part.encode(), -1.0),))
                chunk = watch.see(Chunk(part, 1, 1, None if waiting else "stop", (token,)))
                left += chunk.text
                told += "".join(token.text for token in chunk.tokens)
                alternatives += "".join(other.text for token in chunk.tokens for other in token.top)
                if chunk.finish_reason:
                    break
            assert chunk.finish_reason == "content_filter"
            assert left.startswith(told)
            assert told == alternatives
            assert "hf_a" not in told
            assert len(left) - len(told) < 6  # of a token that has left in part nothing is told


def test_what_the_guard_lets_through_is_told_in_full(tokenizer: Any) -> None:
    text = "Order 12345 has left; call +47 22 33 44 55, or write to us. 你好，世界。"
    watch, tokens = Guard(("SECRET", "CREDIT_CARD")).watch(Question("Where is it?")), list[TokenLogprob]()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    told, writer = Told(tokenizer, strip=True), Writer(tokenizer, (), strip=True)
    for n, token in enumerate(ids, 1):
        told.feed(token, Odds(-n))
        piece, last = writer.feed(token)[0], n == len(ids)
        piece += writer.end() if last else ""
        chunk = watch.see(Chunk(piece, 1, n, "stop" if last else None, told.leave(piece, last=last)))
        tokens += chunk.tokens
    holds(text, tokens)


def test_tokens_that_do_not_make_the_text_are_not_told() -> None:
    aligned = Aligned()
    aligned.add([TokenLogprob("one", b"one", -1.0), TokenLogprob(" two", b" two", -1.0)])
    assert [token.text for token in aligned.leave("one 2")] == ["one"]
    assert aligned.leave(" and so on") == ()
    assert aligned.cut() == ()


def test_a_vocabulary_of_pieces_and_bytes_is_told_by_what_it_writes() -> None:
    """As of Llama 2: a word has a mark in the place of its space, and what is no word is written by its bytes."""
    names = ["<unk>", "▁good", "▁day", "s", "<0xF0>", "<0x9F>", "<0xA6>", "<0x9C>"]
    backend = Tokenizer(
        models.BPE({name: n for n, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert [token_bytes(tokenizer, n) for n in (2, 3, 4)] == [b" day", b"s", b"\xf0"]
    for strip in (True, False):
        text, tokens = run(tokenizer, [1, 2, 3, 4, 5, 6, 7, 3], strip=strip)
        assert text == "good days🦜s"
        holds(text, tokens)
        assert [token.text for token in tokens if token.text] == ["good", " day", "s", "🦜", "s"]
