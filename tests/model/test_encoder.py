"""An encoder goes the way of every model: it gets a head, is tuned, trained, compressed, calibrated and evaluated."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

from llmops.config import Clean, Compress, Config, Evaluate, Features, Select, Train, Tune
from llmops.data.clean.rules import too_short
from llmops.data.features import stage as features
from llmops.data.features.tokenize import Tokens, tokenize_labelled
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, ConfigError, TrainingError
from llmops.frame.records import Example, write_rows
from llmops.frame.statistics.bootstrap import make_mean
from llmops.model.base.classifier import CALIBRATION_FILE, GRAPH_FILE, Classifier
from llmops.model.base.encoder import CLASSIFIES, convert_to_openvino, pad
from llmops.model.base.hashes import copy_model
from llmops.model.base.inference import open_model
from llmops.model.base.packing import compute_answer_loss, compute_mean_loss
from llmops.model.compress import stage as compress
from llmops.model.evaluate import stage as evaluate
from llmops.model.scoring.answers import ScoredAnswers
from llmops.model.scoring.calibration import measure_calibration_error
from llmops.model.select import stage as select
from llmops.model.select.head import save_with_head
from llmops.model.train import stage as train
from llmops.model.training.fit import LengthSampler, PackedTrainer, fit
from llmops.model.training.qlora import Hyperparameters, add_adapter, load_trainable_model
from llmops.model.tune import stage as tune
from llmops.prompts.encoder import read_format
from llmops.release.batch.engine import LocalEngine
from tests.model.samples import FILLERS, KINDS_OF_ROBERTA, LABEL_WORDS, make_encoder, make_example


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small BERT."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def make_texts(count: int, split: str, start: int) -> list[Example]:
    """Return texts of three queues; of each label in turn."""
    rng, labels = np.random.default_rng(start), list(LABEL_WORDS)
    rows = []
    for number in range(start, start + count):
        label = labels[number % 3]
        words = [*rng.choice(FILLERS, 4), str(rng.choice(LABEL_WORDS[label]))]
        text = " ".join(rng.permutation(words))
        rows.append(make_example(number, split, question=text, answer=label, group=label))
    return rows


def commit(path: Path, metrics: Any, config: dict[str, Any] | None = None) -> Path:
    """Finish an artifact."""
    artifacts.commit(path, Record(path.parent.name, path.name, config or {}, {}, "", "", dict(metrics), {}, "", "", ""))
    return path


@pytest.fixture(scope="module")
def artifact_folder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the artifacts of annotate, select and features."""
    home = tmp_path_factory.mktemp("home")
    annotate, selected, made = (home / name / ("1" * 16) for name in ("annotate", "select", "features"))
    annotate.mkdir(parents=True)
    rows = {"train": make_texts(90, "train", 0), "validation": make_texts(30, "validation", 100)}
    rows["test"] = [*make_texts(30, "test", 200), make_example(999, "test", question="my card", answer="new")]
    long = make_example(998, "train", question="please " * 40 + "stolen", answer="lost card", group="lost card")
    for split, examples in (rows | {"train": [*rows["train"], long]}).items():
        write_rows(annotate / f"{split}.parquet", examples, Example)
    commit(annotate, {"train": 91})
    selected.mkdir(parents=True)
    config = Select(encoders=(str(encoder),))
    commit(selected, select.run(config, annotate=annotate, database=f"sqlite:///{home / 'state.db'}", out=selected))
    settings = Features(store=home / "feast")
    metrics = features.run(settings, annotate=annotate, select=selected, out=made)
    commit(made, metrics, {"max_tokens": settings.max_tokens})
    return home


def get(home: Path, name: str) -> Path:
    """Return an artifact."""
    return home / name / ("1" * 16)


def make_search(trials: int) -> Tune:
    """Return a search by whole trials."""
    return Tune(search="random", trials=trials, steps=0, halving=1, space={"learning_rate": ("choice", 5e-3, 1e-2)})


