"""What cleaning does to a text: what is broken is mended, good text is left alone, repetition is found anywhere.

What is right is said here by hand, or by what others know of a text: a parser, Unicode, ftfy.
"""

import ast
import html
import json
import re
import sysconfig
import unicodedata
from pathlib import Path
from pydoc_data.topics import topics
from textwrap import dedent

import ftfy
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.data.clean import rules
from llmops.data.clean.funnel import RULE_ORDER
from llmops.data.clean.repair import repair_characters, unescape
from llmops.data.clean.rules import tidy_texts
from tests.growth import assert_linear

CORPUS: dict[str, list[str]] = json.loads((Path(__file__).parent / "corpus" / "interface.json").read_text("utf-8"))
STDLIB = Path(sysconfig.get_path("stdlib"))

# What may hide, break or belong to a text, to be put together in any order. Neither mojibake nor what looks like it:
# ftfy takes a no-break space beside it for a part.
PIECES = st.sampled_from(
    [*" \n\t\r\fa1.B=\"'<&;\x00\x7f\x85", "amp;", "&lt;", "&sum;", "#8203;", "&#39;", "é", "\u00a0", "\u3000"]
    + ["\u200b", "\u200d", "\u200f", "\u2028", "\u00ad", "ﬁ", "１", "ไ", "ש", "字", "\U000e0041", "🏴", "e\u0301"]
)


def tidied(text: str, one_line: bool = False) -> str:
    return str(tidy_texts(pl.Series([text]), one_line)[0])


@pytest.mark.parametrize("one_line", [False, True])
@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("5&nbsp;&euro;", "5 €"),
        ("It&#39;s &quot;fine&quot;", 'It\'s "fine"'),
        ("cafÃ© â€“ naÃ¯ve", "café – naïve"),
        ("ﬁne ﬂoor oﬃce １２ Ａｂ", "fine floor office 12 Ab"),
        ("ｶﾞｽ", "ガス"),
        ("no\u00adhyphen \ufeffmark wo\u2060rd\x00\x7f\x1b", "nohyphen mark word"),
        ("hid\u200bden\u200d too\u202e \u200emark", "hidden too mark"),
    ],
)
def test_what_is_broken_is_mended(broken: str, whole: str, one_line: bool) -> None:
    assert tidied(broken, one_line) == whole


@pytest.mark.parametrize("one_line", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "https://shop.example/?q=tent&region=eu&section=2&copy=1",
        "10² is not 102, 25 m², H₂O, x³ ± ½, 2⁻³, ∑ₙ aₙ ≤ ∞, 5 µm, 20 °C, № 5, ™, ®, …, ㎡, ①, Ⅳ",
        "“Quoted”, ‘so’, „so“, «so», it’s — and – dashes",
        "Write `&lt;` for <, and `&amp;copy;` for the sign itself.",
        "Convert the characters &, < and > to &amp;, &lt; and &gt;.",
        "total = &sum; return &copy;",
        "R&D, AT&T, Q&A; x && y; a &b; &notanentity; &#xZZ;",
        "你好！（真的？）价格：5％，「好」～",
        "می\u200cخواهم",
        "שלום\u200f! (abc\u200e)",
        "ภาษา\u200bไทย",
        "👩\u200d🚀 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ❤️ 🇩🇪",
        "Việt Nam, Ελλάδα, Україна ім’я, ʻokina, हिन्दी, 한국어, አማርኛ",
        "3 < 5 > 2, a<b, <3, <ana@example.com>",
    ],
)
def test_good_text_is_left_alone(text: str, one_line: bool) -> None:
    assert tidied(text, one_line) == text


@pytest.mark.parametrize(
    ("loose", "tight"),
    [
        ("\n\n  a:\n    b: 1  \n\n", "a:\n  b: 1"),
        ("One \t\nline\r\nand\ranother\u2028end\f", "One\nline\nand\nanother\nend"),
        ("a\n\n\nb\n \n \n\n\nc", "a\n\n\nb\n\n\nc"),
        ("\u00a0\u00a0x:\n\u00a0\u00a0\u00a0\u00a0y: 1", "x:\n  y: 1"),
        (
            '\t{\n\t    "a": [1,\n\t          2],\n\t    "b": "x  &lt; y²"\n\t}',
            '{\n    "a": [1,\n          2],\n    "b": "x  < y²"\n}',
        ),
    ],
)
def test_white_space_that_means_nothing_goes(loose: str, tight: str) -> None:
    assert tidied(loose) == tight


def plain_layout(text: str) -> str:
    """All that cleaning may change in a text that is not broken: line ends, outer white space and NFC."""
    lines = [line.replace("\xa0", " ").rstrip() for line in text.replace("\f", "\n").split("\n")]
    joined = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n")
    joined = joined if "\n" in joined else re.sub("  +", " ", joined)
    return unicodedata.normalize("NFC", dedent(joined))


