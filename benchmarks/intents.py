"""Intents: accuracy on banking77's public test, of our pipeline and of what users would try first.

All arms learn from the same texts, all 10,003 or ten of each of the 77 intents, and answer the same 3,080 texts of the
public test. Ours is `llmops run compress` with `examples/intents/config.yaml`: cleaning, the search by HyperOpt over
learning rate, batch and epochs, the training, and the form that is served. Ten texts of an intent are read more often.
Beside it: a logistic regression on TF-IDF of words and pairs of words; one on the frozen encoder that ours starts from,
its tokens averaged; SetFit on the same encoder with ten texts an intent; and the language model of the pipeline, which
writes the label, trained on ten texts an intent and asked 500 of the test's texts. Intervals are of 95 %, by bootstrap
over texts. Seconds are all of an arm's work but the answers to the test.

    python benchmarks/intents.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from classify import DATA, read  # noqa: E402
from peers import ROOT, ArmFailedError, Peer, attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from llmops.frame.statistics.bootstrap import resample, summarize  # noqa: E402
from llmops.model.base.inference import answer_questions, open_model  # noqa: E402
from llmops.model.base.weights import find_encoder  # noqa: E402
from llmops.model.scoring.answers import use_deterministic_kernels  # noqa: E402
from llmops.model.scoring.tasks import score_classification  # noqa: E402

SETFIT = Peer("setfit", ("setfit==1.2.0",), beside=True)
STAGES = ("collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress")
SHOTS = 10
ASKED = 500  #: texts that the language model is asked
FEW = {"tune": {"space": {"learning_rate": ["loguniform", 2e-5, 2e-4], "batch": ["choice", 16, 32],
                          "epochs": ["uniformint", 4, 12]}}}  # fmt: skip
Rows = Sequence[tuple[str, str]]
Answers = tuple[list[str], float]  #: labels of the test, and seconds before the first


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "eight intents, and the language model is left out")
    made.add_argument("--setfit", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--only", help="arms whose name has this text")
    return made.parse_args(arguments)


def main() -> None:
    """Measure all arms and print the table."""
    told = options()
    if told.setfit:
        print(json.dumps(fit_setfit(told.setfit)))
        return
    every, test = read("train"), read("test")
    if told.quick:
        some = sorted({label for _, label in test})[:8]
        every, test = ([row for row in rows if row[1] in some] for rows in (every, test))
    few = draw(every, SHOTS)
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    todo: dict[str, Callable[[Path], Answers]] = {}
    for name, rows in (("all texts", every), ("10 texts", few)):
        todo |= {
            f"TF-IDF, {name}": lambda _, rows=rows: fit_tfidf(rows, test),
            f"frozen encoder, {name}": lambda _, rows=rows: fit_frozen(rows, test),
            f"ours, {name}": lambda folder, rows=rows: run_pipeline(folder, rows, test, FEW if rows is few else {}),
        }
    random.Random(0).shuffle(test)
    todo["setfit, 10 texts"] = lambda folder: run_setfit(folder, few, test)
    if not told.quick:
        language_model = {"select": {}, "train": {}, "tune": {"trials": 0}, "index": {"enabled": False}}
        todo["language model, 10 texts"] = lambda folder: run_pipeline(folder, few, test[:ASKED], language_model)
    for name, measure in todo.items():
        if told.only and told.only not in name:
            continue
        with attempted(name, failed), tempfile.TemporaryDirectory() as folder:
            answers, seconds = measure(Path(folder))
            arms[name] = figures(answers, test) | {"seconds": seconds}
            print(f"  {name}: {arms[name]}", file=sys.stderr, flush=True)
    claims = {
        f"accuracy with {some}, ours over {other}": ((f"ours, {some}", "accuracy"), (f"{other}, {some}", "accuracy"))
        for some in ("all texts", "10 texts")
        for other in ("TF-IDF", "frozen encoder", "setfit", "language model")
    }
    finish(told, arms, divided(arms, claims), failed, ("scikit-learn", "transformers", "torch", "hyperopt"), (SETFIT,))


def draw(rows: Rows, shots: int) -> Rows:
    """Some texts of each intent."""
    rng, found = random.Random(0), []
    for label in sorted({label for _, label in rows}):
        found += rng.sample([row for row in rows if row[1] == label], shots)
    return found


def figures(answers: Sequence[str], test: Rows) -> dict[str, float]:
    """Accuracy and macro F1 in per cent, with their intervals."""
    truth = [label for _, label in test[: len(answers)]]
    columns, measures = score_classification(answers, truth, 1)
    right = np.array(columns["accuracy"], float)
    drawn = resample(measures, [str(n) for n in range(len(truth))], 500, 0)
    rng = np.random.default_rng(0)
    means = np.array([right.mean(), *(rng.choice(right, len(right)).mean() for _ in range(2000))])
    found: dict[str, float] = {}
    for name, values in (("accuracy", means), ("macro F1", drawn["macro_f1"])):
        told = summarize(np.asarray(values), 0.95)
        found |= {name: 100 * told["mean"], f"{name} low": 100 * told["low"], f"{name} high": 100 * told["high"]}
    return found | {"texts": len(answers)}


def fit_tfidf(rows: Rows, test: Rows) -> Answers:
    """Words and pairs of words."""
    begun = time.monotonic()
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=300).fit(vectors.fit_transform([t for t, _ in rows]), labels(rows))
    took = time.monotonic() - begun
    return list(model.predict(vectors.transform([text for text, _ in test]))), took


def fit_frozen(rows: Rows, test: Rows) -> Answers:
    """The mean of the encoder's tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    begun = time.monotonic()
    folder = str(find_encoder("all-MiniLM-L6-v2", "", True))
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        found = np.empty((len(texts), encoder.config.hidden_size))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            batch = tokenizer([texts[n] for n in chosen], padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][:, :, None]
            found[chosen] = ((encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()
        return found

    vectors = encode([text for text, _ in rows])
    scale = np.sqrt(np.mean(vectors**2))
    model = LogisticRegression(C=0.3, max_iter=300).fit(vectors / scale, labels(rows))  # the best of .1, .3, 1 and 3
    took = time.monotonic() - begun
    return list(model.predict(encode([text for text, _ in test]) / scale)), took


def run_pipeline(folder: Path, rows: Rows, test: Rows, changes: dict[str, Any]) -> Answers:
    """Run the stages of the pipeline until the form that is served, and ask it."""
    (folder / "data").mkdir()
    for name, some in (("train", rows), ("test", test)):
        with (folder / "data" / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *some])
    config = yaml.safe_load((DATA.parent / "config.yaml").read_text(encoding="utf-8")) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    begun, made = time.monotonic(), ""
    for stage in STAGES:
        command = [sys.executable, "-m", "llmops", "run", stage, "--config", str(folder / "config.yaml")]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "LLMOPS_HOME": str(folder / "home")}
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        if done.returncode:
            raise ArmFailedError(f"{stage} failed:\n{done.stderr[-3000:]}")
        made = done.stdout.split()[-1]
    took = time.monotonic() - begun
    use_deterministic_kernels()
    model = open_model(Path(made) / "servable")
    return answer_questions(model, [(text, "") for text, _ in test], max_new_tokens=24), took


def run_setfit(folder: Path, rows: Rows, test: Rows) -> Answers:
    """SetFit in an environment of its own."""
    (folder / "data.json").write_text(json.dumps([list(rows), list(test)]), encoding="utf-8")
    found = in_process(__file__, "--setfit", folder, python=SETFIT.python())
    return found["answers"], found["seconds"]


def fit_setfit(folder: Path) -> dict[str, Any]:
    """Ten pairs of each kind for each text, in one epoch, as its documentation has it for few texts."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    rows, test = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    begun = time.monotonic()
    model = SetFitModel.from_pretrained(str(find_encoder("all-MiniLM-L6-v2", "", True)))
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), batch_size=16, num_epochs=1, num_iterations=10, save_strategy="no", seed=0
    )
    data = Dataset.from_dict({"text": [text for text, _ in rows], "label": labels(rows)})
    Trainer(model=model, args=arguments, train_dataset=data).train()
    took = time.monotonic() - begun
    return {"answers": [str(label) for label in model.predict([text for text, _ in test])], "seconds": took}


def labels(rows: Rows) -> list[str]:
    """The second column."""
    return [label for _, label in rows]


if __name__ == "__main__":
    main()
