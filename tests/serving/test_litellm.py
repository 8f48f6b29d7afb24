"""LiteLLM's own client, unchanged, against the app on a real socket."""

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one when imported
import litellm  # noqa: E402

HELLO = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def ask(site):
    with site.live() as url:
        common = {
            "model": "openai/support-bot",
            "api_base": f"{url}/v1",
            "api_key": site.keys["user"],
            "max_retries": 0,
        }
        yield lambda **more: litellm.completion(**{**common, "messages": HELLO, **more})


def test_it_chats_and_streams(ask):
    answer = ask(max_tokens=10_000, reasoning_effort="low", top_p=0, allowed_openai_params=["reasoning_effort"])
    assert answer.choices[0].message.content == "one two three" and answer.usage.total_tokens == 6
    chunks = ask(stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert [choice.message.content for choice in ask(n=2, temperature=1).choices] == ["one two three"] * 2


def test_it_sends_back_what_it_got(ask):
    message = ask().choices[0].message
    assert ask(messages=[*HELLO, message, {"role": "assistant", "content": None}, HELLO[0]]).choices


def test_what_is_refused_is_its_own_error(ask):
    with pytest.raises(litellm.BadRequestError, match="tools"):
        ask(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    with pytest.raises(litellm.BadRequestError, match="response_format"):
        ask(response_format={"type": "json_object"})
    with pytest.raises(litellm.AuthenticationError):
        ask(api_key="llmops_12345678_wrong")
    with pytest.raises(litellm.NotFoundError):
        ask(model="openai/gpt-4")
