"""Lineage of a model version: answer → version → run → dataset hash → sources → base-model revision.

Read from the records of the artifacts that the version was made from, and written into the version, so that it outlives
them. Every answer of the serving app carries the version's name, which is where the walk begins.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.release.registry.version import Version
from llmops.scans import secrets

DATASET = "train.parquet"  #: the file of the annotate artifact whose hash names the dataset
_OF_STAGE = ("interval", "inputs", "code", "environment", "git_commit", "run", "started", "finished")


def records(govern: Path) -> dict[str, Record]:
    """Return the records behind a release by stage: of the govern artifact and of all that it was made from.

    Where two artifacts of a stage with the same content are among them, it is the one nearer to the release.

    Raises:
        ArtifactError: if one is missing.
    """
    known: dict[str, Record] = {}
    for record in artifacts.walk(govern):
        known.setdefault(record.stage, record)
    return known


def dataset_hash(known: Mapping[str, Record]) -> str:
    """Return the SHA-256 of the training split."""
    annotate = known["annotate"]
    if DATASET not in annotate.files:
        raise ArtifactError(f"The artifact annotate/{annotate.fingerprint} has no {DATASET}; run annotate again.")
    return annotate.files[DATASET]


def build(known: Mapping[str, Record], version: Version, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lineage document of a version, as JSON values, from its `records` and `selection.json`."""
    train, annotate, select = known.get("train"), known.get("annotate"), known["select"]  # both, or nothing was trained
    made = train or known["evaluate"]
    sources = known["collect"].config.get("sources", []) if "collect" in known else []
    return {
        "version": version.name,
        "status": version.status,
        "compared_with": version.compared_with,
        "created": version.created,
        "run": made.run,
        "interval": version.interval,
        "git_commit": made.git_commit,
        "environment": train.environment if train else {},
        "dataset": {
            "artifact": f"annotate/{annotate.fingerprint}",
            "interval": annotate.interval,
            "sha256": dataset_hash(known),
            "metrics": annotate.metrics,
        }
        if annotate
        else {"artifact": "", "interval": version.interval, "sha256": "", "metrics": {}},
        "sources": [
            {key: _clean(str(source.get(key, ""))) for key in ("name", "kind", "location", "licence", "owner")}
            for source in sources
        ],
        "base_model": {
            "model": selection["model"],
            "revision": selection["revision"],
            "licence": selection["licence"],
            "weights_sha256": weights(selection, select),
        },
        "quantisation": version.quantisation,
        "stages": [
            {
                "artifact": f"{r.stage}/{r.fingerprint}",
                "config": _clean_values(r.config),
                **{name: getattr(r, name) for name in _OF_STAGE},
            }
            for r in known.values()
        ],
    }


def lineage(version: Version, root: Path | None = None) -> dict[str, Any]:
    """Return the lineage document that a version holds, with the gate's last word.

    With `root`, the artifacts folder, each stage has `removed`, the time at which its data was removed, and `receipt`,
    the number of an erasure's.

    Raises:
        RegistryError: if it is missing or damaged.
    """
    path = version.path / "lineage.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if root:
            stages = [{**stage, **_removed(root / stage["artifact"])} for stage in document["stages"]]
            document |= {"stages": stages, "removed": version.removed}
        return {**document, "status": version.status, "compared_with": version.compared_with}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise RegistryError(f"The lineage of {version.name} cannot be read from {path}: {error}.") from error


def lineage_text(version: Version, root: Path | None = None) -> str:
    """Write the lineage of a version for people, one step a line, from the answer down to the base model."""
    known = lineage(version, root)
    base, dataset = known["base_model"], known["dataset"]
    lines = [
        f'answer          any answer with "model_version": "{known["version"]}"',
        f"└ version       {known['version']}, {known['status']}"
        + (f" against {known['compared_with']}" if known["compared_with"] else "")
        + f", {known['created']}, served in {known['quantisation']}{_gone(known, 'model')}",
        f"  └ run         {known['run'] or 'without an orchestrator'}, data of {known['interval']}{_since(known)}, "
        f"code {known['git_commit'] or 'outside a git checkout'}",
        *(f"    · {stage['artifact']:<28} {stage['finished']}{_gone(stage, 'data')}" for stage in known["stages"]),
        *([f"    └ trained by  {_with(known['environment'])}"] if known.get("environment") else []),
        f"    └ dataset   sha256 {dataset['sha256']} ({dataset['artifact']}/{DATASET})"
        if dataset["sha256"]
        else "    └ dataset   none: nothing was trained",
        *(
            f"      · erased  {erasure['time']}: {erasure['examples']} training examples (receipt {erasure['receipt']})"
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


def _since(known: Mapping[str, Any]) -> str:
    made = known["dataset"].get("interval", known["interval"])
    return f", unchanged since {made}" if made < known["interval"] else ""


def _removed(artifact: Path) -> dict[str, Any]:
    """Return when an artifact's data was removed, and by which erasure; empty values if it is there, or unknown."""
    try:
        record = artifacts.read_record(artifact)
    except ArtifactError:
        return {"removed": "", "receipt": 0}
    return {"removed": record.removed, "receipt": record.receipt}


def _gone(known: Mapping[str, Any], what: str) -> str:
    return f", {what} {artifacts.gone_since(known['removed'], known.get('receipt', 0))}" if known.get("removed") else ""


def _with(environment: Mapping[str, str]) -> str:
    libraries = [f"{name} {version}" for name, version in environment.items() if name != "gpu"]
    return f"{', '.join(libraries)}, on {environment.get('gpu', 'the CPU')}"


def weights(selection: Mapping[str, Any], select: Record) -> dict[str, str]:
    """Return file → SHA-256 of the base model's weights, as they were taken, and as a package's were unpacked."""
    known = {**selection.get("weights", {}), **select.files}
    return {n: h for n, h in sorted(known.items()) if n.endswith((".safetensors", ".bin", ".gguf"))}


def _clean(text: str) -> str:
    """Return the text without secrets: a database URL may carry its password."""
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
