"""What is put on a real Elasticsearch, and what happens to what cannot be: who searches sees all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.config import Config
from llmops.data.index import filling
from llmops.data.index.elasticsearch import ElasticsearchIndex, opener
from llmops.data.index.filling import Copies
from llmops.data.index.stems import Stems
from llmops.errors import ArtifactError, ConfigError, IndexRefused, IndexUnavailable, TransientError
from llmops.registry.registry import registry_of

from ...event_server import EventServer
from .test_elasticsearch import at, served, there
from .test_search import indexed, page

VOUCHERS, KETTLE = page(1, "A voucher is valid for three years."), page(2, "A kettle boils.")
Put = Callable[[Copies, str, Path], dict[str, Any]]


def sizes(config: Config) -> dict[str, int]:
    assert config.search_server
    with Copies(config.search_server, registry_of(config)) as copies:
        return copies.sizes()


def putting(
    monkeypatch: pytest.MonkeyPatch, does: Callable[[Callable[[], dict[str, Any]], str], dict[str, Any]]
) -> None:
    """Have something done around the sending of all passages."""
    put: Put = Copies._put
    monkeypatch.setattr(Copies, "_put", lambda copies, name, folder: does(lambda: put(copies, name, folder), name))


def test_who_has_an_index_open_that_is_filled_anew_sees_all_of_it_or_an_error(
    elasticsearch: EventServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, artifact = at(tmp_path, elasticsearch), indexed(tmp_path, VOUCHERS, KETTLE)
    folder, asked = served(config, artifact), 0
    with opener(config)(folder) as index:

        def refused() -> None:
            nonlocal asked
            asked += 1
            with pytest.raises(IndexUnavailable, match="not whole"):
                index.search("voucher")
            with pytest.raises(ArtifactError, match="not whole"):
                opener(config)(folder)

        def does(put: Callable[[], dict[str, Any]], name: str) -> dict[str, Any]:
            refused()
            state = put()
            httpx.post(f"{elasticsearch.url}/{name}/_refresh")
            refused()
            return state

        putting(monkeypatch, does)
        httpx.delete(f"{elasticsearch.url}/{there(elasticsearch, config)[0]}")
        with pytest.raises(IndexUnavailable):
            index.search("voucher")
        assert served(config, artifact) == folder and asked == 2
        assert index.search("voucher") and index.search("kettle")


def test_one_whose_last_act_is_missing_is_not_whole(elasticsearch: EventServer, tmp_path: Path) -> None:
    config, artifact = at(tmp_path, elasticsearch), indexed(tmp_path, VOUCHERS, KETTLE)
    folder = served(config, artifact)
    [name] = there(elasticsearch, config)
    httpx.put(f"{elasticsearch.url}/{name}/_settings", json={"index.blocks.read": True})
    with pytest.raises(ArtifactError, match="not whole"):
        opener(config)(folder)
    served(config, artifact)
    httpx.post(f"{elasticsearch.url}/{name}/_close")
    assert sizes(config) == {name: 0}, "one that is closed is there"
    with pytest.raises(ArtifactError, match="not whole"):
        opener(config)(folder)
    served(config, artifact)
    with opener(config)(folder) as index:
        assert index.search("voucher") and sizes(config)[name] > 0


@pytest.mark.parametrize("before", [True, False])
def test_one_that_is_removed_while_it_is_filled_is_not_served(
    elasticsearch: EventServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    config, artifact = at(tmp_path, elasticsearch), indexed(tmp_path, VOUCHERS, KETTLE)

    def does(put: Callable[[], dict[str, Any]], name: str) -> dict[str, Any]:
        if before:  # what is sent makes another
            httpx.delete(f"{elasticsearch.url}/{name}")
        state = put()
        if not before:
            httpx.delete(f"{elasticsearch.url}/{name}")
        return state

    with monkeypatch.context() as patch:
        putting(patch, does)
        with pytest.raises(IndexUnavailable):
            served(config, artifact)
    with opener(config)(served(config, artifact)) as index:
        assert index.search("voucher")


def test_with_vectors_and_without_passages_nothing_is_found(elasticsearch: EventServer, tmp_path: Path) -> None:
    config = at(tmp_path, elasticsearch)
    with opener(config)(served(config, indexed(tmp_path, VOUCHERS, model="all-MiniLM-L6-v2"))) as index:
        [name] = there(elasticsearch, config)
        assert httpx.delete(f"{elasticsearch.url}/{name}/_doc/0?refresh=true").is_success
        assert index.look("voucher") == ([], None)


def test_a_passage_that_is_not_taken_is_told_and_nothing_stays_open(
    elasticsearch: EventServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, close = list[Stems](), Stems.close

    def noted(stems: Stems) -> None:
        closed.append(stems)
        close(stems)

    properties = {name: of for name, of in filling._MAPPINGS["properties"].items() if name != "number"}  # type: ignore[attr-defined]
    monkeypatch.setattr(filling, "_MAPPINGS", filling._MAPPINGS | {"properties": properties})
    monkeypatch.setattr(Stems, "close", noted)
    with pytest.raises(IndexRefused, match="strict_dynamic_mapping_exception") as refused:
        served(at(tmp_path, elasticsearch), indexed(tmp_path, VOUCHERS))
    assert not isinstance(refused.value, TransientError) and len(closed) == 1


@pytest.mark.parametrize("passages", [20, 150])
def test_no_more_vectors_are_asked_for_than_are_needed(
    elasticsearch: EventServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passages: int
) -> None:
    asked, found = list[int](), ElasticsearchIndex.found

    def noted(index: ElasticsearchIndex, size: int, **more: Any) -> Any:
        if "knn" in more and "filter" not in more["knn"]:
            asked.append(size)
        return found(index, size, **more)

    monkeypatch.setattr(ElasticsearchIndex, "found", noted)
    pages = [page(n, f"Parcel {n} takes {n} days to region {n % 17}.") for n in range(passages)]
    config = at(tmp_path, elasticsearch)
    with opener(config)(served(config, indexed(tmp_path, *pages, model="all-MiniLM-L6-v2"))) as index:
        for way in ("dense", "fused"):
            asked.clear()
            assert len(index.search("How long does parcel 7 take?", 5, way)) == 5  # type: ignore[arg-type]
            assert asked == [101], way


def test_certificates_for_an_address_without_are_refused(tmp_path: Path) -> None:
    config = Config(
        home=tmp_path,
        index={"backend": "elasticsearch"},
        monitoring={"elasticsearch_url": "http://127.0.0.1:9", "ca_file": "ca.pem"},
    )
    with pytest.raises(ConfigError, match=r"monitoring\.ca_file"):
        sizes(config)
