"""Answers to topics that no training has seen: from memory and from passages, untuned, tuned and quoted.

The topics of the example's shop, and with `--data` of a FAQ about COVID-19, are halved. One half trains, by questions
and other wordings. The other half is asked in other words than the documents have. All are indexed. One adapter is
trained on the answers alone ("from memory"), one with the passages that the stage `features` gives it. F1 is the
likeness of an answer to the documents' own, whose first two sentences count. "quoted" asks no model: it is those two
sentences of the best passage that are the most alike the question. `low` and `high` are bounds at 95 %, for which
topics are drawn; those of a difference are the gate's.

With `--data`, 200 questions to a bank (PolyAI's banking77) are asked, too: the documents do not answer them. Either
retrieval or the model refuses. Asked is SmolLM2-135M-Instruct in 16 bits, as it is served.

    python benchmarks/answers.py [--quick] [--json] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside this file is a serving.py, which would hide the package
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
from contenders import BASE, MODELS, prepare  # noqa: E402
from report import finish, parser  # noqa: E402
from retrieval import Topic, bank, covid, indexed, shop  # noqa: E402

from llmops.config import Features, Grounding, Serving, Train  # noqa: E402
from llmops.data.features.grounded_examples import NOT_IN_PASSAGES, Retrieval, add_passages  # noqa: E402
from llmops.data.features.tokenize import tokenize_all  # noqa: E402
from llmops.data.retrieval.example_passages import ExamplePassages  # noqa: E402
from llmops.data.retrieval.grounding import REFUSAL, is_fixed_refusal, retrieve_context  # noqa: E402
from llmops.data.retrieval.search import Index, open_index  # noqa: E402
from llmops.data.text.normalization import normalize_text  # noqa: E402
from llmops.data.text.sentences import split_sentences, take_sentences  # noqa: E402
from llmops.frame.records import Example, make_content_id, write_rows  # noqa: E402
from llmops.frame.statistics.bootstrap import compute_interval  # noqa: E402
from llmops.frame.statistics.rates import compute_rate  # noqa: E402
from llmops.frame.statistics.sign_flip import compute_bounds, sum_by_topic  # noqa: E402
from llmops.model.base.inference import answer_questions, open_model  # noqa: E402
from llmops.model.base.load import free_memory, load_tokenizer  # noqa: E402
from llmops.model.gguf.worker import is_gguf  # noqa: E402
from llmops.model.gguf.write import write_gguf_folder  # noqa: E402
from llmops.model.scoring.metrics import compute_token_f1  # noqa: E402
from llmops.model.training.fit import fit  # noqa: E402
from llmops.model.training.merge import save_merged  # noqa: E402
from llmops.model.training.qlora import Hyperparameters, load_trainable_model  # noqa: E402
from llmops.prompts import encode_example  # noqa: E402

FOUND = Hyperparameters(learning_rate=1e-3, rank=16, batch=4)
EPOCHS = {"shop": 2.0, "covid": 0.5}
LONGEST, SENTENCES = 700, 2  #: characters of an answer that trains or is asked for, and how many of its sentences count
TOKENS, STRANGE, TRAINED_TOKENS = 96, 200, Features().max_tokens
CONFIG = Grounding(enabled=True)
UNTUNED, TUNED, QUOTED = "untuned", "tuned", "quoted"
MEMORY, PASSAGES = "from memory", "from passages"


@dataclass(frozen=True)
class Asked:
    """A question that no training has seen: `answer` is the right one; empty: the documents have none."""

    question: str
    answer: str
    topic: str
    context: str  #: the passages that are found; empty: retrieval refuses
    quote: str


def main() -> None:
    """Train and ask everything, and print the table."""
    made = parser(__file__, __doc__, "half of the training")
    made.add_argument("--data", type=Path, help="folder with covid_faq.csv, covid_paraphrases.csv, banking77_test.csv")
    made.add_argument("--work", type=Path, help="folder that keeps the trained models, and uses those that are there")
    told = made.parse_args()
    prepare()
    arms: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        work = told.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        strange = bank(told.data)[:STRANGE] if told.data else []
        for name, topics in (("shop", shop()), ("covid", covid(told.data) if told.data else [])):
            if topics:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                found = replace(FOUND, epochs=EPOCHS[name] / (2 if told.quick else 1))
                train, grounded, asked = prepared(topics, strange, folder)
                models = {
                    (UNTUNED, MEMORY): MODELS / "f16",
                    (UNTUNED, PASSAGES): MODELS / "f16",
                    (TUNED, MEMORY): trained(train, found, work / f"{name}-memory"),
                    (TUNED, PASSAGES): trained(grounded, found, work / f"{name}-passages"),
                }
                arms |= figures(name, models, asked, work / f"{name}.json")
    finish(told, arms, {}, packages=("torch", "peft", "bitsandbytes", "openvino-genai"))


def prepared(
    topics: Sequence[Topic], strange: Sequence[str], folder: Path
) -> tuple[list[Example], list[Example], list[Asked]]:
    """Index all topics. Return the examples that train, the same with passages, and the questions that are asked."""
    train, test = split(topics)
    indexed(topics, folder / "index", questions=True)
    for name, some in (("train", train), ("validation", []), ("test", test)):
        write_rows(folder / f"{name}.parquet", some, Example)
    tokenizer = load_tokenizer(BASE)
    with open_index(folder / "index") as index, contextlib.closing(ExamplePassages(folder / "index", folder)) as own:
        tested = {document for one in test for document in own.find_documents(one)}

        def fits(one: Example) -> bool:
            return len(encode_example(tokenizer, one.question, one.answer, one.context)[0]) <= TRAINED_TOKENS

        grounded = [*add_passages(train, Retrieval(index, own, tested, (), CONFIG, Serving().max_context, fits))]
        print(f"  prompts: {dict(Counter(outcome for _, outcome in grounded))}", file=sys.stderr, flush=True)
        kept = [one for one, outcome in grounded if outcome != NOT_IN_PASSAGES]
        return train, kept, [*looked_up(test, index, strange)]


def split(topics: Sequence[Topic]) -> tuple[list[Example], list[Example]]:
    """Return examples of the topics that train, and the other wordings of those that are asked."""
    train, test = list[Example](), list[Example]()
    for number, (question, whole, wordings) in enumerate(topics):
        reply, topic = take_sentences(whole, SENTENCES), make_content_id(normalize_text(whole))
        asked = int(topic, 16) % 2 == 0
        for one in sorted({*wordings}) if asked else sorted({question, *wordings}):
            example = Example(
                id=make_content_id(one, reply), question=one, answer=reply, group=topic,
                split="test" if asked else "train", source="faq", location="faq", position=f"row {number}",
            )  # fmt: skip
            if wordings and len(whole) <= LONGEST:
                (test if asked else train).append(example)
    return train, test


def looked_up(test: Sequence[Example], index: Index, strange: Sequence[str]) -> Iterator[Asked]:
    """Yield the questions of the test, and those that the documents do not answer, with what is found for them."""
    rows = [*((one.question, one.answer, one.group) for one in test), *((one, "", one) for one in strange)]
    for question, reply, topic in rows:
        found = retrieve_context(index, question, CONFIG, CONFIG.room)
        quote = quoted(index, question, found.hits[0].passage.text) if found.hits else REFUSAL
        yield Asked(question, reply, topic, found.context, quote)


def quoted(index: Index, question: str, passage: str) -> str:
    """Return the sentences of a passage that are the most alike a question, in their order."""
    parts = split_sentences(passage)
    asked, *vectors = index.embedder.embed([question, *parts])
    best = np.argsort([-float(vector @ asked) for vector in vectors], kind="stable")[:SENTENCES]
    return " ".join(parts[n] for n in sorted(best))


def trained(examples: Sequence[Example], found: Hyperparameters, folder: Path) -> Path:
    """Train an adapter as the stage `train` does, and return the merged model as it is served."""
    if not is_gguf(folder / "f16"):
        tokenizer, config = load_tokenizer(BASE), Train()
        tokens = [one for one, _ in tokenize_all(tokenizer, examples, TRAINED_TOKENS) if one]
        print(f"  {folder.name}: {len(tokens)} examples, {sum(len(one.token_ids) for one in tokens):,} tokens …",
              file=sys.stderr, flush=True)  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        model = load_trainable_model(str(BASE), config, found)
        history = fit(model, tokens, config, found, folder)
        print(f"  {len(history)} steps, loss {history[0]['loss']:.2f} to {history[-1]['loss']:.2f}", file=sys.stderr)
        model.save_pretrained(folder / "adapter")
        del model
        free_memory()
        save_merged(str(BASE), folder / "adapter", config.method, folder / "bf16")
        write_gguf_folder(folder / "bf16", folder / "f16", "f16")
    return folder / "f16"


def figures(
    name: str, models: Mapping[tuple[str, str], Path], asked: Sequence[Asked], kept: Path
) -> dict[str, dict[str, float]]:
    """Ask every model, and return its figures and how much better the tuned one is that reads passages."""
    answers = {f"{name}: {QUOTED}": [one.quote for one in asked]}
    for (model, way), folder in models.items():
        print(f"  {name}: {model}, {way} …", file=sys.stderr, flush=True)
        answers[f"{name}: {model}, {way}"] = replies(folder, asked, way == PASSAGES)
    kept.write_text(
        json.dumps(
            [asdict(one) | {arm: some[n] for arm, some in answers.items()} for n, one in enumerate(asked)], indent=1
        )
    )
    known = [n for n, one in enumerate(asked) if one.answer]
    topics = [asked[n].topic for n in known]
    best, arms = f"{name}: {TUNED}, {PASSAGES}", dict[str, dict[str, float]]()
    f1 = {arm: np.array([compute_token_f1(some[n], asked[n].answer) for n in known]) for arm, some in answers.items()}
    for arm, some in answers.items():
        one = compute_interval(f1[arm].tolist(), 2_000, 0.95, 0, topics)
        arms[arm] = {"F1": one["mean"], "low": one["low"], "high": one["high"]}
        for label, strange in (("wrongly", False), ("rightly", True)):
            refused = [is_fixed_refusal(some[n]) for n in range(len(asked)) if strange != bool(asked[n].answer)]
            if refused:
                rate = compute_rate(sum(refused), len(refused))
                arms[arm] |= {f"{label} refused": rate.rate, f"{label}, low": rate.low, f"{label}, high": rate.high}
    for arm in answers:
        if arm != best:
            better = f1[best] - f1[arm]
            low, high = compute_bounds(*sum_by_topic(better[:, None], topics), 0.025)
            figure = {"F1": float(better.mean()), "low": float(low[0]), "high": float(high[0])}
            arms[f"{best}, minus {arm.partition(': ')[2]}"] = figure
    return arms


def replies(folder: Path, asked: Sequence[Asked], grounded: bool) -> list[str]:
    """Return a model's answers. With passages, what retrieval refuses is not asked."""
    todo = [one for one in asked if one.context or not grounded]
    model = open_model(folder)
    found = iter(answer_questions(model, [(one.question, one.context if grounded else "") for one in todo], TOKENS))
    model.close()
    return [REFUSAL if grounded and not one.context else next(found) for one in asked]


if __name__ == "__main__":
    main()