def test_the_selected_encoder_has_a_head_for_the_labels_and_long_texts_are_cut(artifact_folder: Path) -> None:
    chosen = json.loads((get(artifact_folder, "select") / "selection.json").read_text())
    assert not Path(chosen["model"]).is_absolute()
    assert chosen["why"] if "why" in chosen else chosen["considered"][0]["why"].startswith("chosen")
    model = AutoModelForSequenceClassification.from_pretrained(get(artifact_folder, "select") / "base")
    assert model.config.label2id == {"lost card": 0, "refund": 1, "转账": 2}
    metrics = artifacts.read_record(get(artifact_folder, "features")).metrics
    assert metrics["truncated"] == 1 and metrics["longest"] == 17  # 16 of the text, and the label
    assert metrics["dropped"] == {"new_label": 1}


@pytest.mark.parametrize(
    ("kind", "count", "layers"), [("bert", 90, 3), ("bert", 150, 2), *((kind, 90, 3) for kind in KINDS_OF_ROBERTA)]
)
def test_with_few_texts_a_label_the_first_token_begins_as_the_mean_of_all(
    kind: str, count: int, layers: int, tmp_path: Path
) -> None:
    write_rows(tmp_path / "train.parquet", make_texts(count, "train", 0), Example)
    save_with_head(make_encoder(tmp_path / "encoder", kind), tmp_path, tmp_path / "made")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    examples = [tokens for tokens, _ in tokenize_labelled(read_format(tmp_path / "made"), make_texts(20, "test", 200))]
    batch = pad([e for e in examples if e])
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"][:, :, None]
    mean = (found[2] * mask).sum(dim=1) / mask.sum(dim=1)
    assert len(found) == layers + 1
    if layers == 3:
        assert torch.nn.functional.cosine_similarity(found[3][:, 0], mean).min() > 0.97


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_trained_encoder_classifies_and_its_probabilities_are_calibrated(
    method: Any, artifact_folder: Path, tmp_path: Path
) -> None:
    made = {name: get(artifact_folder, name) for name in ("annotate", "select", "features")}
    tuned, trained, compressed, evaluated = (tmp_path / name for name in ("tune", "train", "compress", "evaluate"))
    for folder in (tuned, trained, compressed, evaluated):
        folder.mkdir()
    training = Train(method=method, epochs=12, batch=8, rank=8)
    search = Tune(trials=2, steps=4, rung=2, space={"learning_rate": ("choice", 5e-3, 1e-2)})
    tune.run(search, train=training, features=made["features"], select=made["select"], out=tuned)
    metrics = train.run(training, features=made["features"], select=made["select"], tune=tuned, out=trained)
    assert metrics["final_loss"] < metrics["first_loss"] and metrics["examples"] == 91
    limits = json.loads((trained / "servable" / "tokenizer_config.json").read_text())
    assert limits["model_max_length"] == Features().max_tokens  # who uses it cuts texts as they were trained on
    commit(trained, metrics)
    figures = compress.run(
        Compress(),
        annotate=made["annotate"], features=made["features"], select=made["select"], train=trained, out=compressed,
    )  # fmt: skip
    assert figures["chosen"] in ("f32", "int8") and figures["items"] == 30  # the small one, if it is as good
    assert 0 < figures["threshold"] <= 1 and figures["answered"] >= 0.98 and figures["temperature"] > 0
    commit(compressed, figures)
    found = evaluate.run(
        Evaluate(task="classification"),
        annotate=made["annotate"], select=made["select"], compress=compressed, out=evaluated,
    )  # fmt: skip
    assert found["items"] == 31 and found["base_accuracy"] < 0.85 < found["candidate_accuracy"]  # of 30 known labels
    assert {"candidate_calibration_error", "candidate_answered"} <= found.keys()
    model = Classifier(compressed / "servable")
    probabilities, cut = model.classify([("my card is stolen", ""), ("please " * 40, "")])
    assert model.format.labels[probabilities[0].argmax()] == "lost card" and cut == [False, True]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(("epochs", "seed", "reused"), [(2.0, 0, True), (1.5, 0, False), (2.0, 1, False)])
