"""Lineage of a model version: answer → version → run → dataset hash → sources → base-model revision.

The lineage is read from the records of the artifacts that the version was made from, and written into the version, so
that it outlives them. Every answer of the serving app names its version.
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


def read_records(govern: Path) -> dict[str, Record]:
    """Return the records of the govern artifact and all artifacts that it was made from, by stage.

    If there are two artifacts of a stage, the record is that of the one nearer to the release.

    Raises:
        ArtifactError: if one is missing.
    """
    known: dict[str, Record] = {}
    for record in artifacts.walk_lineage(govern):
        known.setdefault(record.stage, record)
    return known


def get_dataset_hash(known: Mapping[str, Record]) -> str:
    """Return the SHA-256 of the training split."""
    annotate = known["annotate"]
    if DATASET not in annotate.files:
        raise ArtifactError(f"The artifact annotate/{annotate.fingerprint} has no {DATASET}; run annotate again.")
    return annotate.files[DATASET]


def build(known: Mapping[str, Record], version: Version, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lineage document of a version, as JSON values, from `read_records` and `selection.json`."""
    train, annotate, select = known.get("train"), known.get("annotate"), known["select"]  # None: nothing was trained
    last = train or known["evaluate"]
    sources = known["collect"].config.get("sources", []) if "collect" in known else []
    return {
        "version": version.name,
        "status": version.status,
        "compared_with": version.compared_with,
        "created": version.created,
        "run": last.run,
        "interval": version.interval,
        "git_commit": last.git_commit,
        "environment": train.environment if train else {},
        "dataset": {
            "artifact": f"annotate/{annotate.fingerprint}",
            "interval": annotate.interval,
            "sha256": get_dataset_hash(known),
            "metrics": annotate.metrics,
        }
        if annotate
        else {"artifact": "", "interval": version.interval, "sha256": "", "metrics": {}},
        "sources": [
            {key: _remove_secrets(str(source.get(key, ""))) for key in ("name", "kind", "location", "licence", "owner")}
            for source in sources
        ],
        "base_model": {
            "model": selection["model"],
            "revision": selection["revision"],
            "licence": selection["licence"],
            "weights_sha256": list_weights(selection, select),
        },
        "quantisation": version.quantisation,
        "stages": [
            {
                "artifact": f"{r.stage}/{r.fingerprint}",
                "config": _remove_secrets(r.config),
                **{name: getattr(r, name) for name in _OF_STAGE},
            }
            for r in known.values()
        ],
    }


def read_lineage(version: Version, root: Path | None = None) -> dict[str, Any]:
    """Return the lineage document of a version, with the gate's last decision.

    With `root`, the artifacts folder, each stage has `removed`, the time at which its data was removed, and `receipt`,
    the number of the erasure's receipt.

    Raises:
        RegistryError: if it is missing or damaged.
    """
    path = version.path / "lineage.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if root:
            stages = [{**stage, **_read_removal(root / stage["artifact"])} for stage in document["stages"]]
            document |= {"stages": stages, "removed": version.removed_at}
        return {**document, "status": version.status, "compared_with": version.compared_with}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise RegistryError(f"The lineage of {version.name} cannot be read from {path}: {error}.") from error


def format_lineage(version: Version, root: Path | None = None) -> str:
    """Return the lineage of a version as text, one step a line, from the answer down to the base model."""
    known = read_lineage(version, root)
    base, dataset = known["base_model"], known["dataset"]
    lines = [
        f'answer          any answer with "model_version": "{known["version"]}"',
        f"└ version       {known['version']}, {known['status']}"
        + (f" against {known['compared_with']}" if known["compared_with"] else "")
        + f", {known['created']}, served in {known['quantisation']}{_format_removal(known, 'model')}",
        f"  └ run         {known['run'] or 'without an orchestrator'}, "
        f"data of {known['interval']}{_format_age(known)}, code {known['git_commit'] or 'outside a git checkout'}",
        *(
            f"    · {stage['artifact']:<28} {stage['finished']}{_format_removal(stage, 'data')}"
            for stage in known["stages"]
        ),
        *([f"    └ trained by  {_format_environment(known['environment'])}"] if known.get("environment") else []),
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


def _format_age(known: Mapping[str, Any]) -> str:
    interval = known["dataset"].get("interval", known["interval"])
    return f", unchanged since {interval}" if interval < known["interval"] else ""


def _read_removal(artifact: Path) -> dict[str, Any]:
    try:
        record = artifacts.read_record(artifact)
    except ArtifactError:
        return {"removed": "", "receipt": 0}
    return {"removed": record.removed, "receipt": record.receipt}


def _format_removal(known: Mapping[str, Any], noun: str) -> str:
    return (
        f", {noun} {artifacts.describe_removal(known['removed'], known.get('receipt', 0))}"
        if known.get("removed")
        else ""
    )


def _format_environment(environment: Mapping[str, str]) -> str:
    libraries = [f"{name} {version}" for name, version in environment.items() if name != "gpu"]
    return f"{', '.join(libraries)}, on {environment.get('gpu', 'the CPU')}"


def list_weights(selection: Mapping[str, Any], select: Record) -> dict[str, str]:
    """Return file → SHA-256 of the base model's weights: original files, and files unpacked from a package."""
    known = {**selection.get("weights", {}), **select.files}
    return {n: h for n, h in sorted(known.items()) if n.endswith((".safetensors", ".bin", ".gguf"))}


def _remove_secrets(value: Any) -> Any:
    """Return a JSON value without secrets: a database URL may carry its password."""
    if isinstance(value, str):
        for start, end, _ in reversed(secrets.find_secrets(value)):
            value = value[:start] + "<SECRET>" + value[end:]
    if isinstance(value, Mapping):
        return {key: _remove_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_remove_secrets(item) for item in value]
    return value
