"""The champion's examples on the Hub: what lies there, what never does, and what the card tells."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard

from llmops.config import Annotate, PushToHub
from llmops.data.annotate.stage import run as annotate
from llmops.frame import artifacts
from llmops.frame.errors import HubUnavailableError, RegistryError
from llmops.frame.records import Document, Example, get_schema, make_content_id, read_rows, write_rows
from llmops.release.push_to_hub.dataset import push, read_state
from llmops.release.registry.registry import Registry

from .conftest import commit_artifact

HUB = PushToHub(dataset="me/data")
REPO = "datasets/me/data"
MAIL = "anna.lind@example.com"
TOPICS = ("tents", "boots", "stoves", "ropes", "lamps", "maps", "packs", "skis", "knives", "mats", "bikes", "canoes")


def documents(licences: dict[str, str]) -> list[Document]:
    """A question and its answer on each topic, from two sources; one answer names a person.

    A third source, `re`, asks each of them in other words, if it has a licence.
    """
    made = []
    for number, topic in enumerate(TOPICS):
        source, position, asked = ("faq", "shop")[number % 2], f"row {number}", f"How do I return {topic}?"
        answer = f"Bring your {topic} to any shop within {number + 20} days.{'' if number else f' Ask {MAIL}.'}"
        known = {"id": make_content_id(topic), "location": "faq.csv", "licence": licences[source], "answer": answer}
        made.append(Document(source=source, position=position, question=asked, group=topic, **known))
        if "re" in licences:
            known = {
                "id": make_content_id("re", topic),
                "location": "re.csv",
                "licence": licences["re"],
                "same_as": asked,
            }
            made.append(Document(source="re", position=position, question=f"Can {topic} be sent back?", **known))
    return made


@pytest.fixture
def home(tmp_path: Path) -> Callable[..., Path]:
    """Makes the annotate artifact a1 (or another) of a home, by the stage itself; returns it."""

    def make(key: str = "a1", **licences: str) -> Path:
        clean, out = (tmp_path / "artifacts" / stage / key for stage in ("clean", "annotate"))
        found = documents({"faq": "mit", "shop": "CC-BY-4.0", **licences})
        write_rows(clean / "documents" / "part.parquet", found, Document)
        funnel = {"in": 3456, "kept": len(TOPICS), "dropped": {"language": 3000, "near_duplicate": 444}}
        commit_artifact(clean, {}, {"languages": ["en", "de"]}, funnel)
        config = Annotate(test=0.3, validation=0.2, min_test_items=1)
        new: Any = SimpleNamespace(
            interval="2026-01-31", read_entries=list, read_trained_texts=list, write=lambda entries: None
        )
        metrics = annotate(config, clean=clean, out=out, ledger=new)
        commit_artifact(out, {"clean": f"clean/{key}"}, config.get_hashed_values(), dict(metrics))
        return out

    return make


@pytest.fixture
def registry(write_version: Any, hub: Any, home: Callable[..., Path]) -> Registry:
    home()
    write_version(1, "promoted")
    found: Registry = write_version.registry
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def bring(registry: Registry, root: Path, config: PushToHub = HUB) -> dict[str, Any]:
    return push(registry, root, config, root.parent / "events", by="test")


def front(card: bytes) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return found


def test_load_dataset_gives_what_the_champion_learned(registry: Registry, root: Path, hub: Any, tmp_path: Path) -> None:
    state = bring(registry, root)
    assert (state["main"], state["pushed"], state["equal"]) == ("v1", ["main", "v1"], True)
    repo = hub.repos[REPO]
    assert repo.files("main") == repo.files("v1") and hub.created[0]["visibility"] == "private"
    for path, content in repo.files("v1").items():
        (file := tmp_path / "pulled" / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    found = load_dataset(str(tmp_path / "pulled"), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train", "validation"]
    for split in found:
        known = read_rows(root / "annotate" / "a1" / f"{split}.parquet", Example)
        assert [Example(**row) for row in found[split]] == known and known
        assert found[split].column_names == get_schema(Example).names
    assert read_state(registry, root, HUB)["behind"] == []
    assert bring(registry, root)["pushed"] == [] and len(repo.history("main")) == 2


def test_the_frozen_test_stays_at_home_unless_it_is_asked_for(registry: Registry, root: Path, hub: Any) -> None:
    bring(registry, root)
    tested = read_rows(root / "annotate" / "a1" / "test.parquet", Example)
    files = hub.repos[REPO].files("main")
    everything = b"".join(files.values()) + b"".join(hub.large.values())
    assert tested and not [e for e in tested if e.question.encode() in everything]
    assert f"frozen test, {len(tested)} examples".encode() in files["README.md"]
    bring(registry, root, HUB.model_copy(update={"dataset_test": True}))
    files = hub.repos[REPO].files("main")
    assert "data/test-00000-of-00001.parquet" in files and b"Do not train on it" in files["README.md"]
    splits = [c["split"] for c in front(files["README.md"])["configs"][0]["data_files"]]
    assert splits == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("licences", "named"),
    [
        ({"shop": ""}, r"shop \(no licence"),
        ({"shop": "proprietary", "re": "MIT"}, r"[ ]re \(proprietary"),  # an answer to another wording of its question
        ({"shop": "", "re": "MIT"}, r"[ ]re \(no licence"),
    ],
)
def test_a_source_that_may_not_be_passed_on_is_named_and_nothing_is_pushed(
    write_version: Any, home: Callable[..., Path], root: Path, hub: Any, licences: dict[str, str], named: str
) -> None:
    train = read_rows(home(**licences) / "train.parquet", Example)
    assert {e.licence for e in train if e.source == "re"} <= {"mit", "MIT AND proprietary" if licences["shop"] else ""}
    write_version(1, "promoted")
    for ask in (bring, lambda *given: read_state(*given, HUB)):
        with pytest.raises(RegistryError, match=rf"{named}, \d+ examples\).*dataset_licences"):
            ask(write_version.registry, root)
    assert hub.repos == {} and hub.created == [] and hub.large == {}


def test_own_licences_are_told_as_others(write_version: Any, home: Callable[..., Path], root: Path, hub: Any) -> None:
    home(shop="House-Rules", re="MIT")
    write_version(1, "promoted")
    bring(write_version.registry, root, HUB.model_copy(update={"dataset_licences": ("Mit", "house-rules")}))
    card = hub.repos[REPO].files("main")["README.md"]
    assert (front(card)["license"], front(card)["license_name"]) == ("other", "house-rules-mit")
    assert b"| House-Rules AND MIT |" in card


def test_only_champions_have_examples_there_and_main_follows(
    registry: Registry, root: Path, home: Callable[..., Path], write_version: Any, hub: Any
) -> None:
    bring(registry, root)
    home("a2")
    write_version(2, "rejected")
    assert bring(registry, root)["pushed"] == []
    home("a3", faq="cc0-1.0")
    write_version(3, "promoted")
    assert read_state(registry, root, HUB)["behind"] == ["main", "v3"]
    assert bring(registry, root)["pushed"] == ["main", "v3"]
    repo, tags = hub.repos[REPO], dict(hub.repos[REPO].tags)
    assert list(tags) == ["v1", "v3"] and b"| cc0-1.0 |" in repo.files("main")["README.md"]
    registry.rollback()
    assert bring(registry, root)["pushed"] == ["main"]
    assert repo.files("main") == repo.files("v1") and repo.tags == tags and list(repo.branches) == ["main"]
    registry.promote("v2", override="the others answer nobody")
    bring(registry, root)
    card = repo.files("main")["README.md"].decode()
    assert "The gate did not pass v2: rejected. It became champion by an override: the others answer nobody" in card


def test_what_is_not_ours_is_not_touched(registry: Registry, root: Path, hub: Any) -> None:
    hub.answer("POST", "/api/repos/create", b'{"type": "dataset", "organization": "me", "name": "data"}')
    repo = hub.repos[REPO]
    repo.add("main", {"README.md": b"by hand"})
    assert bring(registry, root)["equal"]
    repo.add("main", {"data/theirs.parquet": b"theirs"})
    with pytest.raises(RegistryError, match=r"data/theirs\.parquet.*push_to_hub\.dataset"):
        bring(registry, root)
    repo.add("main", {"version.json": b'{"name": "v1", "compress": "of others", "created": "long ago"}'})
    with pytest.raises(RegistryError, match="do not know"):
        bring(registry, root)
    assert list(repo.files("main")) == ["version.json"]


def test_damaged_examples_are_not_pushed_and_those_that_are_gone_stay(registry: Registry, root: Path, hub: Any) -> None:
    bring(registry, root)
    folder = root / "annotate" / "a1"
    pq.write_table(pq.read_table(folder / "train.parquet").slice(1), folder / "train.parquet")
    with pytest.raises(RegistryError, match=r"train\.parquet is missing or was changed"):
        bring(registry, root)
    (folder / "record.json").rename(folder / "gone.json")
    assert bring(registry, root)["equal"] and hub.repos[REPO].files("main").keys() >= {"README.md"}
    held = hub.snapshot()
    hub.repos.clear()
    with pytest.raises(RegistryError, match="cannot be pushed"):
        bring(registry, root)
    hub.restore(held)
    for receipt in (1, 2):
        registry.record_erasure("v1", {"time": "2026-02-01", "examples": 1, "receipt": receipt}, lambda card, _: card)
        assert bring(registry, root)["equal"] and list(hub.repos[REPO].files("main")) == ["version.json"]


def test_a_push_that_ends_anywhere_leaves_all_or_nothing(registry: Registry, root: Path, hub: Any) -> None:
    whole = hub.snapshot()
    bring(registry, root)
    expected, requests = hub.repos[REPO].files("main"), len(hub.asked)
    for first in range(requests):
        hub.restore(whole)
        hub.fail = lambda number, method, path, first=first: "lost" if number >= first else ""
        with pytest.raises((HubUnavailableError, RegistryError)):
            bring(registry, root)
        hub.fail = lambda number, method, path: ""
        if REPO in hub.repos:
            assert hub.repos[REPO].files("main") in ({}, expected)
        assert bring(registry, root)["equal"]
        assert hub.repos[REPO].files("main") == hub.repos[REPO].files("v1") == expected


def test_the_card_tells_where_the_examples_come_from(registry: Registry, root: Path, hub: Any) -> None:
    bring(registry, root)
    card = hub.repos[REPO].files("main")["README.md"]
    told, text = front(card), card.decode()
    assert DatasetCard(text).data.pretty_name == told["pretty_name"]
    assert told["license"] == ["cc-by-4.0", "mit"] and told["language"] == ["en", "de"]
    record = artifacts.read_record(root / "annotate" / "a1")
    for split in ("train", "validation"):
        rows = pq.read_metadata(root / "annotate" / "a1" / f"{split}.parquet").num_rows
        assert f"| {split} | {rows} | `{record.files[f'{split}.parquet']}` |" in text
    assert re.search(r"\| shop \| csv \| CC-BY-4.0 \| Sales\\\|Shop \| \d+ \| \d+ \|\n", text)
    assert "read 3456 documents and kept 12" in text and "| near_duplicate | 444 |" in text
    assert f"| EMAIL_ADDRESS | {record.metrics['redactions']['EMAIL_ADDRESS']} |" in text
    assert 'load_dataset("me/data", revision="v1")' in text and "**promoted** against base" in text
    assert MAIL not in text and "/home/of" not in text  # nor where the sources lie
    assert not [name for name in HUB.dataset_licences if "-nc" in name or "-nd" in name]  # they let pass texts on
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 20 and all(line.endswith("|") for line in tables)
