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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from llmops.errors import ArtifactError
from llmops.prompts.render import render, template_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]  #: role and content

_KINDS = 1000  # kinds of conversations whose control tokens are remembered
_PLAIN = re.compile(r"[\w.-]*|\s*")
_MARKS = re.compile("§([0-9]+)§")  # those of `_mark`
#: What a template goes by in conversations and schemas; whatever else could be a part of a control token stands out.
_WORDS = (
    "system user assistant tool role content tool_calls tool_call_id id type function name description arguments "
    "parameters properties required items enum string number integer boolean array object null"
)
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
        texts, own = render(tokenizer, hidden, ask=True), list[str]()
        for text, turns in zip(texts, hidden, strict=True):
            known, times = self._kind(tokenizer, turns)
            own.append(self._own(text, known, [turn["content"] for turn in turns], times))
        return self.ids(own)

    def conversation_with_tools(
        self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
    ) -> list[int]:
        """Token ids of a conversation with tools, calls and results, whose texts are all somebody's words.

        What the template writes by itself shows where other words stand in their place; a role's or a type's stay, and
        others that are no part of a control token, as a template may go by them.

        Raises:
            ArtifactError: see `conversations`.
        """
        hidden: Any = mapped([list(turns), list(tools)], self._hide)
        said, known, parts = list[str](), {*_WORDS.split()}, "\n".join(self.tokens)

        def stand_in(text: str) -> str:
            part = text in parts and text.strip()  # of a control token, which a template may make of it
            if text in known or _PLAIN.fullmatch(text) and not part and not self.hidden.search(text):
                return text
            said.append(text)
            return _mark(len(said) - 1)

        neutral: Any = mapped(hidden, stand_in)
        (text,), (usual,) = (render(tokenizer, [one[0]], ask=True, tools=one[1]) for one in (hidden, neutral))
        written = Counter(_MARKS.findall(usual))
        times = [written[str(n)] for n in range(len(said))]
        return self.ids([self._own(text, Counter(self.control.findall(usual)), said, times)])[0]

    def _hide(self, text: str) -> str:
        """`text` with what looks like a control token written in a way that a template passes on."""
        return self.control.sub(lambda found: f"{self.secret}-{self.tokens[found[0]]}-", text)

    def _own(self, rendered: str, known: Counter[str], texts: Sequence[str], times: Sequence[int]) -> str:
        """What a template made of hidden texts: its own control tokens by their secret names, theirs as they were.

        Args:
            rendered: what it made of them.
            known: its own control tokens, whatever they say.
            texts: what they say.
            times: how often it writes each.
        """
        said: Counter[str] = Counter()
        for text, count in zip(texts, times, strict=True):
            said.update(self.hidden.findall(text) * count)
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


_encoders: WeakKeyDictionary[Any, dict[str, Encoder]] = WeakKeyDictionary()  # by tokenizer and template


def encoder_of(tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, Any]] = ()) -> Encoder:
    """The encoder of a tokenizer, made once for each template: that takes a second for 100,000 words.

    Args:
        tokenizer: with its templates.
        tools: that the model is shown; some have a template of its own for these.

    Raises:
        ArtifactError: if it is no tokenizer of the library `tokenizers`.
    """
    template = template_of(tokenizer, tools) if tokenizer.chat_template else ""
    known = _encoders.setdefault(tokenizer, {})
    if template not in known:
        known[template] = _make(tokenizer, template)
    return known[template]


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


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each text in it changed, names of objects included."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(name): mapped(one, change) for name, one in value.items()}
        case list():
            return [mapped(one, change) for one in value]
    return value


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
