"""What a source says is what the examples say, by `run_stage`: code, addresses, numbers, any script."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from llmops import config
from llmops.pipeline import run_stage
from llmops.records import Dropped, Example, read_rows

DAY = "2026-01-31"
YAML = "sources:\n  - name: faq\n    fields:\n      question: q\n\n\nclean:\n  master: local[2]"
PYTHON = 'def area(r):\n    # r in m\n    if r < 0:\n        raise ValueError("r > 0 & so on")\n    return 3 * r**2'
KEPT = {
    "How do I name a source?": YAML,
    "How do I compute the area?": PYTHON,
    "Which address lists the tents?": "They are at https://shop.example/?q=tent&region=eu&section=2&copy=1",
    "How much is ten squared?": "10² = 100, and the area is 25 m² (№ 5, ½ price).",
    "How do I write a less-than sign?": "Write `&lt;` for <.",
    "What do the tents cost?": "Name    Price\nTent    99.00\nLamp     9.50",
    "Wie erreiche ich den Kundendienst?": "Rufen Sie uns einfach unter der Nummer auf der Rechnung an",
    "En quelle matière est cette médaille ?": "La médaille du vainqueur est en or",
    "退货需要多少天？": "请在收到货物之日起三十天内办理退货。如有任何问题，请随时联系我们的客服。",
    "运费是多少？": "标准运费为五元，满百元免运费。如有任何问题，请随时联系我们的客服。",
}
MENDED = {
    "Who plays?": ("Tom &amp; Jerry, at the cafÃ© &ndash; 5&nbsp;&euro;.", "Tom & Jerry, at the café – 5 €."),
    "What does the oﬃce do?": ("It ﬁles  the letters. ", "It files the letters."),
}
CORPUS = json.loads((Path(__file__).parent / "clean" / "corpus" / "interface.json").read_text("utf-8"))
CHINESE = re.sub(r"[^\u4e00-\u9fff。]", "", "。".join(CORPUS["zh-CN"]))
THAI = re.sub(r"[^\u0e00-\u0e7f]", "", "".join(CORPUS["th"]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], list[Dropped]]:
    folder = tmp_path_factory.mktemp("good")
    rows = [{"q": q, "a": a} for q, a in KEPT.items()] + [{"q": q, "a": a} for q, (a, _) in MENDED.items()]
    rows += [
        {"q": "退货有什么条件？", "a": "三十天内可以。", "c": CHINESE},
        {"q": "คืนสินค้าได้ไหม?", "a": "ได้ค่ะ ภายในสามสิบวัน", "c": THAI},
    ]
    rows += [{"q": "who plays?", "a": "Tom & Jerry, at the  café – 5 €."}]  # typed otherwise, said before
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"question": "q", "answer": "a", "context": "c"}
    settings = config.load(
        overrides={
            "home": str(folder / "home"),
            "collect": {
                "root": str(folder),
                "sources": [{"name": "faq", "kind": "jsonl", "location": "faq.jsonl", "fields": fields}],
            },
            "clean": {"master": "local[1]", "partitions": 2},
            "annotate": {"min_test_items": 1, "max_context_chars": 300},
        },
        environ={},
    )
    collected = run_stage("collect", settings, DAY)
    cleaned = run_stage("clean", settings, DAY, {"collect": collected})
    annotated = run_stage("annotate", settings, DAY, {"clean": cleaned})
    examples = [
        e for split in ("train", "validation", "test") for e in read_rows(annotated / f"{split}.parquet", Example)
    ]
    dropped = [d for part in (cleaned / "dropped", annotated / "dropped.parquet") for d in read_rows(part, Dropped)]
    return examples, dropped


def test_good_pairs_arrive_as_they_were_written(made: tuple[list[Example], list[Dropped]]) -> None:
    answers = {e.question: e.answer for e in made[0]}
    assert {question: answers.get(question) for question in KEPT} == KEPT
    assert yaml.safe_load(answers["How do I name a source?"]) == yaml.safe_load(YAML)
    assert ast.dump(ast.parse(answers["How do I compute the area?"])) == ast.dump(ast.parse(PYTHON))


def test_broken_pairs_arrive_mended_and_once(made: tuple[list[Example], list[Dropped]]) -> None:
    answers = {e.question.lower(): e.answer.lower() for e in made[0]}
    assert answers["who plays?"].replace("  ", " ") == MENDED["Who plays?"][1].lower()
    assert answers["what does the office do?"] == MENDED["What does the oﬃce do?"][1].lower()
    assert [(d.rule, "who plays?" in d.content.lower()) for d in made[1]] == [("duplicate", True)]


@pytest.mark.parametrize(("question", "context"), [("退货有什么条件？", CHINESE), ("คืนสินค้าได้ไหม?", THAI)])
def test_a_context_without_spaces_is_cut_and_not_lost(
    made: tuple[list[Example], list[Dropped]], question: str, context: str
) -> None:
    [kept] = [e.context for e in made[0] if e.question == question]
    assert 150 < len(kept) <= 300 and context.startswith(kept)
    assert context is THAI or kept.endswith("。")
