"""OpenAI's own client and LangChain's, unchanged, against the app on a real socket."""

import threading

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI

from serving.engines.echo import EchoEngine

HELLO = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def url(site):
    with site.live(
        lambda version: site.engines.setdefault(version.name, EchoEngine(fail_on="bad", max_context=30))
    ) as url:
        yield f"{url}/v1"


@pytest.fixture
def ours(site, url):
    with openai.OpenAI(base_url=url, api_key=site.keys["user"], max_retries=0) as client:
        yield client


def chat(client, **more):
    return client.chat.completions.create(**{"model": "support-bot", "messages": HELLO, **more})


def complete(client, **more):
    return client.completions.create(**{"model": "support-bot", "prompt": "one two three", **more})


# --- the openai client


def test_a_conversation_is_gone_on_with(site, ours):
    answer = chat(ours)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "one two three")
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("stop", 0, None)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "support-bot:v1", "v1")
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == 3 and answer.usage.total_tokens == 6
    (event,) = site.events()
    assert event["http.request.id"] == answer.id == answer._request_id
    assert event["gen_ai.operation.name"] == "chat" and event["gen_ai.usage.output_tokens"] == 3


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_can_be_cut_short(ours, name):
    (choice,) = chat(ours, **{name: 2}).choices
    assert (choice.message.content, choice.finish_reason) == ("one two", "length")


def test_a_conversation_is_streamed(ours):
    chunks = list(chat(ours, stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[1].choices[0].delta.role is None
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)


def test_a_stream_counts_its_tokens_when_asked(ours):
    *chunks, last = chat(ours, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.total_tokens == 6
    assert all(chunk.usage is None for chunk in chunks)


def test_the_clients_own_stream_helper_works(ours):
    with ours.chat.completions.stream(model="support-bot", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three"


def test_a_text_is_gone_on_with_whole_and_streamed(ours):
    answer = complete(ours, max_tokens=2)
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "one two",
        "length",
    )
    assert "".join(chunk.choices[0].text for chunk in complete(ours, stream=True)) == "one two three"


def test_a_completion_is_sixteen_tokens_long_unless_said_otherwise(ours):
    assert complete(ours, prompt="w " * 20).usage.completion_tokens == 16


def test_several_prompts_are_answered_in_order_and_counted_together(site, ours):
    answer = complete(ours, prompt=["one", "two two", "three three three"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "one"), (1, "two two"), (2, "three three three"),
    ]  # fmt: skip
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == 6
    (event,) = site.events()
    assert event["gen_ai.usage.output_tokens"] == 6 and len(event["gen_ai.response.finish_reasons"]) == 3


def test_a_prompt_may_get_several_answers_each_drawn_with_a_seed_of_its_own(site, ours, monkeypatch):
    asks = []
    generate = EchoEngine.generate
    monkeypatch.setattr(EchoEngine, "generate", lambda self, ask: asks.append(ask) or generate(self, ask))
    answer = complete(ours, prompt=["a", "b b"], n=3, temperature=1, seed=2**63 - 1)
    assert [choice.text for choice in answer.choices] == ["a"] * 3 + ["b b"] * 3
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)
    assert asks[0].seed == 2**63 - 1 and len({ask.seed for ask in asks[:3]}) == 3
    assert all(-(2**63) <= ask.seed < 2**63 for ask in asks)
    (event,) = site.events()
    assert event["gen_ai.usage.input_tokens"] == 9  # what the engine was given
    assert [c.message.content for c in chat(ours, n=2).choices] == ["one two three"] * 2


def test_an_answer_can_be_sent_back_as_the_client_gives_it(ours):
    message = chat(ours).choices[0].message
    for back in (message, message.model_dump(), message.to_dict(), {**message.model_dump(), "annotations": []}):
        assert chat(ours, messages=[*HELLO, back, {"role": "user", "content": "go on"}]).choices


def test_if_one_of_several_prompts_fails_the_others_are_given_up(site, ours):
    with pytest.raises(openai.InternalServerError):
        complete(ours, prompt=["bad", "w " * 20])
    site.until(lambda: site.engines["v1"].stats().running == 0)


@pytest.mark.parametrize("prompt", [[5, 6], [[5, 6]]])
def test_a_prompt_may_be_token_ids(ours, prompt):
    assert complete(ours, prompt=prompt).choices[0].text == "5 6"


def test_a_message_may_come_in_parts_and_from_a_developer(ours):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    assert chat(ours, messages=messages).choices[0].message.content == "one two"


def test_what_changes_nothing_is_taken(ours):
    more = {"n": 1, "user": "u", "metadata": {"a": "b"}, "store": False, "logprobs": False, "presence_penalty": 0}
    neutral = {
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "service_tier": "auto",
        "tool_choice": "none",
    }
    assert chat(ours, **more, **neutral, temperature=0, top_p=1, seed=1, stop=None).choices


@pytest.mark.parametrize(
    "more",
    [
        {"n": 0},
        {"n": 21},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"logprobs": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"presence_penalty": 0.5},
        {"logit_bias": {"50256": -100}},
        {"modalities": ["text", "audio"]},
        {"max_tokens": 2, "max_completion_tokens": 2},
        {"temperature": 2.5},
        {"messages": []},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": None}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}], "content": "x"}]},
        {"stream_options": {"include_usage": True}},
        {"extra_body": {"guided_json": {}}},
    ],
)
def test_what_is_not_done_is_refused_and_named(ours, more):
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(ours, **more)
    error = refusal.value
    assert error.type == "invalid_request_error" and error.code
    named = [name for name in (*more, *more.get("extra_body", ())) if name in error.message]
    assert error.code != "invalid" or error.param.split(".")[0] in {*more, *more.get("extra_body", ())}
    assert named or "prompt_refused" in error.code


