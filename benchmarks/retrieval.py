"""How well passages are found by words, by vectors and by both, and how fast, beside bm25s and Haystack.

Asked are questions in other words than the documents have: of the example's shop, and of a FAQ about COVID-19 where it
is at hand (`--data`, else `../shared/data`). A passage is right if it is of the answer to the question that a person
says is the same; indexed are questions with their answers, or the answers alone. Time is that of one search, the
question's vector included; of a hundred thousand passages, and without `--quick` a million, the vectors are made up.
Haystack ranks with the same model, in memory, and joins both ways by their ranks; bm25s has its stemmer and stop words.

    python benchmarks/retrieval.py [--quick] [--json] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside this file is a serving.py, which would hide the package

from peers import ArmFailedError, Peer, attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402

BM25S = Peer("bm25s", ("bm25s==0.3.16", "PyStemmer==3.1.0", "psutil>=7.0"))
HAYSTACK = Peer("haystack", ("haystack-ai==3.4.1",), beside=True)
OURS, WAYS = "ours", ("bm25", "dense", "fused")
K, DEEP = 5, 10  #: passages that are asked for where time is told, and where quality is
LEAST, LIMIT_S = 5, 15.0  #: questions that each way is asked at least, and the time after which there are no more
LARGE, LARGEST = 100_000, 1_000_000
EMBEDDED = 512  #: texts whose vectors are timed

Found = dict[str, Any]  #: by the way: the documents found for each question, and the seconds of each


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, f"{LARGE:,} made-up passages, and not {LARGEST:,} besides")
    made.add_argument("--data", type=Path, help="folder with covid_faq.csv and covid_paraphrases.csv")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Search everything by everyone, and print the table."""
    told = options()
    if told.arm:
        work = json.loads((told.work / "asked.json").read_text(encoding="utf-8"))
        print(json.dumps(ARMS[told.arm](told.work, work["asked"], work["k"], work["made_up"])))
        return
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for what, folder, right in real(Path(name), told.data):
            for arm in ARMS:
                with attempted(f"{what}: {arm}", failed):
                    for way, found in searched(arm, folder).items():
                        arms[label(what, arm, way)] = quality(found["documents"], right) | times(found["seconds"])
        for number in (LARGE,) if told.quick else (LARGE, LARGEST):
            folder, written = large(Path(name), number)
            for arm in ARMS if number == LARGE else (OURS,):
                with attempted(f"{number:,}: {arm}", failed):
                    for way, found in searched(arm, folder).items():
                        arms[label(f"{number:,}", arm, way)] = times(found["seconds"])
            arms.setdefault(label(f"{number:,}", OURS, "bm25"), {})["passages/s"] = number / written
    arms["vectors"] = {"passages/s": embedding_rate()}
    claims = {
        f"{figure} of {what}, fused over Haystack's": (
            (label(what, OURS, "fused"), figure), (label(what, "Haystack", "fused"), figure)
        )
        for what in dict.fromkeys(arm.partition(":")[0] for arm in arms)
        for figure in ("recall@5", "p50 ms")
    }  # fmt: skip
    claims[f"p50 ms of {LARGE:,}, bm25 over bm25s"] = (
        (label(f"{LARGE:,}", OURS, "bm25"), "p50 ms"), (label(f"{LARGE:,}", "bm25s", "bm25"), "p50 ms")
    )  # fmt: skip
    finish(told, arms, divided(arms, claims), failed, ("numpy", "openvino"), [BM25S, HAYSTACK])


def label(what: str, arm: str, way: str) -> str:
    """An arm as the table names it."""
    return f"{what}: {arm}" if arm == "bm25s" else f"{what}: {arm} {way}"


def real(folder: Path, data: Path | None) -> Any:
    """The indexes of real questions: a name, the folder, and the ids of the documents that are right for each."""
    from indexes import covid, indexed, shop

    for name, topics in (("shop", shop()), ("covid", covid(data))):
        for questions in (True, False) if topics else ():
            what = name if questions else f"{name}, answers alone"
            place = folder / what.replace(", ", "-").replace(" ", "-")
            pairs = indexed(topics, place, questions)
            asked(place, [wording for wording, _ in pairs], DEEP, made_up=False)
            print(f"  {what}: {len(topics)} answers, {len(pairs)} questions", file=sys.stderr, flush=True)
            yield what, place, [right for _, right in pairs]


def large(folder: Path, number: int) -> tuple[Path, float]:
    """An index of so many made-up passages, and the seconds that its words took."""
    from indexes import made_up

    print(f"  {number:,} passages …", file=sys.stderr, flush=True)
    place = folder / str(number)
    questions, seconds = made_up(place, number, 200)
    asked(place, questions, K, made_up=True)
    return place, seconds


def asked(folder: Path, questions: Sequence[str], k: int, made_up: bool) -> None:
    """Note what is asked of an index, for the processes that ask."""
    told = {"asked": [*questions], "k": k, "made_up": made_up}
    (folder / "asked.json").write_text(json.dumps(told), encoding="utf-8")


def searched(arm: str, folder: Path) -> dict[str, Found]:
    """What an arm finds, by the way that it ranks.

    Raises:
        ArmFailedError: if its process fails, or its peer cannot be installed.
    """
    print(f"  {arm} …", file=sys.stderr, flush=True)
    python = {"bm25s": BM25S.python, "Haystack": HAYSTACK.python}.get(arm, lambda: Path(sys.executable))()
    found: dict[str, Found] = in_process(__file__, "--arm", arm, "--work", folder, python=python)
    return found


