"""What cleaning does to a text, and the rules that drop a document: functions on Polars columns.

They run on Spark's workers, Arrow batch by Arrow batch. Spark's own string functions would do the same at a tenth of
the speed: one `regexp_replace` over text costs its JVM about as much as everything here together.

A rule says which rows it hits and, for those, what is wrong. `RULES` is a list of early returns: the first that hits
decides. To add one, write such a function and append it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from textwrap import dedent
from typing import NamedTuple

import polars as pl

from llmops.config import Clean
from llmops.data.clean.repair import ENTITY, each, repaired
from llmops.data.text.duplicate_lines import MAX_DUPLICATE_LINES, MIN_LINES, duplicate_line_share
from llmops.data.text.language import UNKNOWN, language_of
from llmops.data.text.ngrams import words
from llmops.data.text.running_text import running_text
from llmops.data.text.words import UNSPACED


class RuleResult(NamedTuple):
    """What a rule says of every row."""

    hit: pl.Expr  #: whether the row is dropped
    detail: pl.Expr  #: what is wrong with it, in words; looked at only where it is dropped


Rule = Callable[[Clean], RuleResult]

LINE = ("question", "same_as", "group")  #: columns that are one line
PROSE = ("answer", "context", "text")  #: columns that keep their lines
JUDGED = ("question", "answer", "text")  #: columns that must be worth learning from, if they are there
HAS_FIELDS = "has_fields"  #: column that says whether any field of a structured row holds a value

# A text that matches none of this is tidy already. Most are, and finding that out takes a sixth of the time of tidying.
_UNTIDY = rf"[^ -~\n\t]|{ENTITY}|[ \t]\n|\n{{4}}|^\s|\s$|^[^\n]*(?:  |\t)[^\n]*$"
_UNTIDY_LINE = rf"[^ -~]|{ENTITY}|  |^ | $"
_SYMBOL = r"[^\p{L}\p{M}\p{N}\s]"

# Least share of different words in a text. English prose of 100 words has 60 to 70 different ones.
MIN_DISTINCT_WORDS = 0.2
REPETITION_WORDS = (20, 1000)  #: of a text that is judged: shorter ones repeat by chance, in longer ones few are new


def tidy(texts: pl.Series, one_line: bool, config: Clean) -> pl.Series:
    """Repaired, and without superfluous white space; with `classic`, letters and digits in lower case.

    With `one_line`, all white space is single spaces. Else the layout stays: indentation, and what stands below each
    other. Only the margin that all lines share, blank lines around the text, a third blank line and every further one,
    and spaces at the ends of lines go, and so do double spaces and tabs within a text of a single line. Spaces of other
    widths become ordinary ones, but for the ideographic space.
    """
    if config.classic:
        return _tidied(texts, one_line, config)
    rows = texts.str.contains(_UNTIDY_LINE if one_line else _UNTIDY).arg_true()
    # A copy, since `scatter` changes the column that it is called on.
    return texts.clone().scatter(rows, _tidied(texts.gather(rows), one_line, config)) if len(rows) else texts


def _tidied(texts: pl.Series, one_line: bool, config: Clean) -> pl.Series:
    out = repaired(texts)
    if config.classic:
        out = out.str.to_lowercase().str.replace_all(_SYMBOL, "")
    if one_line:
        return out.str.replace_all(r"\s+", " ").str.strip_chars(" ")
    out = out.str.replace_all(r"\r\n?|[\x0B\x0C\x{85}\x{2028}\x{2029}]", "\n")
    out = out.str.replace_all(r"[\s--[\n\t \x{3000}]]", " ").str.replace_all(r"[^\S\n]+\n", "\n")
    out = out.str.replace_all(r"\n{4,}", "\n\n\n").str.strip_chars("\n").str.strip_chars_end()
    out = each(out, out.str.contains(r"^[ \t]"), dedent)
    alone = ~out.str.contains("\n", literal=True) | config.classic
    return out.zip_with(~alone, out.str.replace_all(r"[ \t]*\t[ \t]*|  +", " ").str.strip_chars())


def missing(config: Clean) -> RuleResult:
    """A question with nothing to answer it, an answer without a question, or nothing at all."""
    question, answer = pl.col("question") != "", pl.col("answer") != ""
    answered = answer | (pl.col("same_as") != "")
    material = (pl.col("text") != "") | pl.col(HAS_FIELDS)
    detail = (
        pl.when(question)
        .then(pl.lit("a question without an answer"))
        .when(answer)
        .then(pl.lit("an answer without a question"))
        .otherwise(pl.lit("no text at all"))
    )
    return RuleResult(~(material | (question & answered)), detail)


def too_short(config: Clean) -> RuleResult:
    """A question, answer or text of fewer than `min_chars` characters."""
    return _any(
        JUDGED,
        lambda c: c.str.len_chars().is_between(1, config.min_chars - 1),
        lambda c: pl.format("{} characters, fewer than {}", c.str.len_chars(), config.min_chars),
    )


def too_long(config: Clean) -> RuleResult:
    """A question, answer, context or text of more than `max_chars` characters."""
    return _any(
        (*JUDGED, "context"),
        lambda c: c.str.len_chars() > config.max_chars,
        lambda c: pl.format("{} characters, more than {}", c.str.len_chars(), config.max_chars),
    )


def symbols(config: Clean) -> RuleResult:
    """A question, answer or text that is mostly neither letters, digits nor spaces."""

    def share(column: pl.Expr) -> pl.Expr:
        return column.str.count_matches(_SYMBOL) / column.str.len_chars()  # of "" NaN, which is above no limit

    limit = f"{config.max_symbol_ratio * 100:.0f}"
    return _any(
        JUDGED,
        lambda c: (c != "") & (share(c) > config.max_symbol_ratio),
        lambda c: pl.format("{} % symbols, more than {} %", (share(c) * 100).round(0).cast(pl.Int32), pl.lit(limit)),
    )


def repetition(config: Clean) -> RuleResult:
    """A text that says the same line, or the same few words, again and again."""

    def lines(column: pl.Expr) -> pl.Expr:
        return column.map_batches(_duplicate_lines, return_dtype=pl.Float64)

    def words(column: pl.Expr) -> pl.Expr:
        return column.map_batches(_various, return_dtype=pl.Float64)

    return _any(
        PROSE,
        lambda c: (lines(c) > MAX_DUPLICATE_LINES) | (words(c) < MIN_DISTINCT_WORDS),
        lambda c: (
            pl.when(lines(c) > MAX_DUPLICATE_LINES)
            .then(pl.format("{} % of its lines are duplicates", (lines(c) * 100).round(0).cast(pl.Int32)))
            .otherwise(pl.format("only {} % of its words are different", (words(c) * 100).round(0).cast(pl.Int32)))
        ),
    )


def _duplicate_lines(texts: pl.Series) -> pl.Series:
    """The share of each text's lines that stood in it before; null for texts that cannot have `MIN_LINES` lines."""
    rows = (texts.str.count_matches("\n", literal=True) >= MIN_LINES - 1).arg_true()
    out = pl.repeat(None, len(texts), dtype=pl.Float64, eager=True)
    if not len(rows):
        return out
    return out.scatter(rows, pl.Series(map(duplicate_line_share, texts.gather(rows)), dtype=pl.Float64))


