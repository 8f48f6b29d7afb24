"""`tools`: calls of functions and their results, by official clients and by OpenVINO on the small real model."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import TypeAdapter

from llmops import prompts
from llmops.model.base.catalog import read_catalogue
from llmops.model.gguf.worker import GGUF_FILE
from serving.answers.openai_schemas import ChatRequest
from serving.answers.openai_tools import CallReader, Function, Piece
from serving.engines.base import Chat, Message
from serving.engines.openvino import OpenvinoEngine
from serving.observe.exchange import get_context, get_question
from tests.serving.echo import EchoEngine, EchoRow


class Stock(pydantic.BaseModel):
    """Look up how many pieces of a product are in stock."""

    product: str


class Price(pydantic.BaseModel):
    """Look up the price of a product."""

    product: str
    currency: str = pydantic.Field("EUR", description="Three letters.")


TOOLS: Any = [openai.pydantic_function_tool(Stock), openai.pydantic_function_tool(Price)]
NAMED: Any = {"type": "function", "function": {"name": "Price"}}
ASKED: Any = {"role": "user", "content": "How many kettles are in stock?"}
RESULT: Any = {"role": "tool", "tool_call_id": "call_1", "content": "12"}


def call_stock(product: str) -> dict[str, Any]:
    function = {"name": "Stock", "arguments": json.dumps({"product": product})}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CALLED = call_stock("kettle")
#: calls after which even a model of 135 million parameters calls
EXAMPLES: Any = [
    turn
    for product in ("kettles", "cups", "forks")
    for turn in ({"role": "user", "content": f"How many {product}?"}, call_stock(product))
]
LAMPS = {"role": "user", "content": "How many lamps?"}


class Scripted(EchoEngine):
    """Calls a function that the question names, and repeats its result."""

    follows_schemas = True

    def _begin(self, job: Any) -> EchoRow:
        row, last = super()._begin(job), job.request.prompt.messages[-1]
        if last.role == "user" and last.content.startswith("call "):
            _, name, *leak = last.content.split()
            arguments = json.dumps({"product": "4111 1111 1111 1111" if leak else "a <b }"})
            call = f'I look. <tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
            row.words = call.split(" ")
        return row


@pytest.fixture(scope="module")
def served(new_site: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("smollm2") / "servable"
    tokenizer.save_pretrained(folder)
    packaged = read_catalogue()[0].find_packaged_file()
    assert packaged
    (folder / GGUF_FILE).symlink_to(packaged)
    (folder / "config.json").write_text('{"max_position_embeddings": 8192}')
    site = new_site(tmp_path_factory.mktemp("site"), max_new_tokens=100, max_prompt_chars=8000).release()
    with site.live(lambda version: site.engines.setdefault(version.name, OpenvinoEngine(folder, 64, 4))) as url:
        yield {"base_url": f"{url}/v1", "api_key": site.keys["user"]}


@pytest.fixture(scope="module")
def scripted(new_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    site = new_site(tmp_path_factory.mktemp("site"), max_new_tokens=100, max_prompt_chars=8000).release()
    with site.live(lambda version: site.engines.setdefault(version.name, Scripted())) as url:
        yield site, {"base_url": f"{url}/v1", "api_key": site.keys["user"]}


@pytest.fixture
def client(served: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**served, max_retries=0) as client:  # type: ignore[arg-type]
        yield client


def create_chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "support-bot", "messages": [ASKED], "tools": TOOLS, **more})


def stream_chat(client: openai.OpenAI, **more: Any) -> Any:
    common = {"model": "support-bot", "messages": [ASKED], "tools": TOOLS, **more}
    with client.chat.completions.stream(**common) as stream:
        return stream.get_final_completion().choices[0]


def test_the_model_itself_answers_or_calls_by_default(client: openai.OpenAI) -> None:
    (text,) = create_chat(client, max_tokens=20).choices
    assert text.message.content and text.message.tool_calls is None and text.finish_reason in ("stop", "length")
    (choice,) = create_chat(client, messages=[*EXAMPLES, LAMPS]).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "Stock")
    assert "lamp" in Stock.model_validate_json(call.function.arguments).product
    streamed = stream_chat(client, messages=[*EXAMPLES, LAMPS], tool_choice="auto")
    assert (streamed.finish_reason, streamed.message.content) == ("tool_calls", choice.message.content)
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments


def test_a_required_call_is_of_one_of_the_functions(client: openai.OpenAI) -> None:
    for question in ("How many kettles are in stock?", "What does a lamp cost?"):
        messages: Any = [{"role": "user", "content": question}]
        (choice,) = create_chat(client, messages=messages, tool_choice="required").choices
        (call,) = choice.message.tool_calls
        model = {"Stock": Stock, "Price": Price}[call.function.name]
        assert choice.message.content is None and model.model_validate_json(call.function.arguments)


def test_a_named_function_is_called_and_may_be_cut(client: openai.OpenAI) -> None:
    (choice,) = create_chat(client, tool_choice=NAMED).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "Price")
    streamed = stream_chat(client, tool_choice=NAMED)
    assert streamed.message.tool_calls[0].function.parsed_arguments == Price.model_validate_json(
        call.function.arguments
    )
    (cut,) = create_chat(client, tool_choice=NAMED, max_tokens=25).choices
    assert cut.finish_reason == "length"
    assert call.function.arguments.startswith(cut.message.tool_calls[0].function.arguments)


def test_log_probabilities_of_a_call_are_those_of_all_its_text(client: openai.OpenAI) -> None:
    (choice,) = create_chat(client, tool_choice=NAMED, logprobs=True).choices
    arguments = choice.message.tool_calls[0].function.arguments
    text = "".join(one.token for one in choice.logprobs.content)
    assert text == f'<tool_call>\n{{"name": "Price", "arguments": {arguments}}}\n</tool_call>'


def test_a_schema_that_is_not_followed_is_refused_by_its_place(client: openai.OpenAI) -> None:
    for parameters, param in (
        ({"type": "string", "pattern": "a"}, "tools.0.function.parameters"),
        ({"properties": {"a": {"type": "banana"}}}, None),
    ):
        with pytest.raises(openai.BadRequestError, match="tools") as refusal:
            tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
            create_chat(client, tools=[tool], tool_choice="required")
        assert refusal.value.param == param


def test_langchain_binds_tools_and_gets_objects(served: dict[str, str]) -> None:
    model = ChatOpenAI(**served, model="support-bot", max_retries=0)  # type: ignore[arg-type]
    assert isinstance(model.with_structured_output(Price, method="function_calling").invoke("A kettle?"), Price)
    for choice in ("any", "Price"):
        (call,) = model.bind_tools([Stock, Price], tool_choice=choice).invoke("A kettle?").tool_calls
        assert call["name"] in ("Stock", "Price") and call["args"]["product"]
    assert model.bind_tools([Stock]).invoke("Hello").text


# --- an agent's loop, with an engine whose words are known


def test_langchain_carries_a_call_out_and_is_answered(scripted: Any) -> None:
    site, served = scripted
    model = ChatOpenAI(**served, model="support-bot", max_retries=0).bind_tools([Stock, Price])
    asked = HumanMessage("call Stock")
    answer = model.invoke([asked])
    assert isinstance(answer, AIMessage) and answer.text == "I look. "
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("Stock", {"product": "a <b }"})
    first, *others = model.stream([asked])
    assert sum(others, first).tool_calls[0]["args"] == call["args"]  # type: ignore[attr-defined]
    final = model.invoke([asked, answer, ToolMessage("12 pieces", tool_call_id=call["id"])])
    assert final.tool_calls == [] and "12 pieces" in final.text


def test_the_guard_cuts_the_arguments_of_a_call(scripted: Any) -> None:
    site, served = scripted
    client = openai.OpenAI(**served, max_retries=0)
    asked: Any = [{"role": "user", "content": "call Stock leaking"}]
    (choice,) = create_chat(client, messages=asked).choices
    assert choice.finish_reason == "content_filter" and "1111" not in str(choice.message.tool_calls)


def test_openais_client_gives_its_own_messages_back(scripted: Any) -> None:
    site, served = scripted
    client, asked = openai.OpenAI(**served, max_retries=0), {"role": "user", "content": "call Stock"}
    for message in (
        create_chat(client, messages=[asked]).choices[0].message,
        stream_chat(client, messages=[asked]).message,
    ):
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12"}
        for back in (message, message.model_dump()):
            assert create_chat(client, messages=[asked, back, result]).choices[0].finish_reason == "stop"
    chunks = list(create_chat(client, messages=[asked], stream=True, n=2))
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons.count("tool_calls") == 2 and {*reasons} == {"tool_calls", None}
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or () if call.id]
    assert len({call.id for call in calls}) == 2


def test_litellm_carries_a_call_out(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when it is imported
    import litellm

    site, served = scripted
    common: Any = {"model": "openai/support-bot", "api_base": served["base_url"], "api_key": served["api_key"]}
    asked = {"role": "user", "content": "call Stock"}
    message = litellm.completion(**common, messages=[asked], tools=TOOLS).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12"}
    assert (
        "12" in litellm.completion(**common, messages=[asked, message, result], tools=TOOLS).choices[0].message.content
    )


# --- the form


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "content", "call", "complete"),
    [
        ("a < b <tool", "a < b <tool", None, False),
        ('Hi <tool_call>\n{"name": "f", "arguments": {"a": "}\\n</tool_call>"}}\n</tool_call>', "Hi ",
         ("f", '{"a": "}\\n</tool_call>"}'), True),
        ('<tool_call>\n{"name": "f", "arguments": {"a": {}', "", ("f", '{"a": {}'), False),
        ('No <tool_call>\n{"name": "f', "No ", None, False),
        ("", "", None, False),
    ],
)  # fmt: skip
def test_pieces_of_an_answer_become_text_and_call(
    size: int, text: str, content: str, call: tuple[str, str] | None, complete: bool
) -> None:
    reader = CallReader()
    parts = [text[start : start + size] for start in range(0, len(text), size)] or [""]
    pieces = [reader.read(part, number == len(parts)) for number, part in enumerate(parts, 1)]
    assert "".join(piece.text for piece in pieces) == content and reader.complete is complete
    names = [piece.name for piece in pieces if piece.name]
    arguments = "".join(piece.arguments for piece in pieces)
    assert (names, arguments) == (([call[0]], call[1]) if call else ([], ""))
    assert Piece("") not in pieces[-1:] or not text or size < len(text)


def read_turns(*messages: Any, **more: Any) -> Chat:
    body = {"model": "support-bot", "messages": messages, **more}
    return Chat(TypeAdapter(ChatRequest).validate_python(body).turns)


def test_functions_come_before_the_question_and_results_after(tokenizer: Any) -> None:
    chat = read_turns(ASKED, CALLED, RESULT, {"role": "user", "content": "And é?"}, tools=TOOLS)
    messages = [{"role": one.role, "content": one.content} for one in chat.messages]
    text = tokenizer.decode(prompts.encode_chat(tokenizer, messages))
    system, user, call, result, _ = text.split("<|im_end|>\n")
    assert system == tokenizer.decode(prompts.encode_question(tokenizer, "?")).split("<|im_end|>\n")[0]  # its own
    assert user.index('"description": "Look up the price') < user.index("[Question] How many kettles")
    assert call.endswith('<tool_call>\n{"name": "Stock", "arguments": {"product": "kettle"}}\n</tool_call>')
    assert result.endswith("user\n<tool_response>\n12\n</tool_response>\n[Question] And é?")


def test_the_question_of_an_agents_answer_is_the_users() -> None:
    chat = read_turns(ASKED, CALLED, RESULT)
    assert get_question(chat) == ASKED["content"]
    assert "12" in get_context(chat) and ASKED["content"] not in get_context(chat)
    assert get_question(Chat((Message("tool", "12"),))) == "12"


def test_functions_together_have_the_bounds_of_one_schema() -> None:
    def make_tool(name: str, properties: int) -> Any:
        parameters = {"properties": {f"p{n}": {} for n in range(properties)}}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    assert read_turns(ASKED, tools=[make_tool("a", 50), make_tool("b", 50)])
    with pytest.raises(pydantic.ValidationError, match="together .* 102 properties"):
        read_turns(ASKED, tools=[make_tool("a", 51), make_tool("b", 51)])
    with pytest.raises(pydantic.ValidationError, match="surrogates"):
        Function(name="f", parameters={"description": json.loads('"\\ud800"')})
