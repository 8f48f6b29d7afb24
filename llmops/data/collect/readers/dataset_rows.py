"""Rows of data sets that the library `datasets` reads: saved by it, or files that a card names.

A saved data set is memory-mapped, files are streamed. Only one batch is in memory. The library's cache stays untouched:
a temporary folder takes its place, and listing the subsets writes nothing.

The library opens whatever path or address a data set names. Only files in the folder of the data set are allowed here.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import yaml

from llmops.data.collect.readers.decoding import UnreadableError
from llmops.data.collect.readers.origin import Items, Origin, flatten_record
from llmops.frame.errors import SourceError

BATCH = 1000  #: rows in memory as Python objects at a time
MAX_CSV_COLUMNS = 10_000  #: most CSV columns that are kept as text
MEDIA_FEATURES = ("Audio", "Image", "Pdf", "Video", "Nifti")  #: features that are not text; skipped


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per row, split by split. Nested columns are named as in JSON; a class label is its name.

    Raises:
        SourceError: if a folder is neither saved nor has a card that names its files, there is no such subset or
            split, it names files outside its folder, or no row has a configured field.
        UnreadableError: if it is not a data set or is damaged. The batches before the damage were yielded.
    """
    seen: dict[str, None] = {}
    position = ""
    try:
        with TemporaryDirectory() as cache:
            for split, dataset in _load_splits(path, origin, cache).items():
                for number, record in enumerate(_read_records(dataset), start=1):
                    position = f"split {split}, row {number}" if split else f"row {number}"
                    values = flatten_record(record)
                    seen.update(dict.fromkeys(values))
                    yield origin.convert_row(position, values)
    except SourceError:
        raise
    except Exception as error:  # the library, its formats and Arrow raise dozens of types without a common base
        after = f" after {position}" if position else ""
        raise UnreadableError(f"no readable data set{after}: {' '.join(str(error).split())[:300]}") from error
    if seen:
        origin.check_columns(seen)


def _load_splits(path: Path, origin: Origin, cache: str) -> Mapping[str, Any]:
    import datasets

    source = origin.source
    if (path / datasets.config.DATASETDICT_JSON_FILENAME).is_file() or (
        path / datasets.config.DATASET_STATE_JSON_FILENAME
    ).is_file():
        if source.subset:
            raise SourceError(
                f"Source {source.name}: {origin.location} was saved whole and has no subset; remove `subset`."
            )
        loaded = _load_saved(path, origin)
    else:
        if not source.revision and not _read_card(path / datasets.config.REPOCARD_FILENAME).get("configs"):
            raise SourceError(
                f"Source {source.name}: {origin.location} was not saved by `save_to_disk`, and no README.md in it "
                "names its files under `configs`; read its files by their own kind: `csv`, `parquet` or `jsonl`."
            )
        for name in (datasets.config.REPOCARD_FILENAME, datasets.config.REPOYAML_FILENAME):
            _check_card(path / name, origin)
        names = datasets.get_dataset_config_names(str(path))
        if source.subset and source.subset not in names:
            raise _make_missing_error(origin, "subset", source.subset, names)
        if not source.subset and len(names) > 1 and "default" not in names:
            raise SourceError(
                f"Source {source.name}: {origin.location} has several subsets; name one: {', '.join(names)}."
            )
        options = _choose_options(path, source.subset, cache)
        loaded = datasets.load_dataset(str(path), source.subset or None, streaming=True, cache_dir=cache, **options)
    splits: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"": loaded}
    if source.split:
        if source.split not in splits:
            raise _make_missing_error(origin, "split", source.split, filter(None, splits))
        return {source.split: splits[source.split]}
    return splits


def _load_saved(path: Path, origin: Origin) -> Any:
    import datasets

    loaded = datasets.load_from_disk(str(path), keep_in_memory=False)  # in memory, it would not say where it was
    parts = loaded.values() if isinstance(loaded, Mapping) else [loaded]
    for part in parts:
        for file in part.cache_files:
            if not Path(file["filename"]).resolve().is_relative_to(path.resolve()):
                raise SourceError(
                    f"Source {origin.source.name}: the data set saved at {origin.location} names {file['filename']}, a "
                    "file outside its folder, which is not read; save the data set again by `save_to_disk`."
                )
    return loaded


def _check_card(card: Path, origin: Origin) -> None:
    """Check that the `configs` of a card, or of the YAML file that may stand beside it, name files of its folder.

    The library resolves entries of all subsets, whichever is read. So all of them are checked before it sees the card.

    Raises:
        SourceError: if one is an address, an absolute path, or leads out by `..`.
    """
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs

    for subset, settings in MetadataConfigs.from_dataset_card_data(_read_card(card)).items():
        entries = [settings.get("data_dir") or ""]
        for patterns in sanitize_patterns(settings.get("data_files") or []).values():
            entries += patterns
        for entry in map(str, entries):
            is_chained = "::" in entry  # as in zip://a.csv::/folder/file.zip
            if is_chained or urlsplit(entry).scheme or entry.startswith("/") or ".." in PurePosixPath(entry).parts:
                raise SourceError(
                    f"Source {origin.source.name}: the card {card.name} of {origin.location} names {entry!r} in its "
                    f"subset {subset!r}. Only files in the folder of the card are read: put the file into it and name "
                    "it by its path there, or make it a source of its own."
                )


def _read_card(card: Path) -> Any:
    """Return the metadata of a card as the library reads them; empty if there is no such file."""
    from huggingface_hub import DatasetCard, DatasetCardData

    if not card.is_file():
        return DatasetCardData()
    if card.suffix == ".yaml":
        return DatasetCardData(**(yaml.safe_load(card.read_text(encoding="utf-8")) or {}))
    return DatasetCard.load(card, ignore_metadata_errors=True).data


def _choose_options(path: Path, subset: str, cache: str) -> dict[str, Any]:
    """Return options for the library, so that it does not convert the text of CSV files to numbers or nulls."""
    import datasets

    builder = datasets.load_dataset_builder(str(path), subset or None, cache_dir=cache)
    is_csv = type(builder.config).__name__ == "CsvConfig" and not builder.info.features
    return {"converters": dict.fromkeys(range(MAX_CSV_COLUMNS), str)} if is_csv else {}


def _make_missing_error(origin: Origin, kind: str, wanted: str, existing: Any) -> SourceError:
    return SourceError(
        f"Source {origin.source.name}: {origin.location} has no {kind} {wanted!r}; "
        f"it has {', '.join(existing) or 'none'}."
    )


def _read_records(dataset: Any) -> Iterator[dict[str, Any]]:
    features: Mapping[str, Any] = dataset.features or {}
    media = [name for name, feature in features.items() if type(feature).__name__ in MEDIA_FEATURES]
    dataset = dataset.remove_columns(media) if media else dataset
    labels: dict[str, Callable[[int], str]] = {
        name: feature.int2str for name, feature in features.items() if type(feature).__name__ == "ClassLabel"
    }
    tables: Iterator[pa.Table] = dataset.with_format("arrow").iter(batch_size=BATCH)
    for table in tables:
        for record in table.to_pylist(maps_as_pydicts="lossy"):
            for name, get_name in labels.items():
                if isinstance(record[name], int) and record[name] >= 0:  # -1 means no label
                    record[name] = get_name(record[name])
            yield record
