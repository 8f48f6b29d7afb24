"""The system prompt of a version. It is part of the chat template, so whoever reads the model's folder asks with it."""

import json
from pathlib import Path

from jinja2 import TemplateError

from llmops import prompts
from llmops.frame.artifacts import link_or_copy
from llmops.frame.errors import ConfigError
from llmops.model.base.hashes import list_model_files
from llmops.model.base.load import load_tokenizer
from llmops.prompts.control_tokens import get_encoder

#: Put before the model's own template. A system message of the caller takes the place of this one.
_BEGINNING = (
    "{%%- if messages[0]['role'] != 'system' %%}"
    "{%%- set messages = [{'role': 'system', 'content': %s}] + messages %%}"
    "{%%- endif %%}"
)


def write_prompted(model: Path, system_prompt: str, out: Path) -> None:
    """Write the folder `out`: the model of another folder, with a system prompt in its chat template.

    Raises:
        ConfigError: if the model takes no system prompt, or not this one.
    """
    tokenizer = load_tokenizer(model)
    if not tokenizer.chat_template:
        raise ConfigError("compress.system_prompt needs a model with a chat template; leave it empty.")
    if found := prompts.TURN_MARK.search(system_prompt) or get_encoder(tokenizer).control.search(system_prompt):
        raise ConfigError(f"compress.system_prompt has {found[0]}, which controls the model; take it out.")
    beginning = _BEGINNING % json.dumps(system_prompt, ensure_ascii=False)
    tokenizer.chat_template = f"{beginning}{tokenizer.get_chat_template()}"
    try:
        shown = system_prompt in prompts.render_system_prompt(tokenizer)
    except TemplateError as error:
        raise ConfigError(f"compress.system_prompt: the chat template refuses a system message: {error}.") from error
    if not shown:
        raise ConfigError("compress.system_prompt does not appear in what the model's chat template writes.")
    out.mkdir(parents=True)
    tokenizer.save_pretrained(out)
    for file in list_model_files(model):
        if not (out / file.name).exists() and file.suffix != ".jinja":
            link_or_copy(file.resolve(), out / file.name)
