"""Tidying of texts, and the rules that drop documents: functions on Polars columns.

They run on Spark's workers, one Arrow batch at a time. Spark's string functions would take ten times as long: one
`regexp_replace` in the JVM costs about as much as everything here.

A rule returns which rows it drops and why. The rules are tried in the order of `RULES`; the first that hits decides. To
add one, write such a function and append it. The function's name is stored as the rule's name in the dropped documents;
hence nouns and adjectives, not verbs.
"""

from collections.abc import Callable
from functools import reduce
from operator import or_
from textwrap import dedent
from typing import NamedTuple

import polars as pl

from llmops.config import Clean
from llmops.data.clean.repair import ENTITY, map_selected, repair_texts
from llmops.data.text.duplicate_lines import MAX_DUPLICATE_LINES, MIN_LINES, compute_duplicate_line_share
from llmops.data.text.language import UNKNOWN, detect_language
from llmops.data.text.ngrams import split_texts
from llmops.data.text.running_text import select_running_text
from llmops.data.text.words import UNSPACED


class RuleResult(NamedTuple):
    """The result of a rule for every row."""

    hit: pl.Expr  #: True if the row is dropped
    detail: pl.Expr  #: the reason, in words; only evaluated for dropped rows


Rule = Callable[[Clean], RuleResult]

LINE_COLUMNS = ("question", "same_as", "group")  #: columns of one line
PROSE_COLUMNS = ("answer", "context", "text")  #: columns that keep their lines
JUDGED_COLUMNS = ("question", "answer", "text")  #: columns that are judged, if not empty
HAS_FIELDS = "has_fields"  #: column that is True if any field of a structured row has a value

# A text without a match is tidy already. Most are, and this check takes a sixth of the time of tidying.
_UNTIDY = rf"[^ -~\n\t]|{ENTITY}|[ \t]\n|\n{{4}}|^\s|\s$|^[^\n]*(?:  |\t)[^\n]*$"
_UNTIDY_LINE = rf"[^ -~]|{ENTITY}|  |^ | $"
_SYMBOL = r"[^\p{L}\p{M}\p{N}\s]"

# Least share of distinct words in a text. English prose of 100 words has 60 to 70 distinct ones.
MIN_DISTINCT_WORDS = 0.2
REPETITION_WORDS = (20, 1000)  #: length of judged texts: shorter ones repeat by chance, longer ones have few new words


def tidy_texts(texts: pl.Series, one_line: bool) -> pl.Series:
    """Repair texts and remove superfluous white space.

    With `one_line`, all white space becomes single spaces. Otherwise the layout stays, including indentation, and
    these are removed: the common margin, blank lines around the text, more than two consecutive blank lines, spaces at
    line ends, and double spaces and tabs in a text of a single line. Spaces of other widths become ordinary ones,
    except the ideographic space.
    """
    rows = texts.str.contains(_UNTIDY_LINE if one_line else _UNTIDY).arg_true()
    # A copy, because `scatter` changes the column that it is called on.
    return texts.clone().scatter(rows, _tidy_all(texts.gather(rows), one_line)) if len(rows) else texts


def _tidy_all(texts: pl.Series, one_line: bool) -> pl.Series:
    out = repair_texts(texts)
    if one_line:
        return out.str.replace_all(r"\s+", " ").str.strip_chars(" ")
    out = out.str.replace_all(r"\r\n?|[\x0B\x0C\x{85}\x{2028}\x{2029}]", "\n")
    out = out.str.replace_all(r"[\s--[\n\t \x{3000}]]", " ").str.replace_all(r"[^\S\n]+\n", "\n")
    out = out.str.replace_all(r"\n{4,}", "\n\n\n").str.strip_chars("\n").str.strip_chars_end()
    out = map_selected(out, out.str.contains(r"^[ \t]"), dedent)
    has_lines = out.str.contains("\n", literal=True)
    return out.zip_with(has_lines, out.str.replace_all(r"[ \t]*\t[ \t]*|  +", " ").str.strip_chars())


