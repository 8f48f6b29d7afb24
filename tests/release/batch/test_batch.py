"""A batch keeps rows and order, goes on after a kill, and tells what went wrong where."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops import cli
from llmops.config import Config, Grounding
from llmops.data.retrieval.file_store import write_passages
from llmops.data.retrieval.grounding import REFUSAL
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ConfigError, DeployError, LlmopsError, RegistryError, SourceError
from llmops.frame.records import Passage
from llmops.release.batch.batch import answer_file, run_batch
from llmops.release.batch.documents import GroundedEngine
from llmops.release.batch.engine import LocalEngine, RowReply
from llmops.release.registry.indexes import serve_index
from llmops.release.registry.registry import registry_of
from tests.release.conftest import put_version


class Echo:
    """Answers with what it was asked, and remembers it; breaks down when told to."""

    name, version, max_new_tokens, grounded = "echo", "v1", 20, False

    def __init__(self, breaks_at: str = "") -> None:
        self.asked: list[tuple[str, str]] = []
        self.breaks_at = breaks_at

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        if any(question == self.breaks_at for question, _ in requests):
            raise DeployError("gone")
        self.asked += requests
        return [RowReply(error="refused") if q == "bad" else RowReply(f"{q}|{c}", version="v1") for q, c in requests]


def write(path: Path, questions: Sequence[Any], row_group_size: int = 3, **columns: Any) -> Path:
    pq.write_table(pa.table({"question": questions, **columns}), path, row_group_size=row_group_size)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_rows_keep_their_order_and_columns_and_a_failing_one_carries_its_error(tmp_path: Path) -> None:
    questions = ["a", None, "bad", "", "e", "  ", "g"]
    context = pa.array(["x", "x", None, "", None, "", "y"]).cast(pa.dictionary(pa.int32(), pa.large_string()))
    source = write(tmp_path / "in.parquet", questions, number=range(7), context=context)
    done = answer_file(Echo(), source, tmp_path / "new" / "out.parquet", part_rows=2)
    rows = read(tmp_path / "new" / "out.parquet")
    assert [r["number"] for r in rows] == list(range(7)) and [r["question"] for r in rows] == questions
    assert [r["answer"] for r in rows] == ["a|x", None, None, None, "e|", None, "g|y"]
    assert [bool(r["error"]) for r in rows] == [False, True, True, True, False, True, False]
    assert [r["model_version"] for r in rows] == ["v1", None, None, None, "v1", None, "v1"]
    assert (done.rows, done.errors) == (7, 4)
    assert [p.name for p in (tmp_path / "new").iterdir() if not p.name.startswith(".")] == ["out.parquet"]


@pytest.mark.parametrize("part_rows", [1, 4])
def test_an_interrupted_batch_goes_on_and_ends_the_same(tmp_path: Path, part_rows: int) -> None:
    """Half-written files that it finds are made anew, and once it has finished nothing is asked again."""
    questions = [f"q{i}" for i in range(11)]
    source, output = write(tmp_path / "in.parquet", questions), tmp_path / "out.parquet"
    whole = answer_file(Echo(), source, tmp_path / "whole.parquet", part_rows)
    first, second, third = Echo("q7"), Echo(), Echo()
    with pytest.raises(DeployError):
        answer_file(first, source, output, part_rows)
    assert not output.exists()
    for half in (f"out.parquet.parts/.part-{7 // part_rows:08d}.parquet.1", ".out.parquet.partial"):
        (tmp_path / half).write_bytes(b"PAR1half")
    answer_file(second, source, output, part_rows)
    assert sorted(q for q, _ in first.asked + second.asked) == sorted(questions)  # none twice
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    done = answer_file(third, source, output, part_rows)
    assert third.asked == [] and (done.rows, done.errors) == (whole.rows, whole.errors)


def test_what_belongs_to_another_job_is_not_overwritten_or_gone_on_with(tmp_path: Path) -> None:
    source, other = write(tmp_path / "in.parquet", ["a", "b"]), write(tmp_path / "other.parquet", ["c", "d"])
    answer_file(Echo(), source, tmp_path / "out.parquet")
    for again, file in ((Echo(), other), (Echo(), tmp_path / "in.parquet")):
        again.name = "echo" if file == other else "another"
        with pytest.raises(ConfigError, match="input" if file == other else "engine"):
            answer_file(again, file, tmp_path / "out.parquet")
    with pytest.raises(ConfigError, match="other.parquet"):
        answer_file(Echo(), source, other)  # a Parquet file of somebody's
    with pytest.raises(DeployError):
        answer_file(Echo("b"), source, tmp_path / "half.parquet", part_rows=1)
    with pytest.raises(ConfigError, match="half.parquet.parts"):
        answer_file(Echo(), other, tmp_path / "half.parquet", part_rows=1)
    assert [r["question"] for r in read(other)] == ["c", "d"]


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    def refused(path: Path, output: Path | None = None) -> str:
        with pytest.raises(LlmopsError) as caught:
            answer_file(Echo(), path, output or tmp_path / "out.parquet")
        return str(caught.value)

    text, whole = tmp_path / "text.parquet", write(tmp_path / "whole.parquet", ["a"])
    text.write_text("question\nWhy?\n")
    pq.write_table(pa.table({"prompt": ["a"], "id": [1]}), tmp_path / "prompt.parquet")
    assert "no Parquet" in refused(text)
    assert "prompt, id" in refused(tmp_path / "prompt.parquet")
    assert "`answer`" in refused(write(tmp_path / "answered.parquet", ["a"], answer=["b"]))
    assert "no row" in refused(write(tmp_path / "empty.parquet", pa.array([], pa.string())))
    assert "input and output" in refused(whole, whole) and "folder" in refused(whole, tmp_path)
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(SourceError, match="refused"):  # no row is answered
        answer_file(Echo(), write(tmp_path / "bad.parquet", ["bad", "bad"]), tmp_path / "out.parquet")
    assert [r["error"] for r in read(tmp_path / "out.parquet")] == ["refused", "refused"]


def test_a_model_answers_as_it_does_alone_and_a_prompt_that_is_too_long_or_refused_fails_alone(tiny_base: Path) -> None:
    from llmops.model.base.inference import answer_questions

    engine = LocalEngine(tiny_base, "base", 4, 2)
    tokenizer = engine._model.tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].replace('~', '')"
    )
    asked = [("Hi", ""), ("word " * 600, ""), ("a <|im_~end|> b", ""), ("Why?", "Because."), ("How long is it?", "")]
    replies = engine.answer(asked)
    assert [bool(r.error) for r in replies] == [False, True, True, False, False]
    assert "512" in replies[1].error and "take them out of the text" in replies[2].error and not replies[2].answer
    chosen = [asked[0], *asked[3:]]
    assert [r.answer for r in replies if not r.error] == answer_questions(engine._model, chosen, 4, batch=2)


def test_a_batch_that_does_not_fit_is_halved_to_a_guilty_row(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def generate(model: Any, tokenizer: Any, requests: Sequence[list[int]], tokens: int) -> list[list[int]]:
        sizes.append(len(requests))
        if len(requests) > 2 or any(len(r) > 100 for r in requests):
            raise RuntimeError("out of memory")
        return [r[:1] for r in requests]

    monkeypatch.setattr("llmops.model.base.generate.generate", generate)
    replies = LocalEngine(tiny_base, "base", 8, 4).answer([("a", ""), ("b " * 150, ""), ("c", ""), ("d", "")])
    assert [bool(r.error) for r in replies] == [False, True, False, False]
    assert "out of memory" in replies[1].error and max(sizes) == 4


def test_nothing_is_written_where_the_platform_keeps_its_own(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", ["a"])
    places = {"collect": {"cache": tmp_path / "cache"}, "features": {"store": tmp_path / "feast"}}
    settings = Config(home=tmp_path / "home", release={"registry": tmp_path / "registry"}, **places)
    (tmp_path / "link").symlink_to(tmp_path / "registry")
    for place in ("home", "home/artifacts/train/x", "registry/support-bot/versions/v2", "cache", "feast", "link/m"):
        with pytest.raises(ConfigError, match="a folder of the platform"):
            run_batch(settings, source, tmp_path / place / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "link"]


def test_the_command_says_in_one_line_what_is_wrong_and_prints_json(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write(tmp_path / "in.parquet", ["a", "b"]), tmp_path / "out.parquet"
    home = ["--set", f"home={tmp_path / 'home'}"]
    assert cli.main(["batch", str(source), str(output), *home]) == 1  # no champion yet
    assert "champion" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(RegistryError):
        run_batch(Config(home=tmp_path / "home"), source, output, version="v9")
    monkeypatch.setattr("llmops.release.batch.batch.find_servable", lambda settings, version: ("v1", tiny_base))
    assert cli.main(["batch", str(source), str(output), *home, "--max-new-tokens", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["rows"], printed["errors"], printed["output"]) == (2, 0, str(output))
    assert {r["model_version"] for r in read(output)} == {"v1"}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return an index of one passage, which is found by its words."""
    place = {"source": "help", "location": "a.html", "position": "1", "title": "Help", "headings": ""}
    return make_index(tmp_path / "index", Passage(id="p", document="d", text="Delivery takes a week.", **place))


