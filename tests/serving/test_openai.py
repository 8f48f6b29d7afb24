"""OpenAI's own client and LangChain's, unchanged, against the app on a real socket."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI

from llmops.data.retrieval.minilm import MODEL_NAME
from llmops.events.datasets import FEEDBACK, TEXT
from serving.answers.openai_answers import OpenAIReply
from serving.answers.openai_schemas import UNSUPPORTED
from serving.engines.base import Answer, Chunk, ScoredText, TokenIds
from tests.serving.echo import EchoEngine

HELLO = [{"role": "user", "content": "one two three"}]
PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
CLIENTS = re.findall(r"^\| \w[\w-]* \d+ \| .* \| (.*) \|$", PAGE, re.MULTILINE)  #: names of tests
REFUSALS = re.findall(r"^\| `/([\w/]+)` \| `(.*)` \| (.*) \|$", PAGE, re.MULTILINE)
LONG = "w " * 31  #: more tokens than the engine takes


@pytest.fixture(scope="module")
def served(new_site, stepwise, tmp_path_factory):
    site = new_site(tmp_path_factory.mktemp("site"), max_prompt_chars=1000).release()
    with site.live(lambda v: site.engines.setdefault(v.name, stepwise(fail_on="bad", max_context=30))) as url:
        yield site, f"{url}/v1"


@pytest.fixture
def site(served):
    served[0].forget_events()
    return served[0]


@pytest.fixture
def url(served):
    return served[1]


@pytest.fixture
def ours(site, url):
    with openai.OpenAI(base_url=url, api_key=site.keys["user"], max_retries=0) as client:
        yield client


def create_chat(client, **more):
    return client.chat.completions.create(**{"model": "support-bot", "messages": HELLO, **more})


def create_completion(client, **more):
    return client.completions.create(**{"model": "support-bot", "prompt": "one two three", **more})


# --- the openai client


def test_a_conversation_is_gone_on_with(site, ours):
    answer = create_chat(ours)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "one two three")
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("stop", 0, None)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "support-bot:v1", "v1")
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == 3 and answer.usage.total_tokens == 6
    (event,) = site.events()
    assert event["http.request.id"] == answer.id == answer._request_id
    assert event["gen_ai.operation.name"] == "chat" and event["gen_ai.usage.output_tokens"] == 3
    for name in ("max_tokens", "max_completion_tokens"):
        (choice,) = create_chat(ours, **{name: 2}).choices
        assert (choice.message.content, choice.finish_reason) == ("one two", "length")


def test_a_conversation_is_streamed_and_counts_its_tokens_when_asked(ours):
    chunks = list(create_chat(ours, stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[1].choices[0].delta.role is None
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)
    *chunks, last = create_chat(ours, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.total_tokens == 6 and all(chunk.usage is None for chunk in chunks)
    with ours.chat.completions.stream(model="support-bot", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three"


def test_a_text_is_gone_on_with_whole_and_streamed(ours):
    answer = create_completion(ours, max_tokens=2)
    choice = answer.choices[0]
    assert (answer.object, choice.text, choice.finish_reason) == ("text_completion", "one two", "length")
    assert "".join(chunk.choices[0].text for chunk in create_completion(ours, stream=True)) == "one two three"
    assert create_completion(ours, prompt="w " * 20).usage.completion_tokens == 16  # unless said otherwise
    for prompt in ([5, 6], [[5, 6]]):
        assert create_completion(ours, prompt=prompt).choices[0].text == "5 6"


def test_several_prompts_get_several_answers_in_order_each_drawn_with_a_seed_of_its_own(site, ours, monkeypatch):
    asks = []
    generate = EchoEngine.generate
    monkeypatch.setattr(EchoEngine, "generate", lambda self, ask: asks.append(ask) or generate(self, ask))
    answer = create_completion(ours, prompt=["a", "b b"], n=3, temperature=1, seed=2**63 - 1)
    assert [choice.text for choice in answer.choices] == ["a"] * 3 + ["b b"] * 3
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)
    assert asks[0].seed == 2**63 - 1 and len({ask.seed for ask in asks[:3]}) == 3
    assert all(-(2**63) <= ask.seed < 2**63 for ask in asks)
    (event,) = site.events()
    assert event["gen_ai.usage.input_tokens"] == 9  # what the engine was given
    assert event["gen_ai.usage.output_tokens"] == 9 and len(event["gen_ai.response.finish_reasons"]) == 6
    assert [c.message.content for c in create_chat(ours, n=2).choices] == ["one two three"] * 2
    create_completion(ours, prompt=[5, 6])
    assert asks[-1].prompt == TokenIds((5, 6), stored=False)  # so that control tokens in it are refused


def test_messages_come_as_the_client_gave_them_in_parts_and_from_a_developer(ours):
    message = create_chat(ours).choices[0].message
    for back in (message, message.to_dict(), {**message.model_dump(), "annotations": []}):
        assert create_chat(ours, messages=[*HELLO, back, {"role": "user", "content": "go on"}]).choices
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    assert create_chat(ours, messages=messages).choices[0].message.content == "one two"


def test_if_one_of_several_prompts_fails_the_others_are_given_up(site, ours):
    with pytest.raises(openai.InternalServerError):
        create_completion(ours, prompt=["bad", "w " * 20])
    site.until(lambda: site.engines["v1"].get_stats().running == 0)


class Shouting(EchoEngine):
    """Answers in capitals, and fails on a word."""

    def _begin(self, job):
        row = super()._begin(job)
        row.words = [word.upper() for word in row.words]
        return row


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("second", "texts", "version"), [("bad", "good bad", "v1"), ("fine", "GOOD FINE", "v2")])
def test_all_answers_of_a_response_are_of_its_version(new_site, tmp_path, stream, second, texts, version):
    """The canary's answers are in capitals; it fails on one word."""
    site = new_site(tmp_path).release()
    with site.client(lambda one: Shouting(fail_on="BAD") if one.name == "v2" else EchoEngine()) as client:
        site.ready(client)
        site.start_canary(client, share=0.999)
        body = {"model": "support-bot", "prompt": ["good", second], "stream": stream}
        reply = client.post("/v1/completions", json=body, headers=site.headers())
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")] or [reply.text]
    parts = [json.loads(line) for line in lines]
    assert " ".join(choice["text"] for part in parts for choice in part["choices"]) == texts
    assert {part["model"] for part in parts} == {f"support-bot:{version}"}


