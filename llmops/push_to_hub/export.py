"""Hand a version's model on to programs of others: a GGUF file with an Ollama Modelfile, or a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.errors import ArtifactError, ConfigError
from llmops.model.base.folder import read_folder
from llmops.model.base.load import load_tokenizer
from llmops.model.gguf.pipeline import FILE, is_gguf
from llmops.model.gguf.write import supported, write_gguf
from llmops.registry.version import Version

Kind = Literal["gguf", "hf"]

_ASKED = "(what is asked)"  # finds the place of the question in a prompt


def export(version: Version, kind: Kind, out: Path, artifacts: Path) -> Path:
    """Write a version's model to the new folder `out`.

    `gguf`: what is served, if that is a GGUF file, else the merged model in 16 bits; with a Modelfile for Ollama.
    `hf`: the merged model in bfloat16, as transformers and vLLM load it.

    Args:
        version: whose.
        kind: what others read.
        out: must not exist.
        artifacts: where the merged model that it was made of lies.

    Raises:
        ConfigError: if `out` exists.
        ArtifactError: if the merged model is needed and gone, or cannot be a GGUF file.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; name a folder that does not.")
    served = version.servable
    source = served if kind == "gguf" and is_gguf(served) else _merged(version, artifacts)
    if kind == "gguf" and source != served and (why := supported(source)):
        raise ArtifactError(f"{version.name} cannot become a GGUF file: {why}.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if kind == "hf":
        shutil.copytree(source, partial)
    else:
        partial.mkdir(parents=True)
        if source == served:
            shutil.copyfile(source / FILE, partial / FILE)
        else:
            write_gguf(source, partial / FILE, "f16")
        (partial / "Modelfile").write_text(modelfile(source), encoding="utf-8")
    partial.rename(out)
    return out


def modelfile(folder: Path) -> str:
    """Ollama's Modelfile for the GGUF file of a model folder: it asks and ends as we do, and takes no chances."""
    tokenizer, config = load_tokenizer(folder), json.loads((folder / "config.json").read_text(encoding="utf-8"))
    before, after = _around(tokenizer)
    ends = [str(tokenizer.convert_ids_to_tokens(n)) for n in sorted(prompts.end_ids(tokenizer))]
    ends += prompts.stop_strings(tokenizer)
    lines = [
        f"FROM ./{FILE}",
        f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}"""',
        f"PARAMETER num_ctx {config['max_position_embeddings']}",
        "PARAMETER temperature 0",
        "PARAMETER repeat_last_n -1",
        f"PARAMETER repeat_penalty {read_folder(folder).repetition_penalty:g}",
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in dict.fromkeys(ends)),
    ]
    return "\n".join(lines) + "\n"


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What stands before and after a question; without the token that llama.cpp puts before every text by itself."""
    ids = prompts.prompt_ids(tokenizer, _ASKED)
    if tokenizer.bos_token_id is not None and tokenizer("?")["input_ids"][0] == tokenizer.bos_token_id == ids[0]:
        ids = ids[1:]
    before, _, after = str(tokenizer.decode(ids, skip_special_tokens=False)).partition(_ASKED)
    return before, after


def _merged(version: Version, artifacts: Path) -> Path:
    lineage = json.loads((version.path / "lineage.json").read_text(encoding="utf-8"))
    train = next(stage["artifact"] for stage in lineage["stages"] if stage["artifact"].startswith("train/"))
    folder = artifacts / str(train) / "servable"
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"The merged model that {version.name} was made of is not at {folder} any more; only what is served can be "
            "exported, with --to gguf where that is a GGUF file."
        )
    return folder
