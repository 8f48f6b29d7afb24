"""The examples that earlier runs tested and trained with, which bind the split of a run.

A run reads the entries of the runs before it. An example that was tested up to the run's interval stays in the test. An
example never changes sides, whatever the interval: a trained one is not tested, and one that a later interval tests is
not trained, so that a backfill spoils no test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol

import polars as pl

from llmops.config import Annotate
from llmops.data.worktables import WorkTables, batched
from llmops.frame.records import Example

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SHOWN = "\n\x1e\n"  #: between the compared and the shown text of an example that a template made


class Entry(NamedTuple):
    """An example that a run was the first to test, or to train or validate with."""

    run: int  #: number of the run that wrote it
    interval: str  #: of that run
    id: str  #: of the example
    wording: str
    group: str
    split: str
    #: by which near twins are found, maybe two, see `SHOWN`; empty where `Ledger.entries` gives it of no tested example
    compared: str
    example: Example | None  #: if it is tested
    documents: str  #: ids of the documents that it was made of, with spaces between: by these an erasure finds it


class Ledger(Protocol):
    """A reader of the entries of earlier runs, and a writer of this run's entries."""

    interval: str  #: of this run

    def entries(self) -> Iterable[Entry]:
        """Return the entries of earlier runs, ordered by interval and run."""

    def trained(self) -> Iterator[Sequence[str]]:
        """Yield the compared and the shown texts of all training and validation examples, in batches."""

    def write(self, entries: Iterable[Entry]) -> None:
        """Write the new entries of this run."""


