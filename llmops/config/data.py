"""The sections about data: collect, clean, index. A change of an `Unhashed` field makes no result stale."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from llmops.config.section import Section, Unhashed, UnhashedPath


class Speakers(Section):
    """Speakers in the transcripts of a source: labels before the colon, or roles of messages."""

    asks: tuple[str, ...] = Field((), description="Speakers who ask; `*` stands for any text: `Visitor *`.")
    answers: tuple[str, ...] = Field((), description="Speakers who answer.")

    @field_validator("asks", "answers")
    @classmethod
    def _check_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:  # the reader of transcripts ends a label at these characters
            label, *others = filter(None, map(str.strip, re.split(r"[][(){}<>:：]", f" {name} ")))
            if others or label != name.strip():
                raise ValueError(f"a label has no brackets and no colon in it, as {name!r} has; write {label!r}")
        return value


class Source(Section):
    """One source of data."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Short name, used in artifacts and reports.")
    kind: Literal[
        "csv", "parquet", "json", "jsonl", "xml", "html", "pdf", "docx", "pptx", "xlsx", "odt", "odp", "ods",
        "rtf", "doc", "ppt", "xls", "epub", "eml", "sql", "chat", "markdown", "text", "dataset", "feedback",
    ] = Field(
        description="Format. `csv` includes TSV; `chat` is transcripts (.txt) and OpenAI-style messages (.jsonl); "
        "`dataset` is what the library `datasets` saved, or what a card describes; `feedback` is what users say about "
        "answers, filtered by the section `improve`; `eml` is an e-mail. Formats of text, and `eml`, may be gzipped."
    )  # fmt: skip
    location: str = Field(
        "",
        description="File path or glob, relative to the configuration file, or one at `s3://`, `abfs://` or "
        "`https://`; for `sql` an SQLAlchemy URL; for `dataset` a folder, or with a `revision` a repository of "
        "the Hub such as `org/name`. In a URL ${VAR} is read from the environment. `{date}` becomes the data "
        "interval's date. `feedback` has none.",
    )
    connection: str = Field(
        "", description="Airflow connection with the credentials of the location; empty: from the environment."
    )
    query: str = Field(
        "",
        description="For `sql`: the query; may use :start and :end, the first day of the data interval and the day "
        "after it. Give it an ORDER BY, so that its rows keep their numbers.",
    )
    cursor: str = Field(
        "",
        description="For `sql`: column that grows whenever a row is added or changed, such as `updated_at`. The query "
        "must select all rows. The stage adds a filter that reads only the days not read yet, up to the end of the "
        "data interval.",
    )
    key: tuple[str, ...] = Field(
        (), description="For `sql` with a `cursor`: columns that identify a row; the newest row of each key counts."
    )
    revision: str = Field(
        "",
        description="For `dataset`: commit, branch or tag of a Hub repository. A run reads the commit it stands for.",
    )
    subset: str = Field("", description="For `dataset`: its configuration, where it has several.")
    split: str = Field("", description="For `dataset`: the split that is read; empty: all.")
    records: str = Field(
        "", description="For `json` and `xml`: path of the repeated record, e.g. `shop/product` (XML: from the root)."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Which field of a row or record (`csv`, `parquet`, `json`, `jsonl`, `xml`, `sql`, `dataset`) is "
        "the document's question, answer, context, same_as (a known question that this one is another wording of), "
        "group or text. Nested fields are written `author.name`, elements of a list `answers.0.text`. Without a "
        "question, a row keeps all its fields for `annotate.templates`.",
    )
    where: dict[str, str] = Field(default_factory=dict, description="Keep only rows whose fields have these values.")
    speakers: Speakers = Field(
        Speakers(),
        description="For `chat`: `asks` and `answers`, the names before the colon (`*` stands for any text) or the "
        "roles of messages. With both, other speakers are ignored; with one, all others are on the other side. A "
        "conversation without a named speaker is quarantined. Empty: words such as `Customer` decide, and between two "
        "unknown speakers the one who asks first.",
    )
    encoding: str = Field("", description="Encoding of text files; empty detects it.")
    languages: tuple[str, ...] = Field(
        ("eng",),
        min_length=1,
        description="For `pdf` and `eml`: languages of scanned pages by tesseract's names, the likeliest first.",
    )
    licence: str = Field("", description="Licence of the texts, carried to every example.")
    owner: str = Field("", description="Who is responsible for this source.")

    @field_validator("fields")
    @classmethod
    def _check_field_names(cls, value: dict[str, str]) -> dict[str, str]:
        known = {"question", "answer", "context", "same_as", "group", "text"}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown document field {unknown[0]!r}; use one of {', '.join(sorted(known))}")
        return value

    @field_validator("query", "fields", "where")
    @classmethod
    def _check_fields(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if info.field_name == "query" and bool(value) != (kind == "sql"):
            raise ValueError("a source of kind `sql` needs a query" if kind == "sql" else "only `sql` has a query")
        if value and kind and kind not in ("csv", "parquet", "json", "jsonl", "xml", "sql", "dataset"):
            raise ValueError(f"a source of kind `{kind}` has no named fields")
        return value

    @field_validator("speakers")
    @classmethod
    def _check_speakers(cls, value: Speakers, info: ValidationInfo) -> Speakers:
        if value != Speakers() and info.data.get("kind") != "chat":
            raise ValueError("only `chat` has speakers")
        return value

    @field_validator("records", "encoding")
    @classmethod
    def _check_text_options(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("kind")
        if value and info.field_name == "records" and kind not in ("json", "xml"):
            raise ValueError("only `json` and `xml` have a path of records")
        texts = ("csv", "json", "jsonl", "xml", "html", "chat", "markdown", "text", "eml", None)
        if value and info.field_name == "encoding" and kind not in texts:
            raise ValueError(f"`{kind}` knows its own encoding")
        return value

    @field_validator("revision", "subset", "split")
    @classmethod
    def _check_dataset_options(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("kind") != "dataset":
            raise ValueError(f"only `dataset` has a {info.field_name}")
        return value

    @model_validator(mode="after")
    def _check_location(self) -> Source:
        if bool(self.location) == (self.kind == "feedback"):
            raise ValueError(
                "`feedback` has no location: it is what users have said here"
                if self.location
                else "a source needs a location"
            )
        return self

    @model_validator(mode="after")
    def _check_dataset_location(self) -> Source:
        if self.revision and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.location):
            raise ValueError("with a revision, the location is a repository of the Hub, such as `org/name`")
        if self.kind == "dataset" and "://" in self.location:
            raise ValueError("a `dataset` is on this machine or on the Hub; read files elsewhere by their own kind")
        return self

    @model_validator(mode="after")
    def _check_cursor(self) -> Source:
        if self.cursor and self.kind != "sql":
            raise ValueError("only `sql` has a cursor")
        if bool(self.cursor) != bool(self.key):
            raise ValueError("cursor and key belong together: name both or none")
        if self.cursor and re.search(r":start\b", self.query):
            raise ValueError("with a cursor the query must name the rows of all days; leave out :start")
        return self

    @field_validator("encoding")
    @classmethod
    def _normalize_encoding(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name if value else ""
        except LookupError:
            raise ValueError("unknown encoding; use one that Python knows, such as utf-8 or cp1252") from None


class Collect(Section):
    """Read every source into Parquet documents."""

    root: UnhashedPath = Field(Path(), description="Base folder of relative locations: the folder of the config file.")
    sources: tuple[Source, ...] = Field((), description="The sources; at least one.")
    cache: UnhashedPath = Field(
        Path(), description="Folder with the content of unchanged files and past days; empty: `<home>/extracts`."
    )
    repository: Annotated[str, Unhashed()] = Field(
        "",
        description="Where the documents of each interval are copied as Parquet: a folder, `s3://…` or `abfs://…`; "
        "empty: nowhere.",
    )
    connection: Annotated[str, Unhashed()] = Field(
        "", description="Airflow connection with the repository's credentials; empty: from the environment."
    )

    file_timeout_s: float = Field(
        120.0,
        gt=0,
        description="Longest time for reading one file, in seconds for each MB of it; then the file is quarantined.",
    )
    file_memory_mb: int = Field(
        2048, ge=256, description="Largest memory for reading one file, in MiB; beyond it the file is quarantined."
    )

    @field_validator("sources")
    @classmethod
    def _check_names(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two sources are named {twice!r}")
        return value


class Clean(Section):
    """Clean documents with Spark. Drop unusable ones, with the reason."""

    master: Annotated[str, Unhashed()] = Field(
        "local[*]", description="Spark master: `local[*]`, `spark://host:7077`, `k8s://https://host`, `yarn`."
    )
    driver_memory: Annotated[str, Unhashed()] = Field("1g", description="Spark driver memory.")
    work: Annotated[str, Unhashed()] = Field(
        "",
        description="Folder of the work files: shared by all hosts, or in an object store, such as "
        "`s3://bucket/work`. Empty: beside the result, for a master on this machine.",
    )
    connection: Annotated[str, Unhashed()] = Field(
        "",
        description="Airflow connection with the credentials of `work`, which the driver passes to the workers; "
        "empty: from the environment of each machine.",
    )
    partitions: Annotated[int | None, Unhashed()] = Field(
        None, ge=1, description="Spark shuffle partitions; empty: by the number of documents, 250,000 in each."
    )
    spark: Annotated[dict[str, str], Unhashed()] = Field(
        default_factory=dict, description="Further settings of the Spark session, such as `spark.executor.memory`."
    )
    min_chars: int = Field(2, ge=0, description="Shortest question, answer or text that is kept.")
    max_chars: int = Field(20_000, gt=0, description="Longest question, answer, context or text that is kept.")
    max_symbol_ratio: float = Field(
        0.5, gt=0, le=1, description="Largest share of characters that are not letters, digits or spaces."
    )
    languages: tuple[str, ...] = Field((), description="Languages that are kept, as ISO 639-1 codes; empty: all.")
    near_duplicates: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Jaccard similarity of word 3-grams from which texts are duplicates; 1: exact ones only.",
    )


class Index(Section):
    """Cut documents into passages that can be searched, by their words and by their meaning."""

    enabled: bool = Field(True, description="Off: the index is empty.")
    include: tuple[str, ...] = Field(
        (),
        description="Sources of chats, e-mails, Excel sheets, and rows without a question or a text in `fields`, are "
        "indexed only if they are named here, such as a catalogue: most are about single persons.",
    )
    leave_out: tuple[str, ...] = Field(
        (), description="All other sources are indexed, unless named here: whoever may search sees every passage."
    )
    words: int = Field(
        120, ge=20, le=180, description="Most words of a passage; it ends where a paragraph or a sentence does."
    )
    model: Literal["all-MiniLM-L6-v2", ""] = Field(
        "all-MiniLM-L6-v2",
        description="Makes vectors of passages. Empty: none, and passages are found by their words alone.",
    )
