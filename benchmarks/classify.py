"""Texts per second and the time of one text of a classifier over HTTP, beside what users would write themselves.

MiniLM with a head for banking77's 77 labels, in the forms `f32` and `int8` that `compress` makes, behind our
`/classify` with keys, limits and events. Beside it: transformers' `pipeline` behind a plain FastAPI route, and the
graph of the form `int8` in OpenVINO without any server. Lone texts come one after another, then requests of 32 texts,
four at a time. The accuracy of each form is that on the published test. Without `--model` the head is fitted on the
frozen encoder, which changes the accuracy and not the speed.

    python benchmarks/classify.py [--model FOLDER] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx  # noqa: E402
from peers import ROOT, attempted  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from servers import free_port, make_site, running  # noqa: E402

from llmops.config import Compress  # noqa: E402
from llmops.frame.records import Example, write_rows  # noqa: E402
from llmops.model.base.classifier import Classifier  # noqa: E402
from llmops.model.base.weights import find_encoder  # noqa: E402
from llmops.model.compress.variants import VariantInputs, make_variant  # noqa: E402
from llmops.model.select.head import save_with_head  # noqa: E402

DATA = ROOT / "examples" / "intents" / "data"
TEXTS, STREAMS = 32, 4  #: of a request; requests at a time

PIPELINE = """
import sys
import uvicorn
from fastapi import FastAPI
from transformers import pipeline

classify = pipeline("text-classification", model=sys.argv[1])
app = FastAPI()

@app.get("/readyz")
def ready() -> str:
    return "ready"

@app.post("/classify")
def answer(body: dict) -> list:
    return classify(body["text"], batch_size=32)

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "100 lone texts and 640 in lists, not 1,000 and 9,600")
    made.add_argument("--model", type=Path, help="a trained model: `servable` of an artifact of the stage train")
    return made.parse_args(arguments)


def main() -> None:
    """Measure all arms and print the table."""
    told = options()
    lone, listed, rounds = (100, 640, 2) if told.quick else (1000, 9600, 3)
    test = read("test")
    texts = [text for text, _ in test]
    failed: dict[str, str] = {}
    arms: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = told.model or fit_head(folder, read("train"))
        inputs = VariantInputs(Compress(), model, str(model), model)
        forms = {form: make_variant(form, inputs, folder) for form in ("f32", "int8")}
        for form, made in forms.items():
            site = make_site(folder / f"home {form}", made, {"max_queue": 64})
            with attempted(f"ours, {form}", failed):
                port = free_port()
                command = [sys.executable, "-m", "serving"]
                with running(command, port, site.environ(port), folder / f"log {form}") as server:
                    figures = ask(server.url, site.headers, texts, lone, listed, rounds)
                right = sum(a == b for a, (_, b) in zip(answer(Classifier(made), texts), test, strict=True))
                arms[f"ours, {form}"] = figures | {"accuracy": right / len(test), "MB": size(made)}
        with attempted("pipeline behind FastAPI", failed):
            port = free_port()
            command = [sys.executable, "-c", PIPELINE, str(model), str(port)]
            with running(command, port, {}, folder / "log") as server:
                arms["pipeline behind FastAPI"] = ask(server.url, {}, texts, lone, listed, rounds)
        arms["OpenVINO in process, int8"] = in_process(Classifier(forms["int8"]), texts, lone, listed, rounds)
    ratios = divided(
        arms,
        {
            f"{words}, int8 over {other}": (("ours, int8", figure), (other, figure))
            for other in ("OpenVINO in process, int8", "pipeline behind FastAPI")
            for words, figure in (("texts/s", "texts/s"), ("p50 of one text", "p50 ms"))
        },
    )
    finish(told, arms, ratios, failed, ("openvino", "transformers", "torch", "fastapi"))


def read(split: str) -> list[tuple[str, str]]:
    """The texts of a split with their labels."""
    with (DATA / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def fit_head(folder: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """A head on the frozen encoder."""
    facts = {"context": "", "group": "", "split": "train", "source": "", "location": "", "position": ""}
    examples = [Example(id=f"{n:016x}", question=text, answer=label, **facts) for n, (text, label) in enumerate(rows)]
    (folder / "annotate").mkdir()
    write_rows(folder / "annotate" / "train.parquet", examples, Example)
    save_with_head(find_encoder("all-MiniLM-L6-v2", "", True), folder / "annotate", folder / "model")
    return folder / "model"


def answer(model: Classifier, texts: Sequence[str]) -> list[str]:
    """The label of each text."""
    found = model.classify([(text, "") for text in texts])[0].argmax(axis=1)
    return [model.format.labels[number] for number in found]


def ask(
    url: str, headers: dict[str, str], texts: Sequence[str], lone: int, listed: int, rounds: int
) -> dict[str, float]:
    """Figures of a server."""
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:

        def post(text: Any) -> None:
            client.post("/classify", json={"text": text}).raise_for_status()

        return measure(post, texts, lone, listed, rounds)


def in_process(model: Classifier, texts: Sequence[str], lone: int, listed: int, rounds: int) -> dict[str, float]:
    """Figures without a server; requests come one after another, as there is one model."""

    def classify(text: Any) -> None:
        model.classify([(text, "")] if isinstance(text, str) else [(one, "") for one in text])

    return measure(classify, texts, lone, listed, rounds, streams=1)


def measure(
    call: Callable[[Any], None], texts: Sequence[str], lone: int, listed: int, rounds: int, streams: int = STREAMS
) -> dict[str, float]:
    """The median of the times of lone texts, and of the texts per second of each round."""
    took: list[float] = []
    rates: list[float] = []
    lists = [[texts[(n + k) % len(texts)] for k in range(TEXTS)] for n in range(0, listed, TEXTS)]
    for n in range(20):
        call(texts[n])
    for turn in range(rounds):
        for n in range(lone // rounds):
            begun = time.perf_counter()
            call(texts[(turn * lone + n) % len(texts)])
            took.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(call, lists))
        rates.append(listed / (time.perf_counter() - begun))
    took.sort()
    return {
        "texts/s": statistics.median(rates),
        "p50 ms": 1000 * statistics.median(took),
        "p99 ms": 1000 * took[len(took) * 99 // 100],
    }


def size(folder: Path) -> float:
    """Megabytes of the graph."""
    return (folder / "openvino_model.bin").stat().st_size / 1e6


if __name__ == "__main__":
    main()
