"""Calls of tools in what a model writes.

As Hermes, Qwen and others write them they are read here, as other families do by vLLM's parsers. An answer that must
call is made to, after a grammar of vLLM's structured output: in the form of Hermes for a model that has it, else JSON.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llmops import prompts
from llmops.errors import ArtifactError
from serving.engines.base import Chat, EngineRequest, FinishReason, ToolCall
from serving.engines.ends import Stops
from serving.errors import NotOffered
from serving.json_text import object_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MARK, END = "<tool_call>", "</tool_call>"  #: around a call as Hermes, Qwen and others write it
HERMES = "hermes"  #: vLLM's name for this form
#: as their chat templates tell the model, in one expression or two
_HERMES = re.compile(rf'''{MARK}(?:\\n|\s|["']\s*-?\}}\}}\s*\{{\{{-?\s*["'])*\{{\\*"(?:name|arguments)\\*"''')

#: text and calls of a whole answer
Read = Callable[[str], tuple[str, list[ToolCall]]]


def parser_name(tokenizer: PreTrainedTokenizerBase, configured: str) -> str:
    """The name of vLLM's parser for a model; empty: there are no tools for it, or it is not known how it calls them."""
    if not prompts.knows_tools(tokenizer):
        return ""
    return configured or (HERMES if _HERMES.search(prompts.tool_template(tokenizer)) else "")


