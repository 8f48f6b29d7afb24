"""JSON of callers and of models, as text that can be walked through and sent on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MOST_NESTED = 40  #: objects and arrays in each other: of arguments, and of what a tool takes
_MOST_KEY = 60  #: characters of a key that is told with each of its values
_NAME = re.compile(r"(?!.*[A-Za-z]{20})[A-Za-z][A-Za-z_-]*\d?")  #: a key of plain words, and no secret
_BREAK = re.compile(r"[_-]+|(?<=[a-z])(?=[A-Z])")  #: between the words of a name


def _refuse_deep(value: Any) -> None:
    below = [value]
    for _ in range(MOST_NESTED):
        below = [
            two
            for one in below
            if isinstance(one, dict | list)
            for two in (one.values() if isinstance(one, dict) else one)
        ]
        if not below:
            return
    raise ValueError(f"is nested more than {MOST_NESTED} deep")


def json_text(value: Any) -> str:
    """A JSON value of a client as text.

    Raises:
        ValueError: if it is nested too deep, or has what is no JSON and no text.
    """
    _refuse_deep(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return text


def object_text(text: str) -> str:
    """A text that is a JSON object, written as `json_text` writes it.

    Raises:
        ValueError: if it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    return json_text(value)


def told(text: str) -> Iterator[str]:
    """What a text that is a JSON object says, without JSON: each value as it is, after its key and the key above that.

    The words of a key are apart. A key that has no value of its own, or is long, is told once, by itself.
    """
    return _told(json.loads(text), ())


def _told(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            if isinstance(below, dict | list) or len(key) > _MOST_KEY:
                yield key
            words = _BREAK.sub(" ", key) if _NAME.fullmatch(key) else key
            yield from _told(below, (*keys, words if len(key) <= _MOST_KEY else "")[-2:])
    elif isinstance(value, list):
        for one in value:
            yield from _told(one, keys)
    else:
        said = value if isinstance(value, str) else json.dumps(value)
        yield ": ".join([*filter(None, [", ".join(filter(None, keys))]), said])
