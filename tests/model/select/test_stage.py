"""Selecting a base model: the catalogue, the comparison, its table, and the packaged model converted."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import snapshot_download

from llmops.config import Select
from llmops.frame.artifacts import Record, clear, commit, find_newest
from llmops.frame.errors import ArtifactError, ConfigError
from llmops.frame.records import Example, get_base_path, write_rows
from llmops.frame.statistics.bootstrap import Measure
from llmops.model.base import weights
from llmops.model.base.catalog import CatalogueEntry
from llmops.model.base.load import load_model
from llmops.model.select import stage as select
from llmops.model.select.stage import BaseScore, choose_base, compute_bits_saved
from tests.model.samples import make_entry, make_example


def make_score(bits: list[float]) -> BaseScore:
    measure = Measure(np.array([[b * np.log(2), 1.0] for b in bits]), lambda s: s[:, 0] / s[:, 1] / np.log(2))
    topics = tuple(str(i) for i in range(len(bits)))
    return BaseScore(measure, topics)


SMALL, BIG = make_entry("small", 0.3), make_entry("big", 7.0)


def test_the_largest_is_chosen_where_nothing_can_be_compared() -> None:
    best, why = choose_base([SMALL, BIG], {"small": make_score([1.0] * 8)})
    assert best is BIG and "not compared" in why["big"] and "smaller" in why["small"]


def test_a_smaller_one_is_chosen_only_if_it_is_better_beyond_chance() -> None:
    bits = np.random.default_rng(0).uniform(1, 3, 20)
    noise = np.random.default_rng(1).normal(0, 0.5, 20)
    best, why = choose_base([SMALL, BIG], {"small": make_score(list(bits - 0.2)), "big": make_score(list(bits))})
    assert best is SMALL and "larger" in why["big"] and "worse" in why["big"]
    found = compute_bits_saved(make_score(list(bits - 0.1)), make_score(list(bits)))  # they are paired
    assert found == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    best, why = choose_base(
        [SMALL, BIG], {"small": make_score(list(bits - 0.01 + noise)), "big": make_score(list(bits))}
    )
    assert best is BIG and "not better beyond chance" in why["small"]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the stage with these settings; its folder is `out`."""
    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "annotate" / "validation.parquet", [make_example(n) for n in range(6)], Example)
    paths = {"annotate": tmp_path / "annotate", "database": "", "out": tmp_path / "out"}
    return lambda **config: select.run(Select(**{"max_memory_gib": 24, **config}), **paths)


