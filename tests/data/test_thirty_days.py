"""Thirty days of the example, run daily, with edits, late rows, a twin and a customer who is forgotten.

Every document is there exactly once, the frozen test is intact, a day without change makes nothing behind collect, and
the disk stays bounded.
"""

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from llmops import config
from llmops.config import Config
from llmops.data.text.normalization import hash_wording
from llmops.frame import intervals
from llmops.frame.records import Document, DroppedRow, Example, read_rows
from llmops.pipeline import pipeline
from llmops.privacy.erasure.forget import forget_person
from llmops.privacy.retention import disk
from llmops.privacy.retention.gc import collect_garbage
from tests.data.annotate.test_decontaminate import find_overlaps

EXAMPLE = Path(__file__).parents[2] / "examples/support_bot"
FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(30)]
STAGES = ("collect", "clean", "index", "annotate")
ANNA = "anna.lind@example.com"
TWIN = "Hello there, a question: how do I store a tent over the winter without it getting mouldy?"


class Shop:
    """A copy of the example, which people change, and its home."""

    def __init__(self, folder: Path) -> None:
        self.sources = Path(shutil.copytree(EXAMPLE / "sources", folder / "sources"))
        shutil.copy(EXAMPLE / "config.yaml", folder)
        self.home = folder / "home"
        overrides = {"annotate": {"min_test_items": 20}, "retention": {"runs": 2, "days": 3}}
        self.config: Config = config.load(folder / "config.yaml", overrides, {"LLMOPS_HOME": str(self.home)})
        self.built: Counter[str] = Counter()

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.sources / name
        text = path.read_text(encoding="cp1252")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="cp1252")

    def order(self, number: str, day: str) -> None:
        with sqlite3.connect(self.sources / "shop.db") as database:
            database.execute("INSERT INTO orders VALUES (?, 'C2048', ?, 'shipped', ?)", (number, day, day))
            database.execute("INSERT INTO order_lines SELECT ?, min(sku), 1 FROM products", (number,))

    def chat(self, question: str, answer: str) -> None:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        with open(self.sources / "chats.jsonl", "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"messages": messages}) + "\n")

    def run(self, interval: str, day: date) -> dict[str, Path]:
        """The data stages of an interval on a day; `built` counts what had to be made."""
        paths: dict[str, Path] = {}
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        for stage in STAGES:
            self.built[stage] += not pipeline.plan_stage(stage, self.config, interval, paths).done
            paths[stage] = pipeline.run_stage(stage, self.config, interval, paths)
        for path in paths.values():
            os.utime(path / "record.json", (moment, moment))
        return paths


@pytest.mark.journey
def test_thirty_days_lose_nothing_leak_nothing_and_fill_no_disk(
    session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, tested, sizes = Shop(tmp_path), dict[str, Example](), list[int]()
    trained: set[str] = set()
    monkeypatch.setattr(intervals, "get_today", lambda: DAYS[-1] + timedelta(days=1))
    changes: dict[int, Callable[[], None]] = {
        0: lambda: None,
        3: lambda: shop.edit("faq.csv", "every 3 months", "every 4 months"),
        6: lambda: shop.order("T901", "2026-03-02"),  # late: of a day that was read before
        9: lambda: shop.chat(TWIN, "Dry it for 24 hours, then store it loosely in a dark place."),
        12: lambda: shop.edit("customers.csv", "Sapling,450,2020", "Sapling,451,2020"),
        15: lambda: shop.edit("faq.csv", "How do I wash a rain jacket?", "How do I wash my rain jacket?"),
        18: lambda: shop.edit("customers.csv", "Sapling,451,2020", "Sapling,470,2020"),  # hers, who is forgotten
        24: lambda: shop.edit("faq.csv", "every 4 months", "every 3 months"),  # as it was before
    }
    for number, day in enumerate(DAYS):
        before = Counter(shop.built)
        if number == 18:
            forget_person(shop.config, ANNA)
            hers = {wording for wording, e in tested.items() if e.source == "customers" and "C2041" in e.question}
            tested = {wording: e for wording, e in tested.items() if wording not in hers}
        changes.get(number, lambda: None)()
        paths = shop.run(day.isoformat(), day)
        if number not in changes:
            assert shop.built - before == Counter(collect=1), day
        check_documents(paths)
        check_splits(paths["annotate"], tested, trained)
        collect_garbage(shop.config, by="test", now=datetime(day.year, day.month, day.day, 23, tzinfo=UTC))
        sizes.append(disk.measure_usage(shop.config)["total"])
    assert max(sizes[10:]) < 1.5 * max(sizes[:8]), sizes
    held = [path for path in shop.home.rglob("*") if path.is_file() and ANNA.encode() in path.read_bytes()]
    assert held == []
    assert shop.built == Counter(collect=30, clean=len(changes), index=len(changes), annotate=len(changes))


def check_documents(paths: dict[str, Path]) -> None:
    """What was collected was kept or dropped, each exactly once."""
    collected = [document.id for document in read_rows(paths["collect"] / "documents.parquet", Document)]
    kept = [document.id for document in read_rows(paths["clean"] / "documents", Document)]
    dropped = [row.id for row in read_rows(paths["clean"] / "dropped", DroppedRow)]
    assert len(set(collected)) == len(collected) and sorted(kept + dropped) == sorted(collected)


def check_splits(annotate: Path, tested: dict[str, Example], trained: set[str]) -> None:
    """What was tested is tested, none of it and no near twin trains, and what was trained is not tested."""
    test = read_rows(annotate / "test.parquet", Example)
    train = [e for split in ("train", "validation") for e in read_rows(annotate / f"{split}.parquet", Example)]
    now = {hash_wording(e.question, e.context): e for e in test}
    assert tested.keys() <= now.keys() and not trained & now.keys()
    tested |= now
    trained |= {hash_wording(e.question, e.context) for e in train if e.split == "train"}
    assert not tested.keys() & trained
    plain = [e for e in train if e.source in ("chats", "faq", "transcripts", "help", "returns_policy")]
    close = find_overlaps([f"{e.question}\n{e.answer}" for e in plain], [f"{e.question}\n{e.answer}" for e in test])
    assert close == {}