def missing(config: Clean) -> RuleResult:
    """Drop a question without an answer, an answer without a question, and empty documents."""
    question, answer = pl.col("question") != "", pl.col("answer") != ""
    answered = answer | (pl.col("same_as") != "")  # a paraphrase has the answer of another question
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
    """Drop a question, answer or text of fewer than `min_chars` characters."""
    return _combine_columns(
        JUDGED_COLUMNS,
        lambda c: c.str.len_chars().is_between(1, config.min_chars - 1),
        lambda c: pl.format("{} characters, fewer than {}", c.str.len_chars(), config.min_chars),
    )


def too_long(config: Clean) -> RuleResult:
    """Drop a question, answer, context or text of more than `max_chars` characters."""
    return _combine_columns(
        (*JUDGED_COLUMNS, "context"),
        lambda c: c.str.len_chars() > config.max_chars,
        lambda c: pl.format("{} characters, more than {}", c.str.len_chars(), config.max_chars),
    )


def symbols(config: Clean) -> RuleResult:
    """Drop a question, answer or text that is mostly symbols: neither letters, digits nor spaces."""

    def compute_share(column: pl.Expr) -> pl.Expr:
        return column.str.count_matches(_SYMBOL) / column.str.len_chars()  # NaN for "", which exceeds no limit

    limit = f"{config.max_symbol_ratio * 100:.0f}"
    return _combine_columns(
        JUDGED_COLUMNS,
        lambda c: (c != "") & (compute_share(c) > config.max_symbol_ratio),
        lambda c: pl.format(
            "{} % symbols, more than {} %", (compute_share(c) * 100).round(0).cast(pl.Int32), pl.lit(limit)
        ),
    )


def repetition(config: Clean) -> RuleResult:
    """Drop a document whose answer, context or text repeats the same line or the same few words."""

    def compute_line_share(column: pl.Expr) -> pl.Expr:
        return column.map_batches(_compute_duplicate_line_shares, return_dtype=pl.Float64)

    def compute_word_share(column: pl.Expr) -> pl.Expr:
        return column.map_batches(_compute_prose_word_shares, return_dtype=pl.Float64)

    return _combine_columns(
        PROSE_COLUMNS,
        lambda c: (compute_line_share(c) > MAX_DUPLICATE_LINES) | (compute_word_share(c) < MIN_DISTINCT_WORDS),
        lambda c: (
            pl.when(compute_line_share(c) > MAX_DUPLICATE_LINES)
            .then(pl.format("{} % of its lines are duplicates", (compute_line_share(c) * 100).round(0).cast(pl.Int32)))
            .otherwise(
                pl.format("only {} % of its words are different", (compute_word_share(c) * 100).round(0).cast(pl.Int32))
            )
        ),
    )


def _compute_duplicate_line_shares(texts: pl.Series) -> pl.Series:
    """Return the share of repeated lines of each text; null for texts with fewer than `MIN_LINES` lines."""
    rows = (texts.str.count_matches("\n", literal=True) >= MIN_LINES - 1).arg_true()
    out = pl.repeat(None, len(texts), dtype=pl.Float64, eager=True)
    if not len(rows):
        return out
    return out.scatter(rows, pl.Series(map(compute_duplicate_line_share, texts.gather(rows)), dtype=pl.Float64))


def _compute_prose_word_shares(texts: pl.Series) -> pl.Series:
    """Return the share of distinct words in each text, as `_compute_distinct_word_shares` does.

    If the share is low, it is computed again without code and tables, which repeat words naturally.
    """
    out = _compute_distinct_word_shares(texts)
    low = (out < MIN_DISTINCT_WORDS).arg_true()
    if not len(low):
        return out
    running = pl.Series(map(select_running_text, texts.gather(low)), dtype=pl.String)
    return out.scatter(low, _compute_distinct_word_shares(running))


