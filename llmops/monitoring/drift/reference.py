"""The reference that a version's requests are compared with: its training data, or the requests of its first days.

The features of both are stored in `{home}/drift/{model}/{version}/`. They stay the same as long as the version exists,
even if events and data are removed. No text is stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from llmops.config import Config
from llmops.events.datasets import TEXT
from llmops.events.events import format_timestamp
from llmops.events.reader import Reader
from llmops.frame.errors import LlmopsError
from llmops.monitoring.drift.lexicon import find_training_split, read_training_examples
from llmops.monitoring.drift.sample import (
    Sample,
    add_texts,
    build_training_sample,
    read_event_sample,
    read_sample,
    write_sample,
)
from llmops.release.registry.version import Version

ReferenceName = Literal["training", "served"]
_SERVED_FILE_NAME = "served_%Y%m%dT%H%M%S"  #: file name of the first days, by their end


@dataclass(frozen=True, slots=True)
class Reference:
    """The sample that a window is compared with."""

    name: ReferenceName
    sample: Sample
    until: datetime | None  #: of `served`: end of the first days; earlier windows are part of the reference


class NoReferenceError(LlmopsError):
    """A version has no reference."""


def find_reference(
    config: Config, reader: Reader, version: Version, before: datetime, against: ReferenceName | None = None
) -> Reference:
    """Return the reference of a version: its first days if they are over and had enough requests, else training data.

    Raises:
        NoReferenceError: saying what is missing.
    """
    if against != "training":
        served = _find_served_reference(config, reader, version, before)
        if isinstance(served, Reference):
            return served
        if against == "served":
            raise NoReferenceError(f"{version.name} has no reference of requests: {served}.")
    if not version.dataset:
        raise NoReferenceError(
            f"{version.name} has no reference of training data: nothing was trained. Its first days become one if they "
            f"have {config.monitoring.drift_requests} requests."
        )
    try:
        train = find_training_split(version, config.artifacts)
        path = _get_folder(config, version) / "training.parquet"
        if not path.is_file():
            write_sample(path, build_training_sample(train, version.classifies))
        reference = read_sample(path)
    except (LlmopsError, OSError) as error:
        raise NoReferenceError(f"{version.name} has no reference: its training data are gone ({error}).") from error
    if not len(reference):
        raise NoReferenceError(f"{version.name} has no reference: its training data have no example.")
    texts = [example.question for example in read_training_examples(train)] if train.is_file() else []
    return Reference("training", add_texts(reference, texts), None)


def _find_served_reference(config: Config, reader: Reader, version: Version, before: datetime) -> Reference | str:
    """Return the reference of the first days, or why there is none. It is stored, so its events may be removed."""
    folder, days, min_requests = (
        _get_folder(config, version),
        config.monitoring.drift_days,
        config.monitoring.drift_requests,
    )
    for path in folder.glob("served_*.parquet"):
        until = datetime.strptime(path.stem, _SERVED_FILE_NAME).replace(tzinfo=UTC)
        return Reference("served", _reread_texts(read_sample(path), reader, version, days, until), until)
    if (first := _load_first_time(folder / "first", reader, version)) is None:
        return "no request of it is known"
    until = first + timedelta(days=days)
    if until > before:
        return f"its first {days} days are not over"
    reference = read_event_sample(reader, format_timestamp(first), format_timestamp(until), version.name)
    if len(reference) < min_requests:
        return f"there are only {len(reference)} requests in its first {days} days, fewer than {min_requests}"
    write_sample(folder / f"{until:{_SERVED_FILE_NAME}}.parquet", reference)
    return Reference("served", reference, until)


def _reread_texts(stored: Sample, reader: Reader, version: Version, days: int, until: datetime) -> Sample:
    current = read_event_sample(
        reader, format_timestamp(until - timedelta(days=days)), format_timestamp(until), version.name
    )
    return add_texts(stored, current.texts)


def _load_first_time(path: Path, reader: Reader, version: Version) -> datetime | None:
    """Return the stored time of the first request; find and store it first if needed.

    Without the file, a later request would count as the first after old events are removed.
    """
    if path.is_file():
        return datetime.fromisoformat(path.read_text(encoding="utf-8"))
    if first := _find_first_time(reader, version):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(format_timestamp(first), encoding="utf-8")
        partial.replace(path)
    return first


def _find_first_time(reader: Reader, version: Version) -> datetime | None:
    try:
        since = format_timestamp(datetime.fromisoformat(version.created))
    except ValueError:  # no time, or none with a zone
        since = ""
    for event in reader.find(TEXT, since):
        if event.get("llmops.model.version") == version.name:
            return datetime.fromisoformat(event["@timestamp"]).replace(microsecond=0)
    return None


def _get_folder(config: Config, version: Version) -> Path:
    return config.home / "drift" / config.release.name / version.name
