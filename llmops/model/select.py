"""Choose the base model: filter the catalogue by hardware, licence and need, and explain the choice in a table.

python -m llmops run select
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmops.artifacts import write_json
from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.catalog import GIB, Entry, catalogue

log = logging.getLogger(__name__)

#: Without a GPU a bigger model trains for days: 0.135 B at 300 tokens/s on two cores makes 0.5 B about 80 tokens/s.
CPU_PARAMETERS = 0.5


def run(config: Select, *, out: Path) -> dict[str, Any]:
    """Write `selection.json`, the table `selection.md`, and for a packaged model its weights under `base/`."""
    if config.model and Path(config.model).is_dir():
        chosen = {"model": Path(config.model).name, "revision": "local", "licence": "unknown"}
        path = str(Path(config.model).absolute())
        rows = [{"model": config.model, "why": "named in the configuration: a local folder"}]
    else:
        entry, rows = choose(config, catalogue(), memory_gib(config), torch.cuda.is_available())
        path, revision = _fetch(entry, config.revision or entry.revision, out)
        chosen = {"model": entry.model, "revision": revision, "licence": entry.licence}
    (out / "selection.md").write_text(_table(rows), encoding="utf-8")
    write_json(out / "selection.json", {**chosen, "path": path, "considered": rows})
    return {**chosen, "considered": len(rows)}


def choose(config: Select, entries: list[Entry], memory: float, gpu: bool) -> tuple[Entry, list[dict[str, str]]]:
    """The largest model that passes every filter, or the one the configuration names if it passes.

    Returns the entry and a row per model considered, with why it was taken or left.

    Raises:
        ConfigError: if none passes, with each one's reason.
    """
    if config.model:
        entries = [e for e in entries if e.model == config.model]
        if not entries:
            raise ConfigError(
                f"select.model {config.model!r} is neither a folder nor in the catalogue; "
                "add a row to llmops/model/catalog.yaml or name a folder."
            )
    reasons = {e.model: _objection(e, config, memory, gpu) for e in entries}
    fit = [e for e in entries if not reasons[e.model]]
    if not fit:
        raise ConfigError("No base model passes: " + "; ".join(f"{m}: {r}" for m, r in reasons.items()))
    best = max(fit, key=lambda e: e.parameters)
    rows = [
        {
            "model": e.model,
            "licence": e.licence,
            "parameters": f"{e.parameters} B",
            "context": str(e.context),
            "memory": f"{e.training_gib:.1f} GiB",
            "why": reasons[e.model] or ("chosen: the largest that passes" if e is best else "passes, but is smaller"),
        }
        for e in entries
    ]
    return best, rows


def memory_gib(config: Select) -> float:
    """Memory for training: the configured, else the GPU's, else what the machine has free, GiB."""
    if config.max_memory_gib:
        return config.max_memory_gib
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]) / GIB
    return float(psutil.virtual_memory().available) / GIB


def read_selection(select: Path) -> dict[str, Any]:
    """The content of a select artifact's `selection.json`."""
    selection: dict[str, Any] = json.loads((select / "selection.json").read_text(encoding="utf-8"))
    return selection


def base_path(select: Path) -> str:
    """Folder of the chosen base model, for `from_pretrained`."""
    return str(select / read_selection(select)["path"])


def _objection(entry: Entry, config: Select, memory: float, gpu: bool) -> str:
    if entry.licence not in config.licences:
        return f"licence {entry.licence} is not among the allowed {', '.join(config.licences)}"
    if config.offline and not entry.packaged():
        return "needs a download, and select.offline is on"
    if entry.training_gib > memory:
        return f"needs {entry.training_gib:.1f} GiB to train in 4 bits, {memory:.1f} GiB are there"
    if not gpu and not config.model and entry.parameters > CPU_PARAMETERS:
        return f"no GPU: over {CPU_PARAMETERS} B parameters would train for days; name it in select.model to insist"
    return ""


def _fetch(entry: Entry, revision: str, out: Path) -> tuple[str, str]:
    gguf = entry.packaged()
    if gguf is None:
        log.info("downloading %s at %s from the Hub", entry.model, revision)
        path = snapshot_download(entry.model, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.model"])
        return path, Path(path).name
    convert_gguf(gguf, out / "base")
    return "base", f"{entry.package}/{gguf.name}"


def convert_gguf(gguf: Path, out: Path) -> None:
    """Turn a GGUF file into a plain bfloat16 model folder, tokenizer and chat template included.

    A model loaded from GGUF refuses `save_pretrained`, so its weights go into a model made from its configuration.
    """
    folder, name = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(folder, gguf_file=name)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)


def _table(rows: list[dict[str, str]]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row[c] for c in columns) + " |" for row in rows]) + "\n"