def _various(texts: pl.Series) -> pl.Series:
    """`_distinct_words` of the texts; of those that have few, without their code and tables, which repeat words."""
    out = _distinct_words(texts)
    low = (out < MIN_DISTINCT_WORDS).arg_true()
    if not len(low):
        return out
    running = pl.Series(map(running_text, texts.gather(low)), dtype=pl.String)
    return out.scatter(low, _distinct_words(running))


def _distinct_words(texts: pl.Series) -> pl.Series:
    """The share of each text's words that were not said before; null for a text that need not or cannot be judged.

    Not judged are texts with fewer or more words than `REPETITION_WORDS`. To save time, neither are those whose first
    third alone has enough different words for the whole text; its last word, which may be cut in two, is not counted.
    """

    def distinct(some: pl.Series) -> pl.Series:
        return some.str.to_lowercase().str.split(" ").list.n_unique()

    texts = _spaced(texts)
    count = texts.str.count_matches("[ ]") + 1  # half the time of a literal
    rows = count.is_between(*REPETITION_WORDS).arg_true()
    some, count = texts.gather(rows), count.gather(rows)
    varied = distinct(some.str.head(some.str.len_chars() // 3)) > MIN_DISTINCT_WORDS * count + 1
    left = (~varied).arg_true()
    out = pl.repeat(None, len(texts), dtype=pl.Float64, eager=True)
    return out.scatter(rows.gather(left), distinct(some.gather(left)) / count.gather(left)) if len(left) else out


def _spaced(texts: pl.Series) -> pl.Series:
    """The texts with one space between two words, be there lines, tables or no spaces at all."""
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    rows = rows.gather(texts.gather(rows).str.contains(UNSPACED).arg_true())
    if len(rows):
        texts = texts.clone().scatter(rows, words(texts.gather(rows)).list.join(" "))  # it would change its column
    gaps = (texts.str.contains(gap, literal=True) for gap in ("\n", "\t", "  "))
    rows = (reduce(or_, gaps) | texts.str.starts_with(" ") | texts.str.ends_with(" ")).arg_true()
    if not len(rows):
        return texts
    return texts.clone().scatter(rows, texts.gather(rows).str.replace_all(r"[ \n\t]+", " ").str.strip_chars(" "))


def language(config: Clean) -> RuleResult:
    """A document in a language that is not in `languages`, as far as its text is long enough to tell."""
    if not config.languages:
        return RuleResult(pl.lit(False), pl.lit(""))
    spoken = pl.concat_str(JUDGED, separator=" ").map_batches(_languages, return_dtype=pl.String)
    wanted = ", ".join(config.languages)
    return RuleResult(
        ~spoken.is_in([*config.languages, UNKNOWN]), pl.format("it is in {}, not in {}", spoken, pl.lit(wanted))
    )


def _languages(texts: pl.Series) -> pl.Series:
    return pl.Series(map(language_of, texts), dtype=pl.String)


RULES: tuple[tuple[str, Rule], ...] = (
    ("missing", missing),
    ("too_short", too_short),
    ("too_long", too_long),
    ("symbols", symbols),
    ("repetition", repetition),
    ("language", language),
)


def judged(documents: pl.DataFrame, config: Clean) -> pl.DataFrame:
    """The documents with the columns `rule` and `detail` of the first rule that hits; null for a document to keep."""
    results = {name: rule(config) for name, rule in RULES}
    rule = pl.coalesce(*(pl.when(v.hit).then(pl.lit(name)) for name, v in results.items()))
    judged = documents.with_columns(rule.alias("rule"))
    rows = judged["rule"].is_not_null().arg_true()
    details = pl.coalesce(*(pl.when(pl.col("rule") == name).then(v.detail) for name, v in results.items()))
    detail = pl.repeat(None, len(judged), dtype=pl.String, eager=True)
    if len(rows):
        detail = detail.scatter(rows, judged[rows].select(details.alias("detail"))["detail"])
    return judged.with_columns(detail.alias("detail"))


def _any(names: tuple[str, ...], hit: Callable[[pl.Expr], pl.Expr], detail: Callable[[pl.Expr], pl.Expr]) -> RuleResult:
    """The result of a rule that drops a row if any of the columns is hit; the detail names the first that is."""
    hits = reduce(or_, (hit(pl.col(n)) for n in names))
    details = (pl.when(hit(pl.col(n))).then(pl.format("{}: {}", pl.lit(n), detail(pl.col(n)))) for n in names)
    return RuleResult(hits, pl.coalesce(*details))