TOOL = {"type": "function", "function": {"name": "f"}}


def test_what_changes_nothing_is_taken(ours):
    more = {"n": 1, "user": "u", "metadata": {"a": "b"}, "store": False, "logprobs": False, "presence_penalty": 0}
    neutral = {"frequency_penalty": 0.0, "response_format": {"type": "text"}, "reasoning_effort": "low"}
    assert create_chat(ours, **more, **neutral, service_tier="auto", temperature=0, top_p=1, seed=1, stop=None).choices
    for tools in (
        {"tools": [], "tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": "none"},
    ):
        assert create_chat(ours, **tools).choices
    silent = {"role": "assistant", "content": None}
    assert create_chat(ours, messages=[*HELLO, silent, *HELLO]).choices[0].message.content == "one two three"


def test_the_event_of_an_answer_in_json_tells_its_schema(site, ours):
    for schema in ({"const": 1}, {"const": 1, "title": "x"}, {"const": 2}):
        with pytest.raises(openai.BadRequestError, match="follows no JSON schema"):
            create_chat(ours, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    first, same, other = [event["llmops.schema.digest"] for event in site.events()]
    assert first == same != other and {event["gen_ai.output.type"] for event in site.events()} == {"json"}


def test_a_length_above_the_limit_is_cut_there_and_a_top_p_of_0_is_greedy(site, ours, monkeypatch):
    asks = []
    generate = EchoEngine.generate
    monkeypatch.setattr(EchoEngine, "generate", lambda self, ask: asks.append(ask) or generate(self, ask))
    for name in ("max_tokens", "max_completion_tokens"):
        answer = create_chat(
            ours, messages=[{"role": "user", "content": "w " * 25}], top_p=0, temperature=1, **{name: 10_000}
        )
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (20, "length")
    assert {(ask.max_new_tokens, ask.temperature, ask.top_p) for ask in asks} == {(20, 0.0, 1.0)}


def test_several_answers_are_streamed_one_after_the_other(site, ours):
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = create_chat(ours, n=2, **usage)
    first, second = ([one for one in chunks if one.choices[0].index == number] for number in (0, 1))
    for answer in (first, second):
        assert "".join(one.choices[0].delta.content for one in answer) == "one two three"
        assert answer[0].choices[0].delta.role == "assistant" and answer[-1].choices[0].finish_reason == "stop"
    assert chunks == first + second and (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 6)
    *chunks, last = create_completion(ours, prompt=["a", "b b"], n=2, **usage)
    assert [one.choices[0].text for one in chunks if one.choices[0].index == 3] == ["b", " b"]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 6)
    answers = [event["gen_ai.response.finish_reasons"] for event in site.events()]
    assert sorted(answers, key=len) == [["stop"] * 2, ["stop"] * 4]
    with pytest.raises(openai.APIError, match="server failed"):
        list(create_completion(ours, prompt=["a", "good bad", "c"], stream=True))
    site.until(lambda: site.engines["v1"].get_stats().running == 0)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row[1][:40])