def quality(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of the passages found for each question, whether and where the first right one is."""
    pairs = list(zip(found, right[: len(found)], strict=True))
    if len(found) < len(right):
        raise ArmFailedError(f"Only {len(found)} of {len(right)} questions were asked within {LIMIT_S:.0f} s.")
    ranks = [next((n for n, one in enumerate(ids, 1) if one in good), 0) for ids, good in pairs]
    return {
        "recall@1": statistics.mean(rank == 1 for rank in ranks),
        "recall@5": statistics.mean(0 < rank <= 5 for rank in ranks),
        "MRR": statistics.mean(1 / rank if rank else 0.0 for rank in ranks),
    }


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50 ms": 1_000 * statistics.median(ordered),
        "p95 ms": 1_000 * ordered[min(len(ordered) - 1, 95 * len(ordered) // 100)],
    }


def embedding_rate() -> float:
    """Passages of 60 words whose vectors are made in a second."""
    from indexes import texts

    from llmops.embedding.embedder import Embedder

    some = list(texts(EMBEDDED))
    with closing(Embedder()) as embedder:
        embedder.embed_beginnings(some[:32])
        begun = time.perf_counter()
        embedder.embed_beginnings(some)
        return EMBEDDED / (time.perf_counter() - begun)


def timed(questions: Sequence[str], find: Callable[[str], list[str]], all_of_them: bool) -> Found:
    """The documents found for each question, and the seconds."""
    find(questions[-1])
    documents, seconds, begun = [], [], time.perf_counter()
    for question in questions:
        start = time.perf_counter()
        documents.append(find(question))
        seconds.append(time.perf_counter() - start)
        if not all_of_them and len(seconds) >= LEAST and time.perf_counter() - begun > LIMIT_S:
            break
    return {"documents": documents, "seconds": seconds}


def ours(folder: Path, questions: Sequence[str], k: int, made_up: bool) -> dict[str, Found]:
    """What the index finds."""
    from llmops.data.index.search import open_index

    with open_index(folder) as index:
        return {
            way: timed(questions, lambda q, way=way: [h.passage.document for h in index.search(q, k, way)], not made_up)
            for way in WAYS
        }


def bm25s(folder: Path, questions: Sequence[str], k: int, made_up: bool) -> dict[str, Found]:
    """What bm25s finds, as its documentation has it: with stemmer and stop words."""
    import bm25s as library
    import Stemmer

    documents, said = passages(folder)
    stemmer, quiet = Stemmer.Stemmer("english"), {"show_progress": False}
    index = library.BM25()
    index.index(library.tokenize(said, stopwords="en", stemmer=stemmer, **quiet), **quiet)

    def find(question: str) -> list[str]:
        tokens = library.tokenize([question], stopwords="en", stemmer=stemmer, **quiet)
        numbers, _ = index.retrieve(tokens, k=min(k, len(said)), **quiet)
        return [documents[number] for number in numbers[0]]

    return {"bm25": timed(questions, find, not made_up)}


def haystack(folder: Path, questions: Sequence[str], k: int, made_up: bool) -> dict[str, Found]:
    """What Haystack's retrievers in memory find, with our embedder, which it has none of, and joined by its joiner."""
    import numpy as np
    from haystack import Document
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from llmops.embedding.embedder import Embedder

    documents, said = passages(folder)
    with closing(Embedder()) as embedder:
        vectors = np.load(folder / "vectors.npy") if made_up else embedder.embed_beginnings(said)
        store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
        meta = [{"document": document} for document in documents]
        rows = zip(said, vectors, meta, strict=True)
        store.write_documents([
            Document(id=str(n), content=text, embedding=row.tolist(), meta=about)
            for n, (text, row, about) in enumerate(rows)
        ])  # fmt: skip
        words, near = InMemoryBM25Retriever(store), InMemoryEmbeddingRetriever(store)
        joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion")

        def by_words(question: str, most: int) -> list[Any]:
            return words.run(query=question, top_k=most)["documents"]

        def by_vector(question: str, most: int) -> list[Any]:
            vector = embedder.embed_beginnings([question])[0].tolist()
            return near.run(query_embedding=vector, top_k=most)["documents"]

        def both(question: str, most: int) -> list[Any]:
            found = [by_words(question, 100), by_vector(question, 100)]
            return joiner.run(documents=found, top_k=most)["documents"]

        return {
            way: timed(questions, lambda q, find=find: [one.meta["document"] for one in find(q, k)], not made_up)
            for way, find in zip(WAYS, (by_words, by_vector, both), strict=True)
        }


def passages(folder: Path) -> tuple[list[str], list[str]]:
    """The passages' documents, and what they say under their headings."""
    with closing(sqlite3.connect(folder / "index.db")) as database:
        rows = database.execute("SELECT document, headings, text FROM passages ORDER BY number").fetchall()
    return [row[0] for row in rows], ["\n".join(filter(None, row[1:])) for row in rows]


ARMS = {OURS: ours, "bm25s": bm25s, "Haystack": haystack}

if __name__ == "__main__":
    main()
