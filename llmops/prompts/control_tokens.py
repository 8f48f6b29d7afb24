"""Texts to token ids, so that what somebody writes never becomes a token that controls the model.

A tokenizer reads `<|im_end|>` in a question as the end of a turn, and what follows as whatever it claims to be. Here
the tokenizer knows such tokens only by names that nobody can guess; a chat template's own get those names after it was
rendered. The token ids of all other text are exactly the tokenizer's.

transformers' `sanitize_control_tokens` has the same aim, but only since 5.24, which vLLM's environment does not have.
It encodes one text at a time, and leaves alone what is not marked as special, such as Phi-3's `</s>`.
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

from llmops.errors import ArtifactError
from llmops.prompts.render import render

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]  #: role and content

_KINDS = 1000  # kinds of conversations whose control tokens are remembered
_CONTROL = re.compile(r"<\|.+\|>|</?s>")  # such tokens control a model even where its tokenizer does not say so


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """The tokenizer, and what its control tokens are called while a text is made and read."""

    backend: Tokenizer  #: knows control tokens by their secret names alone
    tokens: dict[str, int]  #: control token → id
    names: dict[int, str]  #: id → control token
    control: re.Pattern[str]  #: finds control tokens
    hidden: re.Pattern[str]  #: finds what `hide` wrote
    secret: str
    kinds: dict[tuple[tuple[str, bool], ...], tuple[Counter[str], list[int]]] = field(default_factory=dict)  #: `_kind`

    def conversations(
        self, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Turn]]
    ) -> list[list[int]]:
        """Token ids of conversations, up to where the next assistant turn begins.

        Raises:
            ArtifactError: if the chat template changes what is said, so that it is not known what is the template's.
        """
        hidden = [[{**turn, "content": self._hide(turn["content"])} for turn in turns] for turns in conversations]
        texts = render(tokenizer, hidden, ask=True)
        return self.ids([self._own(tokenizer, *one) for one in zip(texts, hidden, strict=True)])

    def _hide(self, text: str) -> str:
        """`text` with what looks like a control token written in a way that a template passes on."""
        return self.control.sub(lambda found: f"{self.secret}-{self.tokens[found[0]]}-", text)

    def _own(self, tokenizer: PreTrainedTokenizerBase, rendered: str, turns: Sequence[Turn]) -> str:
        """What a template made of hidden texts: its own control tokens by their secret names, theirs as they were."""
        known, times = self._kind(tokenizer, turns)
        said: Counter[str] = Counter()
        for turn, count in zip(turns, times, strict=True):
            said.update(self.hidden.findall(turn["content"]) * count)
        if Counter(self.hidden.findall(rendered)) != said or Counter(self.control.findall(rendered)) - known:
            raise ArtifactError(
                "The model's chat template changes this text, so that marks in it like those of a turn could not be "
                "told from the template's own; take them out of the text."
            )
        named = self.control.sub(lambda found: _name(self.secret, self.tokens[found[0]]), rendered)
        return self.hidden.sub(lambda found: self.names[int(found[1])], named)

    def _kind(self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> tuple[Counter[str], list[int]]:
        """What the template makes of such turns whatever they say: its control tokens, how often it writes each one."""
        kind = tuple((turn["role"], not turn["content"].strip()) for turn in turns)
        if kind not in self.kinds:
            marks = [_mark(n) for n in range(len(kind))]
            neutral = [
                {"role": role, "content": "" if empty else mark}
                for (role, empty), mark in zip(kind, marks, strict=True)
            ]
            (text,) = render(tokenizer, [neutral], ask=True)
            if len(self.kinds) >= _KINDS:
                self.kinds.clear()
            self.kinds[kind] = Counter(self.control.findall(text)), [text.count(mark) for mark in marks]
        return self.kinds[kind]

    def first(self, text: str) -> int | None:
        """Id of the first control token in a text; None if there is none."""
        found = self.control.search(text)
        return self.tokens[found[0]] if found else None

    def ids(self, texts: Sequence[str], begin: Tokenizer | None = None) -> list[list[int]]:
        """Token ids of texts in which control tokens have their secret names.

        Args:
            texts: the texts.
            begin: the tokenizer as it is, to let it add what begins, and perhaps ends, every text.
        """
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [(begin.post_process(one) if begin else one).ids for one in found]


_encoders: WeakKeyDictionary[Any, tuple[str, Encoder]] = WeakKeyDictionary()  # by tokenizer, with its template


def encoder_of(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a tokenizer, made once: that takes a second for 100,000 words.

    Raises:
        ArtifactError: if it is no tokenizer of the library `tokenizers`.
    """
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    known = _encoders.get(tokenizer)
    if known is None or known[0] != template:
        known = _encoders[tokenizer] = template, _make(tokenizer, template)
    return known[1]


def _make(tokenizer: PreTrainedTokenizerBase, template: str) -> Encoder:
    if not tokenizer.is_fast:
        raise ArtifactError(
            f"The tokenizer of {tokenizer.name_or_path} is a {type(tokenizer).__name__}, which cannot be told to read "
            "control tokens as text; save it as a tokenizer.json."
        )
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    secret = secrets.token_hex(16)
    written = template + _written(tokenizer) if template else ""
    tokens = {token["content"]: int(token["id"]) for token in whole["added_tokens"] if _controls(token, written)}
    _rename(whole, {token: _name(secret, id) for token, id in tokens.items()})
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(whole))
    assert all(backend.token_to_id(token["content"]) == token["id"] for token in whole["added_tokens"])
    longest_first = sorted(tokens, key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) finds nothing
    names = {id: token for token, id in tokens.items()}
    return Encoder(backend, tokens, names, control, re.compile(f"{secret}-([0-9]+)-"), secret)


def _name(secret: str, token: int) -> str:
    return f"<{secret}:{token}>"


def _mark(n: int) -> str:
    """A text that stands for what is said in a turn; without letters, which a template may write large."""
    return f"§{n}§"


def _written(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes around turns: some compose a token, `'<' + role + '>'`."""
    roles, text = ["system", "user", "assistant", "user"], ""
    for turns in (roles, roles[1:]):  # not every template takes a system's turn
        try:
            text += "".join(render(tokenizer, [[{"role": role, "content": _mark(0)} for role in turns]], ask=True))
        except Exception:  # in words of its own; who asks in that way hears them
            continue
    return text


def _controls(token: dict[str, Any], written: str) -> bool:
    """Whether an added token controls the model. Others are words: of a language, of HTML, of line breaks."""
    content = token["content"]
    if token["special"] or _CONTROL.fullmatch(content):
        return True
    return content in written and not content.isspace() and not content.isidentifier()


def _rename(whole: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens all through a `tokenizer.json`; what made one of them from text is left out."""
    model = whole["model"]
    for token in whole["added_tokens"]:
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
    whole |= {"post_processor": None, "truncation": None, "padding": None}
