"""How well passages are found by words, by vectors and by both, and how fast, beside bm25s and Haystack.

Asked are questions in other words than the documents have: of the example's shop, and with `--data` of a FAQ about
COVID-19. A passage is right if it belongs to the answer of the question that a person says is the same. Indexed are
questions with their answers, or the answers alone. Times are those of one search, the question's vector included; a
hundred thousand passages, and without `--quick` a million, are made up, with random vectors. Haystack ranks in memory
with the same vectors and joins both ways by reciprocal rank; bm25s has its stemmer and stop words. Elasticsearch has
our index as `deploy` loads it; `as ours` is the share of the first five documents that the files find, too.

With `--data`, the same questions and 500 to a bank (PolyAI's banking77) are asked at several values of
`grounding.likeness` and at the chosen one: the former are refused wrongly, the latter rightly.

    python benchmarks/retrieval.py [--quick] [--json] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside this file is a serving.py, which would hide the package

from peers import ROOT, ArmFailedError, Peer, attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402

BM25S = Peer("bm25s", ("bm25s==0.3.16", "PyStemmer==3.1.0", "psutil>=7.0"))
HAYSTACK = Peer("haystack", ("haystack-ai==3.4.1",), beside=True)
OURS, ELASTIC, WAYS = "ours", "Elasticsearch", ("bm25", "dense", "fused")
DEEP, LEAST, LIMIT_S = 10, 5, 15.0  #: passages asked for; questions timed at least, and seconds after which none follow
LARGE, LARGEST = 100_000, 1_000_000
EMBEDDED = 256  #: passages whose embedding is timed
LIKENESS, STRANGE = (0.4, 0.5, 0.6), 500  #: values of `grounding.likeness`; questions that the documents do not answer

Topic = tuple[str, str, list[str]]  #: a question, its answer, and how people asked it in other words
Found = dict[str, Any]  #: by the way: documents found for each question, and seconds


def main() -> None:
    """Search everything by everyone, and print the table."""
    made = parser(__file__, __doc__, f"{LARGE:,} made-up passages, and not {LARGEST:,} besides")
    made.add_argument("--data", type=Path, help="folder with covid_faq.csv, covid_paraphrases.csv, banking77_test.csv")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    told = made.parse_args()
    if told.arm:
        work = json.loads((told.work / "asked.json").read_text(encoding="utf-8"))
        print(json.dumps(ARMS[told.arm](told.work, **work)))
        return
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for what, topics in (("shop", shop()), ("covid", covid(told.data) if told.data else [])):
            for questions in (True, False) if topics else ():
                label = what if questions else f"{what}, answers alone"
                right = indexed(topics, Path(name) / label.replace(", ", "-"), questions)
                own = dict[str, Any]()
                for arm, way, found in searched(label, Path(name) / label.replace(", ", "-"), failed):
                    arms[f"{label}: {arm} {way}"] = quality(found["documents"], right) | times(found["seconds"])
                    if arm == ELASTIC and own:
                        arms[f"{label}: {arm} {way}"]["as ours"] = in_common(own[way], found["documents"])
                    own |= {way: found["documents"]} if arm == OURS else {}
                if told.data and questions:
                    arms |= refusals(label, Path(name) / label, bank(told.data))
        for number in (LARGE,) if told.quick else (LARGE, LARGEST):
            seconds = made_up(Path(name) / str(number), number)
            for arm, way, found in searched(f"{number:,}", Path(name) / str(number), failed, alone=number > LARGE):
                arms[f"{number:,}: {arm} {way}"] = times(found["seconds"])
            arms.setdefault(f"{number:,}: {OURS} bm25", {})["passages/s"] = number / seconds
    arms["vectors"] = {"passages/s": embedding_rate()}
    claims = {
        f"{figure} of {what}, fused over Haystack's": (
            (f"{what}: {OURS} fused", figure), (f"{what}: Haystack fused", figure)
        )
        for what in dict.fromkeys(arm.partition(":")[0] for arm in arms)
        for figure in ("recall@5", "p50 ms")
    }  # fmt: skip
    finish(told, arms, divided(arms, claims), failed, ("numpy", "openvino"), [BM25S, HAYSTACK])


def shop() -> list[Topic]:
    """Return what the example's shop is asked."""
    found: list[Topic] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict) and {"question", "answer", "wordings"} <= part.keys():
            found.append((part["question"], part["answer"], part["wordings"]))
        elif isinstance(part, dict | list):
            for one in part.values() if isinstance(part, dict) else part:
                walk(one)

    import yaml

    walk(yaml.safe_load((ROOT / "examples" / "support_bot" / "content.yaml").read_text(encoding="utf-8")))
    return found