def test_what_is_not_done_is_refused_as_the_page_says(url, site, row):
    route, setting, said = row
    more, base = json.loads(setting), {"model": "support-bot", "messages": HELLO}
    if route == "completions":
        base = {"model": "support-bot", "prompt": "one two three"}
    elif route == "embeddings":
        base = {"model": MODEL_NAME, "input": "one"}
    answer = httpx.post(f"{url}/{route}", json={**base, **more}, headers=site.headers())
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error" and error["code"]
    assert said in error["message"] and any(name in error["message"] for name in more)


def test_each_row_of_a_client_names_its_tests():
    code = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    tests = {*re.findall(r"^(?:async )?def (test_\w+)", code, re.MULTILINE)}
    assert len(CLIENTS) == PAGE.count("\n| openai 3 ") + PAGE.count("-openai 1 ") + PAGE.count("\n| litellm 1 ") > 10
    for names in CLIENTS:
        assert names and {name.strip("`") for name in names.split(", ")} <= tests


def test_the_page_has_every_refused_setting():
    assert {*UNSUPPORTED} - {"parallel_tool_calls"} <= {name for row in REFUSALS for name in json.loads(row[1])}


@pytest.mark.parametrize(
    "more",
    [
        {"n": 0}, {"max_tokens": 2**31}, {"temperature": 2.5}, {"messages": []}, {"tools": [{"type": "x"}]},
        {"response_format": {"type": "json_object"}, "stream": True}, {"metadata": {"session_id": "x" * 101}},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_and_named(ours, more):
    with pytest.raises(openai.BadRequestError) as refusal:
        create_chat(ours, **more)
    assert any(name in refusal.value.message for name in more)


def test_the_turns_of_a_conversation_share_its_id(site, ours, url):
    asked = create_chat(ours, metadata={"session_id": "chat-1"})
    create_chat(ours, metadata={"session_id": "chat-1"}, extra_headers={"X-Session-ID": "other.2"})
    create_completion(ours, extra_headers={"X-Session-ID": "other.2"})
    create_chat(ours)
    session = {**site.headers(), "X-Session-ID": "chat-1"}
    rated = httpx.post(f"{url[:-3]}/feedback", json={"id": asked.id, "rating": "up"}, headers=session)
    assert rated.status_code == 201
    ids = [event.get("gen_ai.conversation.id") for event in site.events()]
    assert ids == ["chat-1", "other.2", "other.2", None]
    assert [event["gen_ai.conversation.id"] for event in site.events(FEEDBACK)] == ["chat-1"]
    known = {event["http.request.id"]: event.get("gen_ai.conversation.id") for event in site.events()}
    site.until(lambda: known.keys() <= {event["http.request.id"] for event in site.events(TEXT)})
    for event in site.events(TEXT):  # those of earlier requests may come late
        assert event.get("gen_ai.conversation.id") == known.get(event["http.request.id"])
    for wrong in ("a b", "x" * 101, "é"):
        refused = httpx.post(f"{url}/chat/completions", json={}, headers={**session, "X-Session-ID": wrong.encode()})
        assert refused.status_code == 400 and "X-Session-ID" in refused.json()["error"]["message"]


def make_reply():
    reply = OpenAIReply(None, "support-bot", [], chat=True)
    reply.with_logprobs = True
    return reply


def list_tokens(logprobs):
    return [(one.token, one.logprob) for one in logprobs.content]


def test_log_probabilities_leave_with_their_text_and_never_before_the_guard():
    reply, tokens = make_reply(), (ScoredText("My ", -0.5), ScoredText("key", -1.0), ScoredText("!", -2.0))
    assert list_tokens(reply._release_logprobs(Chunk("My ", 1, 2, None, tokens[:2]))) == [("My ", -0.5)]
    assert list_tokens(reply._release_logprobs(Chunk("key!", 1, 3, "stop", tokens[2:]))) == [("key", -1), ("!", -2)]
    assert list_tokens(reply._release_logprobs(Chunk("", 1, 3, "content_filter", tokens))) == []
    assert list_tokens(reply._release_logprobs(Answer("My k", 1, 3, "content_filter", tokens))) == [("My ", -0.5)]
    assert OpenAIReply(None, "support-bot", [], chat=True)._release_logprobs(Answer("", 1, 1, "stop")) is None


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        ([1000], ""), ([500, 500], ""), ([500, 500, 1], "conversation has 1001 characters; at most 1000"),
        ([1001], "1001 characters"), ([1] + [0] * 999, ""), ([1] + [0] * 1000, "messages"),
    ],
)  # fmt: skip
def test_all_messages_of_a_conversation_together_have_a_limit_and_so_has_their_number(ours, sizes, refused):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": "x" * size} for n, size in enumerate(sizes)]
    if not refused:
        assert create_chat(ours, messages=messages).choices
        return
    with pytest.raises(openai.BadRequestError) as refusal:
        create_chat(ours, messages=messages)
    assert refused in refusal.value.message or refused == refusal.value.param
    assert refusal.value.code in ("prompt_refused", "invalid")


