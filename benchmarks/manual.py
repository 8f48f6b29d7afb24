"""A manual without pairs of question and answer: how long until it is served, and what 50 questions find in it.

The manual is Debian's Developer's Reference (`apt-get install developers-reference`), HTML pages and their PDF, run by
`examples/documents/config.yaml`. Each of the questions in `manual.yaml` has the words on a page that prove its answer:
counted is who has them, the first passage, one of the first three or five, by words, by vectors and by both, or the
quote that is served. Answers are written to standard error, for a person to judge: proof is less than an answer.

    python benchmarks/manual.py [--quick] [--json] [--pages FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from peers import ROOT
from report import divided, finish, parser

from llmops.config import Config, load
from llmops.data.index.ranking import Hit, Index
from llmops.data.index.search import open_index
from llmops.data.text.words import words_of
from llmops.grounding.retriever import Retriever
from llmops.pipeline import run_stage

CONFIG, ASKED = ROOT / "examples" / "documents" / "config.yaml", Path(__file__).with_suffix(".yaml")
PAGES = Path("/usr/share/developers-reference")
LEFT_OUT = ("search.html", "genindex.html")  #: pages that say nothing
DAY = "2026-01-31"
WAYS, DEPTHS = {"words": "bm25", "vectors": "dense", "both": "fused"}, (1, 3, 5)
Asked = Mapping[str, str]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "collect, clean and index alone: nothing is judged, released and served")
    made.add_argument("--pages", type=Path, default=PAGES, help="folder with the manual's HTML pages and its PDF")
    return made.parse_args(arguments)


def main() -> None:
    """Run the pipeline, ask everything, and print the table."""
    told = options()
    if not list(told.pages.glob("*.html")):
        sys.exit(f"manual: no page in {told.pages}; apt-get install developers-reference, or name a folder by --pages")
    asked, arms = questions(), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as name:
        file = settings(told.pages, Path(name))
        config, start = load(file, environ={}), time.monotonic()
        if told.quick:
            for stage in ("collect", "clean", "index"):
                run_stage(stage, config, DAY)
        else:
            command = [sys.executable, "-m", "llmops", "run", "all", "--interval", DAY, "--config", str(file)]
            subprocess.run(command, check=True, stdout=sys.stderr)
        arms["run"] = {"minutes": (time.monotonic() - start) / 60}
        index = newest(config)
        with open_index(index) as opened:
            arms |= {way: found(opened, asked, search) for way, search in WAYS.items()}
        arms["quoted"] = quoted(index, config, asked)
    claims = {
        f"proof {depth}, both over {other}": (("both", depth), (other, depth))
        for other in ("words", "vectors")
        for depth in map(label, DEPTHS)
    }
    finish(told, arms, divided(arms, claims), packages=("numpy", "openvino"))


def questions() -> list[Asked]:
    """What is asked, each with `answer`, `page` and `proof`."""
    read: list[Asked] = yaml.safe_load(ASKED.read_text(encoding="utf-8"))
    return read


def settings(pages: Path, folder: Path) -> Path:
    """The configuration file of a run on these pages, with its home, in a folder."""
    values: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    kinds = {source["kind"]: source for source in values["collect"]["sources"]}
    (copied := folder / "pages").mkdir()
    for page in sorted({*pages.glob("*.html"), *pages.glob("*.pdf")}):
        if page.name not in LEFT_OUT:
            (copied / page.name).write_bytes(page.read_bytes())
    there = [kind for kind in ("html", "pdf") if list(copied.glob(f"*.{kind}"))]
    values["collect"] = {"root": str(copied), "sources": [kinds[kind] for kind in there]}
    file = folder / "llmops.yaml"
    file.write_text(yaml.safe_dump({**values, "home": str(folder / "home")}), encoding="utf-8")
    return file


def newest(config: Config) -> Path:
    """The index of the one run there was."""
    (index,) = (config.artifacts / "index").glob("[!.]*")
    return index


def label(depth: int) -> str:
    """A figure's name."""
    return "in the first %" if depth == 1 else f"in {depth} %"


def proves(asked: Asked, texts: Sequence[str]) -> bool:
    """Whether one of the texts has the words that prove the answer."""
    proof = f" {' '.join(words_of(asked['proof']))} "
    return any(proof in f" {' '.join(words_of(text))} " for text in texts)


def found(index: Index, asked: Sequence[Asked], way: Any) -> dict[str, float]:
    """How many questions have their proof among so many first passages, in per cent."""
    hits: list[list[Hit]] = [index.search(one["question"], max(DEPTHS), way) for one in asked]
    return {
        label(depth): 100 * statistics.mean(
            proves(one, [hit.passage.text for hit in its[:depth]]) for one, its in zip(asked, hits, strict=True)
        )
        for depth in DEPTHS
    }  # fmt: skip


def quoted(index: Path, config: Config, asked: Sequence[Asked]) -> dict[str, float]:
    """How many quotes, as they are served, have the proof, how many questions are refused, and what one takes."""
    proofs, refused, seconds = list[bool](), list[bool](), list[float]()
    for one, text, took in answers(index, config, asked):
        proofs.append(proves(one, [text]))
        refused.append(not text)
        seconds.append(took)
        print(f"{'+' if proofs[-1] else '-'} {one['question']}\n  {text or 'refused'}", file=sys.stderr)
    return {
        "in the first %": 100 * statistics.mean(proofs),
        "refused %": 100 * statistics.mean(refused),
        "p50 ms": 1000 * statistics.median(seconds),
    }


def answers(index: Path, config: Config, asked: Sequence[Asked]) -> Iterator[tuple[Asked, str, float]]:
    """Each question with what is quoted, empty where the documents do not say, and the seconds that took."""
    with Retriever(index, config.grounding) as retriever:
        retriever.look(asked[0]["question"], quoting=True)  # it loads what it needs
        for one in asked:
            start = time.perf_counter()
            text = retriever.look(one["question"], quoting=True).quote
            yield one, text, time.perf_counter() - start


if __name__ == "__main__":
    main()
