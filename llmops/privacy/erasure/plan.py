"""The plan of an erasure, made before anything is changed, and kept in the database until it is done.

The person's documents are found by a search of the original texts, in extracts and in the artifacts of collect. Every
artifact that lineage reaches from these is deleted whole. The plan holds no text of the rows. With the plan, an
interrupted erasure can be finished, although the rows that it was made from are gone already.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.config import Config
from llmops.data.collect import forgotten_list
from llmops.data.collect.forgotten_list import HIDDEN_LOCATION
from llmops.frame import artifacts
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.frame.records import OUT_OF_SCOPE_FILE, is_row_key, make_content_id
from llmops.pipeline import pipeline
from llmops.pipeline.stage_inputs import check_no_erasure
from llmops.privacy.erasure import feedback, rows, search, split_entries
from llmops.privacy.erasure.rows import PersonRow
from llmops.privacy.erasure.subject import Subject
from llmops.privacy.retention import removal
from llmops.release.lineage import read_lineage
from llmops.release.registry.registry import Registry
from llmops.state import audit
from llmops.state.database import Database, database_of
from llmops.state.tables import erasures as table

_RECORDS = (artifacts.RECORD, artifacts.REMOVED_RECORD)
_ORDER = {stage: -number for number, stage in enumerate(pipeline.STAGES)}  #: last stage first


@dataclass(slots=True, kw_only=True)
class ErasurePlan:
    """All that an erasure deletes."""

    time: str  #: ISO, UTC
    by: str
    found: bool  #: False: nothing names the person
    documents: list[dict[str, str]]  #: places of their rows in the sources: source, location, position
    ids: list[str]  #: of their documents with a key
    extracts: list[str]
    artifacts: list[str]  #: "stage/fingerprint", unfinished ones, too
    leftovers: list[str]  #: other files and folders of interrupted work
    partitions: list[str]  #: intervals of the repository
    entries: list[split_entries.EntryKey]  #: of the split ledger
    examples: list[str]  #: ids of the examples that were made of their documents
    versions: list[dict[str, Any]]  #: model, version, aliases, and number of these examples in its training
    answers: list[str]  #: files of versions that have such examples
    reviews: list[str]
    keys: list[str]  #: prefixes
    texts: list[str]  #: files of logs and of the registry that name them


def make_plan(config: Config, subject: Subject, by: str) -> ErasurePlan:
    """Find all data of a person."""
    root, database, registry = config.artifacts, database_of(config), config.registry
    named = dict.fromkeys(search.find_files(config, subject))
    keys = feedback.find_keys(database, subject)
    reviews = feedback.find_reviews(database, subject, keys)
    found, ids = _find_rows(config, subject, named, feedback.list_document_ids(config, reviews))

    def find_ids(annotate: str) -> set[str]:
        """Return the ids of the person's documents in a run of annotate: documents with a key, and rows of the run.

        The rows are known while the run's artifact of collect exists, because row 12 of today's file may have been
        another person's then. A run without a record was killed; it read today's rows.
        """
        read = [found.get(collect, [])] if (collect := _find_collect(root, annotate)) else found.values()
        return ids | {row.id for some in read for row in some}

    examples = _find_examples(root, find_ids)
    entries = split_entries.find_entries(database, subject, find_ids, examples)
    examples |= {id_ for _, _, id_ in entries}
    inside = [path.relative_to(root).parts for path in named if path.is_relative_to(root)]
    holding = {"/".join(parts[:2]) for parts in inside if len(parts) > 2 and parts[-1] not in _RECORDS}
    read = {ref for ref in holding if not ref.startswith("collect/")}  # nobody reads what collect quarantines
    splits = _list_splits(root) if examples else []
    read |= {
        artifacts.get_ref(path.parent) for path in splits if _count_examples(path, examples)
    }  # carried examples, too
    reached = _follow_lineage(root, read | {ref for ref, some in found.items() if any(row.file == 0 for row in some)})
    deleted = holding | reached | {ref for ref, some in found.items() if some} | _find_reports(root, [*reviews, *keys])
    deleted = {ref for ref in deleted if artifacts.is_done(root / ref)}
    deleted.update(map(artifacts.get_ref, removal.find_unfinished(config)))
    answers = list(registry.glob("*/versions/*/answers.parquet"))
    answers = [path for path in answers if path in named or _count_examples(path, examples)]
    logs = (config.home / "logs", config.home / "airflow" / "logs")
    texts = [path for path in named if path.suffix in search.TEXT_SUFFIXES and any(map(path.is_relative_to, logs))]
    texts += [path for path in registry.glob("*/versions/*/*") if path in named and path.suffix in (".json", ".md")]
    caches = [path for path in named if any(map(path.is_relative_to, (config.home / "drift", config.home / "decay")))]
    caches += registry.glob("*/index/[!.]*")  # the lineage of a served index may be gone; the next run serves one
    return ErasurePlan(
        time=audit.now(),
        by=by,
        found=any((named, keys, reviews, entries, *found.values())) or search.is_named_in_state(database, subject),
        documents=_list_documents([row for some in found.values() for row in some], subject),
        ids=sorted(ids),
        extracts=sorted(path for path, some in found.items() if some and Path(path).is_absolute()),
        artifacts=sorted(deleted, key=lambda ref: (_ORDER.get(ref.split("/")[0], 0), ref)),
        leftovers=list(map(str, [*removal.find_leftovers(config), *caches])),
        partitions=sorted(name for name, some in found.items() if some and "/" not in name),
        entries=[*sorted(entries)],
        examples=sorted(examples),
        versions=list(_find_versions(config, reached, examples)),
        answers=list(map(str, answers)),
        reviews=reviews,
        keys=keys,
        texts=list(map(str, texts)),
    )


def _find_rows(
    config: Config, subject: Subject, named: Collection[Path], ids: set[str]
) -> tuple[dict[str, list[PersonRow]], set[str]]:
    """Return the person's rows by artifact of collect, extract and interval of the repository, and ids of keyed rows.

    A row with a key is the person's in every version of the data, even if a version does not name the person.
    """
    made = artifacts.list_finished(config.artifacts / "collect")
    units = {artifacts.get_ref(path): [path / "documents.parquet", path / "quarantine.parquet"] for path in made}
    for path in sorted(config.collect.cache.absolute().glob("[!.]*")):  # of a file, or of all periods of a table
        if path.is_dir() or path.suffix == ".parquet":
            units[str(path)] = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
    found = {name: list[PersonRow]() for name in units}
    for is_second_pass in (False, True):
        for name, files in units.items():
            names = any(path in named for path in files)
            if names or (is_second_pass and ids):
                found[name] = rows.find_person_rows(
                    [path for path in files if path.exists()], subject if names else None, ids
                )
        if not is_second_pass or ids:
            found |= rows.find_in_repository(config, subject, ids)
        ids = ids | {row.id for some in found.values() for row in some if is_row_key(row.position)}
    return found, ids


def _find_collect(root: Path, annotate: str) -> str:
    try:
        clean = artifacts.read_record(root / "annotate" / annotate).inputs["clean"]
        return artifacts.read_record(root / clean).inputs["collect"]
    except (ArtifactError, KeyError):
        return ""


def _find_examples(root: Path, find_ids: Callable[[str], set[str]]) -> set[str]:
    found = set[str]()
    for path in _list_splits(root):
        ids = find_ids(path.parent.name)
        made = pl.read_parquet(path, columns=["id", "source", "location", "position"]).iter_rows()
        found |= {id_ for id_, *origin in made if make_content_id(*origin) in ids}
    return found


def _list_splits(root: Path) -> list[Path]:
    names = ("train.parquet", "validation.parquet", "test.parquet", OUT_OF_SCOPE_FILE)
    files = [path / name for path in artifacts.list_finished(root / "annotate") for name in names]
    return [path for path in files if path.is_file()]


def _follow_lineage(root: Path, refs: set[str]) -> set[str]:
    """Return `refs` and all artifacts that were made of them. Lineage leads through artifacts without data, too."""
    reached = set(refs)
    for stage in pipeline.STAGES:
        for path in (root / stage).glob("[!.]*"):
            if artifacts.is_done(path) or artifacts.is_removed(path):
                inputs = {ref for name, ref in artifacts.read_record(path).inputs.items() if name != "champion"}
                reached |= set() if reached.isdisjoint(inputs) else {artifacts.get_ref(path)}
    return reached


def _find_reports(root: Path, marks: list[str]) -> set[str]:
    reports = [path for path in (root / "improve").glob("[!.]*/report.json") if marks]
    return {
        artifacts.get_ref(p.parent) for p in reports if any(mark in p.read_text(encoding="utf-8") for mark in marks)
    }


def _find_versions(config: Config, reached: set[str], examples: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the model versions that were trained on these examples; 0 examples: its training rows are gone."""
    for folder in sorted(path for path in config.registry.glob("*") if (path / "versions").is_dir() and reached):
        registry = Registry(config.registry, folder.name, database_of(config))
        aliases = registry.aliases()
        for version in registry.versions():
            made = [stage["artifact"] for stage in read_lineage(version)["stages"]]
            files = {ref: config.artifacts / ref / "train.parquet" for ref in made if ref.startswith("annotate/")}
            count = sum(_count_examples(path, examples) for path in files.values() if path.is_file())
            if count or any(ref in reached and not path.is_file() for ref, path in files.items()):
                names = sorted(alias for alias, name in aliases.items() if name == version.name)
                yield {"model": folder.name, "version": version.name, "aliases": names, "examples": count}