def key(text: str) -> int:
    """Return a hash of 64 bits for a text such as a wording or a group. Equal hashes are taken for equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def compared(config: Annotate) -> str:
    """Return SQL of the text by which an example is compared with the held-out items.

    The context is not compared: one page may be the context of many questions, and the test asks for answers from it.
    If a template made the example, only the row's values are compared, since the template's words are in every row;
    with other examples its shown text is compared (`shown_text`). If wordings are split, only the question is compared,
    because the answers may be known and only the wording must be new.
    """
    question, answer = (f"coalesce(c.own_{name}, c.{name})" for name in ("question", "answer"))
    return question if config.split_by == "wording" else f"{question} || chr(10) || {answer}"


def shown_text(config: Annotate) -> str:
    """Return SQL of the compared text of an example that no template made."""
    return "c.question" if config.split_by == "wording" else "c.question || chr(10) || c.answer"


_TESTED = ("id", "wording", "group", "compared", "documents", "interval")  #: of an entry, in the table `tested`
_ENTRIES = {"id": pl.UInt64, "wording": pl.UInt64, "group": pl.UInt64, "test": pl.Boolean, "run": pl.UInt32}


@dataclass(slots=True)
class Past:
    """The entries of earlier runs as numbers: ids as integers, wordings and groups by `key`.

    The texts of tested entries are in the table `tested` of the run's `WorkTables`, by their `number` here.
    """

    #: `id`, `wording` and `group` of every entry, whether it is a `test` item, whether it is `so_far`, from an interval
    #: up to this run's, and its `run`, counted in their order
    entries: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={**_ENTRIES, "so_far": pl.Boolean, "interval": pl.String})
    )

    @classmethod
    def of(cls, ledger: Ledger, work: WorkTables) -> Past:
        """Read a ledger and return its entries as numbers."""
        frames = [cls().entries]
        order: dict[int, int] = {}
        number = 0
        for some in batched(ledger.entries()):
            rows = [
                (int(e.id, 16), key(e.wording), key(e.group), e.split == TEST, order.setdefault(e.run, len(order)))
                for e in some
            ]
            frame = pl.DataFrame(rows, _ENTRIES, orient="row")
            intervals = pl.Series("interval", [e.interval for e in some], dtype=pl.String)
            frames.append(frame.with_columns((intervals <= ledger.interval).alias("so_far"), intervals))
            work.add(
                "tested",
                [
                    {
                        "number": number + at,
                        **{name: getattr(e, name) for name in _TESTED},
                        **{name: getattr(e.example, name) for name in ("source", "question", "answer")},
                        "example": json.dumps(asdict(e.example)) if e.example else None,
                    }
                    for at, e in enumerate(some)
                    if e.split == TEST
                ],
            )
            number += len(some)
        return cls(pl.concat(frames))

    def after(self, new: pl.DataFrame, run: int) -> Past:
        """Return these entries and a run's items, which have `id`, `wording`, `group`, `split` and `interval`."""
        added = new.select(
            "id", "wording", "group", (pl.col("split") == TEST).alias("test"), pl.lit(run, pl.UInt32).alias("run"),
            pl.lit(True).alias("so_far"), "interval",
        )  # fmt: skip
        return Past(pl.concat([self.entries, added]))

    @property
    def tested(self) -> pl.DataFrame:
        """Return the test so far: the examples of each wording from the last run that changed them, with `number`."""
        so_far = self.entries.with_row_index("number").filter("test", "so_far")
        return so_far.filter(pl.col("run") == pl.col("run").max().over("wording"))

    @property
    def tested_groups(self) -> pl.Series:
        """Return the groups of all tested examples so far."""
        return self.entries.filter("test", "so_far")["group"].unique()

    @property
    def later(self) -> pl.DataFrame:
        """Return the examples that later intervals test."""
        return self.entries.filter(pl.col("test") & ~pl.col("so_far"))

    @property
    def used(self) -> pl.DataFrame:
        """Return the training and validation examples of all intervals."""
        return self.entries.filter(~pl.col("test"))

    @property
    def since(self) -> pl.DataFrame:
        """Return the `id` of each example and the first `interval` that made it."""
        return self.entries.filter("so_far").unique("id", keep="first", maintain_order=True).select("id", "interval")

    @property
    def versions(self) -> pl.DataFrame:
        """Return `id` and last `number` of all examples that any interval has tested, including older contents."""
        last = pl.col("number").last()
        return self.entries.with_row_index("number").filter("test").group_by("id", maintain_order=True).agg(last)

    def left(self, tested: pl.DataFrame, work: WorkTables) -> pl.Series:
        """Return the numbers of tested examples that nothing replaces, since no source asks their question now.

        `tested` are the candidates that are tested now, with their `row`.
        """
        work.replace("today", tested.select("row").to_arrow())
        asked = "SELECT wording, source FROM candidates JOIN today USING (row)"
        left = work.frame(f"SELECT number FROM tested ANTI JOIN ({asked}) USING (wording, source)")
        return self.tested.join(left.cast(pl.UInt32), "number", "semi", maintain_order="left")["number"]

    def tested_entries(self, numbers: pl.Series, work: WorkTables) -> Iterator[Entry]:
        """Yield the tested entries with these numbers in the order of their wordings."""
        work.replace("old", numbers.rename("number").to_frame().to_arrow())
        query = """
            SELECT tested.*, r.rank FROM tested
            JOIN (SELECT number, row_number() OVER (ORDER BY wording, number) - 1 AS rank
                  FROM (SELECT number, wording FROM tested JOIN old USING (number))) r USING (number)"""
        for row in work.ranked_rows(query, len(numbers)):
            known = {name: row[name] for name in _TESTED}
            yield Entry(run=0, split=TEST, example=Example(**json.loads(row["example"])), **known)

    def new(self, items: pl.DataFrame) -> pl.DataFrame:
        """Return those of the `split_items` that are new in a run.

        These are the examples that it trains or validates with for the first time, and all examples of each tested
        question that is new or has other examples than before.
        """
        known, same = self.used.filter("so_far"), ["wording", "id", "group"]
        used = items.filter(pl.col("split") != TEST).join(known, ["id", "group"], "anti", maintain_order="left")
        tested = items.filter(pl.col("split") == TEST)
        changed = [tested.join(self.tested, same, "anti")["wording"], self.tested.join(tested, same, "anti")["wording"]]
        return pl.concat([used, tested.filter(pl.col("wording").is_in(pl.concat(changed).unique().implode()))])