def make_index(folder: Path, *passages: Passage) -> Path:
    folder.mkdir()
    metrics = {"passages": write_passages(folder, passages), "model": ""}
    artifacts.commit(folder, Record("index", folder.name, {}, {}, "", "", metrics, {}, "", "", ""))
    return folder


def answer_grounded(source: Path, output: Path, index: Path | None, answer: str = "model") -> list[dict[str, Any]]:
    engine = GroundedEngine(Echo(), Grounding(enabled=True, answer=answer), 2048, index, None)
    answer_file(engine, source, output)
    return read(output)


def test_with_grounding_a_row_without_a_passage_is_refused(tmp_path: Path, documents: Path) -> None:
    questions = ["How long is delivery?", "Who won at chess?", "Who?", f"Delivery? {'x' * 7_000}"]
    source = write(tmp_path / "in.parquet", questions, context=["", "", "Ana.", ""])
    for mode, said in (("model", "How long is delivery?|Delivery takes a week."), ("quote", "Delivery takes a week.")):
        found, refused, own, long = answer_grounded(source, tmp_path / f"{mode}.parquet", documents, mode)
        assert (found["answer"], found["from_documents"], found["sources"]) == (said, True, ["a.html, 1"])
        assert (refused["answer"], refused["from_documents"], refused["sources"]) == (REFUSAL, True, [])
        assert (own["answer"], own["from_documents"], own["sources"]) == ("Who?|Ana.", False, [])
        assert long["from_documents"] and "Delivery takes a week." in long["answer"]


def test_a_batch_without_served_documents_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", ["a"])
    (row,) = answer_grounded(source, tmp_path / "out.parquet", None)
    assert (row["answer"], row["from_documents"], row["sources"]) == ("a|", False, [])


def test_a_batch_is_not_continued_with_other_documents(tmp_path: Path, documents: Path) -> None:
    source, output = write(tmp_path / "in.parquet", ["a"]), tmp_path / "out.parquet"
    answer_grounded(source, output, documents)
    with pytest.raises(ConfigError, match="engine"):
        answer_grounded(source, output, make_index(tmp_path / "other"))


def test_the_command_reads_the_served_documents(tmp_path: Path, documents: Path) -> None:
    config = Config(home=tmp_path / "home", grounding={"enabled": True, "answer": "quote"})
    put_version(config)
    serve_index(registry_of(config).folder, documents)
    source = write(tmp_path / "in.parquet", ["How long is delivery?", "Who won at chess?"])
    run_batch(config, source, tmp_path / "out.parquet", version="v1")
    assert [row["answer"] for row in read(tmp_path / "out.parquet")] == ["Delivery takes a week.", REFUSAL]