class Parser:
    """Reads a model's calls, by vLLM's parser if it writes them in another form than Hermes'.

    Args:
        tokenizer: of the model.
        name: of the parser; empty: none.

    Raises:
        ArtifactError: if vLLM has none of that name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.name = name
        if name not in ("", HERMES):
            from vllm.tokenizers.hf import get_cached_tokenizer
            from vllm.tool_parsers import ToolParserManager

            self._tokenizer = get_cached_tokenizer(tokenizer)  # its vocabulary is looked into for every answer
            try:
                self._kind: Any = ToolParserManager.get_tool_parser(name)
            except KeyError as error:
                known = ", ".join(ToolParserManager.list_registered())
                raise ArtifactError(f"vLLM has no serving.tool_call_parser {name!r}; it has {known}.") from error

    def heard(self, request: EngineRequest) -> Heard:
        """What listens to the answer to a request with `calls`.

        Raises:
            NotOffered: if the answer may call, and nobody knows how the model writes calls.
        """
        assert isinstance(request.prompt, Chat) and request.calls
        tools = json.loads(request.prompt.tools)
        offered, most = {tool["function"]["name"] for tool in tools}, request.calls.most
        if self.name == HERMES:
            return Heard(partial(hermes_calls, offered=offered), most, MARK)
        if request.calls.forced:
            return Heard(partial(json_calls, offered=offered), most)
        if not self.name:
            raise NotOffered(
                "It is not known how this model writes calls of tools: set serving.tool_call_parser to one of vLLM's "
                "parsers, or ask with tool_choice `required` or for one tool."
            )
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        asked = ChatCompletionRequest(model="", messages=[], tools=tools, tool_choice="auto")
        try:
            parser = self._kind(self._tokenizer, asked.tools)
        except RuntimeError as error:
            raise NotOffered(f"serving.tool_call_parser {self.name} does not fit this model: {error}") from error

        def read(answer: str) -> tuple[str, list[ToolCall]]:
            found = parser.extract_tool_calls(answer, asked)
            calls = []
            for one in found.tool_calls if found.tools_called else ():
                with suppress(ValueError, RecursionError):
                    calls.append(_call(one.function.name, json.loads(one.function.arguments), offered))
            return found.content or "", calls

        return Heard(read, most)

    def grammar(self, request: EngineRequest) -> str:
        """The structural tag, in JSON, of an answer that is nothing but calls, by the schema of its request.

        Between the parts of arguments is at most one character of white space, which some models love.
        """
        schema = json.loads(request.schema)
        begin, end = (f"{MARK}\n", f"\n{END}") if self.name == HERMES else ("", "")
        tags = []
        for call in schema["items"]["anyOf"]:
            name, arguments = call["properties"]["name"]["enum"][0], call["properties"]["arguments"]
            its = arguments["$ref"].removeprefix("#/$defs/")
            definitions = {at: one for at, one in schema["$defs"].items() if at == its or at.startswith(f"{its}.")}
            followed = {**arguments, "$defs": definitions}
            content = {"type": "json_schema", "json_schema": followed, "max_whitespace_cnt": 1}
            first, last = f'{begin}{{"name": {json.dumps(name)}, "arguments": ', "}" + end
            tags.append({"type": "tag", "begin": first, "content": content, "end": last})
        form = {"type": "tags_with_separator", "tags": tags, "separator": "\n", "at_least_one": True}
        form["stop_after_first"] = schema["maxItems"] == 1
        return json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)


class Heard:
    """An answer with calls in it, while it comes: text goes on until a call may begin, and calls are told at the end.

    Args:
        read: see `Read`; where it fails or finds no calls all is text.
        most: calls; what is called beyond is left out.
        mark: what every call begins with; empty: nobody knows, so that no text goes before the end.
    """

    def __init__(self, read: Read, most: int, mark: str = "") -> None:
        self._read, self._most = read, most
        self._marks, self._calling = Stops([mark]), not mark
        self._answer = self._told = ""

    def feed(self, text: str, ended: FinishReason | None) -> tuple[str, tuple[ToolCall, ...], FinishReason | None]:
        """Take a piece, and why the answer ends, if it does; gives what may be told now of text, calls and that."""
        self._answer += text
        new = ""
        if not self._calling:
            new, self._calling = self._marks.feed(text)
        calls: list[ToolCall] = []
        if ended:
            said, calls = self._whole()
            before = self._told + new
            new = said.removeprefix(self._told) if said.startswith(before) else new
        self._told += new
        return new, tuple(calls), "tool_calls" if calls else ended

    def _whole(self) -> tuple[str, list[ToolCall]]:
        """Text and calls of the whole answer."""
        try:
            said, calls = self._read(self._answer)
        except Exception as error:  # a model may write anything, and vLLM's parsers are many
            log.info("The calls of tools in an answer cannot be read: %s", type(error).__name__)
            said, calls = "", []
        return (said.rstrip(), calls[: self._most]) if calls else (self._answer, [])


def hermes_calls(answer: str, offered: set[str]) -> tuple[str, list[ToolCall]]:
    """The calls between marks, and the text around them; what is no call of a tool that was offered is text."""
    text, calls, at = "", list[ToolCall](), 0
    for begin in re.finditer(MARK, answer):
        if begin.start() < at:  # in the arguments of a call
            continue
        with suppress(ValueError, RecursionError):
            call, rest = _first_call(answer[begin.end() :], offered)
            if rest.startswith(END) or END.startswith(rest):  # the answer may end within the mark
                text += answer[at : begin.start()]
                at = len(answer) - len(rest) + min(len(rest), len(END))
                calls.append(call)
    return text + answer[at:], calls


def json_calls(answer: str, offered: set[str]) -> tuple[str, list[ToolCall]]:
    """The calls of an answer that is nothing else, until it was cut, and the text from there."""
    calls, rest = list[ToolCall](), answer
    with suppress(ValueError, RecursionError):
        while rest:
            call, rest = _first_call(rest, offered)
            calls.append(call)
    return rest, calls


def _first_call(text: str, offered: set[str]) -> tuple[ToolCall, str]:
    """The call that a text begins with, an object with `name` and `arguments`, and what comes after it.

    Raises:
        ValueError: if there is none of a tool that was offered.
    """
    text = text.lstrip()
    found, end = json.JSONDecoder().raw_decode(text)
    if not isinstance(found, dict):
        raise ValueError("is no call")
    return _call(found.get("name"), found.get("arguments"), offered), text[end:].lstrip()


def _call(name: Any, arguments: Any, offered: set[str]) -> ToolCall:
    """A call of a tool that was offered, with an object for its arguments; raises ValueError if it is none.

    Half of a surrogate pair, which JSON can name and no text can have, becomes the character for what is none.
    """
    if not isinstance(name, str) or name not in offered:
        raise ValueError("is of no tool that was offered")
    text = json.dumps(arguments, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return ToolCall(name, object_text(text))
