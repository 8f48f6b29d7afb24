"""Export a version's model for other programs: llama.cpp and Ollama, OpenVINO GenAI, or transformers and vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmops import prompts
from llmops.frame.artifacts import is_done
from llmops.frame.errors import ArtifactError, ConfigError, RegistryError
from llmops.model.base.folder import read_folder
from llmops.model.gguf.worker import GGUF_FILE, is_gguf
from llmops.release.lineage import read_lineage
from llmops.release.registry.version import Version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ExportFormat = Literal["gguf", "openvino", "hf"]

MAX_CONTEXT = 4096  #: tokens of Ollama's context at most: keys and values of more take gigabytes

_QUESTION = "(what is asked)"  # finds the place of the question in a prompt


def export(version: Version, form: ExportFormat, out: Path, artifacts: Path) -> None:
    """Write a version's model and its model card to the new folder `out`.

    - `gguf`: one GGUF file and a Modelfile for Ollama. The file is the served one. If another format is served, it is
      the merged model in 16 bits.
    - `openvino`: the same GGUF file, and the tokenizer's files.
    - `hf`: the merged model in bfloat16, or the served one if nothing was trained.

    The files are written to `.<out>.partial` beside `out`, which is renamed at the end.

    Args:
        version: the version whose model is exported.
        form: the format.
        out: a folder that does not exist.
        artifacts: the folder of stage artifacts, where `train` left the merged model.

    Raises:
        ConfigError: if `out` exists.
        ArtifactError: if the merged model is needed and was removed or is unknown, nothing was trained and the base
            model is only there as a GGUF file, or GGUF cannot hold the model.
        RegistryError: if the version was trained on rows that were erased.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; name a folder that does not.")
    if version.erasures:
        raise RegistryError(
            f"{version.name} was trained on rows of a person who was forgotten since (receipt "
            f"{version.erasures[-1]['receipt']}); it is not exported. Run the pipeline for a version without them."
        )
    served = is_gguf(version.servable)
    source = version.servable if form != "hf" and served else _find_merged(version, artifacts)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if form == "hf" or served:
        shutil.copytree(source, partial)
    else:
        _write_gguf(source, partial, version.name)
    if form == "gguf":
        for path in partial.iterdir():
            if path.name != GGUF_FILE:
                path.unlink()
        (partial / "Modelfile").write_text(render_modelfile(source, version.licence), encoding="utf-8")
    shutil.copyfile(version.path / "README.md", partial / "README.md")
    partial.rename(out)


def render_modelfile(folder: Path, licence: str) -> str:
    """Return Ollama's Modelfile for the GGUF file of a folder, with the prompt, stops and sampling of serving."""
    model = read_folder(folder, MAX_CONTEXT)
    before, after = _split_prompt(model.tokenizer)
    ends = [*(str(model.tokenizer.decode([token])) for token in sorted(model.end_ids)), *model.stop_strings]
    lines = [
        f"FROM ./{GGUF_FILE}",
        f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}"""',
        f"PARAMETER num_ctx {model.window}",
        "PARAMETER temperature 0",
        "PARAMETER repeat_last_n -1",
        f"PARAMETER repeat_penalty {model.repetition_penalty:g}",
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
        f'LICENSE """{licence}"""',
    ]
    return "\n".join(lines) + "\n"


def _split_prompt(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the text before and after a question, without the first token, which Ollama adds to every text."""
    ids, begin = prompts.encode_question(tokenizer, _QUESTION), prompts.encode_text(tokenizer, "")
    rest = ids[len(begin) :] if ids[: len(begin)] == begin else ids
    before, _, after = str(tokenizer.decode(rest)).partition(_QUESTION)
    return before, after


def _find_merged(version: Version, artifacts: Path) -> Path:
    stages = (str(stage["artifact"]) for stage in read_lineage(version)["stages"])
    train = next((artifact for artifact in stages if artifact.startswith("train/")), None)
    if train is None and not version.dataset:  # nothing was trained
        if is_gguf(version.servable):
            raise ArtifactError(
                f"Nothing was trained for {version.name}: it serves {version.base_model} as a GGUF file, "
                "which can be exported with --to gguf or --to openvino."
            )
        return version.servable
    if train is None:
        raise ArtifactError(f"The lineage of {version.name} names no run of `train`, so its merged model is not known.")
    folder = artifacts / train / "servable"
    if not is_done(folder.parent):
        raise ArtifactError(
            f"The merged model of {version.name} is not whole at {folder}, or was removed; run `train` again. A "
            "version that is served as a GGUF file can be exported with --to gguf or --to openvino without it."
        )
    return folder


def _write_gguf(source: Path, out: Path, name: str) -> None:
    from llmops.model.gguf.write import explain_unsupported, write_gguf_folder

    if why := explain_unsupported(source):
        raise ArtifactError(f"{name} cannot become a GGUF file: {why}.")
    write_gguf_folder(source, out, "f16")