@pytest.mark.parametrize(
    "more",
    [{"echo": True}, {"best_of": 3}, {"suffix": "x"}, {"logprobs": 6}, {"logprobs": True},
     {"extra_body": {"top_logprobs": 2}}, {"prompt": []}, {"prompt": [""]}, {"prompt": ["x"] * 21},
     {"prompt": ["x"] * 7, "n": 3}],
)  # fmt: skip
def test_what_is_not_done_with_texts_is_refused(ours, more):
    with pytest.raises(openai.BadRequestError):
        complete(ours, **more)


def streamed(chunks):
    """What the chunks of a stream say: text, role and finish reason of each answer."""
    said = {}
    for chunk in chunks:
        for choice in chunk.choices:
            text, reasons = said.setdefault(choice.index, ([], []))
            text.append(choice.delta.content if hasattr(choice, "delta") else choice.text)
            reasons.append(choice.finish_reason)
    assert all(reasons[-1] and not any(reasons[:-1]) for _, reasons in said.values())
    return ["".join(said[index][0]) for index in sorted(said)]


def test_who_sends_tools_hears_what_does_the_same(ours):
    with pytest.raises(openai.BadRequestError, match="leave tools .* out.*response_format"):
        chat(ours, tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required")


def test_several_answers_are_streamed_each_with_its_index(site, ours):
    *chunks, last = chat(ours, n=3, stream=True, temperature=1, stream_options={"include_usage": True})
    assert streamed(chunks) == ["one two three"] * 3
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 9)
    assert streamed(complete(ours, prompt=["a", "b b"], n=2, stream=True)) == ["a", "a", "b b", "b b"]
    assert [len(e["gen_ai.response.finish_reasons"]) for e in site.events()] == [3, 4]
    with ours.chat.completions.stream(model="support-bot", messages=HELLO, n=2) as stream:
        assert [c.message.content for c in stream.get_final_completion().choices] == ["one two three"] * 2


def test_when_one_of_several_streams_fails_or_is_left_the_others_end(site, ours):
    with pytest.raises(openai.APIError, match="wrong here"):
        list(complete(ours, prompt=["a", "b bad", "w " * 20], stream=True))
    site.engines["v1"]._token_s = 0.02
    stream = complete(ours, prompt=["w " * 20] * 3, stream=True)
    next(iter(stream))
    stream.close()
    site.until(lambda: site.engines["v1"].stats().running == 0)


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 10_000},  # more than any answer gets
        {"max_completion_tokens": 10_000},
        {"reasoning_effort": "low", "verbosity": "low"},
        {"top_p": 0, "temperature": 1},
        {"tools": [], "tool_choice": "auto"},
        {"messages": [*HELLO, {"role": "assistant", "content": None}, HELLO[0]]},
        {"messages": [*HELLO, {"role": "assistant", "content": None, "refusal": None, "tool_calls": []}, HELLO[0]]},
        {"messages": [*HELLO, {"role": "assistant"}, HELLO[0]]},
    ],
)
def test_what_clients_send_is_answered(ours, more):
    (choice,) = chat(ours, **more).choices
    assert (choice.message.content, choice.finish_reason) == ("one two three", "stop")


