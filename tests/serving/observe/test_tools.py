"""Calls of tools in digests, in texts that are kept and in what the model is trained with; no vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmops.data.feedback import review, rows
from llmops.monitoring.datasets import TEXT
from llmops.state.database import database_of
from serving.engines.base import Chat, Message, ToolCall
from serving.observe.digests import Digests

from ..answers.test_tools import ASK, ORDER, Calling

DIGESTS = Digests(b"secret")
CARD = "4111111111111111"


class Asked:
    """A client of a site whose model calls tools and whose texts are kept."""

    def __init__(self, site: Any, client: Any, engine: Calling) -> None:
        self.site, self.client, self.engine = site, client, engine

    def chat(self, messages: Any = ASK, role: str = "user", **more: Any) -> Any:
        body = {"model": "support-bot", "messages": messages, "tools": [ORDER], **more}
        answer = self.client.post("/v1/chat/completions", json=body, headers=self.site.headers(role))
        assert answer.status_code == 200, answer.text
        return answer

    def result(self, answer: Any, content: str = "At the depot.") -> list[Any]:
        said = answer.json()["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": content}
        return [*ASK, {"role": "assistant", "tool_calls": said["tool_calls"]}, result]

    def say(self, about: Any, role: str = "user", **said: Any) -> None:
        body = {"id": about.headers["x-request-id"], **said}
        assert self.client.post("/feedback", json=body, headers=self.site.headers(role)).status_code == 201


@pytest.fixture
def asked(site: Any) -> Any:
    engine, config = Calling(), site.config
    serving = config.serving.model_copy(update={"max_prompt_chars": 2000, "max_new_tokens": 100})
    monitoring = config.monitoring.model_copy(update={"keep_text": True})
    site.config = config.model_copy(update={"serving": serving, "monitoring": monitoring})
    with site.client(lambda version: site.engines.setdefault(version.name, engine)) as client:
        site.ready(client)
        yield Asked(site, client, engine)


# --- kept texts


@pytest.mark.parametrize("before", ["", "\n", "\t", "card\n", "é\r"])
def test_personal_data_in_arguments_is_in_no_kept_text(asked: Asked, before: str) -> None:
    asked.engine.script = json.dumps(
        {"name": "where_is", "arguments": {"order_id": 7, "to": {"mail": f"{before}a@b.de"}}}
    )
    answer = asked.chat()
    asked.chat([*asked.result(answer), {"role": "user", "content": "Thanks"}], tool_choice="none")
    asked.client.app.state.texts.settle()
    called, after = asked.site.events(TEXT)
    said = f"where_is\norder id: 7\nto\nto, mail: {before}<EMAIL_ADDRESS>"
    assert called["llmops.answer.text"] == f"I look. \n{said}"
    assert after["llmops.context.text"] == f"user: {ASK[0]['content']}\nassistant: {said}\ntool: At the depot."
    assert (after["llmops.prompt.text"], after["llmops.answer.text"]) == ("Thanks", "Thanks")
    left = b"".join(path.read_bytes() for path in asked.site.config.events.glob("*.db*"))
    assert b"a@b.de" not in left


def test_a_result_is_no_question_and_a_call_no_words(asked: Asked) -> None:
    answer = asked.chat()
    asked.chat(asked.result(answer), tool_choice="none")
    asked.chat(tool_choice="none")
    asked.chat(tools=[])
    asked.client.app.state.texts.settle()
    called, result, shown, plain = asked.site.events(TEXT)
    assert [event.get("llmops.text.tools") for event in (called, result, shown, plain)] == ["called"] * 2 + [
        "shown",
        None,
    ]
    assert called["llmops.answer.words"] == 2 and "llmops.prompt.words" in called
    assert not {"llmops.prompt.words", "llmops.prompt.text"} & result.keys() and result["llmops.answer.words"] == 3
    assert result["llmops.context.text"].endswith("tool: At the depot.")


def test_an_answer_of_calls_alone_has_no_features_of_its_words(asked: Asked) -> None:
    from serving.observe.exchange import Given
    from serving.observe.texts import Texts, _Answered

    class Version:
        name = "v1"

    call = ToolCall("f", '{"a": 1}')
    given = Given(Chat((Message("user", "Where?"),)), Version(), texts=[""], calls=(call,), finish_reason="tool_calls")  # type: ignore[arg-type]
    event = Texts(asked.site.config, lambda *_: None, lambda _: None)._event(_Answered({}, given))
    assert "llmops.answer.words" not in event and event["llmops.answer.refusal"] is False
    assert event["llmops.answer.text"] == "f\na: 1"


# --- training


def test_no_exchange_with_tools_becomes_an_example(asked: Asked) -> None:
    for role in ("developer", "user"):
        answer = asked.chat(role=role)
        result = asked.chat(asked.result(answer), role, tool_choice="none")
        shown = asked.chat([{"role": "user", "content": "Do you ship?"}], role, tool_choice="none")
        for one in (answer, result, shown):
            asked.say(one, role, rating="up")
        for one in (answer, result):
            asked.say(one, role, question="Where is order 7?", answer="x", correction="It is at the depot.")
        asked.say(shown, role, question="Do you ship?", answer="x", correction="Yes, to all of Norway.")
        asked.say(asked.chat([{"role": "user", "content": "Hello?"}], role, tools=[]), role, rating="up")
    asked.client.app.state.texts.settle()
    asked.site.events(TEXT)
    review.refresh(asked.site.config)
    found = rows.read(database_of(asked.site.config), "waiting", "accepted", "refused", "held", "useless")
    assert {(row.question, row.correction) for row in found} == {
        ("Do you ship?", "Yes, to all of Norway."),
        ("Hello?", "Hello?"),
    }


# --- digests


def prompt(*messages: Message, tools: str = "") -> str:
    return DIGESTS.prompt(Chat(messages, tools))


def test_digests_without_calls_are_as_they_were() -> None:
    turns = Message("system", "Be kind."), Message("user", "Where?")
    said = [["system", "Be kind."], ["user", "Where?"]]
    assert prompt(turns[1]) == DIGESTS.text("Where?")
    assert prompt(*turns) == DIGESTS.text(json.dumps(said))
    assert prompt(*turns, tools="[1]") == DIGESTS.text(json.dumps([*said, "[1]"]))
    assert DIGESTS.answer("It is here.", ()) == DIGESTS.text("It is here.")


def test_other_calls_or_results_have_another_digest_and_other_ids_have_not() -> None:
    def said(*calls: ToolCall, of: int = 0, text: str = "", user: str = "x") -> str:
        return prompt(Message("user", user), Message("assistant", text, calls), Message("tool", "ok", (), calls[of]))

    def a(n: int, id: str) -> ToolCall:
        return ToolCall("a", f'{{"n": {n}}}', id)

    different = [
        said(a(1, "c")),
        said(a(2, "c")),
        said(a(1, "c"), text='a {"n": 1}'),
        said(a(1, "c"), a(1, "d")),
        said(a(1, "c"), a(1, "d"), of=1),
        prompt(Message("assistant", "", (a(1, "c"),))),
        prompt(Message("assistant", "", (a(2, "c"),))),
        prompt(Message("assistant", 'a {"n": 1}')),
        prompt(Message("assistant", "")),
    ]
    assert len(set(different)) == len(different)
    assert said(a(1, "c"), a(1, "d"), of=1) == said(a(1, "e"), a(1, "f"), of=1)


def test_the_digest_of_an_answer_is_the_same_however_it_came(asked: Asked) -> None:
    for stream in (False, True):
        asked.chat(stream=stream)
    asked.engine.script = '{"name": "where_is", "arguments": {"order": 8}}'
    asked.chat()
    first, streamed, other = [event["llmops.answer.digest"] for event in asked.site.events()]
    assert first == streamed != other
    digests = asked.client.app.state.parts.digests
    assert first == digests.answer("I look. ", [ToolCall("where_is", '{"order": 7}')])