def _count_examples(path: Path, examples: set[str]) -> int:
    return len(examples.intersection(pl.read_parquet(path, columns=["id"])["id"]))


def _list_documents(found: list[PersonRow], subject: Subject) -> list[dict[str, str]]:
    return [
        {
            "source": s,
            "location": HIDDEN_LOCATION if subject.is_named_in_location(at) else at,
            "position": subject.hide(where),
        }
        for s, at, where in sorted({(row.source, row.location, row.position) for row in found})
    ]


def begin_erasure(database: Database, plan: ErasurePlan, subject: Subject) -> int:
    """Write the plan and the person whose rows collect refuses from now on; return the number of the receipt.

    From here on the erasure can only be finished.
    """
    known = forgotten_list.load_list_with_key(database)
    values = {"subject": known.hash_identifier(subject.plain), "begun": plan.time, "ended": "", "plan": asdict(plan)}
    with database.change() as connection:
        rows = {(row["source"], row["position"]) for row in plan.documents}
        forgotten_list.add_person(connection, subject.shape, subject.plain, rows)
        return int(connection.scalar(sa.insert(table).values(values).returning(table.c.number)) or 0)


def find_interrupted(config: Config, subject: Subject) -> tuple[int, ErasurePlan] | None:
    """Return the erasure that was interrupted, if there is one.

    Raises:
        LlmopsError: if it is of another person.
    """
    database = database_of(config)
    if not database.exists:
        return None
    with database.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.ended == "")).first()
    if row and row.subject != forgotten_list.load_list(database).hash_identifier(subject.plain):
        check_no_erasure(config)
    return (row.number, ErasurePlan(**row.plan)) if row else None


def end_erasure(database: Database, number: int, receipt: Mapping[str, Any], by: str) -> None:
    """Write the receipt of an erasure that is done, and delete its plan."""
    with database.change() as connection:
        update = sa.update(table).where(table.c.number == number)
        connection.execute(update.values(ended=audit.now(), plan=None, receipt=dict(receipt)))
        audit.record(connection, "erase", by=by, target=f"receipt {number}", fields={"left": len(receipt["remaining"])})
    database.vacuum()


def read_receipt(config: Config, number: int) -> dict[str, Any]:
    """Return the receipt with a number.

    Raises:
        LlmopsError: if there is none.
    """
    database = database_of(config)
    with database.read() as connection:
        receipt = connection.scalar(sa.select(table.c.receipt).where(table.c.number == number))
    if receipt is None:
        raise LlmopsError(f"There is no receipt {number} in {database.name}.")
    return dict(receipt)
