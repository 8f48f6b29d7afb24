"""The index on a real Elasticsearch: it finds what the index's own files find, whole or not at all."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops import artifacts, cli
from llmops.config import Config
from llmops.data.index import filling, ranking
from llmops.data.index.elasticsearch import opener
from llmops.data.index.filling import serve
from llmops.data.index.ranking import Index, Way
from llmops.data.index.search import open_index
from llmops.errors import ArtifactError, IndexUnavailable
from llmops.records import Document, content_id
from llmops.registry.indexes import served_index
from llmops.registry.registry import registry_of

from ...event_server import EventServer
from .test_search import SAME, indexed, page

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("architecture.md", "data.md", "retrieval.md", "monitoring.md", "serving.md")
DAY = "2026-01-31"
LIKE, FUSED, BM25 = 1e-6, 0.005, 0.05  #: how far scores may be apart; of BM25 the share of the score
ASKED = [
    "How is a person's data erased?", "What happens when Elasticsearch is away?", "Who may promote a model version?",
    "drift of questions", "how do I roll back", "limits of requests and tokens per key", "the", "GGUF",
    "Which passages go into the prompt of a model, and how many of them are there at most?",
]  # fmt: skip
ODD = [
    "", " ", "?", '"', "don't", "the company's vouchers", "NEAR(a b)", "voucher*", "-voucher", "Straße", "ΑΘΉΝΑ",
    "東京都", "配送にはどのくらいかかりますか", "привет", "x" * 300, "\ud83d", "🎁 gift", "voucher " * 100, "{}", "a:b",
    "Nutzer:innen",
]  # fmt: skip


def at(home: Path, server: EventServer, **more: Any) -> Config:
    return Config(home=home, index={"backend": "elasticsearch"}, monitoring={"elasticsearch_url": server.url, **more})


def served(config: Config, artifact: Path, day: str = DAY) -> Path:
    serve(registry_of(config), artifact, day, config.search_server, by="a test")
    folder = served_index(registry_of(config))
    assert folder
    return folder


def there(server: EventServer, config: Config) -> list[str]:
    """The indexes of a registry on the server."""
    owner = (registry_of(config).folder / "indexes" / filling.ID).read_text()
    return sorted(httpx.get(f"{server.url}/llmops-passages-*{owner}*/_mapping").json())


def same(one: Index, other: Index, question: str, way: Way, k: int = 5) -> None:
    """Both find the same, but for what is so near to each other that either may come first."""
    (hits, like), (others, like_too) = one.look(question, k, way), other.look(question, k, way)
    assert len(hits) == len(others), question
    assert like == pytest.approx(like_too, abs=LIKE)
    near: dict[str, Any] = {"bm25": {"rel": BM25, "abs": LIKE}, "dense": {"abs": LIKE}, "fused": {"abs": FUSED}}[way]
    for hit, there in zip(hits, others, strict=True):
        assert hit.score == pytest.approx(there.score, **near), question
    known = {hit.passage.id: hit for hit in others}
    for hit in hits:
        if twin := known.get(hit.passage.id):
            assert hit.passage == twin.passage
            assert hit.score == pytest.approx(twin.score, **near), question
            assert hit.likeness == pytest.approx(twin.likeness, abs=LIKE)


@pytest.fixture(scope="module")
def manual(elasticsearch: EventServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Path]]:
    """The project's own pages, served."""
    home = tmp_path_factory.mktemp("manual")
    pages = [DOCS / name for name in PAGES]
    documents = [
        Document(id=content_id(p.name), source="docs", location=p.name, position="page", text=p.read_text())
        for p in pages
    ]
    config = at(home, elasticsearch)
    yield config, served(config, indexed(home, *documents, model="all-MiniLM-L6-v2"))


@pytest.mark.parametrize("way", ["bm25", "dense", "fused"])
def test_it_finds_what_the_files_find(manual: tuple[Config, Path], way: Way) -> None:
    config, folder = manual
    with opener(config)(folder) as one, open_index(folder) as other:
        assert one.count() == other.count() and one.count()["passages"] > 200
        begins = [hit.passage.text.partition(". ")[0] for hit in other.search("What is a model?", 60, "dense")]
        for question in [*ASKED, *begins]:
            same(one, other, question, way)
        for k in (1, 40, 1_000):
            same(one, other, ASKED[0], way, k)
        for question in ODD:
            same(one, other, question, way)