def test_the_chosen_trial_is_not_trained_again(
    epochs: float, seed: int, reused: bool, artifact_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is the same in any case. With another seed, or a fraction of an epoch, it is trained again."""
    folders = {name: get(artifact_folder, name) for name in ("features", "select")}
    training, search = Train(method="full", epochs=epochs, batch=8), make_search(trials=2)
    (tuned := get(tmp_path, "tune")).mkdir(parents=True)
    tune.run(search, train=training, out=tuned, **folders)
    assert {path.name for path in tuned.iterdir()} >= {"best.json", "trained"} and not (tuned / ".trials").exists()
    commit(tuned, {}, search.model_dump(mode="json"))
    (alone := tmp_path / "alone").mkdir()
    (alone / "best.json").write_bytes((tuned / "best.json").read_bytes())
    chosen = training.model_copy(update={"seed": seed})
    found = {}
    for name, folder in (("again", alone), ("reused", tuned)):
        (tmp_path / name).mkdir()
        found[name] = train.run(chosen, tune=folder, out=tmp_path / name, **folders)
    steps = [row["step"] for row in json.loads((tmp_path / "reused/loss.json").read_text())]
    assert steps == [float(step) for step in range(1, found["again"]["steps"] + 1)]
    measured = ("final_loss", "validation_loss", "merged_validation_loss", "steps", "tokens")
    assert {key: found["reused"][key] for key in measured} == {key: found["again"][key] for key in measured}
    weights = [load_file(tmp_path / name / "servable/model.safetensors") for name in found]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    monkeypatch.setattr(PackedTrainer, "compute_loss", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "third").mkdir()
    with nullcontext() if reused else pytest.raises(pytest.fail.Exception, match="trained"):
        train.run(chosen, tune=tuned, out=tmp_path / "third", **folders)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_each_architecture_gets_a_head_trains_and_is_served_with_the_same_scores(kind: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", texts := make_texts(90, "train", 0), Example)
    save_with_head(make_encoder(tmp_path / "encoder", kind), tmp_path, base := tmp_path / "base")
    examples = [tokens for tokens, _ in tokenize_labelled(read_format(base), texts) if tokens]
    for method in ("lora", "full"):
        training, found = Train(method=method), Hyperparameters(learning_rate=5e-3, rank=4, batch=15, epochs=12)
        model = load_trainable_model(str(base), training, found)
        before = compute_mean_loss(model, examples)
        fit(model, examples, training, found, tmp_path / method)
        assert compute_mean_loss(model, examples) < before
    model.save_pretrained(base)
    model, classifier = AutoModelForSequenceClassification.from_pretrained(base).eval(), open_model(base)
    assert isinstance(classifier, Classifier)
    for words in (1, 12):
        tokens = classifier.tokenize([make_example(n, question="my stolen " * n + "card") for n in (1, words)])
        batch = {name: values for name, values in pad(tokens).items() if name != "labels"}
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        assert classifier.compute_scores([one.token_ids[:-1] for one in tokens]) == pytest.approx(expected, abs=1e-4)


def test_a_language_model_is_compared_on_the_same_labels(
    artifact_folder: Path, encoder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    config = Select(encoders=(str(encoder),), model=str(tiny_base))
    database = f"sqlite:///{tmp_path / 'state.db'}"
    select.run(config, annotate=get(artifact_folder, "annotate"), database=database, out=tmp_path)
    ours, other = json.loads((tmp_path / "selection.json").read_text())["considered"]
    assert ours["why"].startswith("chosen") and "compared only" in other["why"]
    assert float(ours["bits per byte"].split()[0]) < float(other["bits per byte"].split()[0])
    absent = Select(encoders=(str(encoder),), model="someone/else")
    with pytest.raises(ConfigError, match="its weights are not here"):
        select.run(absent, annotate=get(artifact_folder, "annotate"), database=database, out=tmp_path / "other")


def test_texts_of_a_batch_have_similar_lengths_in_an_order_that_an_epoch_repeats() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(4, 60, 1010)]
    sampler = LengthSampler(lengths, batch=8, seed=0)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again and first != second and sorted(first) == sorted(second) == list(range(1010))
    batches = [[lengths[n] for n in first[i : i + 8]] for i in range(0, 1008, 8)]
    assert sum(8 * max(batch) for batch in batches) < 1.1 * sum(lengths)
    assert [batch[0] for batch in batches] != sorted(batch[0] for batch in batches)


def test_labels_are_smoothed_in_training_only_and_with_enough_texts(artifact_folder: Path, tmp_path: Path) -> None:
    base = get(artifact_folder, "select") / "base"
    reader = read_format(base)
    first, last = {}, {}
    for count in (147, 150):
        examples = [tokens for tokens, _ in tokenize_labelled(reader, make_texts(count, "train", 0)) if tokens]
        config, found = Train(method="full"), Hyperparameters(learning_rate=1e-9, rank=4, batch=count, epochs=1.0)
        model = load_trainable_model(str(base), config, found)
        for part in (part for part in model.modules() if isinstance(part, torch.nn.Dropout)):
            part.p = 0.0
        for layer in model.base_model.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        first[count] = fit(model, examples, config, found, tmp_path / str(count), max_steps=1)[0]["loss"]
        last[count] = compute_mean_loss(model, examples)
    assert first[147] == pytest.approx(last[147], rel=0.02)
    assert first[150] > 1.04 * last[150]


def test_smaller_parts_of_a_batch_have_the_same_texts(artifact_folder: Path, tmp_path: Path) -> None:
    base, rng = get(artifact_folder, "select") / "base", np.random.default_rng(0)
    examples = [Tokens(str(n), [4] * size + [n % 3], size) for n, size in enumerate(rng.integers(3, 16, 64).tolist())]
    tokens = []
    for micro in (8, 4):
        training, hyperparameters = Train(method="full", micro_batch=micro), Hyperparameters(1e-3, 4, 8)
        model = load_trainable_model(str(base), training, hyperparameters)
        history = fit(model, examples, training, hyperparameters, tmp_path / str(micro), max_steps=4)
        tokens.append([row["tokens"] for row in history])
    assert tokens[0] == tokens[1]


def test_a_language_model_does_not_train_in_full(tiny_base: Path) -> None:
    with pytest.raises(TrainingError, match="full is for encoders"):
        load_trainable_model(str(tiny_base), Train(method="full"), Hyperparameters(1e-3, 4, 4))


def test_what_is_no_encoder_and_a_single_label_are_refused(tiny_base: Path, encoder: Path, tmp_path: Path) -> None:
    annotate = tmp_path / "annotate"
    annotate.mkdir()
    one = [make_example(n, "train", answer="same") for n in range(4)]
    for split in ("train", "validation"):
        write_rows(annotate / f"{split}.parquet", one, Example)
    for name, error, text in ((tiny_base, ConfigError, "is no encoder"), (encoder, ArtifactError, "two labels")):
        with pytest.raises(error, match=text):
            select.run(Select(encoders=(str(name),)), annotate=annotate, database="sqlite://", out=tmp_path / "out")


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    measure = measure_calibration_error(np.array([0.9, 0.9, 0.5, 0.5]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert measure.combine(measure.columns.sum(axis=0, keepdims=True)) == pytest.approx([0.5 * 0.4])


def test_a_label_may_be_a_digit_unless_the_configuration_forbids_it() -> None:
    def find_kept(**sections: Any) -> list[str]:
        settings = Config(select={"encoders": ["all-MiniLM-L6-v2"]}, evaluate={"task": "classification"}, **sections)
        rows = pl.DataFrame({"question": ["hi", "hi"], "answer": ["1", "10"], "text": ["", ""]})
        return rows.filter(~too_short(settings.clean).hit)["answer"].to_list()

    assert find_kept() == ["1", "10"] and find_kept(clean={"min_chars": 2}) == ["10"] and Clean().min_chars == 2


@pytest.mark.parametrize(("kind", "limit"), [("bert", 18), ("roberta", 16), ("camembert", 16), ("mpnet", 16)])
def test_a_text_is_cut_at_the_positions_of_the_model_or_at_the_limit_of_its_tokenizer(
    kind: str, limit: int, encoder: Path, tmp_path: Path
) -> None:
    """RoBERTa and its kin use no position up to that of the padding."""
    labels = {"id2label": {"0": "a", "1": "b"}}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": kind, "max_position_embeddings": 18, "pad_token_id": 1, **labels})
    )
    (tmp_path / "tokenizer.json").write_text((encoder / "tokenizer.json").read_text())
    (((ids, cut),), most) = (read_format(tmp_path).encode([("help " * 30, "")]), read_format(tmp_path).max_tokens)
    assert (len(ids), cut, most) == (limit, True, limit)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 7}))
    assert read_format(tmp_path).max_tokens == 7 and read_format(tmp_path, 5).max_tokens == 5


def test_both_layers_of_a_head_train_in_full_beside_an_adapter() -> None:
    sizes = {"vocab_size": 30, "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 4}
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, problem_type=CLASSIFIES))
    adapted = add_adapter(model, Train(method="lora"), Hyperparameters(1e-3, 4, 4))
    trained = {name for name, value in adapted.named_parameters() if value.requires_grad}
    heads = {name for name in trained if "lora" not in name}
    assert len(heads) == 4 and all("classifier.modules_to_save" in name for name in heads)
    assert len(trained) == 4 + 2 * 6


def test_a_batch_gives_no_label_that_is_not_sure_enough(artifact_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "servable"
    copy_model(get(artifact_folder, "select") / "base", folder)
    openvino.save_model(convert_to_openvino(folder), folder / GRAPH_FILE)
    texts = [("my card is stolen", ""), ("help", "")]
    probabilities = open_model(folder).classify(texts)[0].max(axis=1)
    assert [reply.answer != "" for reply in LocalEngine(folder, "v1", 1, 8).answer(texts)] == [True, True]
    (folder / CALIBRATION_FILE).write_text(json.dumps({"temperature": 1.0, "threshold": float(probabilities.mean())}))
    replies = LocalEngine(folder, "v1", 1, 8).answer(texts)
    assert [reply.answer != "" for reply in replies] == list(probabilities > probabilities.mean())
    for threshold, given in ((0.0, True), (1.0, False)):
        replies = LocalEngine(folder, "v1", 1, 8, threshold).answer(texts)
        assert [reply.answer != "" for reply in replies] == [given, given]
    assert len({LocalEngine(folder, "v1", 1, 8, value).name for value in (None, 0.0, 1.0)}) == 3


def test_a_classifier_is_compared_with_a_language_model_in_what_both_have() -> None:
    def score(*metrics: str) -> ScoredAnswers:
        return ScoredAnswers(["a", "b"], {}, {name: make_mean([1.0, 0.0]) for name in metrics}, {})

    models = {name: score("accuracy", "confidence") for name in ("base", "candidate")} | {"champion": score("accuracy")}
    found = evaluate.compute_figures(models, ["1", "2"], Evaluate(task="classification"))
    assert found["differences"].keys() == found["models"]["champion"].keys() == {"accuracy"}


def test_the_share_of_a_process_has_the_loss_of_the_model(artifact_folder: Path, tmp_path: Path) -> None:
    base = get(artifact_folder, "select") / "base"
    model = AutoModelForSequenceClassification.from_pretrained(base).eval()
    batch = pad([one for one, _ in tokenize_labelled(read_format(base), make_texts(4, "train", 0)) if one])
    expected = compute_answer_loss(model, batch)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        assert compute_answer_loss(torch.nn.parallel.DistributedDataParallel(model), batch) == expected
    finally:
        torch.distributed.destroy_process_group()
