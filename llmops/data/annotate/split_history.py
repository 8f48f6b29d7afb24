"""The split history: the examples that earlier runs tested and trained with. A run's split must respect them.

The ledger stores the entries of all runs. `SplitHistory` holds what a run has read of it: the entries of the runs
before. An example that was tested up to the run's interval stays in the test. An example never changes sides, whatever
the interval: a trained one is not tested, and one that a later interval tests is not trained, so that a backfill spoils
no test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol

import polars as pl

from llmops.config import Annotate
from llmops.data.work_tables import WorkTables, make_batches
from llmops.frame.records import Example

TRAIN, VALIDATION, TEST = "train", "validation", "test"
TEXT_SEPARATOR = "\n\x1e\n"  #: between the compared and the shown text of an example that a template made

_TESTED_FIELDS = ("id", "wording", "group", "compared", "documents", "interval")  #: fields in the table `tested`
_ENTRY_SCHEMA = {"id": pl.UInt64, "wording": pl.UInt64, "group": pl.UInt64, "test": pl.Boolean, "run": pl.UInt32}


class SplitEntry(NamedTuple):
    """An example that a run was the first to test, or to train or validate with."""

    run: int  #: number of the run that wrote it
    interval: str  #: interval of that run
    id: str  #: id of the example
    wording: str
    group: str
    split: str
    #: text by which near duplicates are found, or two texts joined by `TEXT_SEPARATOR`; `Ledger.read_entries` leaves it
    #: empty for examples that are not tested
    compared: str
    example: Example | None  #: the example, if it is tested
    documents: str  #: ids of its documents, separated by spaces; an erasure finds the entry by them


class Ledger(Protocol):
    """A reader of the entries of earlier runs, and a writer of this run's entries."""

    interval: str  #: interval of this run

    def read_entries(self) -> Iterable[SplitEntry]:
        """Return the entries of earlier runs, ordered by interval and run."""

    def read_trained_texts(self) -> Iterator[Sequence[str]]:
        """Yield the compared and the shown texts of all training and validation examples, in batches."""

    def write(self, entries: Iterable[SplitEntry]) -> None:
        """Write the new entries of this run."""