def test_most_passages_found_are_the_very_same(manual: tuple[Config, Path]) -> None:
    config, folder = manual
    with opener(config)(folder) as one, open_index(folder) as other:
        begins = [hit.passage.text.partition(". ")[0] for hit in other.search("What is measured?", 60, "dense")]
        found = [[[hit.passage.id for hit in index.search(q, 5)] for index in (one, other)] for q in begins]
    assert sum(mine[0] == theirs[0] for mine, theirs in found) >= 0.98 * len(found)
    assert sum(set(mine) == set(theirs) for mine, theirs in found) >= 0.95 * len(found)


@pytest.mark.parametrize("way", ["bm25", "dense", "fused"])
def test_a_text_that_many_pages_have_leaves_room_for_others(
    elasticsearch: EventServer, tmp_path: Path, way: Way
) -> None:
    others = [page(1_000 + n, f"A parcel takes two days to region {n}; delivery may be slow.") for n in range(6)]
    artifact = indexed(tmp_path, *(page(n, SAME) for n in range(410)), *others, model="all-MiniLM-L6-v2")
    config = at(tmp_path, elasticsearch)
    with opener(config)(served(config, artifact)) as one, open_index(artifact) as other:
        assert len({hit.passage.text for hit in one.search("How long does delivery take?", 5, way)}) == 5
        same(one, other, "How long does delivery take?", way)


def test_of_many_words_the_rarest_are_looked_for(
    elasticsearch: EventServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "ALONE", (100, 1))
    pages = [page(n, f"Vouchers x{n:03d} are valid for three years.") for n in range(300)]
    artifact = indexed(tmp_path, *pages, page(301, "A kettle boils."))
    config = at(tmp_path, elasticsearch)
    with opener(config)(served(config, artifact)) as one, open_index(artifact) as other:
        assert not one.has_vectors
        for question in ("vouchers x017", "valid kettles", "valid vouchers", "xyzzy valid", "kettle years x001 x002"):
            same(one, other, question, "bm25")
            same(one, other, question, "fused", 1_000)


