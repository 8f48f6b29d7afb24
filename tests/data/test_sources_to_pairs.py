"""What sources of many kinds ask and answer is what is learned, by `run_stage`: collect, clean, annotate.

Good text arrives as it was written: code, addresses, numbers, any script.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

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
YAML = "sources:\n  - name: faq\n    fields:\n      question: q\n\n\nclean:\n  master: local[2]"
PYTHON = 'def area(r):\n    # r in m\n    if r < 0:\n        raise ValueError("r > 0 & so on")\n    return 3 * r**2'
GOOD = {  # question → answer, as they are written and as they arrive
    "How do I name a source?": YAML,
    "How do I compute the area?": PYTHON,
    "Which address lists the tents?": "They are at https://shop.example/?q=tent&region=eu&section=2&copy=1",
    "How much is ten squared?": "10² = 100, and the area is 25 m² (№ 5, ½ price).",
    "How do I write a less-than sign?": "Write `&lt;` for <.",
    "Wie erreiche ich den Kundendienst?": "Rufen Sie uns einfach unter der Nummer auf der Rechnung an",
    "退货需要多少天？": "请在收到货物之日起三十天内办理退货。如有任何问题，请随时联系我们的客服。",
    "运费是多少？": "标准运费为五元，满百元免运费。如有任何问题，请随时联系我们的客服。",
}
MENDED = {  # question → answer as it is written, and as it arrives
    "Who plays?": ("Tom &amp; Jerry, at the cafÃ© &ndash; 5&nbsp;&euro;.", "Tom & Jerry, at the café – 5 €."),
    "What does the oﬃce do?": ("It ﬁles  the letters. ", "It files the letters."),
}
CORPUS = json.loads((Path(__file__).parent / "clean" / "corpus" / "interface.json").read_text("utf-8"))
CHINESE = re.sub(r"[^\u4e00-\u9fff。]", "", "。".join(CORPUS["zh-CN"]))
THAI = re.sub(r"[^\u0e00-\u0e7f]", "", "".join(CORPUS["th"]))
IN_CONTEXT = {"退货有什么条件？": ("三十天内可以。", CHINESE), "คืนสินค้าได้ไหม?": ("ได้ค่ะ ภายในสามสิบวัน", THAI)}
ROWS = [
    *({"q": q, "a": a} for q, a in GOOD.items()),
    *({"q": q, "a": a} for q, (a, _) in MENDED.items()),
    *({"q": q, "a": a, "c": c} for q, (a, c) in IN_CONTEXT.items()),
    {"q": "who plays?", "a": "Tom & Jerry, at the  café – 5 €."},  # typed otherwise, said before
]
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
    "must.html": (
        "<title>Delivery | Shop</title><h1>Delivery</h1><h2>What must I not do?</h2>"
        "<h3>You probably do not want to:</h3><p>Move it away.</p><h2>Overview</h2><p>More of it.</p>"
    ),
    "news.html": "<title>Shop</title><h1>Contact us</h1><p>By mail.</p><h1>What's new</h1><p>All of it.</p>",
    "links.md": f"# How do I send it back?\nSee [the guide][1] first.\n\n# Which are light?\n{TABLE}\n\n[1]: https://shop.example/g",
    "faq.txt": "Frage: Was kostet der Versand?\nAntwort: Fünf Euro.\n\nFrage: Und nach Bern?\nAntwort: Neun Euro.",
    "excel.csv": "sep=;\nq;a\nIs there a shop?;Yes, in Bern\n",
    "chat.log": (
        "10:30 Customer 1: Is the lamp new?\n10:31 Agent: Yes.\n10:32 Customer 2: When do you open?\n"
        "10:33 Agent: At\n09:00 on weekdays.\n---\nCustomer 1: Is it dry?\nCustomer 2: Is it red?\nAgent: No, blue."
    ),
    "good.jsonl": "\n".join(map(json.dumps, ROWS)),
    "faq.jsonl": "\n".join(
        json.dumps({"q": q, "a": a, "c": ""})
        for q, a in {
            "How do I reset the X100?": RESET,
            "How do I reset the X200?": RESET,
            "How do I write it in C?": CODE,
            "Was ist dabei?": "Ein Zelt, Heringe u. a. Zubehör bzw. Ersatzteile. Ja. Ja. Doch. Mehr nicht.",
        }.items()
    ),
}
KEPT = {
    *(("", question, answer) for question, answer in GOOD.items()),
    ("Delivery", "What must I not do?", "You probably do not want to:\nMove it away."),
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
    ("", "Was ist dabei?", "Ein Zelt, Heringe u. a. Zubehör bzw. Ersatzteile. Ja. Ja. Doch."),
}
LOST = {
    ("missing", "Is it dry?"),
    ("no_question", "By mail."),
    ("no_question", "All of it."),
    ("no_question", "More of it."),
    ("no_question", "Shelf 0 "),
    ("duplicate", "who plays?"),
}


@pytest.fixture(scope="module")
def made(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], list[Dropped]]:
    folder = tmp_path_factory.mktemp("sources")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    kinds = {"html": "html", "md": "markdown", "txt": "text", "csv": "csv", "log": "chat", "jsonl": "jsonl"}
    fields = {"csv": {"question": "q", "answer": "a"}, "jsonl": {"question": "q", "answer": "a", "context": "c"}}
    sources = [
        {"name": kind, "kind": kind, "location": f"*.{end}", "licence": f"CC-{kind}", "fields": fields.get(end, {})}
        for end, kind in kinds.items()
    ]
    settings = config.load(
        overrides={
            "home": str(folder / "home"),
            "collect": {"root": str(folder), "sources": sources},
            "clean": {"master": "local[1]", "partitions": 2},
            "annotate": {"min_test_items": 1, "max_answer_sentences": 4, "max_context_chars": 300},
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
    others = {*MENDED, "who plays?", *IN_CONTEXT}
    assert {(e.context, e.question, e.answer) for e in made[0] if e.question not in others} == KEPT | {
        ("", "What does the office do?", MENDED["What does the oﬃce do?"][1])
    }
    answers = {e.question: e.answer for e in made[0]}
    assert yaml.safe_load(answers["How do I name a source?"]) == yaml.safe_load(YAML)
    assert ast.dump(ast.parse(answers["How do I compute the area?"])) == ast.dump(ast.parse(PYTHON))


def test_each_example_says_where_it_comes_from(made: tuple[list[Example], list[Dropped]]) -> None:
    """Positions of the other kinds are tests of their readers, in collect/readers."""
    places = {"html": "section ", "csv": "row ", "jsonl": "line ", "text": "line "}
    for example in made[0]:
        assert (example.licence, example.interval) == (f"CC-{example.source}", DAY)
        assert example.location.rpartition("/")[2] in FILES
        assert example.position.startswith(places.get(example.source, "")) and example.position


def test_broken_pairs_arrive_mended_and_once(made: tuple[list[Example], list[Dropped]]) -> None:
    (plays,) = [e.answer.replace("  ", " ") for e in made[0] if e.question.lower() == "who plays?"]
    assert plays == MENDED["Who plays?"][1]


def test_a_context_without_spaces_is_cut_and_not_lost(made: tuple[list[Example], list[Dropped]]) -> None:
    for question, (_, context) in IN_CONTEXT.items():
        [kept] = [e.context for e in made[0] if e.question == question]
        assert 150 < len(kept) <= 300 and context.startswith(kept)
        assert context is THAI or kept.endswith("。")


def test_what_asks_nothing_or_has_no_answer_is_dropped_with_its_reason(
    made: tuple[list[Example], list[Dropped]],
) -> None:
    assert {(d.rule, next(text for _, text in LOST if text in d.content.lower() + d.content)) for d in made[1]} == LOST
