"""Chat templates with a fixed date and without randomness."""

from __future__ import annotations

import json
import re
from datetime import date
from functools import lru_cache
from itertools import pairwise, takewhile

from jinja2 import Environment, TemplateSyntaxError

from llmops.frame.errors import ArtifactError

#: The date that every chat template gets: a version is then trained, evaluated and served with the same tokens, and
#: unchanged data gives unchanged features. Llama's own templates default to this date.
FIXED_DATE = date(2024, 7, 26)

_CLOCK_FUNCTION = "strftime_now"  # of transformers
_RANDOM_FILTERS = ("random", "map")  # filters that `map` may not apply; a nested `map` could hide `random`
# Harmless: these only test if there is a clock.
_CLOCK_TESTS = (["is", "defined"], ["is", "not", "defined"], ["is", "undefined"])


@lru_cache
def fix_clock(template: str) -> str:
    """Return a chat template that writes `FIXED_DATE` instead of the current time.

    Raises:
        ArtifactError: if the time format is not a literal in the template, if the template uses randomness (the
            function `lipsum`, the filter `random`, or `map` with a filter that is not a literal), or if it is not a
            Jinja template.
    """
    jinja = Environment(keep_trailing_newline=True)
    try:
        tokens = [[kind, text] for _, kind, text in jinja.lex(template)]
    except TemplateSyntaxError as error:
        raise ArtifactError(f"The model's chat template is no Jinja template: line {error.lineno}: {error}.") from error
    visible = [token for token in tokens if token[0] != "whitespace"]
    changed = False
    for n, ((_, before), (kind, word)) in enumerate(pairwise(visible), 1):
        if kind != "name":
            continue
        after = visible[n + 1 : n + 4]
        if word == _CLOCK_FUNCTION and before != ".":
            words = [text for _, text in after]
            if [kind for kind, _ in after] == ["operator", "string", "operator"] and words[::2] == ["(", ")"]:
                form = str(jinja.compile_expression(words[1])())
                visible[n][1] = json.dumps(FIXED_DATE.strftime(form))
                for token in after:
                    token[1] = ""
                changed = True
            elif not any(words[: len(known)] == known for known in _CLOCK_TESTS):
                raise ArtifactError(
                    f"The model's chat template asks for the time by {_CLOCK_FUNCTION} with a format that does not "
                    "stand there as a text, so its prompts would change from day to day; write a date into it."
                )
        elif (
            (word == "lipsum" and before != ".")
            or (word == "random" and before in ("|", "filter"))
            or (word == "map" and before in ("|", "filter") and not _is_safe_map(visible[n + 1 :]))
        ):
            how = "map, of `random` or of a filter that it does not name" if word == "map" else word
            raise ArtifactError(
                f"The model's chat template writes something by chance ({how}), so no prompt would be the one that "
                "was trained; take it out."
            )
    return "".join(text for _, text in tokens) if changed else template


def _is_safe_map(after: list[list[str]]) -> bool:
    """Return True if the filter `map` takes an attribute, or a filter named by a literal other than `random`."""
    words = [text for _, text in after]
    if words[:3] == ["(", "attribute", "="]:
        inside = list(takewhile(lambda text: text != ")", words[3:]))
        return not {"(", "*", "**"} & {*inside}
    named = re.fullmatch(r"""(["'])(\w+)\1""", "".join(words[1:2]))
    return words[:1] == ["("] and words[2:3] in ([","], [")"]) and named is not None and named[2] not in _RANDOM_FILTERS