def test_killed_while_it_is_filled_it_is_not_served_and_made_anew(elasticsearch: EventServer, tmp_path: Path) -> None:
    config = at(tmp_path, elasticsearch)
    before = served(config, indexed(tmp_path, page(1, "Vouchers are valid for three years.")))
    artifact = indexed(tmp_path, *(page(n, f"Voucher x{n:03d} is valid for three years.") for n in range(2_000)))
    program = (
        "import sys; from pathlib import Path; from llmops.config import load; from llmops.data.index import filling;"
        "from llmops.registry.registry import registry_of; filling.TOGETHER = 1;"
        "config = load(overrides={'home': sys.argv[1], 'index': {'backend': 'elasticsearch'},"
        "'monitoring': {'elasticsearch_url': sys.argv[2]}}, environ={});"
        "filling.serve(registry_of(config), Path(sys.argv[3]), '2026-02-01', config.search_server, by='a test')"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), elasticsearch.url, str(artifact)])
    sent = 0
    while sent < 20:
        assert child.poll() is None, "it was done before it could be killed"
        time.sleep(0.05)
        stats = httpx.get(f"{elasticsearch.url}/llmops-passages-*{artifact.name}*/_stats/indexing").json()
        sent = stats["_all"]["primaries"].get("indexing", {}).get("index_total", 0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert served_index(registry_of(config)) == before and len(there(elasticsearch, config)) == 2
    with pytest.raises(ArtifactError, match="not whole in Elasticsearch"):
        opener(config)(artifact)
    with opener(config)(before) as index:
        assert index.search("voucher")
    with opener(config)(served(config, artifact, "2026-02-01")) as index:
        assert index.count()["passages"] == 2_000 and index.search("x1999", 1)[0].passage.location == "1999.html"
        assert len(index.search("voucher", 1_000)) == 1_000
    assert len(there(elasticsearch, config)) == 2


def test_what_was_deleted_is_not_found_after_the_next_publication(elasticsearch: EventServer, tmp_path: Path) -> None:
    config = at(tmp_path, elasticsearch)
    stays, goes = page(1, "A voucher is valid for three years."), page(2, "The code of the staff is 77.")
    first = served(config, indexed(tmp_path, stays, goes))
    with opener(config)(first) as index:
        assert index.search("staff")
    second = served(config, indexed(tmp_path, stays), "2026-02-01")
    with opener(config)(second) as index:
        assert index.search("staff") == [] and index.search("voucher")
    filling.clear(config.search_server, registry_of(config))  # type: ignore[arg-type]
    [left] = there(elasticsearch, config)
    assert second.name in left
    again = served(config, indexed(tmp_path, stays, goes), "2026-02-02")
    with opener(config)(again) as index:
        assert index.search("staff"), "one that was removed is there again when it is served again"


def test_what_somebody_removed_on_the_server_is_put_there_again(elasticsearch: EventServer, tmp_path: Path) -> None:
    config = at(tmp_path, elasticsearch)
    artifact = indexed(tmp_path, page(1, "A voucher is valid for three years."), page(2, "A kettle boils."))
    folder = served(config, artifact)
    [name] = there(elasticsearch, config)
    assert httpx.delete(f"{elasticsearch.url}/{name}/_doc/0?refresh=true").is_success
    with pytest.raises(ArtifactError, match="run `llmops run release`"):
        opener(config)(folder)
    served(config, artifact)
    with opener(config)(folder) as index:
        assert index.search("voucher")


def test_two_registries_share_a_server(elasticsearch: EventServer, tmp_path: Path) -> None:
    one, other = (at(tmp_path / name, elasticsearch) for name in ("one", "other"))
    artifact = indexed(tmp_path, page(1, "A voucher is valid for three years."))
    folders = [served(config, artifact) for config in (one, other)]
    served(one, indexed(tmp_path, page(1, "A kettle boils.")), "2026-02-01")
    filling.clear(one.search_server, registry_of(one))  # type: ignore[arg-type]
    with opener(other)(folders[1]) as index:
        assert index.search("voucher")


def test_the_commands_ask_it_and_say_when_it_is_away(
    elasticsearch: EventServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = at(tmp_path, elasticsearch)
    artifact = indexed(tmp_path, page(1, "A voucher is valid for three years."))
    monkeypatch.setenv("ELASTICSEARCH_API_KEY", "a2V5OnNlY3JldA==")
    words = ["--set", f"home={tmp_path}", "--set", "index.backend=elasticsearch", "--set"]
    words += [f"monitoring.elasticsearch_url={elasticsearch.url}", "--set", "index.model="]
    assert cli.main(["index", "search", "voucher", *words]) == 0, "what is not served yet is read in its own files"
    assert "1.html" in capsys.readouterr().out
    folder = served(config, artifact)
    assert cli.main(["index", "search", "vouchers", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)[0]["passage"]["location"] == "1.html"
    assert cli.main(["index", "stats", *words]) == 0
    assert "POST http" not in capsys.readouterr().err and not logging.getLogger("elastic_transport").isEnabledFor(20)
    with opener(config)(folder) as index:
        elasticsearch.kill()
        try:
            with pytest.raises(IndexUnavailable):
                index.search("voucher")
            assert cli.main(["index", "search", "voucher", *words]) == 75
            said = capsys.readouterr()
            assert "cannot be reached" in said.err and "a2V5" not in said.err + said.out
            with pytest.raises(IndexUnavailable):
                served(config, indexed(tmp_path, page(2, "A kettle boils.")), "2026-02-01")
            assert served_index(registry_of(config)) == folder, "what cannot be searched is not served"
        finally:
            elasticsearch.start()
        assert index.search("voucher")
    assert artifacts.verify(folder) == []


def test_without_an_address_it_is_refused() -> None:
    with pytest.raises(ValueError, match="set monitoring.elasticsearch_url too"):
        Config(index={"backend": "elasticsearch"})