def test_an_answer_is_as_long_as_is_given_though_more_is_asked_for(site, ours):
    (choice,) = chat(ours, messages=[{"role": "user", "content": "w " * 25}], max_tokens=10_000).choices
    assert (choice.finish_reason, len(choice.message.content.split())) == ("length", 20)


def test_a_stream_counts_its_tokens_everywhere_when_asked(ours):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(complete(ours, prompt=["a b", "c"], stream=True, stream_options=options))
    assert [chunk.usage.completion_tokens for chunk in chunks] == [1, 2, 3, 3]
    assert [chunk.usage.prompt_tokens for chunk in chunks] == [2, 2, 3, 3]
    told = list(chat(ours, stream=True, stream_options=options, logprobs=True))  # begins with an event without tokens
    assert [(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) for chunk in told] == [
        (3, n) for n in (0, 1, 2, 3, 3)
    ]


def test_the_tokens_of_answers_are_told_whole_and_streamed(ours):
    for choice in chat(ours, n=2, logprobs=True, top_logprobs=2, stop="ee").choices:
        told = choice.logprobs.content
        assert [token.token for token in told] == ["one", " two", " thr"] and choice.message.content == "one two thr"
        assert bytes(told[1].bytes) == b" two" and told[1].logprob == 0.0
        assert [[other.token for other in token.top_logprobs] for token in told] == [["one"], [" two"], []]
        assert choice.logprobs.refusal is None
    with ours.chat.completions.stream(model="support-bot", messages=HELLO, n=2, logprobs=True) as stream:
        for choice in stream.get_final_completion().choices:
            assert [token.token for token in choice.logprobs.content] == ["one", " two", " three"]
    assert chat(ours, logprobs=False, top_logprobs=0).choices[0].logprobs is None


