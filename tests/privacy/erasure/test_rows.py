"""A person's rows where they were read, and the repository without them: in a folder, S3 and Azure Blob."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.config import Config
from llmops.data.collect import repository
from llmops.data.remote import Address, connect, make_local_address
from llmops.frame.records import Document, get_schema, make_content_id, write_rows
from llmops.privacy.erasure import rows
from llmops.privacy.erasure.forget import forget_person
from llmops.privacy.erasure.subject import Subject

MAIL = "ana@example.org"
DAYS = ("2026-01-30", "2026-01-31")


def make_document(position: str, location: str = "faq.csv", **parts: str) -> Document:
    key = make_content_id("faq", location, position)
    return Document(id=key, source="faq", location=location, position=position, **parts)


def test_their_words_their_conversation_their_keys_and_files_named_after_them(tmp_path: Path) -> None:
    files = [tmp_path / "1_2.parquet", tmp_path / "2_3.parquet"]
    other = make_document("row 1005", text="text", owner=MAIL)  # who is in charge, and the number of a row
    write_rows(files[0], [make_document("key 17", text="before she gave an address"), other], Document)
    chat = [make_document(f"line 1, message {n}", text=text) for n, text in enumerate((f"I am {MAIL}", "Thanks!"))]
    named = make_document("row 1", f"chats/{MAIL}.txt", text="Thanks!")
    write_rows(
        files[1], [make_document("key 17", text=MAIL), *chat, make_document("line 2, message 0"), named], Document
    )
    found = rows.find_person_rows(files, Subject(MAIL))
    assert [(row.file, row.number) for row in found] == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 4)]
    assert rows.find_person_rows(files, Subject("1005")) == [] and not rows.find_person_rows(files, None)
    assert [row.position for row in rows.find_person_rows(files, None, {other.id})] == ["row 1005"]


@pytest.fixture(params=["folder", "s3", pytest.param("azure", marks=pytest.mark.service)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """With a repository of two intervals of three row groups each; the person is in two of the last."""
    where = str(tmp_path / "repository") if request.param == "folder" else request.getfixturevalue(request.param)
    documents = tmp_path / "documents.parquet"
    for day in DAYS:
        with pq.ParquetWriter(documents, get_schema(Document)) as writer:
            for part in range(3):
                names = [
                    MAIL if day == DAYS[1] and part < 2 and row == part else f"text {part} {row}" for row in (0, 1)
                ]
                made = [
                    {**dict.fromkeys(writer.schema.names, name), "text": name}
                    for name in names[: 1 if part == 0 else 2]
                ]
                writer.write_table(pa.Table.from_pylist(made, schema=writer.schema))
        repository.upload_documents(documents, where, day)
    return Config(home=tmp_path / "home", collect={"repository": where})


def read_files(config: Config) -> dict[str, bytes]:
    where = config.collect.repository
    address: Address = connect(where, os.environ) if "://" in where else make_local_address(where)
    return {
        p.rpartition("documents/")[2]: address.filesystem.cat_file(p) for p in address.filesystem.find(address.path)
    }


def test_the_rows_leave_the_repository_and_all_else_stays(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.home.mkdir()
    before, subject = read_files(config), Subject(MAIL)
    assert list(rows.find_in_repository(config, subject, ())) == [DAYS[1]]

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(repository, "_has_content", die)
        rows.remove_from_repository(config, [DAYS[1]], subject, ())
    assert read_files(config) == before
    rows.remove_from_repository(config, [DAYS[1]], subject, ())
    after = read_files(config)
    first, last = (f"interval={day}/{repository.FILE}" for day in DAYS)
    assert pq.read_table(pa.BufferReader(after[last]))["text"].to_pylist() == ["text 1 0", "text 2 0", "text 2 1"]
    assert after.keys() == before.keys() and after[first] == before[first]
    assert not rows.find_in_repository(config, subject, ())
    rows.remove_from_repository(config, [DAYS[1]], subject, ())
    assert read_files(config) == after


def test_a_file_that_is_all_theirs_is_empty_and_leftovers_of_killed_uploads_go(tmp_path: Path) -> None:
    config = Config(home=tmp_path, collect={"repository": str(tmp_path / "repository")})
    write_rows(tmp_path / "documents.parquet", [make_document("row 1", text=MAIL)], Document)
    for day in DAYS:
        repository.upload_documents(tmp_path / "documents.parquet", config.collect.repository, day)
    file = tmp_path / "repository" / "documents" / f"interval={DAYS[0]}" / repository.FILE
    file.rename(file.with_name(repository.PARTIAL))  # a killed upload
    for _ in range(2):  # and again after a break
        rows.remove_from_repository(config, [DAYS[1]], Subject(MAIL), ())
        ((name, data),) = read_files(config).items()
        assert DAYS[1] in name and pq.read_metadata(pa.BufferReader(data)).num_rows == 0


def test_documents_in_parts_of_an_earlier_version_stop_the_search(tmp_path: Path) -> None:
    config = Config(home=tmp_path, collect={"repository": str(tmp_path / "repository")})
    part = tmp_path / "repository" / "documents" / f"interval={DAYS[0]}" / "part-00000-0123456789abcdef.parquet"
    write_rows(part, [make_document("row 1", text=MAIL)], Document)
    with pytest.raises(repository.RepositoryError, match="Delete it"):
        rows.find_in_repository(config, Subject(MAIL), ())


def test_who_stands_only_in_the_repository_goes_with_other_versions_of_the_row(tmp_path: Path) -> None:
    config = Config(home=tmp_path / "home", collect={"repository": str(tmp_path / "repository")})
    config.home.mkdir()
    for day, text in zip(DAYS, ("Who am I?", f"I am {MAIL}."), strict=True):
        write_rows(tmp_path / "documents.parquet", [make_document("key 17", text=text)], Document)
        repository.upload_documents(tmp_path / "documents.parquet", config.collect.repository, day)
    erasure = forget_person(config, MAIL)
    assert erasure.receipt.deleted == {"partitions": 2} and erasure.receipt.remaining == []
    assert [place["position"] for place in erasure.documents] == ["key 17"]
