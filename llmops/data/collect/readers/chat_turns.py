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

A line of dashes, or a header that sets neither topic nor context, is part of the answer if it is in a block of code or
if the next line continues the answer: `# install it` followed by `pip install x`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from llmops.config import Speakers
from llmops.data.collect.readers.decoding import LARGEST_RECORD, open_text, read_lines
from llmops.data.collect.readers.json_records import parse_line
from llmops.data.collect.readers.origin import Item, Items, Origin, trim_text
from llmops.data.collect.readers.speakers import (
    Side,
    TranscriptLine,
    discard_impossible_times,
    find_known_side,
    find_role_sides,
    find_sides,
    is_notice,
    is_sentence,
    parse_transcript_line,
)

HEADER_CHARS = 4000  #: longest header
MAX_SEPARATORS = 50  #: most consecutive dividers and headers; more are text without a speaker
HISTORY_CHARS = 600  #: most characters of earlier turns in a context

_DIVIDER = re.compile(r"\s*[-=_*]{3,}\s*")
_HEADER_KEYS = ("topic", "context")
_FENCE = "```"
_HEADER = re.compile(r"\s*#+\s+(?:(?P<key>[\w ]+?)\s*:)?\s*(?P<value>.*?)\s*")


@dataclass(slots=True)
class Turn:
    """Consecutive messages of one side; for askers, of one person."""

    side: Side
    label: str
    position: str
    parts: list[str] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per pair of turns. The topic, if given, becomes the document's group.

    A system message is not part of the context: it says how to answer, not what. An unanswered message is a document
    without an answer. A greeting that answers nothing is a document with text only. Later stages drop unanswered
    messages and such greetings, with a reason. One conversation is held in memory; a longer one than
    `LARGEST_RECORD` characters is cut.

    Raises:
        UnreadableError: if the file is not text or is cut off. The conversations before were yielded.
    """
    name = origin.location.lower().removesuffix(".gz")
    parse = _read_messages if name.endswith((".jsonl", ".ndjson", ".json")) else _read_transcript
    is_empty = True
    with open_text(path, origin) as (file, origin):
        numbered = ((n, line.rstrip("\n")) for n, line in enumerate(read_lines(file), start=1) if line.strip())
        for item in parse(numbered, origin):
            is_empty = False
            yield item
    if is_empty:
        yield origin.make_dropped("file", "empty", "it holds no conversation")


def _read_transcript(numbered: Iterable[tuple[int, str]], origin: Origin) -> Items:
    lines: list[TranscriptLine] = []
    size = 0
    metadata = dict.fromkeys(_HEADER_KEYS, "")
    in_header = False
    for number, line, is_separator in _flag_separators(numbered, origin.source.speakers):
        if len(line) > LARGEST_RECORD:
            yield origin.make_dropped(f"line {number}", "malformed", f"longer than {LARGEST_RECORD:,} characters", line)
            continue
        divider, header = (_DIVIDER.fullmatch(line), _match_header(line)) if is_separator else (None, None)
        if divider or header or size > LARGEST_RECORD:
            yield from _convert_conversation(lines, metadata, origin)
            lines, size = [], 0
        if divider or header:
            if divider or not in_header:
                metadata = dict.fromkeys(metadata, "")
            in_header = header is not None
            if header and (key := (header["key"] or "").casefold()) in metadata:
                metadata[key] = header["value"]
        else:
            in_header = False
            lines.append(parse_transcript_line(number, line))
            size += len(line)
    yield from _convert_conversation(lines, metadata, origin)


def _match_header(line: str) -> re.Match[str] | None:
    return _HEADER.fullmatch(line) if len(line) <= HEADER_CHARS else None


def _flag_separators(numbered: Iterable[tuple[int, str]], speakers: Speakers) -> Iterator[tuple[int, str, bool]]:
    """Yield the lines, with True if it is a divider or header that starts a conversation, not part of an answer."""
    pending: list[tuple[int, str]] = []
    has_text = in_fence = False
    for number, line in numbered:
        if len(pending) < MAX_SEPARATORS and (_DIVIDER.fullmatch(line) or _match_header(line)):
            pending.append((number, line))
            continue
        parsed = parse_transcript_line(number, line[:HEADER_CHARS]) if pending or in_fence else None
        if parsed and (parsed.stamp_form or find_known_side(parsed.label, speakers)):
            in_fence = False  # the block was never closed
        is_answer = (
            has_text
            and parsed is not None
            and _is_continuation([separator for _, separator in pending], parsed, in_fence)
        )
        yield from ((*separator, not is_answer) for separator in pending)
        # An odd number of fences opens or closes a block. A separator that starts a conversation ends the block first.
        in_fence = (in_fence and (is_answer or not pending)) != bool(line.count(_FENCE) % 2)
        has_text, pending = True, []
        yield number, line, False
    yield from ((*separator, True) for separator in pending)


def _is_continuation(separators: Sequence[str], line: TranscriptLine, in_fence: bool) -> bool:
    """Return True if a line continues the answer above the dividers and headers before it."""
    headers = [header for separator in separators if (header := _match_header(separator))]
    if line.stamp_form or any((header["key"] or "").casefold() in _HEADER_KEYS for header in headers):
        return False
    if in_fence:
        return True
    has_digit = any(map(str.isdigit, "".join(separators)))  # as in `# Conversation 12`
    are_comments = len(headers) == len(separators) and not has_digit
    return not line.label and (are_comments or is_sentence(line.text))


def _convert_conversation(lines: Sequence[TranscriptLine], metadata: Mapping[str, str], origin: Origin) -> Items:
    """Yield the pairs of one conversation. Drop lines before its first speaker and notices of the messenger."""
    speakers = origin.source.speakers
    begin = next((index for index, line in enumerate(lines) if line.label), len(lines))
    lines = [*lines[:begin], *discard_impossible_times(lines[begin:], speakers)]
    try:
        sides = find_sides(lines[begin:], speakers)
    except ValueError as error:
        yield origin.make_dropped(
            f"line {lines[0].number}", "malformed", str(error), "\n".join(line.text for line in lines)
        )
        return
    start = next((index for index, line in enumerate(lines) if line.label in sides), len(lines))
    for line in lines[:start]:
        detail = "no speaker: a conversation's lines begin with one, as in `Anna: …` and `Maria: …`"
        yield origin.make_dropped(f"line {line.number}", "malformed", detail, line.text)
    remaining = lines[start:]
    turns: list[Turn] = []
    is_ignored = False
    for line in remaining:
        if side := sides.get(line.label):
            is_ignored = side == "ignored"
            if not is_ignored:
                _add_message(turns, Turn(side, line.label, f"line {line.number}"), line.message)
        elif is_notice(line, remaining[0]):
            detail = "a time stamp and no speaker: a line of the messenger's own"
            yield origin.make_dropped(f"line {line.number}", "malformed", detail, line.text)
        elif turns and not is_ignored:
            turns[-1].parts.append(line.text.rstrip())
    yield from _pair_turns(turns, metadata, origin)


def _read_messages(numbered: Iterable[tuple[int, str]], origin: Origin) -> Items:
    for number, line in numbered:
        conversation, problem = parse_line(line)
        problem = problem or _find_problem(conversation, origin.source.speakers)
        if problem:
            yield origin.make_dropped(f"line {number}", "malformed", problem, line)
            continue
        turns: list[Turn] = []
        messages = conversation["messages"]
        try:
            sides = find_role_sides([message["role"].casefold() for message in messages], origin.source.speakers)
        except ValueError as error:
            yield origin.make_dropped(f"line {number}", "malformed", str(error), line)
            continue
        for index, message in enumerate(messages, start=1):
            side = sides[message["role"].casefold()]
            if side != "ignored" and (text := _extract_text(message.get("content"))):
                label = f"{message['role']} {message.get('name') or ''}"
                _add_message(turns, Turn(side, label, f"line {number}, message {index}"), text)
        if not turns:
            yield origin.make_dropped(f"line {number}", "malformed", "no text of a customer or an agent in it", line)
        metadata = {key: str(conversation.get(key) or "") for key in _HEADER_KEYS}
        yield from _pair_turns(turns, metadata, origin)


def _add_message(turns: list[Turn], turn: Turn, text: str) -> None:
    last = turns[-1] if turns else None
    if not last or last.side != turn.side or (turn.side == "asks" and last.label != turn.label):
        turns.append(turn)
    turns[-1].parts.append(text)


def _pair_turns(turns: Sequence[Turn], metadata: Mapping[str, str], origin: Origin) -> Items:
    """Yield questions with their answers. An answer belongs to the last asker; other open questions have none."""
    group = metadata["topic"]
    askers = list(dict.fromkeys(turn.label for turn in turns if turn.side == "asks"))
    names = {label: f"Customer {n}" if len(askers) > 1 else "Customer" for n, label in enumerate(askers, start=1)}
    question_turn: Turn | None = None
    history: list[str] = []
    for turn in turns:
        text = _join_lines(turn)
        if turn.side == "asks":
            if question_turn:
                yield _make_unanswered(question_turn, origin, group)
                history.append(f"{names[question_turn.label]}: {_join_question(question_turn)}")
            question_turn = turn
        elif question_turn:
            question = _join_question(question_turn)
            context = "\n".join(filter(None, [metadata["context"], *_take_recent(history)]))
            yield origin.make_document(
                question_turn.position, question=question, answer=text, context=context, group=group
            )
            history += [f"{names[question_turn.label]}: {question}", f"Agent: {text}"]
            question_turn = None
        else:
            yield origin.make_document(turn.position, text=text, group=group)
            if history:
                history.append(f"Agent: {text}")
    if question_turn:
        yield _make_unanswered(question_turn, origin, group)


def _join_question(turn: Turn) -> str:
    return " ".join(filter(None, map(str.strip, turn.parts)))


def _join_lines(turn: Turn) -> str:
    """Return the lines of a turn with their indentation, without the common margin of all but the first."""
    first, *rest = turn.parts
    return trim_text("\n".join(filter(None, [first, dedent("\n".join(rest))])))


def _make_unanswered(turn: Turn, origin: Origin, group: str) -> Item:
    return origin.make_document(turn.position, question=_join_question(turn), group=group)


def _take_recent(turns: Sequence[str]) -> list[str]:
    recent: list[str] = []
    remaining = HISTORY_CHARS
    for turn in reversed(turns):
        if len(turn) > remaining:
            break
        recent.append(turn)
        remaining -= len(turn)
    if turns and not recent:
        recent.append(f"… {turns[-1][-HISTORY_CHARS:].partition(' ')[2]}")
    return recent[::-1]


def _find_problem(conversation: Any, speakers: Speakers) -> str:
    if not isinstance(conversation, Mapping) or not isinstance(conversation.get("messages"), list):
        return 'no list "messages"'
    for index, message in enumerate(conversation["messages"], start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return f'message {index} has no "role"'
        if speakers == Speakers() and not find_known_side(message["role"].casefold(), speakers):
            return f"message {index} has the unknown role {message['role']!r}; name it in the source's `speakers`"
        if not isinstance(message.get("content"), str | list | None):
            return f'message {index} has a "content" that is no text'
    return "" if conversation["messages"] else '"messages" is empty'


def _extract_text(content: str | list[Any] | None) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "\n".join(text.strip() for text in texts if isinstance(text, str))
    return (content or "").strip()
