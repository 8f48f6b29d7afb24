"""dataset: data sets saved by the library `datasets`, folders with a card, and repositories of a Hub."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from llmops.config import Config
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.frame.records import Document, DroppedRow, read_rows
from llmops.pipeline.pipeline import plan_stage, run_stage
from tests.hub import FakeHub, Repo
from tests.served import Answer, served

DAY = "2026-01-31"
FIELDS = {"question": "q", "answer": "a.text", "group": "topic"}
FEATURES = datasets.Features(
    {
        "q": datasets.Value("string"),
        "a": {"text": datasets.Value("string")},
        "topic": datasets.ClassLabel(names=["pay", "send"]),
        "picture": datasets.Image(),
    }
)


def make_dataset(*questions: str) -> datasets.Dataset:
    values = {
        "q": list(questions),
        "a": [{"text": f"To {q}"} for q in questions],
        "topic": [n % 2 if n < 2 else None for n in range(len(questions))],
        "picture": [None] * len(questions),
    }
    return datasets.Dataset.from_dict(values, features=FEATURES)


def make_config(root: Path, location: str, **more: Any) -> Config:
    source = {"name": "s", "kind": "dataset", "location": location, "fields": FIELDS, **more}
    return Config(home=root / "home", collect={"root": root, "sources": [source]})


def collect_rows(root: Path, location: str, **more: Any) -> list[tuple[str, str, str, str, str]]:
    artifact = run_stage("collect", make_config(root, location, **more), DAY)
    documents = read_rows(artifact / "documents.parquet", Document)
    return [(row.location, row.position, row.question, row.answer, row.group) for row in documents]


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that no row gets into the library's cache, where no erasure would look for it."""
    cache = tmp_path / "cache-of-datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    yield
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not list(tmp_path.rglob("copies"))


def write_card(folder: Path, **files: str) -> None:
    """Write a card with a subset for each of `files`, a pattern."""
    lines = [f"- config_name: {name}\n  data_files: {pattern!r}\n" for name, pattern in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(lines)}---\n")


def test_a_folder_with_a_card(tmp_path: Path) -> None:
    folder = tmp_path / "[set]"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "index").write_text("x")
    files = "[{split: train, path: train-0.parquet}, {split: test, path: test-0.parquet}]"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n")
    for name in ("train", "test"):
        make_dataset(name).to_parquet(folder / f"{name}-0.parquet")
    expected = [("[set]", "split train, row 1", "train", "To train", "pay")]
    assert collect_rows(tmp_path, "[set]", split="train") == expected
    assert len(collect_rows(tmp_path, "[set]")) == 2