def test_what_is_not_done_with_texts_is_refused(ours):
    for more in ({"prompt": []}, {"prompt": [""]}, {"prompt": ["x"] * 7, "n": 3}):
        with pytest.raises(openai.BadRequestError):
            create_completion(ours, **more)


def test_models_are_listed_one_version_can_be_named_and_one_that_is_not_there_is_not_found(ours):
    named = ["support-bot", "support-bot:champion", "support-bot:v1"]
    assert [model.id for model in ours.models.list()] == named
    for name in named:
        assert ours.models.retrieve(name).id == name and create_chat(ours, model=name).model == "support-bot:v1"
    with pytest.raises(openai.NotFoundError):
        ours.models.retrieve("gpt-4")
    for model in ("gpt-4", "support-bot:v2", "support-bot:", "", "support-bot:v1:x"):
        with pytest.raises(openai.NotFoundError) as refusal:
            create_chat(ours, model=model)
        assert refusal.value.code == "model_not_found"


def test_errors_are_those_that_the_client_knows(url, ours):
    with pytest.raises(openai.AuthenticationError) as refused:
        create_chat(openai.OpenAI(base_url=url, api_key="llmops_12345678_wrong", max_retries=0))
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as too_long:
        create_chat(ours, messages=[{"role": "user", "content": LONG}])
    assert too_long.value.code == "context_length_exceeded"
    assert "31" in too_long.value.message and "30" in too_long.value.message
    with pytest.raises(openai.APIError, match="server failed"):
        list(create_chat(ours, messages=[{"role": "user", "content": "good bad"}], stream=True))
    answer = httpx.post(f"{url}/moderations")
    assert answer.status_code == 404 and "/docs" in answer.json()["error"]["message"]


