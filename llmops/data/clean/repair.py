"""Repairs of text: HTML entities, mojibake, forms of characters, invisible characters.

This module runs on Spark's workers, a column at a time. Good text is unchanged. Repaired are:

- HTML entities that end in a semicolon, unless the text is about them (`unescape`).
- Mojibake: UTF-8 that was decoded with another encoding.
- Unicode's canonical composition (NFC). Compatible forms (NFKC) are replaced only if a typesetter or an old encoding
  left them and they mean the same: Latin ligatures (`ﬁ`), full-width letters and digits (`Ａ１`), half-width katakana,
  Arabic presentation forms, Kangxi radicals. `10²`, `½`, `№`, `™`, `㎡` and full-width punctuation stay.
- Invisible characters that no script needs: controls, soft hyphens, byte order marks, word joiners, tags (except in
  flags), private use, noncharacters, overrides of direction. Marks of direction stay in texts with right-to-left
  letters, joiners after a character outside ASCII, zero-width spaces in scripts that separate words by them.

Only the few texts that look broken are processed in Python one by one. Polars finds them at more than a million texts
per second and core; `ftfy` alone checks 8,000 (measured on texts of 380 characters).
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Callable

import polars as pl
from ftfy import fix_encoding
from ftfy.fixes import unescape_html

ENTITY = r"&#?[0-9A-Za-z]{1,24};"
# Every mojibake pattern of ftfy needs two neighbours outside ASCII, or one of these characters.
_MOJIBAKE = r"[^\x00-\x7F]{2}|[\x{80}-\x{9F}ŒœÃÂ]"
# Characters that NFC never changes: Latin and Cyrillic letters, punctuation, Han.
_COMPOSED = r"[^\x00-\x{2FF}\x{400}-\x{482}\x{2002}-\x{20CF}\x{4E00}-\x{9FFF}]"
_REPLACED_FORMS = (
    "[\u2e9f\u2ef3\u2f00-\u2fd5\ufb00-\ufb06\ufb50-\ufbb1\ufbd3-\ufbff\ufe80-\ufefc"
    "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f]+"
)
_REPLACED_FORM = re.compile(_REPLACED_FORMS)

_PASSES = 3  #: times that an entity is unescaped; one escaped more often is a subject of the text
_ROUNDS = 3  #: times that a text is repaired, if each time invisible characters were removed
_BARE = re.compile(rf"<|&(?!{ENTITY[1:]})")
_HTML_TAG = re.compile(r"</?[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>|<!--|<!\w|<\?\w")
_LINE_ENDS = r"\n\r\x0b\x0c\x85\u2028\u2029"
_CODE = re.compile(rf"```.*?```|``[^{_LINE_ENDS}]*?``|`[^`{_LINE_ENDS}]+`", re.DOTALL)
_C_STATEMENT = re.compile(r"(?:=|\breturn)\s*$")  # `p = &sum;` is a C statement
_MARKUP, _GAP = frozenset("&<>"), frozenset(["", *" \t\n\r"])
_OPENING, _CLOSING = frozenset("'\"\u2018\u201c\u00ab"), frozenset("'\"\u2019\u201d\u00bb")

_INVISIBLE = (
    r"[\p{Cc}\p{Co}\p{Noncharacter_Code_Point}\x{AD}\x{202D}\x{202E}\x{2060}-\x{2064}\x{206A}-\x{206F}\x{FEFF}"
    r"\x{FFF9}-\x{FFFC}--[\t\n\r\x{85}\x0B\x0C]]"
)
_UNICODE_TAGS_OR_FLAG = r"(\x{1F3F4}[\x{E0030}-\x{E0039}\x{E0061}-\x{E007A}]{1,6}\x{E007F})|[\x{E0000}-\x{E00FF}]"
_DIRECTION = r"[\x{61C}\x{200E}\x{200F}\x{202A}-\x{202C}\x{2066}-\x{2069}]"
_KEPT_IN_SOME_SCRIPTS = r"[\x{61C}\x{200B}-\x{200F}\x{202A}-\x{202C}\x{2066}-\x{2069}\x{E0000}-\x{E00FF}]"
_RIGHT_TO_LEFT = r"[[\p{Hebrew}\p{Arabic}\p{Syriac}\p{Thaana}\p{Nko}\p{Adlam}]&&\p{L}]"
_STRAY_JOINER = r"(^|[\x00-\x7F\s])[\x{200B}-\x{200D}]+"
_STRAY_SPACE = r"([^\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\x{200B}])\x{200B}+"


def repair_characters(texts: pl.Series) -> pl.Series:
    """Return the texts with repaired entities, mojibake and forms of characters. Invisible characters stay."""
    texts = map_selected(texts, texts.str.contains(ENTITY), unescape)
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if not len(rows):
        return texts
    some = texts.gather(rows)
    some = _compose_selected(some, some.str.contains(_COMPOSED))
    for pattern, repair in ((_MOJIBAKE, fix_encoding), (_REPLACED_FORMS, _replace_forms)):
        broken = some.str.contains(pattern)
        some = _compose_selected(map_selected(some, broken, repair), broken)
    return texts.scatter(rows, some)


def repair_texts(texts: pl.Series, rounds: int = _ROUNDS) -> pl.Series:
    """Return the texts repaired, and without invisible characters that no script needs.

    A text from which some were removed is repaired again, at most `rounds` times in all.
    """
    texts = repair_characters(texts)
    visible = _remove_invisible(texts)
    rows = (visible != texts).arg_true()
    if not len(rows) or rounds == 1:
        return visible
    # Repeat, because an entity may have been hidden by such characters.
    return visible.scatter(rows, repair_texts(visible.gather(rows), rounds - 1))


def unescape(text: str) -> str:
    """Return `text` without HTML entities, even if it was escaped up to three times.

    An entity stays if the text shows that it is meant literally: in markup, in code (between backticks), alone in
    quotation marks, at the end of a statement. Entities for `&`, `<` or `>` also stay if one of these occurs unescaped,
    because an escaped text has none.
    """
    out = text
    for _ in range(_PASSES):
        plain = _unescape_once(out)
        if plain == out:
            return out
        out = plain
    return out if _unescape_once(out) == out else text


def _unescape_once(text: str) -> str:
    if "&" not in text or ("<" in text and _HTML_TAG.search(text)):
        return text
    bare = bool(_BARE.search(text))
    code = [match.span() for match in _CODE.finditer(text)] if "`" in text else []
    code_starts = [first for first, _ in code]

    def replace_entity(match: re.Match[str]) -> str:
        start, end = match.span()
        before, after = text[max(0, start - 12) : start], text[end : end + 1]
        index = bisect(code_starts, start)
        if index and start < code[index - 1][1]:
            return match[0]
        if before[-1:] in _OPENING and after in _CLOSING:
            return match[0]
        if after in _GAP and _C_STATEMENT.search(before):
            return match[0]
        character = str(unescape_html(match[0]))
        return match[0] if bare and character in _MARKUP else character

    return re.sub(ENTITY, replace_entity, text)


def _compose_selected(texts: pl.Series, selected: pl.Series) -> pl.Series:
    """Return the texts with the `selected` ones in NFC. `unicodedata` takes quadratic time for a run of accents."""
    rows = selected.arg_true()
    return texts.scatter(rows, texts.gather(rows).str.normalize("NFC")) if len(rows) else texts


def _replace_forms(text: str) -> str:
    return _REPLACED_FORM.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def _remove_invisible(texts: pl.Series) -> pl.Series:
    out = texts.str.replace_all(_INVISIBLE, "")
    rows = out.str.contains(_KEPT_IN_SOME_SCRIPTS).arg_true()
    if not len(rows):
        return out
    some = out.gather(rows).str.replace_all(_UNICODE_TAGS_OR_FLAG, "$1")
    directed = (some.str.contains(_DIRECTION) & ~some.str.contains(_RIGHT_TO_LEFT)).arg_true()
    if len(directed):
        some = some.scatter(directed, some.gather(directed).str.replace_all(_DIRECTION, ""))
    return out.scatter(rows, some.str.replace_all(_STRAY_JOINER, "$1").str.replace_all(_STRAY_SPACE, "$1"))


def map_selected(texts: pl.Series, selected: pl.Series, function: Callable[[str], str]) -> pl.Series:
    """Return the texts with `function` applied to the `selected` ones."""
    rows = selected.arg_true()
    if not len(rows):
        return texts
    return texts.scatter(rows, pl.Series([function(text) for text in texts.gather(rows)], dtype=pl.String))
