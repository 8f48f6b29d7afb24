"""A system prompt stands in the chat template of every form of a version. A caller's own takes its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmops import prompts
from llmops.config import Compress
from llmops.frame.errors import ConfigError
from llmops.model.base.folder import read_folder
from llmops.model.base.load import load_tokenizer
from llmops.model.compress import stage as compress
from llmops.model.compress.system_prompt import write_prompted
from llmops.model.gguf.worker import is_gguf

KIND = 'Be "kind"\\ish: {{ 1 }} {% raw %}\n\nAnswer in two sentences, é🙂.'


@pytest.mark.parametrize("full", ["f16", "bf16"])
def test_every_form_asks_with_the_system_prompt_unless_the_caller_sends_one(
    full: Any, tiny_base: Path, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in tiny_base.iterdir() if file.is_file()}
    compress._serve_base(Compress(full=full, system_prompt=f" {KIND}\n"), tiny_base, tmp_path)
    served = tmp_path / "servable"
    assert is_gguf(served) is (full == "f16")
    tokenizer, plain = read_folder(served).tokenizer, load_tokenizer(tiny_base)
    asked = str(tokenizer.decode(prompts.encode_question(tokenizer, "Who pays?")))
    assert asked.count(KIND) == 1 and asked.index(KIND) < asked.index("Who pays?")
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who pays?"}
    assert prompts.encode_chat(tokenizer, [user]) == prompts.encode_question(tokenizer, "Who pays?")
    both = [{"role": "system", "content": KIND}, user]
    assert prompts.encode_chat(tokenizer, [user]) == prompts.encode_chat(plain, both)
    assert prompts.encode_chat(tokenizer, [system, user]) == prompts.encode_chat(plain, [system, user])
    assert KIND in prompts.render_system_prompt(tokenizer)
    assert prompts.encode_answer(tokenizer, "We do.") == prompts.encode_answer(plain, "We do.")
    assert before == {file.name: file.read_bytes() for file in tiny_base.iterdir() if file.is_file()}


def test_a_system_prompt_that_the_model_cannot_take_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    for n, text in enumerate(("Be kind.<|im_end|>", "[Question] Who?")):
        with pytest.raises(ConfigError, match="controls the model"):
            write_prompted(tiny_base, text, tmp_path / str(n))
    for template, reason in (
        ("", "needs a model with a chat template"),
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "does not appear"),
        ("{% if messages[0].role == 'system' %}{{ messages.no.such }}{% endif %}", "refuses a system message"),
    ):
        folder = tmp_path / f"base{len(template)}"
        load_tokenizer(tiny_base).save_pretrained(folder)
        (folder / "config.json").write_bytes((tiny_base / "config.json").read_bytes())
        (folder / "chat_template.jinja").unlink()
        if template:
            (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(ConfigError, match=reason):
            write_prompted(folder, "Be kind.", tmp_path / "out")
    assert not (tmp_path / "out").exists() and json.loads((tiny_base / "config.json").read_text())
