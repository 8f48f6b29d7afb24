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
from llmops.drift import sample
from llmops.drift.lexicon import read_trained, train_of
from llmops.drift.sample import Sample
from llmops.errors import LlmopsError
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import Reader
from llmops.registry.version import Version

Against = Literal["training", "served"]
_SERVED = "served_%Y%m%dT%H%M%S"  #: file name of the first days, by their end


@dataclass(frozen=True, slots=True)
class Reference:
    """The sample that a window is compared with."""

    name: Against
    sample: Sample
    until: datetime | None  #: of `served`: end of the first days; earlier windows are part of the reference


class NoReferenceError(LlmopsError):
    """A version has no reference."""


def reference_of(
    config: Config, reader: Reader, version: Version, before: datetime, against: Against | None = None
) -> Reference:
    """Return the reference of a version: its first days if they are over and had enough requests, else training data.

    Raises:
        NoReferenceError: saying what is missing.
    """
    if against != "training":
        served = _served(config, reader, version, before)
        if isinstance(served, Reference):
            return served
        if against == "served":
            raise NoReferenceError(f"{version.name} has no reference of requests: {served}.")
    try:
        train = train_of(version, config.artifacts)
        path = _folder(config, version) / "training.parquet"
        if not path.is_file():
            sample.write(path, sample.of_training(train))
        made = sample.read(path)
    except (LlmopsError, OSError) as error:
        raise NoReferenceError(f"{version.name} has no reference: its training data are gone ({error}).") from error
    if not len(made):
        raise NoReferenceError(f"{version.name} has no reference: its training data have no example.")
    texts = [example.question for example in read_trained(train)] if train.is_file() else []
    return Reference("training", sample.with_texts(made, texts), None)


def _served(config: Config, reader: Reader, version: Version, before: datetime) -> Reference | str:
    """Return the reference of the first days, or why there is none. It is stored, so its events may be removed."""
    folder, days, least = _folder(config, version), config.monitoring.drift_days, config.monitoring.drift_requests
    for path in folder.glob("served_*.parquet"):
        until = datetime.strptime(path.stem, _SERVED).replace(tzinfo=UTC)
        return Reference("served", _with_texts(sample.read(path), reader, version, days, until), until)
    if (first := _known_first(folder / "first", reader, version)) is None:
        return "no request of it is known"
    until = first + timedelta(days=days)
    if until > before:
        return f"its first {days} days are not over"
    made = sample.of_events(reader, timestamp(first), timestamp(until), version.name)
    if len(made) < least:
        return f"there are only {len(made)} requests in its first {days} days, fewer than {least}"
    sample.write(folder / f"{until:{_SERVED}}.parquet", made)
    return Reference("served", made, until)


def _with_texts(kept: Sample, reader: Reader, version: Version, days: int, until: datetime) -> Sample:
    now = sample.of_events(reader, timestamp(until - timedelta(days=days)), timestamp(until), version.name)
    return sample.with_texts(kept, now.texts)


def _known_first(path: Path, reader: Reader, version: Version) -> datetime | None:
    """Return the stored time of the first request; find and store it first if needed.

    Without the file, a later request would count as the first after old events are removed.
    """
    if path.is_file():
        return datetime.fromisoformat(path.read_text(encoding="utf-8"))
    if first := _first(reader, version):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(timestamp(first), encoding="utf-8")
        os.replace(partial, path)
    return first


def _first(reader: Reader, version: Version) -> datetime | None:
    try:
        since = timestamp(datetime.fromisoformat(version.created))
    except ValueError:  # no time, or none with a zone
        since = ""
    for event in reader.find(TEXT, since):
        if event.get("llmops.model.version") == version.name:
            return datetime.fromisoformat(event["@timestamp"]).replace(microsecond=0)
    return None


def _folder(config: Config, version: Version) -> Path:
    return config.home / "drift" / config.release.name / version.name