def test_a_key_that_has_its_share_of_the_queue_leaves_room_for_others(new_site, tmp_path):
    site = new_site(tmp_path).release()
    engine = site.engines["v1"] = EchoEngine(max_queue=2, max_batch=1)
    engine.may_step.clear()
    with site.live(lambda version: engine) as url:
        keys = site.keys["user"], site.keys["admin"]
        user, admin = (openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) for key in keys)
        with ThreadPoolExecutor(3) as pool:
            taken = [pool.submit(create_completion, user)]
            site.until(lambda: engine.get_stats().running == 1)
            taken.append(pool.submit(create_completion, user))
            site.until(lambda: engine.get_stats().waiting == 1)
            with pytest.raises(openai.RateLimitError, match="other keys") as refusal:
                create_chat(user)
            assert refusal.value.code == "rate_limit_exceeded"
            assert int(refusal.value.response.headers["Retry-After"]) >= 1
            taken.append(pool.submit(create_chat, admin))
            site.until(lambda: engine.get_stats().waiting == 2)
            engine.may_step.set()
            assert all(one.result(50) for one in taken)
    refused, *_ = sorted(site.events(), key=lambda event: -event["http.response.status_code"])
    assert (refused["http.response.status_code"], refused["error.type"]) == (429, "queue_share_full")


def test_a_full_queue_is_a_rate_limit(new_site, tmp_path):
    site = new_site(tmp_path).release()
    engine = site.engines["v1"] = EchoEngine(max_queue=0, max_batch=1)
    engine.may_step.clear()
    with site.live(lambda version: engine) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=site.keys["user"], max_retries=0)
        first = threading.Thread(target=create_completion, args=(client,))
        first.start()
        site.until(lambda: engine.get_stats().running == 1)
        with pytest.raises(openai.RateLimitError) as refusal:
            create_chat(client)
        assert refusal.value.code == "rate_limit_exceeded" and int(refusal.value.response.headers["Retry-After"]) >= 1
        engine.may_step.set()
        first.join(50)
    refused, _ = sorted(site.events(), key=lambda event: -event["http.response.status_code"])
    assert (refused["http.response.status_code"], refused["error.type"]) == (429, "queue_full")


# --- LangChain


@pytest.fixture
def langchain(site, url):
    return {"base_url": url, "api_key": site.keys["user"], "model": "support-bot"}


def test_langchain_chats_streams_and_batches(langchain):
    model = ChatOpenAI(**langchain)
    answer = model.invoke("one two")
    assert answer.content == "one two" and answer.usage_metadata["total_tokens"] == 4
    assert answer.response_metadata["model_name"] == "support-bot:v1"
    first, *others = model.stream("one two three", stream_usage=True)
    whole = sum(others, first)
    assert whole.content == "one two three" and whole.usage_metadata["output_tokens"] == 3
    assert [m.content for m in model.batch(["a", "b b"])] == ["a", "b b"]
    (several,) = ChatOpenAI(**langchain, n=2, temperature=1).generate([[HumanMessage("one two")]]).generations
    assert [one.text for one in several] == ["one two"] * 2


def test_langchain_completes_texts_and_knows_too_long_a_prompt(langchain):
    model = OpenAI(**langchain, max_tokens=5)
    assert model.batch(["a", "b b"]) == ["a", "b b"] and "".join(model.stream("one two")) == "one two"
    with pytest.raises(ContextOverflowError):
        ChatOpenAI(**langchain).invoke(LONG)
