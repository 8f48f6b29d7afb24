"""The model card: README.md of a version, with the metadata that the Hugging Face Hub reads.

The front matter follows https://huggingface.co/docs/hub/model-cards; `card.md` is the text and `how_to_load.md` its
section of code, both Jinja templates. The code of the card in the registry loads from the card's folder, that of
`render_for_hub` from the Hub.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from llmops.model.base.classifier import format_threshold
from llmops.release.gate import GateDecision
from llmops.release.registry.version import Version

Estimate = Mapping[str, Any]  #: {"mean": …, "low": …, "high": …}; perplexity may be a plain number instead

_ERASURE = re.compile(r"^## Erasure\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LOADING = re.compile(r"^## How to load\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_ERASED = (
    "These examples were removed from the data after this version was trained, as a person asked to be forgotten. Its\n"
    "weights still hold what it learned from them. It cannot become the champion again. A version that is trained\n"
    "without them takes its place if it is no worse."
)


def render(
    name: str,
    version: Version,
    *,
    decision: GateDecision,
    evaluation: Mapping[str, Any],
    governance: Mapping[str, Any],
    lineage: Mapping[str, Any],
    sources: list[dict[str, Any]],
    training: Mapping[str, Any],
    calibration: Mapping[str, Any],
    chat: bool,
    file: str = "",
    language: str = "en",
) -> str:
    """Return the card's text.

    `evaluation`, `governance` and `lineage` are the contents of the version's files. `sources` has rows with `source`,
    `licence`, `owner` and the number of training `examples`, `training` hyperparameters and figures of the training.
    `calibration` is that of `compression.json`, empty if it has none. `file` is the GGUF file that is served, if it is
    one.
    """
    metrics = sorted({metric for model in evaluation["models"].values() for metric in model})
    body = _load_template("card.md").render(
        name=name,
        version=version,
        base=lineage["base_model"],
        commit=lineage["git_commit"],
        decision=decision,
        confidence=f"{evaluation['confidence']:.0%}",
        evaluation=evaluation,
        metrics=metrics,
        governance=governance,
        sources=[{key: _escape_cell(value) for key, value in row.items()} for row in sources],
        training=training,
        calibration=calibration,
        language=language,
        how_to_load=render_loading(version, lineage, chat, file=file),
        classifies=version.classifies,
    )
    data = _make_metadata(name, version, evaluation["models"]["candidate"], metrics, lineage, language)
    return write_erasures(f"---\n{data.to_yaml()}\n---\n\n{body}", version)


def render_loading(version: Version, lineage: Mapping[str, Any], chat: bool, repo: str = "", file: str = "") -> str:
    """Return the card's section of code that loads and asks the served model, and loads the adapter on its base.

    It loads the tag named like the version from a Hub repository, by default from the folder of the card. `file` is the
    GGUF file that is served, if it is one.
    """
    base = lineage["base_model"]
    train = next((stage["config"] for stage in lineage["stages"] if stage["artifact"].startswith("train/")), None)
    requirement, _, inside = str(base["revision"]).partition("/")
    packaged = {"package": requirement.partition("==")[0], "requirement": requirement, "file": inside}
    gguf = packaged if inside.endswith(".gguf") else None
    return _load_template("how_to_load.md").render(
        version=version,
        base=base,
        trained=train is not None,
        qlora=train is not None and train.get("method", "qlora") == "qlora",
        gguf=gguf,
        based='"base"' if gguf else f'"{base["model"]}", revision="{base["revision"]}"',
        chat=chat,
        repo=repo,
        file=file,
        classifies=version.classifies,
        at=lambda folder: f'"{repo}", subfolder="{folder}", revision="{version.name}"' if repo else f'"{folder}"',
    )


def has_chat_template(servable: Path) -> bool:
    """Return True if the tokenizer of a model folder has a chat template."""
    file = servable / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return bool(settings.get("chat_template")) or (servable / "chat_template.jinja").is_file()


def find_gguf_file(servable: Path) -> str:
    """Return the name of the GGUF file of a servable folder; empty if it has none."""
    return next((path.name for path in servable.glob("*.gguf")), "")


def render_for_hub(version: Version, repo: str, override: str = "") -> str:
    """Return the card for the Hub: its code loads from the Hub repository, and it gives the reason of an override."""
    card = (version.path / "README.md").read_text(encoding="utf-8")
    lineage = json.loads((version.path / "lineage.json").read_text(encoding="utf-8"))
    chat, file = has_chat_template(version.servable), find_gguf_file(version.servable)
    loading = render_loading(version, lineage, chat, repo, file)
    card = f"{_LOADING.sub('', card).rstrip()}\n\n{loading}"
    if override and version.status != "promoted":
        reason = " ".join(override.split())
        notice = f"The gate did not pass this version: {version.status}. It became champion by an override: {reason}"
        card = card.replace("## Intended use\n", f"## Override\n\n{notice}\n\n## Intended use\n", 1)
    return card


@cache
def _load_template(name: str) -> Template:
    environment = Environment(undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True)
    environment.filters |= {"figure": _format_estimate, "share": "{:.1%}".format, "threshold": format_threshold}
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def write_erasures(card: str, version: Version) -> str:
    """Return the card with a section on training rows that were erased after the training, if there are any."""
    card = _ERASURE.sub("", card)
    if not version.erasures:
        return card
    rows = "".join(
        f"| {erasure['time']} | {erasure['examples']} | {erasure['receipt']} |\n" for erasure in version.erasures
    )
    section = f"## Erasure\n\n{_ERASED}\n\n| date | training examples | receipt |\n| --- | --- | --- |\n{rows}\n"
    before, training, after = card.partition("## Training\n")
    return f"{before}{section}{training}{after}"


def _make_metadata(
    name: str,
    version: Version,
    figures: Mapping[str, Estimate],
    metrics: list[str],
    lineage: Mapping[str, Any],
    language: str,
) -> ModelCardData:
    kind = "text-classification" if version.classifies else "text-generation"
    adapted = bool(version.dataset) and not version.classifies  # a classifier's adapter does not stand for it
    results = [
        EvalResult(
            task_type=kind,
            task_name="Text classification" if version.classifies else "Question answering",
            dataset_type="private",
            dataset_name=f"{name} frozen test",
            dataset_split="test",
            dataset_revision=lineage["dataset"]["sha256"] or None,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(_get_mean(figures[metric]), 4),
        )
        for metric in metrics
        if metric in figures
    ]
    return ModelCardData(
        model_name=f"{name} {version.name}",
        base_model=version.base_model,
        license=version.licence,
        language=language,
        library_name="peft" if adapted else "transformers",
        pipeline_tag=kind,
        tags=["llmops", *(["lora"] if adapted else []), version.quantisation, version.status],
        eval_results=results,
    )


def _get_mean(figures: Estimate | float) -> float:
    return float(figures["mean"]) if isinstance(figures, Mapping) else float(figures)


def _format_estimate(figures: Estimate | float) -> str:
    if isinstance(figures, Mapping) and {"low", "high"} <= figures.keys():
        return f"{_get_mean(figures):.3f} ({figures['low']:.3f} to {figures['high']:.3f})"
    return f"{_get_mean(figures):.3f}"


def _escape_cell(value: Any) -> Any:
    return value.replace("|", "\\|").replace("\n", " ") if isinstance(value, str) else value