def _compute_distinct_word_shares(texts: pl.Series) -> pl.Series:
    """Return the share of distinct words in each text; null for a text that is not judged.

    Texts with fewer or more words than `REPETITION_WORDS` are not judged. To save time, neither are texts whose first
    third has enough distinct words for the whole text (not counting its last word, which may be cut).
    """

    def count_distinct(some: pl.Series) -> pl.Series:
        return some.str.to_lowercase().str.split(" ").list.n_unique()

    texts = _separate_words(texts)
    count = texts.str.count_matches("[ ]") + 1  # twice as fast as a literal
    rows = count.is_between(*REPETITION_WORDS).arg_true()
    some, count = texts.gather(rows), count.gather(rows)
    varied = count_distinct(some.str.head(some.str.len_chars() // 3)) > MIN_DISTINCT_WORDS * count + 1
    left = (~varied).arg_true()
    out = pl.repeat(None, len(texts), dtype=pl.Float64, eager=True)
    return out.scatter(rows.gather(left), count_distinct(some.gather(left)) / count.gather(left)) if len(left) else out


def _separate_words(texts: pl.Series) -> pl.Series:
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    rows = rows.gather(texts.gather(rows).str.contains(UNSPACED).arg_true())
    if len(rows):
        texts = texts.clone().scatter(
            rows, split_texts(texts.gather(rows)).list.join(" ")
        )  # `scatter` changes its column
    gaps = (texts.str.contains(gap, literal=True) for gap in ("\n", "\t", "  "))
    rows = (reduce(or_, gaps) | texts.str.starts_with(" ") | texts.str.ends_with(" ")).arg_true()
    if not len(rows):
        return texts
    return texts.clone().scatter(rows, texts.gather(rows).str.replace_all(r"[ \n\t]+", " ").str.strip_chars(" "))


def language(config: Clean) -> RuleResult:
    """Drop a document in a language that is not in `languages`, if its text is long enough to tell."""
    if not config.languages:
        return RuleResult(pl.lit(False), pl.lit(""))
    found = pl.concat_str(JUDGED_COLUMNS, separator=" ").map_batches(_detect_languages, return_dtype=pl.String)
    wanted = ", ".join(config.languages)
    return RuleResult(
        ~found.is_in([*config.languages, UNKNOWN]), pl.format("it is in {}, not in {}", found, pl.lit(wanted))
    )


def _detect_languages(texts: pl.Series) -> pl.Series:
    return pl.Series(map(detect_language, texts), dtype=pl.String)


RULES: tuple[Rule, ...] = (missing, too_short, too_long, symbols, repetition, language)


def apply_rules(documents: pl.DataFrame, config: Clean) -> pl.DataFrame:
    """Add the columns `rule` and `detail` of the first rule that hits; null for a document to keep."""
    results = {rule.__name__: rule(config) for rule in RULES}
    rule = pl.coalesce(*(pl.when(v.hit).then(pl.lit(name)) for name, v in results.items()))
    judged = documents.with_columns(rule.alias("rule"))
    rows = judged["rule"].is_not_null().arg_true()
    details = pl.coalesce(*(pl.when(pl.col("rule") == name).then(v.detail) for name, v in results.items()))
    detail = pl.repeat(None, len(judged), dtype=pl.String, eager=True)
    if len(rows):
        detail = detail.scatter(rows, judged[rows].select(details.alias("detail"))["detail"])
    return judged.with_columns(detail.alias("detail"))


def _combine_columns(
    names: tuple[str, ...], hit: Callable[[pl.Expr], pl.Expr], detail: Callable[[pl.Expr], pl.Expr]
) -> RuleResult:
    """Return the result of a rule that drops a row if any column is hit. The detail names the first one."""
    hits = reduce(or_, (hit(pl.col(n)) for n in names))
    details = (pl.when(hit(pl.col(n))).then(pl.format("{}: {}", pl.lit(n), detail(pl.col(n)))) for n in names)
    return RuleResult(hits, pl.coalesce(*details))
