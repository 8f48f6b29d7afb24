"""Chat logs: each customer's message and the agent's reply to it are a question and its answer.

Two forms are read. Transcripts, where a line of dashes or a header starts a conversation:

    # topic: returns
    # context: Returns policy: 30 days, unused.
    Customer: Can I send it back?
    Agent: Yes, within 30 days.
    ---

and OpenAI-style messages in JSON Lines: `{"topic": "returns", "context": "…", "messages": [{"role": "user", "content":
"…"}, …]}`. The context, what the agent had before them, and the topic are optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmops.data.collect.readers.decode import lines, open_text
from llmops.data.collect.readers.json_records import parse_line
from llmops.data.collect.readers.origin import Items, Origin

ASKS = ("customer", "user", "client", "caller", "visitor", "guest", "shopper", "human")
ANSWERS = ("agent", "assistant", "support", "bot", "advisor", "adviser", "representative", "rep", "operator")
IGNORED = ("system", "note", "info", "tool", "function", "developer")

_TURN = re.compile(
    r"\s*(?:[\[(]?[\d:./\-T ]{4,25}[Z\])]?\s+)?"  # a time stamp, if any
    rf"(?P<who>{'|'.join((*ASKS, *ANSWERS, *IGNORED))})\s*(?:\([^)]*\)|\d+)?\s*:\s*(?P<says>.*)",
    re.IGNORECASE,
)
_RULE = re.compile(r"\s*[-=_*]{3,}\s*")
_HEADER = re.compile(r"\s*#+\s+(?:(?P<key>[\w ]+?)\s*:)?\s*(?P<value>.*?)\s*")

Role = Literal["asks", "answers"]


@dataclass(slots=True)
class Turn:
    """What one side said before the other spoke again."""

    role: Role
    position: str
    parts: list[str] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per pair of turns. The topic, where one is given, becomes the document's group.

    A system message is no context: it tells how to answer, not what.
    A message that was never answered is a document without an answer, and a greeting that answers nothing is one with
    text only: the stages that follow drop them with their reasons. One conversation is held in memory.

    Raises:
        Unreadable: if the file is no text or breaks off; the conversations before the break have been yielded then.
    """
    name = origin.location.lower().removesuffix(".gz")
    parse = _read_messages if name.endswith((".jsonl", ".ndjson", ".json")) else _read_transcript
    empty = True
    with open_text(path, origin) as (file, origin):
        numbered = ((n, line.rstrip("\n")) for n, line in enumerate(lines(file), start=1) if line.strip())
        for item in parse(numbered, origin):
            empty = False
            yield item
    if empty:
        yield origin.dropped("file", "empty", "it holds no conversation")


def _read_transcript(numbered: Iterable[tuple[int, str]], origin: Origin) -> Items:
    turns: list[Turn] = []
    about = {"topic": "", "context": ""}
    in_header, ignored = False, False
    for number, line in numbered:
        rule, header = _RULE.fullmatch(line), _HEADER.fullmatch(line)
        if rule or header:
            yield from _pairs(turns, about, origin)
            turns = []
            if rule or not in_header:
                about = dict.fromkeys(about, "")
            in_header = header is not None
            if header and (key := (header["key"] or "").casefold()) in about:
                about[key] = header["value"]
            continue
        in_header = False
        if match := _TURN.fullmatch(line):
            who = match["who"].casefold()
            ignored = who in IGNORED
            if not ignored:
                _say(turns, "asks" if who in ASKS else "answers", f"line {number}", match["says"].strip())
        elif turns:
            if not ignored:
                turns[-1].parts.append(line.strip())
        elif not ignored:
            detail = "no speaker: a conversation's lines begin with one, as in `Customer: …` and `Agent: …`"
            yield origin.dropped(f"line {number}", "malformed", detail, line)
    yield from _pairs(turns, about, origin)


def _read_messages(numbered: Iterable[tuple[int, str]], origin: Origin) -> Items:
    for number, line in numbered:
        conversation, problem = parse_line(line)
        problem = problem or _problem(conversation)
        if problem:
            yield origin.dropped(f"line {number}", "malformed", problem, line)
            continue
        turns: list[Turn] = []
        for index, message in enumerate(conversation["messages"], start=1):
            who = message["role"].casefold()
            if who not in IGNORED and (says := _content(message.get("content"))):
                _say(turns, "asks" if who in ASKS else "answers", f"line {number}, message {index}", says)
        if not turns:
            yield origin.dropped(f"line {number}", "malformed", "no text of a customer or an agent in it", line)
        about = {key: str(conversation.get(key) or "") for key in ("topic", "context")}
        yield from _pairs(turns, about, origin)


def _say(turns: list[Turn], role: Role, position: str, says: str) -> None:
    if not turns or turns[-1].role != role:
        turns.append(Turn(role, position))
    turns[-1].parts.append(says)


def _pairs(turns: Iterable[Turn], about: Mapping[str, str], origin: Origin) -> Items:
    group, context = about["topic"], about["context"]
    asked: Turn | None = None
    for turn in turns:
        says = "\n".join(filter(None, turn.parts))
        if turn.role == "asks":
            asked = turn
        elif asked:
            question = " ".join(filter(None, asked.parts))
            yield origin.document(asked.position, question=question, answer=says, context=context, group=group)
            asked = None
        else:
            yield origin.document(turn.position, text=says, group=group)
    if asked:
        yield origin.document(asked.position, question=" ".join(filter(None, asked.parts)), group=group)


def _problem(conversation: Any) -> str:
    if not isinstance(conversation, Mapping) or not isinstance(conversation.get("messages"), list):
        return 'no list "messages"'
    for index, message in enumerate(conversation["messages"], start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return f'message {index} has no "role"'
        if message["role"].casefold() not in (*ASKS, *ANSWERS, *IGNORED):
            return f"message {index} has the unknown role {message['role']!r}"
        if not isinstance(message.get("content"), str | list | None):
            return f'message {index} has a "content" that is no text'
    return "" if conversation["messages"] else '"messages" is empty'


def _content(content: str | list[Any] | None) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "\n".join(text.strip() for text in texts if isinstance(text, str))
    return (content or "").strip()