def test_files_without_a_card_have_their_own_kinds(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text('{"q": "x"}\n')
    card = tmp_path / "set" / "README.md"
    for location in ("set", "set/*.jsonl", "set/a.jsonl"):
        for text in ("", "Hello", "---\nlicense: mit\n---\n"):
            card.write_text(text)
            with pytest.raises(SourceError, match="`csv`, `parquet` or `jsonl`"):
                collect_rows(tmp_path, location)


def test_subsets_of_its_card(tmp_path: Path) -> None:
    for name in ("en", "de"):
        (tmp_path / "set" / name).mkdir(parents=True)
        make_dataset(name).to_parquet(tmp_path / "set" / name / "train.parquet")
    write_card(tmp_path / "set", en="en/*.parquet", de="de/*.parquet")
    assert [row[2] for row in collect_rows(tmp_path, "set", subset="de")] == ["de"]
    for wrong in ({"subset": "fr"}, {}):
        with pytest.raises(SourceError, match="en, de"):
            collect_rows(tmp_path, "set", **wrong)


OUTSIDE = [
    "/{root}/out/x.csv",
    "../out/x.csv",
    "sub/../../out/*.csv",
    "file:/{root}/out/x.csv",
    "zip://*::/{root}/x.zip",
    "http://{server}/x.csv",
    "hf://datasets/org/other/x.csv",
]


@pytest.mark.parametrize("entry", OUTSIDE)
def test_a_card_names_no_file_outside_its_folder(tmp_path: Path, entry: str) -> None:
    requests: list[str] = []

    def answer(_: str, path: str, *__: object) -> Answer:
        requests.append(path)
        return 200, {"Content-Type": "text/csv"}, b"q\nhidden\n"

    (tmp_path / "out").mkdir()
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for file in (tmp_path / "out" / "x.csv", tmp_path / "set" / "a.csv"):
        file.write_text("q\nhidden\n")
    with served(answer) as url:
        entry = entry.format(root=str(tmp_path)[1:], server=url.removeprefix("http://"))
        splits = f"data_files: [{{split: train, path: [a.csv, {entry!r}]}}]"
        for part in (f"data_files: {entry!r}", splits, f"data_dir: {entry!r}"):
            subsets = f"- config_name: default\n  data_files: a.csv\n- config_name: other\n  {part}\n"
            (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{subsets}---\n")
            with pytest.raises(SourceError, match="README.md") as caught:
                collect_rows(tmp_path, "set", subset="other", fields={"question": "q"})
            assert repr(entry) in str(caught.value)
    assert requests == []


@pytest.mark.parametrize("part", ["splits", "file"])
def test_a_saved_data_set_names_no_file_outside(tmp_path: Path, part: str) -> None:
    datasets.DatasetDict({"train": make_dataset("hidden")}).save_to_disk(tmp_path / "out")
    datasets.DatasetDict({"train": make_dataset("open")}).save_to_disk(tmp_path / "set")
    if part == "splits":
        (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": [str(tmp_path / "out" / "train")]}))
    else:
        (file,) = (tmp_path / "out" / "train").glob("*.arrow")
        state = tmp_path / "set" / "train" / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": str(file)}]}))
    with pytest.raises(SourceError, match="outside"):
        collect_rows(tmp_path, "set")


def test_values_of_csv_are_those_that_kind_csv_reads(tmp_path: Path) -> None:
    text = "shop,plz,sku,active,note,none\nLeipzig,04109,007,yes,NA,\nHof,95028,1e5,True,null,1.10\n"
    write_card(tmp_path / "set", default="*.csv")
    (tmp_path / "set" / "shops.csv").write_text(text)
    found = []
    for kind, location in (("csv", "set/shops.csv"), ("dataset", "set")):
        artifact = run_stage("collect", make_config(tmp_path, location, kind=kind, fields={}), DAY)
        found.append([(row.text, row.fields) for row in read_rows(artifact / "documents.parquet", Document)])
    assert found[0] == found[1] and "04109" in str(found) and "NA" in str(found)


def test_an_unchanged_one_is_not_read_again_and_a_changed_one_is(tmp_path: Path) -> None:
    write_card(tmp_path / "set", default="*.parquet")
    make_dataset("one").to_parquet(tmp_path / "set" / "0.parquet")
    before = plan_stage("collect", make_config(tmp_path, "set"), DAY).path
    collect_rows(tmp_path, "set")
    make_dataset("two").to_parquet(tmp_path / "set" / "1.parquet")
    assert plan_stage("collect", make_config(tmp_path, "set"), DAY).path != before
    assert [row[2] for row in collect_rows(tmp_path, "set")] == ["one", "two"]


def test_what_was_saved_also_more_rows_than_a_batch_and_splits(tmp_path: Path) -> None:
    make_dataset("one", "two", *map(str, range(2, 1300))).save_to_disk(tmp_path / "saved")
    found = collect_rows(tmp_path, "saved")
    assert found[:3] == [
        ("saved", "row 1", "one", "To one", "pay"),
        ("saved", "row 2", "two", "To two", "send"),
        ("saved", "row 3", "2", "To 2", ""),
    ]
    assert [row[2] for row in found[2:]] == list(map(str, range(2, 1300)))
    datasets.DatasetDict({"train": make_dataset("one"), "test": make_dataset("two")}).save_to_disk(tmp_path / "split")
    both = [row[1:3] for row in collect_rows(tmp_path, "split")]
    assert sorted(both) == [("split test, row 1", "two"), ("split train, row 1", "one")]
    assert [row[1:3] for row in collect_rows(tmp_path, "split", split="test")] == [("split test, row 1", "two")]
    with pytest.raises(SourceError, match="it has train, test"):
        collect_rows(tmp_path, "split", split="dev")


def test_what_is_no_data_set_or_is_damaged_is_quarantined(tmp_path: Path) -> None:
    write_card(tmp_path / "bad", default="*.parquet")
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(SourceError, match="bad, file: unreadable: no readable data set"):
        collect_rows(tmp_path, "bad")
    (quarantine,) = (tmp_path / "home").glob("artifacts/collect/*/quarantine.parquet")
    assert [row.rule for row in read_rows(quarantine, DroppedRow)] == ["unreadable"]
    with pytest.raises(SourceError, match="revision"):
        collect_rows(tmp_path, "org/name")


@pytest.fixture
def hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """Return the fake Hub, set as the one to read from, with its own cache."""
    from huggingface_hub import constants

    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.HF_HUB_CACHE", cache, raising=False)
    return hub


def commit_files(hub: FakeHub, files: dict[str, bytes]) -> str:
    return hub.repos.setdefault("datasets/org/name", Repo()).add("main", files)


def answer_unavailable(*_: object) -> str:
    return "503"


def make_parquet(tmp_path: Path, *questions: str) -> bytes:
    path = tmp_path / "made.parquet"
    make_dataset(*questions).to_parquet(path)
    return path.read_bytes()


def test_a_repository_is_read_at_its_commit(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    first = commit_files(
        hub, {"train.parquet": make_parquet(tmp_path, "one"), "test.parquet": make_parquet(tmp_path, "two")}
    )
    assert collect_rows(tmp_path, "org/name", revision="main", split="train") == [
        ("org/name", "split train, row 1", "one", "To one", "pay")
    ]
    second = commit_files(hub, {"train.parquet": make_parquet(tmp_path, "one", "more")})
    assert [row[2] for row in collect_rows(tmp_path, "org/name", revision="main")] == ["one", "more"]
    pinned = make_config(tmp_path, "org/name", revision=first, split="train")
    hub.asked.clear()
    pinned_at = plan_stage("collect", pinned, DAY).path
    assert hub.asked == []  # a commit stands for itself
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.fail = answer_unavailable
    assert [row[2] for row in collect_rows(tmp_path, "org/name", revision="main")] == ["one", "more"]
    assert run_stage("collect", pinned, DAY) == pinned_at
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        collect_rows(tmp_path, "org/other", revision="main")
    snapshots = next((tmp_path / "hub-cache").glob("*/snapshots"))
    assert {path.name for path in snapshots.iterdir()} == {first, second}  # nothing of ours beside them


def test_no_file_of_a_repository_stands_for_a_card(hub: FakeHub, tmp_path: Path) -> None:
    """The library reads `.huggingface.yaml` beside the card, and takes its entries first."""
    entry = str(tmp_path / "out.csv")
    Path(entry).write_text("q\nhidden\n")
    files = {"a.csv": b"q\nopen\n", "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n---\n"}
    configs = f"configs:\n- config_name: default\n  data_files: {entry}\n"
    commit_files(hub, files | {".huggingface.yaml": configs.encode()})
    with pytest.raises(SourceError, match=re.escape(entry)) as caught:
        collect_rows(tmp_path, "org/name", revision="main", fields={"question": "q"})
    assert ".huggingface.yaml" in str(caught.value)


def test_what_the_hub_does_not_have_and_a_hub_that_is_down(hub: FakeHub, tmp_path: Path) -> None:
    commit_files(hub, {"train.parquet": make_parquet(tmp_path, "one")})
    for location, revision in (("org/other", "main"), ("org/name", "v9")):
        with pytest.raises(SourceError, match=location) as caught:
            collect_rows(tmp_path, location, revision=revision)
        assert not isinstance(caught.value, SourceUnavailableError)
    hub.fail = answer_unavailable
    with pytest.raises(SourceUnavailableError, match="org/name"):
        collect_rows(tmp_path, "org/name", revision="main")
