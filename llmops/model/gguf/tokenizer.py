"""The tokenizer of a GGUF folder, read by the library `tokenizers`, so that a serving image needs no transformers.

It has the methods of transformers' tokenizers that `llmops.prompts` and `serving` use, with the same token ids and
texts. A GGUF folder has a byte-level BPE in a tokenizer.json (see `vocabulary`), to which transformers adds nothing.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from tokenizers import Tokenizer

from llmops.prompts.clock import FIXED_DATE

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class GgufTokenizer:
    """The tokenizer and the chat template of a folder."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.json`, `tokenizer_config.json` and, if there is one, `chat_template.jinja`."""
        self.name_or_path = str(folder)
        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        texts = {name: _read_token(config.get(name)) for name in _SPECIAL_TOKENS}
        self.special_tokens_map = {name: text for name, text in texts.items() if text is not None}
        file = folder / "chat_template.jinja"
        self.chat_template = file.read_text(encoding="utf-8") if file.is_file() else _find_template(config)

    @property
    def eos_token(self) -> str | None:
        """Return the token that ends a sequence."""
        return self.special_tokens_map.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Return the id of the token that ends a sequence."""
        return self.convert_tokens_to_ids(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Return the id of the token that fills a batch."""
        return self.convert_tokens_to_ids(self.special_tokens_map.get("pad_token"))

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def convert_tokens_to_ids(self, token: str | None) -> int | None:
        """Return the id of a token; None if there is none."""
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        return self.backend_tokenizer.decode(ids, skip_special_tokens)

    def get_chat_template(self) -> str:
        """Return the chat template."""
        return self.chat_template or ""

    def apply_chat_template(
        self,
        conversations: Sequence[Sequence[dict[str, str]]],
        chat_template: str,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> list[str]:
        """Return the text of each conversation by a chat template."""
        assert not tokenize
        template = _compile_template(chat_template)
        values: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        return [template.render(messages=turns, **values, **self.special_tokens_map) for turns in conversations]


def _read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _read_token(token: str | dict[str, Any] | None) -> str | None:
    """Return the text of a special token, which is a string or an object in the files."""
    return str(token["content"]) if isinstance(token, dict) else token


def _find_template(config: dict[str, Any]) -> str | None:
    """Return the chat template in a `tokenizer_config.json`: the one named `default`, if there are several."""
    templates = config.get("chat_template")
    if isinstance(templates, list):
        return next((str(one["template"]) for one in templates if one["name"] == "default"), None)
    return templates


class _Generation(Extension):
    """The tag `{% generation %}`, which marks answers for training. Its body is rendered without a change."""

    tags = {"generation"}  # noqa: RUF012 - the base class has no class variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """A namespace that refuses names with a leading `_`, because Python calls some of them outside of the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"A chat template may not set {name!r}.")
        super().__setitem__(name, value)


@lru_cache
def _compile_template(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    functions = {"raise_exception": _raise_error, "strftime_now": FIXED_DATE.strftime, "namespace": _make_namespace}
    environment.globals |= functions
    return environment.from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_error(message: str) -> None:
    raise TemplateError(message)


def _make_namespace(*values: Any, **named: Any) -> Namespace:
    namespace = _Namespace()
    for name, value in dict(*values, **named).items():
        namespace[name] = value
    return namespace