def test_real_texts_and_pythons_documentation_pass_unchanged() -> None:
    """Chapters of the language reference and of its data model: prose, tables, grammars, sessions, formulas."""
    for texts in CORPUS.values():
        assert tidy_texts(pl.Series(texts), False).to_list() == [plain_layout(text) for text in texts]
    texts = list(topics.values())
    assert sum(map(len, texts)) > 300_000
    wrong = [a for a, b in zip(texts, tidy_texts(pl.Series(texts), False), strict=True) if plain_layout(a) != b]
    assert [text[:80] for text in wrong if "\xad" not in text and "\u212a" not in text] == []


def test_code_still_parses_and_says_the_same() -> None:
    """Modules of the standard library, those that write HTML and mojibake among them."""
    names = ("html/parser.py", "xml/sax/saxutils.py", "pydoc.py", "textwrap.py")
    paths = [*sorted(STDLIB.glob("*.py"))[::16], *(STDLIB / name for name in names)]
    sources = [path.read_text("utf-8") for path in paths]
    for path, source, after in zip(paths, sources, tidy_texts(pl.Series(sources), False), strict=True):
        assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(source)), path


@settings(deadline=None)
@given(st.lists(PIECES, max_size=10).map("".join), st.booleans())
def test_what_is_tidy_stays_as_it_is_and_the_short_cut_of_the_rules_changes_nothing(text: str, one_line: bool) -> None:
    once = tidied(text, one_line)
    assert tidied(once, one_line) == once
    assert rules._tidy_all(pl.Series([text]), one_line).to_list() == [once]


# Text as a wrong program leaves it: UTF-8 taken for another encoding, once or twice.
@example("’€ß", "cp1252")
@given(
    st.text("éàüßñçøœŒÃÂ–—’“”€¡¿ž ЖдяβΩabc .,", min_size=1), st.sampled_from(["cp1252", "latin-1", "cp1250", "cp437"])
)
def test_no_mojibake_that_ftfy_would_find_is_overlooked(text: str, wrong: str) -> None:
    try:
        broken = text.encode().decode(wrong)
    except UnicodeDecodeError:
        broken = text.encode().decode("latin-1")
    # Not `fix_text`: it looks again after it has made quotes straight, and then takes the right "’€ß" for broken.
    expected = unicodedata.normalize("NFC", ftfy.fix_encoding(unescape(broken)))
    assert repair_characters(pl.Series([broken])).to_list() == [expected]


@given(st.text("&<>\"'é€½ abc;", min_size=1, max_size=30), st.integers(1, 3))
def test_what_was_escaped_is_what_it_was(text: str, times: int) -> None:
    """A text without tags, code or quoted entities, escaped whole by any program."""
    escaped = text
    for _ in range(times):
        escaped = html.escape(escaped)
    once = html.escape(text)
    if escaped == text or unescape(once) != text:  # nothing to escape, or what looks like a mention
        return
    assert unescape(escaped) == text


@pytest.mark.parametrize("few", [1, 12, 30])
@pytest.mark.parametrize("length", [19, 20, 200, 1000, 1001])
@pytest.mark.parametrize("late", [False, True])  # all the different words at the start, or at the end
def test_repetition_is_found_wherever_the_words_repeat(few: int, length: int, late: bool) -> None:
    words = [f"w{n}" for n in range(few)][:length]
    words += [words[0]] * (length - len(words))
    text = " ".join(words[::-1] if late else words)
    share = len(set(words)) / length
    found = rules._compute_distinct_word_shares(pl.Series(["", text]))[1]
    hit = found is not None and found < rules.MIN_DISTINCT_WORDS
    assert hit == (20 <= length <= 1000 and share < rules.MIN_DISTINCT_WORDS)
    assert found in (None, share)


def test_the_funnel_counts_every_rule_in_its_place() -> None:
    assert (*(rule.__name__ for rule in rules.RULES), "duplicate", "near_duplicate") == RULE_ORDER


@pytest.mark.parametrize("unit", ["`&amp;` ", "``&amp; ", "```&amp; ", "&lt;", "`", "= &sum; "])
def test_entities_in_code_cost_no_more_than_linear_time(unit: str) -> None:
    assert_linear(unescape, unit, 200_000)


@pytest.mark.parametrize("unit", ["\u0300\u0323", "Ì€Ì£"])
def test_a_run_of_accents_costs_no_more_than_linear_time(unit: str) -> None:
    assert_linear(lambda text: repair_characters(pl.Series([text])), unit)
