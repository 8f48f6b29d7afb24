"""What sources of many kinds ask and answer is what is learned, by `run_stage`: collect, clean, annotate."""

from __future__ import annotations

import json

import pytest

from llmops import config
from llmops.pipeline import run_stage
from llmops.records import Dropped, Example, read_rows

DAY = "2026-01-31"
CODE = "Like this:\nif (a) {\n    b();\n}\nif (c) {\n    d();\n}\nif (e) {\n    f();\n}\nif (g) {\n    h();\n}"
RESET = "Hold the button on the back of the device for ten seconds, until its light is green, and let it go then."
GRID = "".join(f"| Tent {chr(65 + n)} | yes | no | yes | yes | yes | yes | yes | yes |\n" for n in range(14))
TABLE = f"These:\n\n| Tent | a | b | c | d | e | f | g | h |\n|---|---|---|---|---|---|---|---|---|\n{GRID}".rstrip()
# The first part of a long text would end after "Every day."
SHELVES = "\n\n".join(f"Shelf {n} holds the tents that are made for {n} people." for n in range(150))[:7950]
POST = "POST /orders HTTP/1.1\nHost: shop.example\n\n{}"
FILES = {
    "post.html": f"<title>Orders</title><h1>How do I post one?</h1><p>Send:</p><pre>{POST}</pre>",
    "code.csv": 'q,a\nHow do I print all?,"    for x in y:\n        print(x)"\n',
    "code.log": "Customer: How do I show all?\nAgent: So:\n    for x in y:\n        show(x)\n",
    "halves.log": (
        "[2025/12/31 上午11:58:01] 张三: 可以退货吗？\n[2025/12/31 上午11:59:05] 李四: 可以，30天内。\n"
        "[2025/12/31 下午12:01:00] 张三: 蓝色的呢？\n[2025/12/31 下午12:02:00] 李四: 不行，只有红色可以。\n"
    ),
    "long.txt": (
        f"Chapter 5. Storage\n\n{SHELVES}\n\n5.2. When is it open?\n\n"
        "Every day.\n\nAt Christmas until noon.\n\n5.3. Who has the key?\n\nThe porter."
    ),
    "duration.html": "<title>How long does it take? | Returns | Shop</title><h1>How long does it take?</h1>3 days.",
    "alone.html": "<title>Do you repair tents?</title><p>Yes, in our workshop.</p>",
    "news.html": "<title>Shop</title><h1>Contact us</h1><p>By mail.</p><h1>What's new</h1><p>All of it.</p>",
    "links.md": f"# How do I send it back?\nSee [the guide][1] first.\n\n# Which are light?\n{TABLE}\n\n[1]: https://shop.example/g",
    "faq.txt": "Frage: Was kostet der Versand?\nAntwort: Fünf Euro.\n\nFrage: Und nach Bern?\nAntwort: Neun Euro.",
    "excel.csv": "sep=;\nq;a\nIs there a shop?;Yes, in Bern\n",
    "chat.log": (
        "10:30 Customer 1: Is the lamp new?\n10:31 Agent: Yes.\n10:32 Customer 2: When do you open?\n"
        "10:33 Agent: At\n09:00 on weekdays.\n---\nCustomer 1: Is it dry?\nCustomer 2: Is it red?\nAgent: No, blue."
    ),
    "faq.jsonl": "\n".join(
        json.dumps({"q": q, "a": a})
        for q, a in {
            "How do I reset the X100?": RESET,
            "How do I reset the X200?": RESET,
            "How do I write it in C?": CODE,
            "Was ist dabei?": "Ein Zelt, Heringe u. a. Zubehör bzw. Ersatzteile. Ja. Mehr nicht.",
        }.items()
    ),
}
KEPT = {
    ("Orders", "How do I post one?", f"Send:\n{POST}"),
    ("", "How do I print all?", "for x in y:\n    print(x)"),
    ("", "How do I show all?", "So:\nfor x in y:\n    show(x)"),
    ("", "可以退货吗？", "可以，30天内。"),
    ("Customer: 可以退货吗？\nAgent: 可以，30天内。", "蓝色的呢？", "不行，只有红色可以。"),
    ("Storage", "When is it open?", "Every day.\n\nAt Christmas until noon."),
    ("Storage", "Who has the key?", "The porter."),
    ("Shop › Returns", "How long does it take?", "3 days."),
    ("", "Do you repair tents?", "Yes, in our workshop."),
    ("", "How do I send it back?", "See [the guide](https://shop.example/g) first."),
    ("", "Which are light?", TABLE),
    ("", "Was kostet der Versand?", "Fünf Euro."),
    ("", "Und nach Bern?", "Neun Euro."),
    ("", "Is there a shop?", "Yes, in Bern"),
    ("", "Is the lamp new?", "Yes."),
    ("Customer 1: Is the lamp new?\nAgent: Yes.", "When do you open?", "At\n09:00 on weekdays."),
    ("Customer 1: Is it dry?", "Is it red?", "No, blue."),
    ("", "How do I reset the X100?", RESET),
    ("", "How do I reset the X200?", RESET),
    ("", "How do I write it in C?", CODE),
    ("", "Was ist dabei?", "Ein Zelt, Heringe u. a. Zubehör bzw. Ersatzteile. Ja."),
}
LOST = {
    ("missing", "Is it dry?"),
    ("no_question", "By mail."),
    ("no_question", "All of it."),
    ("no_question", "Shelf 0 "),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], list[Dropped]]:
    folder = tmp_path_factory.mktemp("sources")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    kinds = {"html": "html", "md": "markdown", "txt": "text", "csv": "csv", "log": "chat", "jsonl": "jsonl"}
    fields = {"question": "q", "answer": "a"}
    sources = [
        {"name": kind, "kind": kind, "location": f"*.{end}"} | ({"fields": fields} if end in ("csv", "jsonl") else {})
        for end, kind in kinds.items()
    ]
    settings = config.load(
        overrides={
            "home": str(folder / "home"),
            "collect": {"root": str(folder), "sources": sources},
            "clean": {"master": "local[1]", "partitions": 2},
            "annotate": {"min_test_items": 1, "max_answer_sentences": 2},
        },
        environ={},
    )
    collected = run_stage("collect", settings, DAY)
    cleaned = run_stage("clean", settings, DAY, {"collect": collected})
    annotated = run_stage("annotate", settings, DAY, {"clean": cleaned})
    splits = [annotated / f"{split}.parquet" for split in ("train", "validation", "test")]
    parts = (collected / "quarantine.parquet", cleaned / "dropped", annotated / "dropped.parquet")
    return [e for split in splits for e in read_rows(split, Example)], [d for p in parts for d in read_rows(p, Dropped)]


def test_each_pair_arrives_with_its_context(made: tuple[list[Example], list[Dropped]]) -> None:
    assert {(e.context, e.question, e.answer) for e in made[0]} == KEPT


def test_what_asks_nothing_or_has_no_answer_is_dropped_with_its_reason(
    made: tuple[list[Example], list[Dropped]],
) -> None:
    assert {(d.rule, next(text for _, text in LOST if text in d.content)) for d in made[1]} == LOST
