"""Which labels a classifier mistakes for which: the confusion matrix of a test, and its worst labels with texts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WORST_LABELS, TEXTS = 12, 4  #: labels in the list of the worst, and wrong texts of each


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """The figures of one label."""

    label: str
    texts: int  #: whose reference it is
    recall: float
    precision: float
    f1: float
    mistaken: list[tuple[str, int]]  #: other labels that its texts were given, and how often; the most frequent first
    wrong: list[tuple[str, str]]  #: some of these texts, each with its given label


@dataclass(frozen=True, slots=True)
class Confusion:
    """The confusion matrix of one model, without the cells that are zero."""

    labels: list[str]  #: in the order of rows and columns, that of the names
    cells: list[tuple[int, int, int]]  #: row (reference), column (answer), texts
    worst: list[LabelFigures] = field(default_factory=list)


def make_confusion(rows: Sequence[Mapping[str, str]]) -> Confusion:
    """Return the confusion of rows with `question`, `reference` and `answer`; what is no label counts as one, too."""
    counts = Counter((row["reference"], row["answer"]) for row in rows)
    labels = sorted({name for pair in counts for name in pair})
    given = Counter(row["answer"] for row in rows)
    asked = Counter(row["reference"] for row in rows)
    wrong: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["answer"] != row["reference"]:
            wrong[row["reference"]].append((row["question"], row["answer"]))
    figures = [
        LabelFigures(
            label=label,
            texts=asked[label],
            recall=counts[label, label] / asked[label],
            precision=counts[label, label] / given[label] if given[label] else 0.0,
            f1=2 * counts[label, label] / (asked[label] + given[label]),
            mistaken=Counter(answer for _, answer in wrong[label]).most_common(3),
            wrong=wrong[label][:TEXTS],
        )
        for label in labels
        if asked[label]
    ]
    numbers = {label: number for number, label in enumerate(labels)}
    cells = [(numbers[reference], numbers[answer], count) for (reference, answer), count in sorted(counts.items())]
    worst = sorted((one for one in figures if one.wrong), key=lambda one: (one.f1, one.label))[:WORST_LABELS]
    return Confusion(labels, cells, worst)
