"""The data card: README.md of the data set repository, with the metadata that the Hub reads.

The front matter follows https://huggingface.co/docs/hub/datasets-cards. The text is the Jinja template
`dataset_card.md`. All numbers come from the artifacts' records, the version's documents and the files themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from jinja2 import Environment, StrictUndefined

from llmops.config.release import OPEN_LICENCES
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.records import Example, split_licences
from llmops.release.lineage import read_lineage
from llmops.release.registry.version import Version

#: the Hub's size categories → their upper bounds, in rows
SIZES = {
    "n<1K": 10**3,
    "1K<n<10K": 10**4,
    "10K<n<100K": 10**5,
    "100K<n<1M": 10**6,
    "1M<n<10M": 10**7,
    "10M<n<100M": 10**8,
    "100M<n<1B": 10**9,
}


def render(version: Version, repo: str, annotate: Path, paths: Mapping[str, Path], override: str = "") -> str:
    """Return the card's text.

    `override` is the reason if it was made champion against the gate.

    Raises:
        ArtifactError: if the artifact has no record.
    """
    history = read_lineage(version)
    known = _read_records(annotate)
    rows = {split: pq.read_metadata(path).num_rows for split, path in paths.items()}
    sources = _count_sources(paths, history["sources"])
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    languages = list(known["clean"].config.get("languages", ())) if "clean" in known else []
    text = environment.from_string(Path(__file__).with_name("dataset_card.md").read_text(encoding="utf-8")).render(
        model=version.path.parents[1].name,
        version=version,
        repo=repo,
        decision=json.loads((version.path / "decision.json").read_text(encoding="utf-8")),
        override=" ".join(override.split()),
        rows=rows,
        sources=sources,
        intervals=sorted({row["interval"] for path in paths.values() for row in count_rows(path, ["interval"])} - {""}),
        languages=languages,
        clean=known["clean"].metrics if "clean" in known else None,
        annotate=known["annotate"].metrics,
        artifact=history["dataset"]["artifact"],
        hashes={split: known["annotate"].files[path.name] for split, path in paths.items()},
        fields=[field.name for field in fields(Example)],
    )
    names = {name.lower() for row in sources for name in split_licences(row["licence"])}
    data = _make_data(version, rows, names, languages)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def count_rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Return the distinct values of some columns of a Parquet file, each with its number of `rows`, sorted."""
    table = pq.read_table(path, columns=columns).group_by(columns).aggregate([([], "count_all")])
    counts = table.rename_columns({"count_all": "rows"}).to_pylist()
    return sorted(counts, key=lambda row: [row[name] for name in columns])


def _read_records(annotate: Path) -> dict[str, Record]:
    record = artifacts.read_record(annotate)
    records = {record.stage: record}
    for ref in record.inputs.values():
        path = annotate.parents[1] / ref
        records |= _read_records(path) if artifacts.is_done(path) else {}
    return records


def _count_sources(paths: Mapping[str, Path], described: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return a row per source and licence: kind, owner, and the number of examples in each split."""
    known = {source["name"]: source for source in described}
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for split, path in paths.items():
        for row in count_rows(path, ["source", "licence"]):
            source, licence = row["source"], row["licence"]
            about = {key: known.get(source, {}).get(key, "") for key in ("kind", "owner")}
            empty = {"source": source, "licence": licence, **about, "rows": dict.fromkeys(paths, 0)}
            totals.setdefault((source, licence), empty)["rows"][split] = row["rows"]
    return [totals[key] for key in sorted(totals)]


def _make_data(version: Version, rows: Mapping[str, int], licences: set[str], languages: list[str]) -> DatasetCardData:
    of_hub = licences <= set(OPEN_LICENCES)
    total = sum(rows.values())
    return DatasetCardData(
        pretty_name=f"{version.path.parents[1].name} {version.name}: annotated questions and answers",
        license=sorted(licences) if of_hub else "other",
        license_name=None if of_hub else "-".join(sorted(licences)),
        language=languages or None,
        size_categories=[next((name for name, end in SIZES.items() if total < end), "1B<n<10B")],
        task_categories=["question-answering", "text-generation"],
        tags=["llmops", version.name],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    )
