"""Chat logs: each customer's message and the agent's reply are a question and its answer.

There are two formats. In transcripts a line of dashes or a header starts a conversation, and the module `speakers`
identifies the speakers:

    # topic: returns
    # context: Returns policy: 30 days, unused.
    [10:32] Anna: Can I send it back?
    [10:33] Maria (support): Yes, within 30 days.
    ---

OpenAI-style messages are JSON Lines: `{"topic": "returns", "context": "…", "messages": [{"role": "user", "content":
"…"}, …]}`. Topic and context (the text that the agent had) are optional. The latest messages before a question are
added to its context: "And in blue?" means little alone.

Lines of dashes and headers without topic or context belong to an answer if they are in a block of code, or if the lines
after them continue the answer, as `pip install x` after `# install it`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from llmops.config import Speakers
from llmops.data.collect.readers.decode import LARGEST, lines, open_text
from llmops.data.collect.readers.json_records import parse_line
from llmops.data.collect.readers.origin import Item, Items, Origin, trimmed
from llmops.data.collect.readers.speakers import (
    Line,
    Side,
    in_time,
    is_notice,
    is_sentence,
    known_side,
    role_sides,
    sides,
    taken_apart,
)

HEADER_CHARS = 4000  #: longest header
MARKS = 50  #: most consecutive rules and headers; more are text without a speaker
EARLIER_CHARS = 600  #: most characters of earlier turns in a context

_RULE = re.compile(r"\s*[-=_*]{3,}\s*")
_ABOUT = ("topic", "context")
_FENCE = "```"
_HEADER = re.compile(r"\s*#+\s+(?:(?P<key>[\w ]+?)\s*:)?\s*(?P<value>.*?)\s*")


@dataclass(slots=True)
class Turn:
    """Consecutive messages of one side; for askers, of one person."""

    side: Side
    who: str
    position: str
    parts: list[str] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per pair of turns. The topic, if given, becomes the document's group.

    A system message is not part of the context: it says how to answer, not what. An unanswered message is a document
    without an answer. A greeting that answers nothing is a document with text only. Later stages drop both with a
    reason. One conversation is held in memory.

    Raises:
        Unreadable: if the file is not text or is cut off. The conversations before were yielded.
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
    said: list[Line] = []
    size = 0
    about = dict.fromkeys(_ABOUT, "")
    in_header = False
    for number, line, marks in _with_marks(numbered, origin.source.speakers):
        if len(line) > LARGEST:
            yield origin.dropped(f"line {number}", "malformed", f"longer than {LARGEST:,} characters", line)
            continue
        rule, header = (_RULE.fullmatch(line), _header(line)) if marks else (None, None)
        if rule or header or size > LARGEST:
            yield from _conversation(said, about, origin)
            said, size = [], 0
        if rule or header:
            if rule or not in_header:
                about = dict.fromkeys(about, "")
            in_header = header is not None
            if header and (key := (header["key"] or "").casefold()) in about:
                about[key] = header["value"]
        else:
            in_header = False
            said.append(taken_apart(number, line))
            size += len(line)
    yield from _conversation(said, about, origin)


def _header(line: str) -> re.Match[str] | None:
    return _HEADER.fullmatch(line) if len(line) <= HEADER_CHARS else None


def _with_marks(numbered: Iterable[tuple[int, str]], named: Speakers) -> Iterator[tuple[int, str, bool]]:
    """Yield the lines, each with True if it is a rule or header that starts a conversation, not part of an answer."""
    waiting: list[tuple[int, str]] = []
    begun = fenced = False
    for number, line in numbered:
        if len(waiting) < MARKS and (_RULE.fullmatch(line) or _header(line)):
            waiting.append((number, line))
            continue
        start = taken_apart(number, line[:HEADER_CHARS]) if waiting or fenced else None
        if start and (start.stamp or known_side(start.who, named)):
            fenced = False  # the block was never closed
        says = begun and start is not None and _goes_on([mark for _, mark in waiting], start, fenced)
        yield from ((*mark, not says) for mark in waiting)
        fenced = (fenced and (says or not waiting)) != bool(line.count(_FENCE) % 2)
        begun, waiting = True, []
        yield number, line, False
    yield from ((*mark, True) for mark in waiting)


def _goes_on(marks: Sequence[str], line: Line, fenced: bool) -> bool:
    """Return True if a line continues the answer above the rules and headers, in a block of code or not."""
    headers = [header for mark in marks if (header := _header(mark))]
    if line.stamp or any((header["key"] or "").casefold() in _ABOUT for header in headers):
        return False
    if fenced:
        return True
    plain = len(headers) == len(marks) and not any(map(str.isdigit, "".join(marks)))  # excludes `# Conversation 12`
    return not line.who and (plain or is_sentence(line.text))


def _conversation(said: Sequence[Line], about: Mapping[str, str], origin: Origin) -> Items:
    """Yield the pairs of one conversation. Drop lines before its first speaker and notices of the messenger."""
    named = origin.source.speakers
    begin = next((index for index, line in enumerate(said) if line.who), len(said))
    said = [*said[:begin], *in_time(said[begin:], named)]
    try:
        side_of = sides(said[begin:], named)
    except ValueError as error:
        yield origin.dropped(f"line {said[0].number}", "malformed", str(error), "\n".join(line.text for line in said))
        return
    start = next((index for index, line in enumerate(said) if line.who in side_of), len(said))
    for line in said[:start]:
        detail = "no speaker: a conversation's lines begin with one, as in `Anna: …` and `Maria: …`"
        yield origin.dropped(f"line {line.number}", "malformed", detail, line.text)
    rest = said[start:]
    turns: list[Turn] = []
    ignored = False
    for line in rest:
        if side := side_of.get(line.who):
            ignored = side == "ignored"
            if not ignored:
                _say(turns, Turn(side, line.who, f"line {line.number}"), line.says)
        elif is_notice(line, rest[0]):
            detail = "a time stamp and no speaker: a line of the messenger's own"
            yield origin.dropped(f"line {line.number}", "malformed", detail, line.text)
        elif turns and not ignored:
            turns[-1].parts.append(line.text.rstrip())
    yield from _pairs(turns, about, origin)


def _read_messages(numbered: Iterable[tuple[int, str]], origin: Origin) -> Items:
    for number, line in numbered:
        conversation, problem = parse_line(line)
        problem = problem or _problem(conversation, origin.source.speakers)
        if problem:
            yield origin.dropped(f"line {number}", "malformed", problem, line)
            continue
        turns: list[Turn] = []
        messages = conversation["messages"]
        try:
            side_of = role_sides([message["role"].casefold() for message in messages], origin.source.speakers)
        except ValueError as error:
            yield origin.dropped(f"line {number}", "malformed", str(error), line)
            continue
        for index, message in enumerate(messages, start=1):
            side = side_of[message["role"].casefold()]
            if side != "ignored" and (says := _content(message.get("content"))):
                who = f"{message['role']} {message.get('name') or ''}"
                _say(turns, Turn(side, who, f"line {number}, message {index}"), says)
        if not turns:
            yield origin.dropped(f"line {number}", "malformed", "no text of a customer or an agent in it", line)
        about = {key: str(conversation.get(key) or "") for key in _ABOUT}
        yield from _pairs(turns, about, origin)


def _say(turns: list[Turn], turn: Turn, says: str) -> None:
    last = turns[-1] if turns else None
    if not last or last.side != turn.side or (turn.side == "asks" and last.who != turn.who):
        turns.append(turn)
    turns[-1].parts.append(says)


def _pairs(turns: Sequence[Turn], about: Mapping[str, str], origin: Origin) -> Items:
    """Yield questions with their answers. An answer belongs to the last asker; other open questions have none."""
    group = about["topic"]
    askers = list(dict.fromkeys(turn.who for turn in turns if turn.side == "asks"))
    name = {who: f"Customer {n}" if len(askers) > 1 else "Customer" for n, who in enumerate(askers, start=1)}
    asked: Turn | None = None
    earlier: list[str] = []
    for turn in turns:
        says = _text(turn)
        if turn.side == "asks":
            if asked:
                yield _unanswered(asked, origin, group)
                earlier.append(f"{name[asked.who]}: {_question(asked)}")
            asked = turn
        elif asked:
            question = _question(asked)
            context = "\n".join(filter(None, [about["context"], *_newest(earlier)]))
            yield origin.document(asked.position, question=question, answer=says, context=context, group=group)
            earlier += [f"{name[asked.who]}: {question}", f"Agent: {says}"]
            asked = None
        else:
            yield origin.document(turn.position, text=says, group=group)
            if earlier:
                earlier.append(f"Agent: {says}")
    if asked:
        yield _unanswered(asked, origin, group)


def _question(turn: Turn) -> str:
    return " ".join(filter(None, map(str.strip, turn.parts)))


def _text(turn: Turn) -> str:
    """Return the lines of a turn with their indentation, without the common margin of all but the first."""
    first, *rest = turn.parts
    return trimmed("\n".join(filter(None, [first, dedent("\n".join(rest))])))


def _unanswered(turn: Turn, origin: Origin, group: str) -> Item:
    return origin.document(turn.position, question=_question(turn), group=group)


def _newest(turns: Sequence[str]) -> list[str]:
    kept: list[str] = []
    left = EARLIER_CHARS
    for turn in reversed(turns):
        if len(turn) > left:
            break
        kept.append(turn)
        left -= len(turn)
    if turns and not kept:
        kept.append(f"… {turns[-1][-EARLIER_CHARS:].partition(' ')[2]}")
    return kept[::-1]


def _problem(conversation: Any, named: Speakers) -> str:
    if not isinstance(conversation, Mapping) or not isinstance(conversation.get("messages"), list):
        return 'no list "messages"'
    for index, message in enumerate(conversation["messages"], start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return f'message {index} has no "role"'
        if named == Speakers() and not known_side(message["role"].casefold(), named):
            return f"message {index} has the unknown role {message['role']!r}; name it in the source's `speakers`"
        if not isinstance(message.get("content"), str | list | None):
            return f'message {index} has a "content" that is no text'
    return "" if conversation["messages"] else '"messages" is empty'


def _content(content: str | list[Any] | None) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "\n".join(text.strip() for text in texts if isinstance(text, str))
    return (content or "").strip()