def test_the_tokens_of_texts_are_told_whole_and_streamed(ours):
    for choice in complete(ours, prompt=["one two", "three"], n=2, logprobs=1).choices:
        told = choice.logprobs
        assert "".join(told.tokens) == choice.text
        assert told.text_offset == [choice.text.index(token) for token in told.tokens]
        assert told.top_logprobs == [{token: 0.0} for token in told.tokens]
        assert told.token_logprobs == [0.0] * len(told.tokens)
    assert complete(ours, logprobs=0).choices[0].logprobs.top_logprobs is None
    assert complete(ours, extra_body={"logprobs": False}).choices[0].logprobs is None
    offsets = {}
    for chunk in complete(ours, prompt=["one two", "three"], logprobs=0, stream=True):
        (choice,) = chunk.choices
        offsets.setdefault(choice.index, []).extend(choice.logprobs.text_offset)
    assert offsets == {0: [0, 3], 1: [0]}


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_guard_cuts_is_not_told_as_a_token(site, leaking, stream):
    with (
        site.live(lambda version: site.engines.setdefault(version.name, leaking())) as url,
        httpx.Client(headers=site.headers()) as http,
    ):
        for route, body in (
            ("chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 5}),
            ("completions", {"prompt": "one two three", "logprobs": 5}),
        ):
            answer = http.post(f"{url}/v1/{route}", json={"model": "support-bot", "stream": stream, **body})
            assert answer.status_code == 200 and "content_filter" in answer.text
            assert " three" in answer.text and "hf_" not in answer.text and "aB3dE" not in answer.text


@pytest.mark.parametrize("model", ["gpt-4", "support-bot:v2", "support-bot:", "", "support-bot:v1:x"])
def test_a_model_that_is_not_there_is_not_found(ours, model):
    with pytest.raises(openai.NotFoundError) as refusal:
        chat(ours, model=model)
    assert refusal.value.code == "model_not_found"


def test_models_are_listed_and_one_version_can_be_named(ours):
    assert [model.id for model in ours.models.list()] == ["support-bot", "support-bot:v1", "all-MiniLM-L6-v2"]
    assert ours.models.retrieve("support-bot:v1").id == "support-bot:v1"
    assert chat(ours, model="support-bot:v1").model == "support-bot:v1"
    with pytest.raises(openai.NotFoundError):
        ours.models.retrieve("gpt-4")


def test_a_bad_key_is_an_authentication_error(url):
    with pytest.raises(openai.AuthenticationError) as refusal:
        chat(openai.OpenAI(base_url=url, api_key="llmops_12345678_wrong", max_retries=0))
    assert refusal.value.code == "invalid_api_key"


def test_too_long_a_prompt_has_openais_word_for_it(ours):
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(ours, messages=[{"role": "user", "content": "w " * 31}])
    assert refusal.value.code == "context_length_exceeded"
    assert "31" in refusal.value.message and "30" in refusal.value.message


def test_a_full_queue_is_a_rate_limit_that_the_client_waits_for(new_site, tmp_path):
    site = new_site(tmp_path, max_queue=1, max_batch=1).release()
    with site.live() as url:
        site.engines["v1"].going.clear()
        with httpx.Client(headers=site.headers()) as http:
            body = {"model": "support-bot", "prompt": "x", "stream": True}
            threads = [threading.Thread(target=lambda: http.post(f"{url}/v1/completions", json=body)) for _ in range(2)]
            for thread in threads:
                thread.start()
            stats = site.engines["v1"].stats
            site.until(lambda: stats().running + stats().waiting == 2)
            with pytest.raises(openai.RateLimitError) as refusal:
                chat(openai.OpenAI(base_url=f"{url}/v1", api_key=site.keys["user"], max_retries=0))
            assert (
                refusal.value.code == "rate_limit_exceeded" and int(refusal.value.response.headers["Retry-After"]) >= 1
            )
            threading.Timer(0.3, site.engines["v1"].going.set).start()
            assert chat(openai.OpenAI(base_url=f"{url}/v1", api_key=site.keys["user"], max_retries=3)).choices
            for thread in threads:
                thread.join()


def test_an_error_in_the_middle_of_a_stream_is_raised(ours):
    with pytest.raises(openai.APIError, match="wrong here"):
        list(chat(ours, messages=[{"role": "user", "content": "good bad"}], stream=True))


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/moderations"])
def test_errors_outside_the_routes_have_openais_shape_too(url, path):
    answer = httpx.post(url.removesuffix("/v1") + path)
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_leaving_a_stream_frees_the_slot(site, ours):
    site.engines["v1"]._token_s = 0.02
    stream = chat(ours, messages=[{"role": "user", "content": "w " * 20}], stream=True)
    next(iter(stream))
    stream.close()
    site.until(lambda: site.engines["v1"].stats().running == 0)
    site.until(site.events)
    assert site.events()[0]["error.type"] == "client_left"


# --- LangChain


@pytest.fixture
def langchain(site, url):
    return {"base_url": url, "api_key": site.keys["user"], "model": "support-bot"}


def test_langchain_chats_streams_and_batches(langchain):
    model = ChatOpenAI(**langchain)
    answer = model.invoke("one two")
    assert answer.content == "one two" and answer.usage_metadata["total_tokens"] == 4
    assert answer.response_metadata["model_name"] == "support-bot:v1"
    whole = None
    for chunk in model.stream("one two three", stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == "one two three" and whole.usage_metadata["output_tokens"] == 3
    assert [m.content for m in model.batch(["a", "b b"])] == ["a", "b b"]
    (several,) = ChatOpenAI(**langchain, n=2, temperature=1).generate([[HumanMessage("one two")]]).generations
    assert [one.text for one in several] == ["one two"] * 2


@pytest.mark.anyio
async def test_langchain_does_so_asynchronously(langchain):
    model = ChatOpenAI(**langchain)
    assert (await model.ainvoke("one two")).content == "one two"
    assert "".join([chunk.content async for chunk in model.astream("one two")]) == "one two"


def test_langchain_completes_texts(langchain):
    model = OpenAI(**langchain, max_tokens=5)
    assert model.invoke("one two") == "one two"
    assert model.batch(["a", "b b"]) == ["a", "b b"]
    assert "".join(model.stream("one two")) == "one two"


def test_langchain_knows_too_long_a_prompt(langchain):
    from langchain_core.exceptions import ContextOverflowError

    with pytest.raises(ContextOverflowError):
        ChatOpenAI(**langchain).invoke("w " * 31)


@pytest.fixture
def anyio_backend():
    return "asyncio"