def covid(folder: Path) -> list[Topic]:
    """Return the FAQ of deepset's COVID-QA, and the wordings that people judged to be alike."""
    names = ("covid_faq.csv", "covid_paraphrases.csv")
    faq, pairs = (list(csv.DictReader((folder / name).open(encoding="utf-8", newline=""))) for name in names)
    wordings: dict[str, list[str]] = {row["question"].strip(): [] for row in faq}
    for pair in pairs:
        one, other = pair["question_1"].strip(), pair["question_2"].strip()
        if pair["similar"] == "1" and (one in wordings) != (other in wordings):
            known, new = (one, other) if one in wordings else (other, one)
            wordings[known].append(new)
    return [(row["question"].strip(), row["answer"], wordings[row["question"].strip()]) for row in faq]


def bank(folder: Path) -> list[str]:
    """Return questions of customers of a bank."""
    with (folder / "banking77_test.csv").open(encoding="utf-8", newline="") as file:
        return random.Random(0).sample([row["text"] for row in csv.DictReader(file)], STRANGE)


def indexed(topics: Sequence[Topic], folder: Path, questions: bool) -> list[list[str]]:
    """Index the answers, with their questions or without, and return the right documents of each wording."""
    from llmops.config import Index
    from llmops.data.index import stage
    from llmops.frame.records import Document, make_content_id, write_rows

    ids: dict[str, list[str]] = {}
    documents = []
    for number, (question, answer, _) in enumerate(topics):
        parts = {"question": question, "answer": answer} if questions else {"text": answer}
        place = {"source": "faq", "location": "faq", "position": f"row {number}"}
        documents.append(Document(id=make_content_id(*place.values()), **place, **parts))
        ids.setdefault(question, []).append(documents[-1].id)
    write_rows(folder.parent / f"{folder.name}-clean" / "documents" / "part-0.parquet", documents, Document)
    folder.mkdir()
    finished(folder, stage.run(Index(), clean=folder.parent / f"{folder.name}-clean", out=folder))
    pairs = sorted({(wording, question) for question, _, wordings in topics for wording in wordings})
    asked(folder, [wording for wording, _ in pairs], all_of_them=True)
    return [ids[question] for _, question in pairs]


