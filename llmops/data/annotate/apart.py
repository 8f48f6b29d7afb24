"""What keeps the test apart from training by its texts: near twins train with nothing that is held out.

The texts stay in the tables of the run (`work`); what is compared is some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.candidates import drop_rows
from llmops.data.annotate.decontaminate import in_batches, overlaps_of, same_words
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Ledger, Past, compared, shown_text
from llmops.data.annotate.split import SPLIT
from llmops.data.feedback.documents import LOCATION
from llmops.data.worktables import BATCH, WorkTables
from llmops.records import KEY

_TOLD = f"location = '{LOCATION}' AND starts_with(position, '{KEY}')"  #: as `is_said`, in SQL
_QUESTION = "c.question"
_FROM = {"row": "candidates", "number": "tested"}  #: where an example is that has such a key


def too_near(keys: pl.DataFrame, work: WorkTables, config: Annotate, past: Past, ledger: Ledger) -> pl.Series:
    """Wordings that no run knows and users ask, which are near twins of what has been trained on, or of what others ask
    now: so that they cannot be the ones of a topic that are tested.

    Args:
        keys: of the candidates, as `Candidates.keys`.
        work: the tables.
        config: the section.
        past: what earlier runs used.
        ledger: what they trained.
    """
    known = pl.concat([some["wording"] for some in (past.tested, past.later, past.used)])
    new = keys.filter("said", "testable", ~pl.col("wording").is_in(known.unique().implode()))
    refused = set(_refused(new.select("row"), ledger.trained(), work, config))
    if len(new):
        asked = _texts(keys.filter(~pl.col("said"))["row"], work, _QUESTION)
        refused |= {new["row"][at] for at in overlaps_of(partial(_texts, new["row"], work, _QUESTION), asked)}
    return new.filter(pl.col("row").is_in(list(refused)))["wording"].unique()


def admitted(items: pl.DataFrame, work: WorkTables, config: Annotate, past: Past, ledger: Ledger) -> pl.DataFrame:
    """The items without those that would be new in the test, but are near twins of what has been trained on."""
    tested = items.filter(pl.col("split") == TEST)
    new = tested.join(past.tested, ["wording", "id"], "anti", maintain_order="left").select("row")
    refused = _refused(new, ledger.trained(), work, config)
    details = [f"shares {shared}, with what has been trained on, so it cannot be tested" for shared in refused.values()]
    return _without(items, list(refused), "trained_before", details, work)


def _refused(
    left: pl.DataFrame, trained: Iterator[Sequence[str]], work: WorkTables, config: Annotate
) -> dict[int, str]:
    """Those of some rows that are near twins of what has been trained on, and what they share with it.

    The first line of what was trained on is its question, and what users ask is compared with that by itself, too.
    """
    refused: dict[int, str] = {}
    for texts in trained if len(left) else ():
        made, told = _rendered(left, work, config)["row"], _told(left, work)["row"]
        same = same_words(_texts(made, work, shown_text(config)), in_batches(texts))
        close = overlaps_of(partial(_texts, left["row"], work, compared(config)), in_batches(texts))
        questions = in_batches([text.partition("\n")[0] for text in texts]) if len(told) else ()
        asked = overlaps_of(partial(_texts, told, work, _QUESTION), questions)
        for rows, hits in ((made, same), (left["row"], close), (told, asked)):
            refused |= {rows[index]: shared for index, (_, shared) in hits.items()}
        left = left.filter(~pl.col("row").is_in(list(refused)))
    return refused


def decontaminated(items: pl.DataFrame, work: WorkTables, config: Annotate, past: Past) -> pl.DataFrame:
    """The items without those that would give others away, which are dropped.

    Validation loses what is too close to the test, to what it was before, or to what later intervals test; training
    loses that, and what is too close to validation. What users said is close to others by its answer, too. Where it is
    itself held out, only its question is, and others give way that ask nearly the same; its answer takes none out.
    """
    shown = shown_text(config)
    now = items.filter(pl.col("split") == TEST)["id"]
    versions = past.versions.filter(~pl.col("id").is_in(now.implode()))
    for split, others in ((VALIDATION, (TEST,)), (TRAIN, (TEST, VALIDATION))):
        held = [items.filter(pl.col("split") == other).select("id", "row", "split") for other in others]
        names = pl.concat([*held, versions.with_columns(split=pl.lit(TEST, SPLIT))], how="diagonal")
        rows = items.filter(pl.col("split") == split).select("row")
        asked, made = _told(names, work), _rendered(_told(names, work, keep=False), work, config)
        texts = chain(_compared(names, work, config), _of_all(made, work, shown))
        close = overlaps_of(partial(_texts, rows["row"], work, compared(config)), texts)
        found = {rows["row"][index]: hit for index, hit in close.items()}
        told = _told(rows, work)["row"]
        close = overlaps_of(partial(_texts, told, work, shown), _compared(names, work, config))
        found = {told[index]: hit for index, hit in close.items()} | found
        rendered = _rendered(rows, work, config)
        if len(rendered):
            same = same_words(_texts(rendered["row"], work, shown), _of_all(names, work, shown))
            found = {rendered["row"][index]: hit for index, hit in same.items()} | found
        if len(asked):
            before = len(names) + len(made)
            plain = rows.join(rendered, "row", "anti", maintain_order="left")["row"]
            close = overlaps_of(partial(_texts, plain, work, _QUESTION), _of_all(asked, work, _QUESTION))
            same = same_words(_texts(rendered["row"], work, _QUESTION), _of_all(asked, work, _QUESTION))
            for some, hits in ((plain, close), (rendered["row"], same)):
                found = {some[at]: (before + other, shared) for at, (other, shared) in hits.items()} | found
        names, details = pl.concat([names, made, asked]).select("split", "id"), []
        for other, shared in found.values():
            details.append("shares {}, with the {} item {:016x}".format(shared, *names.row(other)))
        items = _without(items, [*found], "contaminated", details, work)
    return items


def _rendered(some: pl.DataFrame, work: WorkTables, config: Annotate) -> pl.DataFrame:
    """Those of some examples that a template made: what is compared of them is not what they show.

    Args:
        some: each with its `row` among the candidates, or its `number` among the tested of earlier runs.
        work: the tables.
        config: the section.
    """
    for name in _FROM.keys() & set(some.columns):
        work.replace("these", some.select(name).drop_nulls().to_arrow())
        query = f"SELECT {name} FROM {_FROM[name]} c JOIN these USING ({name})"
        same = work.frame(f"{query} WHERE rtrim({_of(name, config)}, chr(10)) = rtrim({shown_text(config)}, chr(10))")
        some = some.join(same.cast({name: some[name].dtype}), name, "anti", maintain_order="left")
    return some


def _told(some: pl.DataFrame, work: WorkTables, *, keep: bool = True) -> pl.DataFrame:
    """Those of some examples, each as in `_rendered`, that are what users have said, or all but those."""
    for name in _FROM.keys() & set(some.columns):
        told = work.frame(f"SELECT {name} FROM {_FROM[name]} WHERE {_TOLD}")[name].cast(some[name].dtype).implode()
        some = some.filter(pl.col(name).is_in(told).fill_null(keep) == keep)
    return some


def _compared(some: pl.DataFrame, work: WorkTables, config: Annotate) -> Iterator[pl.Series]:
    """The texts by which examples as in `_rendered` are compared: those with a row, then those with a number."""
    for name in _FROM:
        yield from _texts(some[name].drop_nulls(), work, _of(name, config))


def _of_all(some: pl.DataFrame, work: WorkTables, text: str) -> Iterator[pl.Series]:
    """Texts of examples as in `_rendered`, in the same order; `text` is SQL."""
    for name in _FROM:
        yield from _texts(some[name].drop_nulls(), work, text)


def _texts(keys: pl.Series, work: WorkTables, text: str) -> Iterator[pl.Series]:
    """Texts of examples in the order of `keys`, rows or numbers; `text` is SQL."""
    name = keys.name
    ranks = pl.DataFrame({name: keys, "rank": range(len(keys))}, {"rank": pl.Int64, name: keys.dtype})
    work.replace("ranks", ranks.to_arrow())
    for texts in work.ranked(f"SELECT {text} AS text, rank FROM {_FROM[name]} c JOIN ranks USING ({name})", len(keys)):
        for start in range(0, len(texts), BATCH):
            yield pl.Series("text", texts["text"][start : start + BATCH])


def _of(name: str, config: Annotate) -> str:
    return compared(config) if name == "row" else "c.compared"


def _without(items: pl.DataFrame, rows: list[int], rule: str, details: list[str], work: WorkTables) -> pl.DataFrame:
    """The items without some, which are dropped."""
    columns = {"row": pl.Series(rows, dtype=pl.Int64), "detail": pl.Series(details, dtype=pl.String)}
    drop_rows(pl.DataFrame(columns).with_columns(rule=pl.lit(rule), twin=pl.lit(None, pl.Int64)), work)
    return items.filter(~pl.col("row").is_in(columns["row"].implode()))
