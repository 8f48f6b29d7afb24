"""What sources of many kinds ask and answer is what is learned, by `run_stage`: collect, clean, annotate.

Good text arrives as it was written: code, addresses, numbers, any script.
"""

import json
from pathlib import Path

from pyspark.sql import SparkSession

from llmops import config
from llmops.frame.records import DroppedRow, Example, read_rows
from llmops.pipeline.pipeline import run_stage

DAY = "2026-01-31"
CODE = "Like this:\nif (a) {\n    b();\n}\nif (c) {\n    d();\n}\nif (e) {\n    f();\n}\nif (g) {\n    h();\n}"
GRID = "".join(f"| Tent {chr(65 + n)} | yes | no | yes | yes | yes | yes | yes | yes |\n" for n in range(14))
TABLE = f"These:\n\n| Tent | a | b | c | d | e | f | g | h |\n|---|---|---|---|---|---|---|---|---|\n{GRID}".rstrip()
POST = "POST /orders HTTP/1.1\nHost: shop.example\n\n{}"
GOOD = {  # question → answer, as they are written and as they arrive
    "How do I write it in C?": CODE,
    "Which address lists the tents?": "They are at https://shop.example/?q=tent&region=eu&section=2&copy=1",
    "How much is ten squared?": "10² = 100, and the area is 25 m² (№ 5, ½ price).",
    "How do I write a less-than sign?": "Write `&lt;` for <.",
    "Wie erreiche ich den Kundendienst?": "Rufen Sie uns einfach unter der Nummer auf der Rechnung an",
    "退货需要多少天？": "请在收到货物之日起三十天内办理退货。如有任何问题，请随时联系我们的客服。",
    "运费是多少？": "标准运费为五元，满百元免运费。如有任何问题，请随时联系我们的客服。",
}
MENDED = ("Tom &amp; Jerry, at the cafÃ© &ndash; 5&nbsp;&euro;.", "Tom & Jerry, at the café – 5 €.")
ROWS = [
    *({"q": q, "a": a} for q, a in GOOD.items()),
    {"q": "Who plays?", "a": MENDED[0]},
    {"q": "who plays?", "a": "Tom & Jerry, at the  café – 5 €."},  # typed otherwise, said before
]
FILES = {
    "post.html": f"<title>Orders</title><h1>How do I post one?</h1><p>Send:</p><pre>{POST}</pre>",
    "code.csv": 'q,a\nHow do I print all?,"    for x in y:\n        print(x)"\n',
    "code.log": "Customer: How do I show all?\nAgent: So:\n    for x in y:\n        show(x)\n",
    "must.html": (
        "<title>Delivery | Shop</title><h1>Delivery</h1><h2>What must I not do?</h2>"
        "<h3>You probably do not want to:</h3><p>Move it away.</p><h2>Overview</h2><p>More of it.</p>"
    ),
    "links.md": f"# How do I send it back?\nSee [the guide][1] first.\n\n# Which are light?\n{TABLE}\n\n[1]: https://shop.example/g",
    "faq.txt": "Frage: Was kostet der Versand?\nAntwort: Fünf Euro.\n\nFrage: Und nach Bern?\nAntwort: Neun Euro.",
    "excel.csv": "sep=;\nq;a\nIs there a shop?;Yes, in Bern\n",
    "good.jsonl": "\n".join(map(json.dumps, ROWS)),
}
KEPT = {
    *(("", question, answer) for question, answer in GOOD.items()),
    ("Delivery", "What must I not do?", "You probably do not want to:\nMove it away."),
    ("Orders", "How do I post one?", f"Send:\n{POST}"),
    ("", "How do I print all?", "for x in y:\n    print(x)"),
    ("", "How do I show all?", "So:\nfor x in y:\n    show(x)"),
    ("", "How do I send it back?", "See [the guide](https://shop.example/g) first."),
    ("", "Which are light?", TABLE),
    ("", "Was kostet der Versand?", "Fünf Euro."),
    ("", "Und nach Bern?", "Neun Euro."),
    ("", "Is there a shop?", "Yes, in Bern"),
}
LOST = {("no_question", "More of it."), ("duplicate", "who plays?")}


def test_each_pair_arrives_with_its_place_and_what_asks_nothing_has_none(session: SparkSession, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    kinds = {"html": "html", "md": "markdown", "txt": "text", "csv": "csv", "log": "chat", "jsonl": "jsonl"}
    fields = dict.fromkeys(("csv", "jsonl"), {"question": "q", "answer": "a"})
    sources = [
        {"name": kind, "kind": kind, "location": f"*.{end}", "licence": f"CC-{kind}", "fields": fields.get(end, {})}
        for end, kind in kinds.items()
    ]
    settings = config.load(
        overrides={
            "home": str(tmp_path / "home"),
            "collect": {"root": str(tmp_path), "sources": sources},
            "clean": {"master": "local[1]", "partitions": 2},
            "annotate": {"min_test_items": 1, "max_answer_sentences": 4},
        },
        environ={},
    )
    made = {"collect": run_stage("collect", settings, DAY)}
    made["clean"] = run_stage("clean", settings, DAY, made)
    made["annotate"] = run_stage("annotate", settings, DAY, made)
    splits = [made["annotate"] / f"{split}.parquet" for split in ("train", "validation", "test")]
    examples = [e for split in splits for e in read_rows(split, Example)]
    assert {(e.context, e.question, e.answer) for e in examples if e.question.lower() != "who plays?"} == KEPT
    [plays] = [e.answer.replace("  ", " ") for e in examples if e.question.lower() == "who plays?"]
    assert plays == MENDED[1]
    places = {"html": "section ", "csv": "row ", "jsonl": "line ", "text": "line "}
    for e in examples:
        assert (e.licence, e.interval) == (f"CC-{e.source}", DAY) and e.location.rpartition("/")[2] in FILES
        assert e.position.startswith(places.get(e.source, "")) and e.position
    parts = (made["collect"] / "quarantine.parquet", made["clean"] / "dropped", made["annotate"] / "dropped.parquet")
    dropped = {(d.rule, d.content.lower()) for part in parts for d in read_rows(part, DroppedRow)}
    assert {(rule, next(text for _, text in LOST if text.lower() in said)) for rule, said in dropped} == LOST