def made_up(folder: Path, number: int) -> float:
    """Make an index of so many passages, cut from the running text of docs/; returns the seconds its words took."""
    import numpy as np

    from llmops.data.retrieval.file_store import create_vectors, write_passages
    from llmops.data.retrieval.minilm import DIMENSIONS
    from llmops.frame.records import Passage

    rng = random.Random(0)
    place = {"document": "d", "source": "made", "location": "a.html", "title": "Made"}
    folder.mkdir()
    begun = time.perf_counter()
    write_passages(
        folder, (Passage(id=str(n), position=str(n), text=text, **place) for n, text in enumerate(texts(number)))
    )
    seconds = time.perf_counter() - begun
    vectors, drawn = create_vectors(folder, number), np.random.default_rng(0)
    for start in range(0, number, 10_000):
        some = drawn.standard_normal((min(10_000, number - start), DIMENSIONS), np.float32)
        vectors[start : start + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    finished(folder, {"model": "made up", "passages": number})
    words = running_text()
    asked(folder, [" ".join(stretch(9, rng, words)) for _ in range(200)], all_of_them=False)
    return seconds


def texts(number: int) -> Iterator[str]:
    """Yield made-up passages of 60 words: their words are as common as those of any text."""
    rng, words = random.Random(1), running_text()
    for _ in range(number):
        yield " ".join(word for _ in range(4) for word in stretch(rng.randint(8, 22), rng, words))


def stretch(number: int, rng: random.Random, words: Sequence[str]) -> Sequence[str]:
    """Return words that follow each other, from anywhere."""
    at = rng.randrange(len(words) - number)
    return words[at : at + number]


def running_text() -> list[str]:
    """Return the words of this project's pages."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [word for page in pages for word in re.findall(r"[^\W\d_]+", page.read_text(encoding="utf-8"))]


def finished(folder: Path, metrics: Any) -> None:
    """Make a folder a finished artifact."""
    from llmops.frame import artifacts

    record = artifacts.Record("index", folder.name, {}, {}, "", "", dict(metrics), {}, "", "", "")
    artifacts.commit(folder, record)


def asked(folder: Path, questions: Sequence[str], all_of_them: bool) -> None:
    """Write down what is asked of an index, for the processes that ask."""
    (folder / "asked.json").write_text(json.dumps({"questions": [*questions], "all_of_them": all_of_them}), "utf-8")


def searched(label: str, folder: Path, failed: dict[str, str], alone: bool = False) -> Iterator[tuple[str, str, Found]]:
    """Yield what each arm finds by each way; `alone`: ours only."""
    for arm in (OURS,) if alone else ARMS:
        print(f"  {label}: {arm} …", file=sys.stderr, flush=True)
        with attempted(f"{label}: {arm}", failed):
            python = {"bm25s": BM25S.python, "Haystack": HAYSTACK.python}.get(arm, lambda: Path(sys.executable))()
            for way, found in in_process(__file__, "--arm", arm, "--work", folder, python=python).items():
                yield arm, way, found


def refusals(label: str, folder: Path, strange: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the shares of questions with and without an answer that are refused, by the least likeness."""
    from llmops.config import Grounding
    from llmops.data.retrieval.grounding import retrieve_context
    from llmops.data.retrieval.search import open_index

    known = dict.fromkeys(json.loads((folder / "asked.json").read_text(encoding="utf-8"))["questions"])
    with open_index(folder) as index:
        matches = [
            [retrieve_context(index, one, Grounding(), 0).match or 0.0 for one in some] for some in (known, strange)
        ]
        values = {f"{least}": least for least in LIKENESS} | {"the chosen value": index.likeness}
    return {
        f"{label}: refused below {name}": {
            f"{how} refused": statistics.mean(one < least for one in some)
            for how, some in zip(("wrongly", "rightly"), matches, strict=True)
        }
        for name, least in values.items()
    }


def quality(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return whether and where the first right passage is among those found for each question."""
    if len(found) < len(right):
        raise ArmFailedError(f"Only {len(found)} of {len(right)} questions were asked within {LIMIT_S:.0f} s.")
    pairs = zip(found, right, strict=True)
    ranks = [next((n for n, one in enumerate(ids, 1) if one in good), 0) for ids, good in pairs]
    return {
        "recall@1": statistics.mean(rank == 1 for rank in ranks),
        "recall@5": statistics.mean(0 < rank <= 5 for rank in ranks),
        "MRR": statistics.mean(1 / rank if rank else 0.0 for rank in ranks),
    }


def in_common(some: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> float:
    """Return the share of the first five documents of each question that others have among theirs."""
    pairs = [({*one[:5]}, {*other[:5]}) for one, other in zip(some, others, strict=True) if one]
    return statistics.mean(len(one & other) / len(one) for one, other in pairs)


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50 ms": 1_000 * statistics.median(ordered),
        "p95 ms": 1_000 * ordered[min(len(ordered) - 1, 95 * len(ordered) // 100)],
    }


def embedding_rate() -> float:
    """Return how many passages of 60 words are embedded in a second."""
    from llmops.data.retrieval.embedder import Embedder

    some = list(texts(EMBEDDED))
    with closing(Embedder()) as embedder:
        embedder.embed(some[:32])
        begun = time.perf_counter()
        embedder.embed(some)
        return EMBEDDED / (time.perf_counter() - begun)


def timed(questions: Sequence[str], find: Callable[[str], list[str]], all_of_them: bool) -> Found:
    """Return the documents found for each question, and the seconds."""
    find(questions[-1])
    documents, seconds, begun = [], [], time.perf_counter()
    for question in questions:
        start = time.perf_counter()
        documents.append(find(question))
        seconds.append(time.perf_counter() - start)
        if not all_of_them and len(seconds) >= LEAST and time.perf_counter() - begun > LIMIT_S:
            break
    return {"documents": documents, "seconds": seconds}


def ours(folder: Path, questions: Sequence[str], all_of_them: bool, server: Any = None) -> dict[str, Found]:
    """Search the index, in its files or on a server."""
    from llmops.data.retrieval.search import open_index

    def find(way: Any) -> Callable[[str], list[str]]:
        return lambda question: [hit.passage.document for hit in index.search(question, DEEP, way)]

    with open_index(folder, server=server) as index:
        return {way: timed(questions, find(way), all_of_them) for way in WAYS}


def elastic(folder: Path, questions: Sequence[str], all_of_them: bool) -> dict[str, Found]:
    """Search the index in an Elasticsearch of its own."""
    from events import elasticsearch

    from llmops.config import SearchServer
    from llmops.data.retrieval.elasticsearch_store import load_index
    from llmops.frame.records import make_content_id

    artifact = folder.parent / make_content_id(folder.name)  # artifacts have such names, and so have their indices
    artifact.symlink_to(folder)
    with elasticsearch(folder.with_suffix(".log")) as running:
        load_index(server := SearchServer(running.url, "llmops-passages-benchmark"), "benchmark", artifact)
        return ours(artifact, questions, all_of_them, server)


def bm25s(folder: Path, questions: Sequence[str], all_of_them: bool) -> dict[str, Found]:
    """Search by bm25s, as its documentation shows it: with stemmer and stop words."""
    import bm25s as library
    import Stemmer

    documents, said = passages(folder)
    settings = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = library.BM25()
    index.index(library.tokenize(said, **settings), show_progress=False)

    def find(question: str) -> list[str]:
        numbers, _ = index.retrieve(library.tokenize([question], **settings), k=DEEP, show_progress=False)
        return [documents[number] for number in numbers[0]]

    return {"bm25": timed(questions, find, all_of_them)}


def haystack(folder: Path, questions: Sequence[str], all_of_them: bool) -> dict[str, Found]:
    """Search by Haystack's retrievers in memory, with our embedder, joined by its joiner."""
    import numpy as np
    from haystack import Document
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from llmops.data.retrieval.embedder import Embedder

    documents, said = passages(folder)
    with closing(Embedder()) as embedder:
        vectors = embedder.embed(said) if all_of_them else np.load(folder / "vectors.npy")
        store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
        rows = enumerate(zip(said, vectors, documents, strict=True))
        store.write_documents(
            [Document(id=str(n), content=t, embedding=v.tolist(), meta={"document": d}) for n, (t, v, d) in rows]
        )
        words, near = InMemoryBM25Retriever(store), InMemoryEmbeddingRetriever(store)
        joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion")

        def by_words(question: str, most: int) -> list[Any]:
            return words.run(query=question, top_k=most)["documents"]

        def by_vector(question: str, most: int) -> list[Any]:
            return near.run(query_embedding=embedder.embed([question])[0].tolist(), top_k=most)["documents"]

        def both(question: str, most: int) -> list[Any]:
            found = [by_words(question, 100), by_vector(question, 100)]
            return joiner.run(documents=found, top_k=most)["documents"]

        def find(way: Any) -> Callable[[str], list[str]]:
            return lambda question: [one.meta["document"] for one in way(question, DEEP)]

        ways = zip(WAYS, (by_words, by_vector, both), strict=True)
        return {name: timed(questions, find(way), all_of_them) for name, way in ways}


def passages(folder: Path) -> tuple[list[str], list[str]]:
    """Return the passages' documents, and their texts under their headings."""
    with closing(sqlite3.connect(folder / "index.db")) as database:
        rows = database.execute("SELECT document, headings, text FROM passages ORDER BY number").fetchall()
    return [row[0] for row in rows], ["\n".join(filter(None, row[1:])) for row in rows]


ARMS = {OURS: ours, ELASTIC: elastic, "bm25s": bm25s, "Haystack": haystack}

if __name__ == "__main__":
    main()
