"""How often the check of grounded answers errs on docs/grounded_pairs.csv: by words, numbers, names, denials, vectors.

The figures are of the test part; `low` and `high` are the bounds of a 95 % interval, for which passages are drawn. The
arm of vectors says that an answer is grounded if each of its sentences is like one of the passages. How alike is chosen
on the development part, as the thresholds in `llmops.model.scoring.groundedness` were.

    python benchmarks/grounded.py [--quick] [--json]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside this file is a serving.py, which would hide the package

from peers import ROOT  # noqa: E402
from report import finish, parser  # noqa: E402

from llmops.data.retrieval.embedder import Embedder  # noqa: E402
from llmops.data.text.sentences import split_sentences  # noqa: E402
from llmops.frame.statistics.bootstrap import make_ratio, resample, summarize  # noqa: E402
from llmops.model.scoring.groundedness import MIN_SHARE, Groundedness, measure_groundedness  # noqa: E402

NOTHING = Groundedness(share=1.0, numbers=(), names=(), contradicts=False)  #: of an answer that says nothing by itself
WAYS: dict[str, Callable[[Groundedness, bool], bool]] = {
    "words": lambda found, near: found.share >= MIN_SHARE,
    "numbers": lambda found, near: not found.numbers,
    "names": lambda found, near: not found.names,
    "denials": lambda found, near: not found.contradicts,
    "vectors": lambda found, near: near,
    "the check": lambda found, near: found.grounded,
    "the check and vectors": lambda found, near: found.grounded and near,
}
MODELS = "model, "  #: a kind that begins so is an answer of a model


def main() -> None:
    """Judge all pairs in all ways, and print the table."""
    told = parser(__file__, __doc__, "the same").parse_args()
    with (ROOT / "docs" / "grounded_pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    true = [row["grounded"] == "1" for row in rows]
    tested = [n for n, row in enumerate(rows) if row["part"] == "test"]
    found = [measure_groundedness(row["answer"], row["passage"].split("\n\n")) or NOTHING for row in rows]
    likeness = likenesses([(row["answer"], row["passage"]) for row in rows])
    chosen = [n for n in range(len(rows)) if n not in set(tested)]
    least = max(sorted(likeness), key=lambda level: sum((likeness[n] >= level) == true[n] for n in chosen))
    arms = {}
    for way, judge in WAYS.items():
        said = [judge(one, near >= least) for one, near in zip(found, likeness, strict=True)]
        some = {way: tested}
        if way == "the check":
            some["the check, answers of models"] = [n for n in tested if rows[n]["kind"].startswith(MODELS)]
        for name, numbers in some.items():
            arms[name] = figures(
                [said[n] for n in numbers], [true[n] for n in numbers], [rows[n]["passage"] for n in numbers]
            )
    finish(told, arms, {}, packages=("numpy", "openvino"))


def likenesses(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the likeness of each answer: that of its sentence that is the least like any of the passages'."""
    ours, theirs = ([split_sentences(text) or [text] for text in side] for side in zip(*pairs, strict=True))
    distinct = list(dict.fromkeys(text for some in (*ours, *theirs) for text in some))
    with closing(Embedder()) as embedder:
        vectors = dict(zip(distinct, embedder.embed(distinct), strict=True))
    return [
        min(max(float(vectors[a] @ vectors[b]) for b in passage) for a in answer)
        for answer, passage in zip(ours, theirs, strict=True)
    ]


def figures(said: Sequence[bool], true: Sequence[bool], topics: Sequence[str]) -> dict[str, float]:
    """Return precision, recall and F1 of both labels, the first two with their bounds."""
    measures = {}
    for label, name in ((False, "not"), (True, "grounded")):
        both = [a == label == b for a, b in zip(said, true, strict=True)]
        measures[f"{name}: precision"] = make_ratio(both, [a == label for a in said])
        measures[f"{name}: recall"] = make_ratio(both, [b == label for b in true])
        measures[f"{name}: F1"] = make_ratio(
            [2 * one for one in both], [(a == label) + (b == label) for a, b in zip(said, true, strict=True)]
        )
    told: dict[str, float] = {"pairs": len(said)}
    for name, values in resample(measures, topics, 2_000, 0).items():
        one = summarize(values, 0.95)
        told |= {
            name: one["mean"],
            **({} if name.endswith("F1") else {f"{name}, low": one["low"], f"{name}, high": one["high"]}),
        }
    return told


if __name__ == "__main__":
    main()
