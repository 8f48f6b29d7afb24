"""What cleaning does to a text, and the rules that drop a document: functions on Spark columns.

A rule returns a column that says what is wrong with the row, null if nothing is. `RULES` is a list of early returns:
the first that speaks decides. Only Unicode normalisation, mojibake and HTML entities go through Python, Arrow batch by
Arrow batch, since Spark has no function for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import pandas as pd
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import MapType, StringType

from llmops.config import Clean
from llmops.data.repair import repair, repair_fields

Rule = Callable[[Clean], Column]

LINE = ("question", "same_as", "group")  #: columns that are one line
PROSE = ("answer", "context", "text")  #: columns that keep their lines
JUDGED = ("question", "answer", "text")  #: columns that must be worth learning from, if they are there

# Control, format, private-use and unassigned characters. The two joiners (U+200C, U+200D) are kept where they belong to
# the spelling or the emoji, which is after a character outside ASCII.
_INVISIBLE = r"[\p{Cc}\p{Cf}\p{Co}\p{Cn}&&[^\n\t\x{200C}\x{200D}]]|(?<![^\x00-\x7F])[\x{200C}\x{200D}]"
_SYMBOL = r"[^\p{L}\p{M}\p{N}\s]"


def _repaired(batch: pd.Series) -> pd.Series:
    return batch.map(repair)


def _repaired_fields(batch: pd.Series) -> pd.Series:
    return batch.map(repair_fields)


def cleaned(config: Clean) -> dict[str, Column]:
    """Column name → its cleaned value, for all columns that hold text."""
    repaired = pandas_udf(_repaired, StringType())  # type: ignore[call-overload]
    repaired_fields = pandas_udf(_repaired_fields, StringType())  # type: ignore[call-overload]
    out = {name: tidy(repaired(F.col(name)), name in LINE, config) for name in (*LINE, *PROSE)}
    fields = F.from_json(repaired_fields(F.col("fields")), MapType(StringType(), StringType()))
    out["fields"] = F.to_json(F.transform_values(fields, lambda _, value: tidy(value, False, config)))
    return out


def tidy(text: Column, one_line: bool, config: Clean) -> Column:
    """Without invisible characters and superfluous white space; with `classic`, letters and digits in lower case."""
    text = F.regexp_replace(text, r"\r\n?|[\x{2028}\x{2029}\x{0085}]", "\n")
    text = F.regexp_replace(text, _INVISIBLE, "")
    if config.classic:
        text = F.regexp_replace(F.lower(text), _SYMBOL, "")
    text = F.regexp_replace(text, r"[^\S\n]+", " ")
    text = F.regexp_replace(text, r" ?\n ?", "\n")
    text = F.regexp_replace(text, r"\n+", " ") if one_line else F.regexp_replace(text, r"\n{3,}", "\n\n")
    return F.regexp_replace(text, r"^\s+|\s+$", "")


def missing(config: Clean) -> Column:
    """A question with nothing to answer it, an answer without a question, or nothing at all."""
    values = F.map_values(F.from_json("fields", MapType(StringType(), StringType())))
    material = (F.col("text") != "") | F.exists(values, lambda value: value != "")
    answered = (F.col("answer") != "") | (F.col("same_as") != "")
    return (
        F.when(material | ((F.col("question") != "") & answered), None)
        .when(F.col("question") != "", F.lit("a question without an answer"))
        .when(F.col("answer") != "", F.lit("an answer without a question"))
        .otherwise(F.lit("no text at all"))
    )


def too_short(config: Clean) -> Column:
    """A question, answer or text of fewer than `min_chars` characters."""
    return _first(
        JUDGED,
        lambda c: F.length(c).between(1, config.min_chars - 1),
        lambda c: F.format_string(f"%d characters, fewer than {config.min_chars}", F.length(c)),
    )


def too_long(config: Clean) -> Column:
    """A question, answer, context or text of more than `max_chars` characters."""
    return _first(
        (*JUDGED, "context"),
        lambda c: F.length(c) > config.max_chars,
        lambda c: F.format_string(f"%d characters, more than {config.max_chars}", F.length(c)),
    )


def symbols(config: Clean) -> Column:
    """A question, answer or text that is mostly neither letters, digits nor spaces."""

    def share(column: Column) -> Column:
        return 1 - F.length(F.regexp_replace(column, _SYMBOL, "")) / F.length(column)

    return _first(
        JUDGED,
        lambda c: (F.length(c) > 0) & (share(c) > config.max_symbol_ratio),
        lambda c: F.format_string(f"%.0f %% symbols, more than {config.max_symbol_ratio * 100:.0f} %%", share(c) * 100),
    )


RULES: tuple[tuple[str, Rule], ...] = (
    ("missing", missing),
    ("too_short", too_short),
    ("too_long", too_long),
    ("symbols", symbols),
)


def verdict(config: Clean) -> Column:
    """A struct of `rule` and `detail` from the first rule that speaks; null for a document to keep."""
    spoken = []
    for name, rule in RULES:
        detail = rule(config)
        spoken.append(F.when(detail.isNotNull(), F.struct(F.lit(name).alias("rule"), detail.alias("detail"))))
    return F.coalesce(*spoken)


def same() -> Column:
    """A key that two documents share if they say the same, upper case and white space aside."""
    parts = ("question", "answer", "context", "same_as", "text", "fields")
    plain = [F.regexp_replace(F.lower(F.col(part)), r"\s+", " ") for part in parts]
    return F.sha2(F.to_json(F.array(*plain)), 256)


def _first(names: tuple[str, ...], hit: Callable[[Column], Column], detail: Callable[[Column], Column]) -> Column:
    """For the first of the columns that is hit: its name and the detail."""
    chain = [F.when(hit(F.col(n)), F.concat(F.lit(f"{n}: "), detail(F.col(n)))) for n in names]
    return reduce(lambda a, b: F.coalesce(a, b), chain)
