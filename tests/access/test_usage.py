"""The usage of keys: sums of many writers by day and model, months, budgets, and CSV that a spreadsheet may open."""

import csv
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.access.keys import KeyStore, keys_of
from llmops.access.usage import (
    MonthRefused,
    UsageCell,
    add_usage,
    find_month_end,
    format_csv,
    parse_month,
    read_usage,
    sum_budgeted_tokens,
)
from llmops.config import Config
from llmops.state.database import Database, database_of


def count(requests: int, input_tokens: int, output_tokens: int) -> Counter[str]:
    return Counter(requests=requests, input_tokens=input_tokens, output_tokens=output_tokens)


def test_many_writers_add_up_by_key_day_and_model(database_url: str, tmp_path: Path) -> None:
    store = KeyStore(Database(database_url), tmp_path / "events")
    _, shop = store.create("user", "shop", tokens_per_month=1000)
    _, free = store.create("user", "free")
    databases = [Database(database_url) for _ in range(3)]
    cells = {
        UsageCell(shop.prefix, "2026-01-01", "bot:v1"): count(1, 2, 3),
        UsageCell(shop.prefix, "2026-01-31", "bot:v2"): count(0, 10, 1),
        UsageCell(free.prefix, "2026-01-31", "bot:v2"): count(1, 2**40, 0),
        UsageCell(shop.prefix, "2026-02-01", "bot:v2"): count(1, 7, 7),
        UsageCell("00000000", "2025-12-31", "bot:v1"): count(1, 1, 1),
    }
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: add_usage(databases[number % 3], cells), range(6)))

    january = read_usage(databases[0], "2026-01")
    assert (january.month, january.until) == ("2026-01", "2026-02-01T00:00:00+00:00")
    assert [astuple(one) for one in january.keys] == [
        (free.prefix, "free", 6, 6 * 2**40, 0, None),
        (shop.prefix, "shop", 6, 72, 24, 1000),
    ]
    assert {(one.day, one.owner, one.model, one.requests, one.output_tokens) for one in january.days} == {
        ("2026-01-01", "shop", "bot:v1", 6, 18), ("2026-01-31", "shop", "bot:v2", 0, 6),
        ("2026-01-31", "free", "bot:v2", 6, 0),
    }  # fmt: skip
    assert [one.owner for one in read_usage(databases[0], "2026-01", shop.prefix).keys] == ["shop"]
    assert read_usage(databases[0], "2025-12").keys == []  # there is no such key
    assert read_usage(databases[0], "2026-03").keys == []
    sums = [sum_budgeted_tokens(databases[0], month) for month in ("2026-01", "2026-02", "2026-03")]
    assert sums == [{shop.prefix: 96}, {shop.prefix: 84}, {}]


def test_a_month_is_written_as_a_month_and_ends_with_it() -> None:
    for month, end in (("2026-01", "2026-02-01"), ("2026-12", "2027-01-01"), ("2999-12", "3000-01-01")):
        assert find_month_end(parse_month(month)).date().isoformat() == end
    for wrong in (
        "",
        "2026",
        "2026-1",
        "2026-13",
        "2026-00",
        "26-01",
        "2026-01-01",
        " 2026-01",
        "2026-01\n",
        "٢٠٢٦-٠١",
    ):
        with pytest.raises(MonthRefused, match="2026-01"):
            parse_month(wrong)


def test_the_csv_has_a_row_a_day_and_no_formula(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    _, key = keys_of(config).create("user", '=HYPERLINK("x"), "shop"')
    add_usage(database_of(config), {UsageCell(key.prefix, "2026-01-05", "bot:v1"): count(2, 30, 4)})
    rows = list(csv.reader(io.StringIO(format_csv(read_usage(database_of(config), "2026-01").days))))
    assert rows == [
        ["day", "key", "owner", "model", "requests", "input_tokens", "output_tokens"],
        ["2026-01-05", key.prefix, '\'=HYPERLINK("x"), "shop"', "bot:v1", "2", "30", "4"],
    ]


def test_the_command_line_shows_a_month(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    config = Config(home=tmp_path)
    _, key = keys_of(config).create("user", "shop", tokens_per_month=200)
    _, larger = keys_of(config).create("user", "garage")
    cells = {
        UsageCell(key.prefix, "2026-01-05", "bot:v1"): count(2, 46, 4),
        UsageCell(larger.prefix, "2026-01-05", "bot:v1"): count(2, 46, 5),
    }
    add_usage(database_of(config), cells)

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(["keys", "usage", *arguments])
        return code, "".join(capsys.readouterr())

    assert run(key.prefix, "--month", "2026-01")[1] == f"{key.prefix}  shop  2 requests  50 tokens of 200 (25%)\n"
    assert json.loads(run("--month", "2026-01", "--json")[1])["keys"][0]["key"] == larger.prefix
    assert run("--month", "2026-01", "--csv")[1].count("\n") == 3
    assert run() == (0, "")
    code, said = run("--month", "January")
    assert code and "January" in said and "2026-01" in said
