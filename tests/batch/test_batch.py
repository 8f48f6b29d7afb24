"""A batch keeps rows and order, goes on after a kill, and tells what went wrong where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops import cli
from llmops.batch import engines as batch_engines
from llmops.batch.batch import RowReply, answer_file, batch
from llmops.batch.engines import LocalEngine, ServerEngine
from llmops.config import Config
from llmops.errors import ConfigError, DeployError, LlmopsError, RegistryError, SourceError


class Echo:
    """Answers with what it was asked, and remembers it; breaks down when told to."""

    name = "echo"

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
    source = write(tmp_path / "in.parquet", questions, number=range(7), context=["x", "x", None, "", None, "", "y"])
    done = answer_file(Echo(), source, tmp_path / "new" / "out.parquet", part_rows=2)
    rows = read(tmp_path / "new" / "out.parquet")
    assert [r["number"] for r in rows] == list(range(7)) and [r["question"] for r in rows] == questions
    assert [r["answer"] for r in rows] == ["a|x", None, None, None, "e|", None, "g|y"]
    assert [bool(r["error"]) for r in rows] == [False, True, True, True, False, True, False]
    assert [r["model_version"] for r in rows] == ["v1", None, None, None, "v1", None, "v1"]
    assert (done.rows, done.errors) == (7, 4)
    assert [p.name for p in (tmp_path / "new").iterdir() if not p.name.startswith(".")] == ["out.parquet"]


@pytest.mark.parametrize("part_rows", [1, 2, 4, 100])
def test_an_interrupted_batch_goes_on_and_ends_the_same(tmp_path: Path, part_rows: int) -> None:
    questions = [f"q{i}" for i in range(11)]
    source = write(tmp_path / "in.parquet", questions)
    answer_file(Echo(), source, tmp_path / "whole.parquet", part_rows)
    first, second = Echo("q7"), Echo()
    with pytest.raises(DeployError):
        answer_file(first, source, tmp_path / "out.parquet", part_rows)
    assert not (tmp_path / "out.parquet").exists()
    answer_file(second, source, tmp_path / "out.parquet", part_rows)
    assert sorted(q for q, _ in first.asked + second.asked) == sorted(questions)  # none twice
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_finished_batch_is_not_done_again(tmp_path: Path) -> None:
    source, again = write(tmp_path / "in.parquet", ["a", "b"]), Echo()
    first = answer_file(Echo(), source, tmp_path / "out.parquet")
    second = answer_file(again, source, tmp_path / "out.parquet")
    assert again.asked == [] and (first.rows, first.errors) == (second.rows, second.errors)


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


def test_a_half_written_part_is_made_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", ["a", "b"])
    with pytest.raises(DeployError):
        answer_file(Echo("b"), source, tmp_path / "out.parquet", part_rows=1)
    (tmp_path / "out.parquet.parts" / ".part-00000001.parquet.1").write_bytes(b"PAR1half")
    (tmp_path / ".out.parquet.partial").write_bytes(b"PAR1half")
    answer_file(Echo(), source, tmp_path / "out.parquet", part_rows=1)
    assert [r["answer"] for r in read(tmp_path / "out.parquet")] == ["a|", "b|"]


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    def refused(path: Path, output: Path | None = None) -> str:
        with pytest.raises(LlmopsError) as caught:
            answer_file(Echo(), path, output or tmp_path / "out.parquet")
        return str(caught.value)

    text = tmp_path / "text.parquet"
    text.write_text("question\nWhy?\n")
    prompt = tmp_path / "prompt.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "id": [1]}), prompt)
    whole = write(tmp_path / "whole.parquet", ["a"])
    assert "missing.parquet" in refused(tmp_path / "missing.parquet")
    assert "no Parquet" in refused(text)
    assert "`question`" in refused(prompt) and "prompt, id" in refused(prompt)
    assert "int64" in refused(write(tmp_path / "numbers.parquet", [1, 2]))
    assert "`context`" in refused(write(tmp_path / "context.parquet", ["a"], context=[1]))
    assert "`answer`" in refused(write(tmp_path / "answered.parquet", ["a"], answer=["b"]))
    assert "no row" in refused(write(tmp_path / "empty.parquet", pa.array([], pa.string())))
    assert "input and output" in refused(whole, whole)
    assert "folder" in refused(whole, tmp_path)
    assert not (tmp_path / "out.parquet").exists()


def test_when_no_row_is_answered_that_is_an_error_and_the_output_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="refused"):
        answer_file(Echo(), write(tmp_path / "in.parquet", ["bad", "bad"]), tmp_path / "out.parquet")
    assert [r["error"] for r in read(tmp_path / "out.parquet")] == ["refused", "refused"]


def test_text_columns_of_every_kind_are_read(tmp_path: Path) -> None:
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        source = write(tmp_path / "in.parquet", pa.array(["a", "b", "a"]).cast(kind))
        (tmp_path / "out.parquet").unlink(missing_ok=True)
        answer_file(Echo(), source, tmp_path / "out.parquet", part_rows=2)
        assert [r["answer"] for r in read(tmp_path / "out.parquet")] == ["a|", "b|", "a|"]


def test_a_model_answers_as_it_does_alone_and_a_prompt_that_is_too_long_fails_alone(
    tiny_base: Path, tmp_path: Path
) -> None:
    from llmops.model.base.answering import answer, open_model

    engine = LocalEngine(tiny_base, "base", 8, 2)
    asked = [("Hi", ""), ("word " * 600, ""), ("Why?", "Because."), ("How long is it?", "")]
    replies = engine.answer(asked)
    assert [bool(r.error) for r in replies] == [False, True, False, False] and "512" in replies[1].error
    chosen = [asked[0], asked[2], asked[3]]
    assert [r.answer for r in replies if not r.error] == answer(open_model(tiny_base), chosen, 8, batch=2)


def test_a_row_that_the_chat_template_refuses_fails_alone(tiny_base: Path) -> None:
    engine = LocalEngine(tiny_base, "base", 4, 2)
    tokenizer = engine._model.tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].replace('~', '')"
    )
    assert "replace('~'" in tokenizer.chat_template
    first, second = engine.answer([("a <|im_~end|> b", ""), ("a", "")])
    assert "take them out of the text" in first.error and not first.answer and not second.error


def test_a_batch_that_does_not_fit_is_halved_until_only_the_guilty_row_fails(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


KILLED = """
import sys
from pathlib import Path
from llmops.batch import batch, engines as batch_engines
base, source, output = map(Path, sys.argv[1:])
batch.answer_file(batch_engines.LocalEngine(base, "base", 4, 2), source, output, part_rows=2)
"""


def test_a_killed_batch_goes_on_and_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [f"What is {i}?" for i in range(40)])
    whole = tmp_path / "whole.parquet"
    answer_file(LocalEngine(tiny_base, "base", 4, 2), source, whole, part_rows=2)
    command = [sys.executable, "-c", KILLED, str(tiny_base), str(source), str(tmp_path / "out.parquet")]
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(command, env=environ)
    parts, deadline = tmp_path / "out.parquet.parts", time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("part-*")}
    assert 3 <= len(kept) < 20
    seen: dict[str, int] = {}
    engine = LocalEngine(tiny_base, "base", 4, 2)
    inner = engine.answer

    def answer(requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        seen.update({p.name: p.stat().st_mtime_ns for p in parts.glob("part-*") if p.name in kept})
        return inner(requests)

    engine.answer = answer  # type: ignore[method-assign]
    answer_file(engine, source, tmp_path / "out.parquet", part_rows=2)
    assert seen == kept
    assert (tmp_path / "out.parquet").read_bytes() == whole.read_bytes()


class App(BaseHTTPRequestHandler):
    """A serving app that has its moods: by the prompt, it is busy or away at first, refuses, or answers."""

    moods: dict[str, list[int]] = {}
    keys: set[str | None] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.keys.add(self.headers.get("X-API-Key"))
        left = self.moods.get(body["prompt"], [])
        status = left.pop(0) if left else 200
        value = {"response": f"{body['prompt']} {body['context']} {body['max_new_tokens']}", "model_version": "v3"}
        answer = json.dumps(value if status == 200 else {"detail": f"status {status}"}).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_serving_app_answers_with_the_key_of_the_environment(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    App.moods = {"long": [422]}
    source = write(tmp_path / "in.parquet", ["a", "long", "b"], context=["x", "", ""])
    settings = Config(home=tmp_path / "home")
    monkeypatch.delenv("LLMOPS_API_KEY", raising=False)
    with pytest.raises(DeployError, match="LLMOPS_API_KEY"):
        batch(settings, source, tmp_path / "out.parquet", url=app)
    monkeypatch.setenv("LLMOPS_API_KEY", "s3cret")
    batch(settings, source, tmp_path / "out.parquet", url=app, max_new_tokens=9)
    rows = read(tmp_path / "out.parquet")
    assert [r["answer"] for r in rows] == ["a x 9", None, "b  9"]
    assert rows[1]["error"] == "422 status 422" and rows[0]["model_version"] == "v3"
    assert App.keys == {"s3cret"}
    assert b"s3cret" not in (tmp_path / "out.parquet").read_bytes()


def test_an_app_that_is_busy_or_restarts_is_waited_for(app: str) -> None:
    App.moods = {"a": [429, 429], "b": [503, 502]}
    waits: list[float] = []
    server = ServerEngine(app, httpx.Client(base_url=app), 5, 2, waits.append)
    assert [r.answer for r in server.answer([("a", ""), ("b", ""), ("c", "")])] == ["a  5", "b  5", "c  5"]
    assert sorted(waits) == [0.5, 1.0, 7.0, 7.0]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_an_app_that_refuses_ends_the_batch(app: str, status: int) -> None:
    App.moods = {"a": [status] * 9}
    with pytest.raises(DeployError, match=str(status)):
        ServerEngine(app, httpx.Client(base_url=app), 5, 2).answer([("a", "")])


def test_an_app_that_stays_away_ends_the_batch_and_what_is_finished_is_kept(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_engines, "PATIENCE_S", 0.0)
    App.moods = {"b": [503]}
    source = write(tmp_path / "in.parquet", ["a", "b", "c"])
    engine = ServerEngine(app, httpx.Client(base_url=app), 5, 2)
    with pytest.raises(DeployError, match="same command"):
        answer_file(engine, source, tmp_path / "out.parquet", part_rows=1)
    answer_file(engine, source, tmp_path / "out.parquet", part_rows=1)
    assert [r["answer"] for r in read(tmp_path / "out.parquet")] == ["a  5", "b  5", "c  5"]


def test_nothing_is_written_where_the_platform_keeps_its_own(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", ["a"])
    places = {"collect": {"cache": tmp_path / "cache"}, "features": {"store": tmp_path / "feast"}}
    settings = Config(home=tmp_path / "home", release={"registry": tmp_path / "registry"}, **places)
    (tmp_path / "link").symlink_to(tmp_path / "registry")
    for place in ("home", "home/artifacts/train/x", "registry/support-bot/versions/v2", "cache", "feast", "link/m"):
        with pytest.raises(ConfigError, match="keeps for itself"):
            batch(settings, source, tmp_path / place / "out.parquet", url="http://127.0.0.1:9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "link"]


def test_the_command_says_in_one_line_what_is_wrong_and_prints_json(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write(tmp_path / "in.parquet", ["a", "b"]), tmp_path / "out.parquet"
    home = ["--set", f"home={tmp_path / 'home'}"]
    assert cli.main(["batch", str(source), str(output), *home]) == 1  # no champion yet
    assert "champion" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(RegistryError):
        batch(Config(home=tmp_path / "home"), source, output, version="v9")
    monkeypatch.setattr("llmops.batch.batch.servable", lambda settings, version: ("v1", tiny_base))
    assert cli.main(["batch", str(source), str(output), *home, "--max-new-tokens", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["rows"], printed["errors"], printed["output"]) == (2, 0, str(output))
    assert {r["model_version"] for r in read(output)} == {"v1"}