def hash_text(text: str) -> int:
    """Return a 64-bit hash of a text such as a wording or a group. Equal hashes are taken for equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def make_compared_sql(config: Annotate) -> str:
    """Return an SQL expression for the text by which a pair `p` is compared with the held-out items.

    The context is not compared: one page may be the context of many questions, and the test asks for answers from it.
    Two examples made by templates are compared by their row's values only, since the template's words are in every row.
    With any other example, the whole text of one made by a template is compared as it is shown (`make_shown_sql`).

    Unless groups are split, only the question is compared, because the answers may be known and only the wording must
    be new.
    """
    question, answer = (f"coalesce(p.{name}_values, p.{name})" for name in ("question", "answer"))
    return question if config.split_by != "group" else f"{question} || chr(10) || {answer}"


def make_shown_sql(config: Annotate) -> str:
    """Return an SQL expression for the compared text of a pair `p` as readers see it, without regard to templates."""
    return "p.question" if config.split_by != "group" else "p.question || chr(10) || p.answer"


@dataclass(slots=True)
class SplitHistory:
    """The entries of earlier runs as numbers: ids as integers, wordings and groups by `hash_text`.

    The texts of tested entries are in the table `tested` of the run's `WorkTables`, by their `number` here.
    """

    #: `id`, `wording` and `group` of every entry; flags `test` (a test item) and `so_far` (of an interval up to this
    #: run's); its `run`, numbered in reading order; its `interval`
    entries: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={**_ENTRY_SCHEMA, "so_far": pl.Boolean, "interval": pl.String})
    )

    @classmethod
    def read(cls, ledger: Ledger, tables: WorkTables) -> SplitHistory:
        """Return the entries of a ledger as numbers, and store the texts of tested ones in `tables`."""
        frames = [cls().entries]
        order: dict[int, int] = {}
        number = 0
        for batch in make_batches(ledger.read_entries()):
            rows = [
                (
                    int(e.id, 16),
                    hash_text(e.wording),
                    hash_text(e.group),
                    e.split == TEST,
                    order.setdefault(e.run, len(order)),
                )
                for e in batch
            ]
            frame = pl.DataFrame(rows, _ENTRY_SCHEMA, orient="row")
            intervals = pl.Series("interval", [e.interval for e in batch], dtype=pl.String)
            frames.append(frame.with_columns((intervals <= ledger.interval).alias("so_far"), intervals))
            tables.add(
                "tested",
                [
                    {
                        "number": number + index,
                        **{name: getattr(e, name) for name in _TESTED_FIELDS},
                        **{name: getattr(e.example, name) for name in ("source", "question", "answer")},
                        "example": json.dumps(asdict(e.example)) if e.example else None,
                    }
                    for index, e in enumerate(batch)
                    if e.split == TEST
                ],
            )
            number += len(batch)
        return cls(pl.concat(frames))

    @property
    def tested(self) -> pl.DataFrame:
        """Return the test so far, with `number`: the examples of each wording from the last run that wrote some.

        That run wrote all examples of the wording, because a run writes them all if one of them is new or gone
        (`select_new`).
        """
        so_far = self.entries.with_row_index("number").filter("test", "so_far")
        return so_far.filter(pl.col("run") == pl.col("run").max().over("wording"))

    @property
    def tested_groups(self) -> pl.Series:
        """Return the groups of all tested examples so far."""
        return self.entries.filter("test", "so_far")["group"].unique()

    @property
    def tested_later(self) -> pl.DataFrame:
        """Return the examples that later intervals test."""
        return self.entries.filter(pl.col("test") & ~pl.col("so_far"))

    @property
    def trained(self) -> pl.DataFrame:
        """Return the training and validation examples of all intervals."""
        return self.entries.filter(~pl.col("test"))

    @property
    def first_intervals(self) -> pl.DataFrame:
        """Return the `id` of each example and the first `interval` that made it."""
        return self.entries.filter("so_far").unique("id", keep="first", maintain_order=True).select("id", "interval")

    @property
    def ever_tested(self) -> pl.DataFrame:
        """Return `id` and last `number` of every example that any interval has tested, even of one that has changed."""
        last = pl.col("number").last()
        return self.entries.with_row_index("number").filter("test").group_by("id", maintain_order=True).agg(last)

    def find_unreplaced(self, items: pl.DataFrame, tables: WorkTables) -> pl.Series:
        """Return the numbers of tested examples whose own source gives no test item with their wording in this run.

        An item of another source replaces none, because that source may answer the question differently. `items` are
        the test items of this run, with their `row`.
        """
        tables.replace("tested_now", items.select("row").to_arrow())
        replaced = "SELECT wording, source FROM qa_pairs JOIN tested_now USING (row)"
        unreplaced = tables.read_frame(f"SELECT number FROM tested ANTI JOIN ({replaced}) USING (wording, source)")
        return self.tested.join(unreplaced.cast(pl.UInt32), "number", "semi", maintain_order="left")["number"]

    def read_tested_entries(self, numbers: pl.Series, tables: WorkTables) -> Iterator[SplitEntry]:
        """Yield the tested entries with these numbers in the order of their wordings."""
        tables.replace("wanted", numbers.rename("number").to_frame().to_arrow())
        query = """
            SELECT tested.*, r.rank FROM tested
            JOIN (SELECT number, row_number() OVER (ORDER BY wording, number) - 1 AS rank
                  FROM (SELECT number, wording FROM tested JOIN wanted USING (number))) r USING (number)"""
        for row in tables.read_ranked_rows(query, len(numbers)):
            known = {name: row[name] for name in _TESTED_FIELDS}
            yield SplitEntry(run=0, split=TEST, example=Example(**json.loads(row["example"])), **known)

    def select_new(self, items: pl.DataFrame) -> pl.DataFrame:
        """Return the items of `split_items` that are new in a run.

        These are the examples that it trains or validates with for the first time, and all examples of each tested
        question that is new or has other examples than before.
        """
        known, same = self.trained.filter("so_far"), ["wording", "id", "group"]
        trained = items.filter(pl.col("split") != TEST).join(known, ["id", "group"], "anti", maintain_order="left")
        tested = items.filter(pl.col("split") == TEST)
        changed = [tested.join(self.tested, same, "anti")["wording"], self.tested.join(tested, same, "anti")["wording"]]
        return pl.concat([trained, tested.filter(pl.col("wording").is_in(pl.concat(changed).unique().implode()))])
