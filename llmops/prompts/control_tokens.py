"""The encoder from text to token ids. No user text can become a token that controls the model.

A plain tokenizer reads `<|im_end|>` in a question as the end of a turn, and the text behind it as another turn. Here
the tokenizer knows control tokens only by secret names. A chat template's own control tokens get these names after
rendering. All other text gets exactly the tokenizer's token ids.

transformers' `sanitize_control_tokens` has the same purpose, but needs 5.24, which vLLM's environment lacks. It encodes
one text at a time, and ignores tokens that are not marked as special, such as Phi-3's `</s>`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from llmops.frame.errors import ArtifactError
from llmops.prompts.render import render

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]  #: role and content

_MAX_KINDS = 1000  # kinds of conversations whose control tokens are cached
_CONTROL_TOKEN = re.compile(r"<\|.+\|>|</?s>")  # control tokens even if the tokenizer does not mark them


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A tokenizer with renamed control tokens."""

    backend: Tokenizer  #: knows control tokens only by their secret names
    tokens: dict[str, int]  #: control token → id
    names: dict[int, str]  #: id → control token
    control: re.Pattern[str]  #: finds control tokens
    hidden: re.Pattern[str]  #: finds the replacements of `_hide_control_tokens`
    secret: str
    kinds: dict[tuple[tuple[str, bool], ...], tuple[Counter[str], list[int]]] = field(default_factory=dict)  #: cache

    def encode_conversations(
        self, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Turn]]
    ) -> list[list[int]]:
        """Return the token ids of conversations, up to the start of the next assistant turn.

        Raises:
            ArtifactError: if the chat template changes the texts, so that its own control tokens cannot be recognised.
        """
        hidden = [
            [{**turn, "content": self._hide_control_tokens(turn["content"])} for turn in turns]
            for turns in conversations
        ]
        texts = render(tokenizer, hidden, ask=True)
        return self.encode([self._rename_template_tokens(tokenizer, *one) for one in zip(texts, hidden, strict=True)])

    def _hide_control_tokens(self, text: str) -> str:
        """Replace control tokens in a user's text by marks that a template leaves alone."""
        return self.control.sub(lambda found: f"{self.secret}-{self.tokens[found[0]]}-", text)

    def _rename_template_tokens(self, tokenizer: PreTrainedTokenizerBase, rendered: str, turns: Sequence[Turn]) -> str:
        """Give the template's own control tokens their secret names, and restore the user's as plain text."""
        known, times = self._find_template_tokens(tokenizer, turns)
        expected: Counter[str] = Counter()
        for turn, count in zip(turns, times, strict=True):
            expected.update(self.hidden.findall(turn["content"]) * count)
        if Counter(self.hidden.findall(rendered)) != expected or Counter(self.control.findall(rendered)) - known:
            raise ArtifactError(
                "The model's chat template changes this text, so that marks in it like those of a turn could not be "
                "told from the template's own; take them out of the text."
            )
        named = self.control.sub(lambda found: _make_secret_name(self.secret, self.tokens[found[0]]), rendered)
        return self.hidden.sub(lambda found: self.names[int(found[1])], named)

    def _find_template_tokens(
        self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]
    ) -> tuple[Counter[str], list[int]]:
        """Return the template's control tokens for turns of these roles, and how often it writes each turn's text."""
        kind = tuple((turn["role"], not turn["content"].strip()) for turn in turns)
        if kind not in self.kinds:
            marks = [_make_placeholder(n) for n in range(len(kind))]
            neutral = [
                {"role": role, "content": "" if empty else mark}
                for (role, empty), mark in zip(kind, marks, strict=True)
            ]
            (text,) = render(tokenizer, [neutral], ask=True)
            if len(self.kinds) >= _MAX_KINDS:
                self.kinds.clear()
            self.kinds[kind] = Counter(self.control.findall(text)), [text.count(mark) for mark in marks]
        return self.kinds[kind]

    def find_first(self, text: str) -> int | None:
        """Return the id of the first control token in a text; None if there is none."""
        found = self.control.search(text)
        return self.tokens[found[0]] if found else None

    def encode(self, texts: Sequence[str], begin: Tokenizer | None = None) -> list[list[int]]:
        """Return the token ids of texts in which control tokens have their secret names.

        `begin` is the original tokenizer, to add its own tokens around every text.
        """
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [(begin.post_process(one) if begin else one).ids for one in found]


_encoders: WeakKeyDictionary[Any, tuple[str, Encoder]] = WeakKeyDictionary()  # tokenizer → chat template and encoder


def get_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Return the cached encoder of a tokenizer. Making one takes a second for 100,000 words.

    Raises:
        ArtifactError: if the tokenizer is not of the library `tokenizers`.
    """
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    known = _encoders.get(tokenizer)
    if known is None or known[0] != template:
        known = _encoders[tokenizer] = template, _make_encoder(tokenizer, template)
    return known[1]


def _make_encoder(tokenizer: PreTrainedTokenizerBase, template: str) -> Encoder:
    if not tokenizer.is_fast:
        raise ArtifactError(
            f"The tokenizer of {tokenizer.name_or_path} is a {type(tokenizer).__name__}, which cannot be told to read "
            "control tokens as text; save it as a tokenizer.json."
        )
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    secret = secrets.token_hex(16)
    frame = template + _render_frame(tokenizer) if template else ""
    tokens = {
        token["content"]: int(token["id"]) for token in document["added_tokens"] if _is_control_token(token, frame)
    }
    _rename_tokens(document, {token: _make_secret_name(secret, id) for token, id in tokens.items()})
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(document))
    assert all(backend.token_to_id(token["content"]) == token["id"] for token in document["added_tokens"])
    longest_first = sorted(tokens, key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) finds nothing
    names = {id: token for token, id in tokens.items()}
    return Encoder(backend, tokens, names, control, re.compile(f"{secret}-([0-9]+)-"), secret)


def _make_secret_name(secret: str, token: int) -> str:
    return f"<{secret}:{token}>"


def _make_placeholder(n: int) -> str:
    """Return a placeholder of a turn's text. It has no letters, because a template may change their case."""
    return f"§{n}§"


def _render_frame(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the chat template writes around turns. Some templates compose tokens: `'<' + role + '>'`."""
    roles, text = ["system", "user", "assistant", "user"], ""
    for turns in (roles, roles[1:]):  # some templates refuse a system turn
        try:
            text += "".join(
                render(tokenizer, [[{"role": role, "content": _make_placeholder(0)} for role in turns]], ask=True)
            )
        except Exception:  # a caller with such turns gets the template's own error
            continue
    return text


def _is_control_token(token: dict[str, Any], frame: str) -> bool:
    """Return True if an added token controls the model. Other added tokens are words, HTML or line breaks."""
    content = token["content"]
    if token["special"] or _CONTROL_TOKEN.fullmatch(content):
        return True
    return content in frame and not content.isspace() and not content.isidentifier()


def _rename_tokens(document: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens throughout a `tokenizer.json`, and remove the merges that would form them from text."""
    model = document["model"]
    for token in document["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): id for token, id in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if merges := model.get("merges"):
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in merges]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    document |= {"post_processor": None, "truncation": None, "padding": None}
