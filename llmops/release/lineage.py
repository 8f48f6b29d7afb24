"""Lineage of a model version: answer → version → run → dataset hash → sources → base-model revision.

Read from the records of the artifacts that the version was made from, and written into the version, so that it outlives
them. Every answer of the serving app carries the version's name, which is where the walk begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops import artifacts
from llmops.artifacts import Record
from llmops.errors import ArtifactError, RegistryError
from llmops.registry.version import Version
from llmops.scans import secrets

DATASET = "train.parquet"  #: the file of the annotate artifact whose hash names the dataset


def records(govern: Path) -> dict[str, Record]:
    """The records behind a release by stage: of the govern artifact and of all that it was made from.

    Raises:
        ArtifactError: if one is missing.
    """
    return {record.stage: record for record in artifacts.walk(govern)}


def dataset_hash(known: Mapping[str, Record]) -> str:
    """SHA-256 of the training split.

    Raises:
        ArtifactError: if the annotate artifact has no training split.
    """
    annotate = known["annotate"]
    if DATASET not in annotate.files:
        raise ArtifactError(f"The artifact annotate/{annotate.fingerprint} has no {DATASET}; run annotate again.")
    return annotate.files[DATASET]


def build(known: Mapping[str, Record], version: Version, selection: Mapping[str, Any]) -> dict[str, Any]:
    """The lineage document of a version, as JSON values.

    Args:
        known: what `records` found.
        version: the version it is for.
        selection: content of the select artifact's `selection.json`.
    """
    train, annotate, select = known["train"], known["annotate"], known["select"]
    sources = known["collect"].config.get("sources", []) if "collect" in known else []
    return {
        "version": version.name,
        "status": version.status,
        "compared_with": version.compared_with,
        "created": version.created,
        "run": train.run,
        "interval": version.interval,
        "git_commit": train.git_commit,
        "dataset": {
            "artifact": f"annotate/{annotate.fingerprint}",
            "sha256": dataset_hash(known),
            "metrics": annotate.metrics,
        },
        "sources": [
            {key: _clean(str(source.get(key, ""))) for key in ("name", "kind", "location", "licence", "owner")}
            for source in sources
        ],
        "base_model": {
            "model": selection["model"],
            "revision": selection["revision"],
            "licence": selection["licence"],
            "weights_sha256": {n: h for n, h in sorted(select.files.items()) if n.endswith(".safetensors")},
        },
        "quantisation": version.quantisation,
        "stages": [
            {
                "artifact": f"{r.stage}/{r.fingerprint}",
                "inputs": r.inputs,
                "config": _clean_values(r.config),
                "code": r.code,
                "git_commit": r.git_commit,
                "run": r.run,
                "started": r.started,
                "finished": r.finished,
            }
            for r in known.values()
        ],
    }


def lineage(version: Version) -> dict[str, Any]:
    """The lineage document that a version holds.

    Raises:
        RegistryError: if it is missing or damaged.
    """
    path = version.path / "lineage.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"The lineage of {version.name} cannot be read from {path}: {error}.") from error
    return document


def lineage_text(version: Version) -> str:
    """The lineage of a version for people, one step a line, from the answer down to the base model."""
    known = lineage(version)
    base, dataset = known["base_model"], known["dataset"]
    lines = [
        f'answer          any answer with "model_version": "{known["version"]}"',
        f"└ version       {known['version']}, {known['status']}"
        + (f" against {known['compared_with']}" if known["compared_with"] else "")
        + f", {known['created']}, served in {known['quantisation']}",
        f"  └ run         {known['run'] or 'without an orchestrator'}, data of {known['interval']}, "
        f"code {known['git_commit'] or 'outside a git checkout'}",
        *(f"    · {stage['artifact']:<28} {stage['finished']}" for stage in known["stages"]),
        f"    └ dataset   sha256 {dataset['sha256']} ({dataset['artifact']}/{DATASET})",
        *(
            f"      · erasure {erasure['time']}: {erasure['examples']} training examples forgotten since"
            for erasure in version.erasures
        ),
        *(
            f"      └ source  {s['name']}: {s['kind']} {s['location']}"
            + "".join(f", {word} {s[key]}" for key, word in (("licence", "licence"), ("owner", "owner")) if s[key])
            for s in known["sources"]
        ),
        f"    └ base      {base['model']} at {base['revision']}, licence {base['licence']}",
        *(f"      · {name} sha256 {digest}" for name, digest in base["weights_sha256"].items()),
    ]
    return "\n".join(lines)


def _clean(text: str) -> str:
    """`text` without secrets: a database URL may carry its password."""
    for start, end, _ in reversed(secrets.find(text)):
        text = text[:start] + "<SECRET>" + text[end:]
    return text


def _clean_values(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, Mapping):
        return {key: _clean_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(item) for item in value]
    return value