def test_what_is_here_is_compared(tiny_base: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models in the Hub's cache and one in a package; nothing is downloaded."""
    package = tmp_path / "package" / "tiny.gguf"
    package.parent.mkdir()
    package.touch()
    rows = [
        SMALL,
        make_entry("middle", 0.4, revision="a" * 40),
        make_entry("packed", 0.2, package="numpy", file="tiny.gguf"),
    ]
    monkeypatch.setattr(select, "read_catalogue", lambda: [*rows, make_entry("closed", 0.4, licence="llama3")])
    monkeypatch.setattr(CatalogueEntry, "find_packaged_file", lambda self: package if self.package else None)
    monkeypatch.setattr(
        weights, "find_cached", lambda e, revision: None if e.package or e.model == "closed" else tiny_base
    )
    monkeypatch.setattr(weights, "convert_gguf", lambda gguf, out: shutil.copytree(tiny_base, out))
    out = tmp_path / "out"
    done = run(score_items=4)
    assert done["model"] == "middle" and done["considered"] == 4
    table = {row["model"]: row for row in json.loads((out / "selection.json").read_text())["considered"]}
    assert all(table[name]["bits per byte"] for name in ("small", "middle", "packed"))
    assert table["closed"]["bits per byte"] == "" and table["middle"]["revision"] == "aaaaaaa"
    assert table["small"]["revision"] == "not pinned" and table["packed"]["revision"].startswith("numpy==")
    assert (out / "selection.md").read_text().index("| middle") < (out / "selection.md").read_text().index("| closed")
    assert sorted(p.name for p in out.iterdir()) == ["base", "selection.json", "selection.md"]
    assert "Question" not in (out / "selection.json").read_text() + (out / "selection.md").read_text()
    assert get_base_path(out) == str(out / "base") and done["revision"] == tiny_base.name

    clear(out)
    done = run(score_items=0, model="packed")
    assert done["revision"].startswith("numpy==") and (out / "base" / "config.json").is_file()
    assert get_base_path(out) == str(out / "base") and not (out / "candidates").exists()
    with pytest.raises(ConfigError, match="download"):  # a revision that is asked for is the Hub's, not the package's
        run(model="packed", revision="v2")
    assert run(score_items=0, model=str(tiny_base))["revision"] == "local" and get_base_path(out) == str(tiny_base)


def test_a_model_in_the_cache_has_to_be_whole(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr(weights, "snapshot_download", partial(snapshot_download, cache_dir=hub))
    pinned = make_entry("org/tiny", 0.1, revision="b" * 40)
    assert weights.find_cached(pinned, pinned.revision) is None
    folder = hub / "models--org--tiny" / "snapshots" / pinned.revision
    shutil.copytree(tiny_base, folder)
    assert weights.find_cached(pinned, pinned.revision) == folder
    assert weights.find_cached(pinned, "c" * 40) is None
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights.find_cached(pinned, pinned.revision) is None


def test_a_model_outlives_the_cache(tiny_base: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has symbolic links to its blobs, and may hold more than a model is loaded from."""
    snapshot, blobs = tmp_path / "hub" / "snapshots" / ("b" * 40), tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in (p for p in tiny_base.iterdir() if p.is_file()):
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(blobs / path.name)
    (snapshot / "consolidated.safetensors").write_bytes(b"the weights once more")
    monkeypatch.setattr(select, "read_catalogue", lambda: [SMALL])
    monkeypatch.setattr(weights, "find_cached", lambda e, revision: snapshot)
    done, kept = run(score_items=0), Path(get_base_path(tmp_path / "out"))
    assert done["revision"] == "b" * 40 and kept == tmp_path / "out" / "base"
    assert (kept / "model.safetensors").stat().st_ino == (blobs / "model.safetensors").stat().st_ino
    shutil.rmtree(tmp_path / "hub")
    assert load_model(kept).num_parameters() == load_model(tiny_base).num_parameters()
    assert not (kept / "consolidated.safetensors").exists()


def test_a_base_that_is_gone_says_which_revision_to_get(tmp_path: Path) -> None:
    row = {"model": "org/tiny", "revision": "c" * 40, "path": str(tmp_path / "gone")}
    (tmp_path / "selection.json").write_text(json.dumps(row))
    with pytest.raises(ArtifactError, match=r"hf download org/tiny --revision c{40}.*llmops run select"):
        get_base_path(tmp_path)


def test_a_folder_without_a_model_is_no_choice(tmp_path: Path) -> None:
    write_rows(tmp_path / "validation.parquet", [make_example(0)], Example)
    config = Select(model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        select.run(config, annotate=tmp_path, database="", out=tmp_path)


def test_scores_load_in_four_bits_where_there_is_no_room(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    load = select.load_model
    monkeypatch.setattr(select, "load_model", lambda folder, how: asked.append(how) or load(folder))
    for four_bits in (False, True):
        select.score_untuned(tiny_base, [make_example(1)], four_bits)
    assert asked[0] is None and asked[1].load_in_4bit


def test_the_newest_selection_is_the_one_finished_last(tmp_path: Path) -> None:
    stage = tmp_path / "select"
    facts: Any = dict.fromkeys(("stage", "fingerprint", "interval", "code", "git_commit", "started", "run"), "x")
    for name, finished in (("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "")):
        (stage / name).mkdir(parents=True)
        if finished:
            commit(stage / name, Record(**facts, config={}, inputs={}, metrics={}, files={}, finished=finished))
    assert find_newest(stage).name == "a"
