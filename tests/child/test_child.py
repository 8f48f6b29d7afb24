"""A process that answers lines: it is started when it is asked, and anew when it was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.child.child import Child
from llmops.errors import ChildFailed

MODULE = """
import os, sys, time
from llmops.child.answer import answer_lines

def answer(asked):
    print("a library says something")
    if asked == "die":
        os._exit(3)
    if asked == "hang":
        time.sleep(600)
    return [asked, os.getpid(), sys.argv[1:], os.environ.get("GIVEN")]

answer_lines(answer)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    (tmp_path / "answering_child.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("answering_child", ["an argument"], {"GIVEN": "x"}, most_s=60.0)
    yield child
    child.close()


def test_it_answers_in_another_process_whatever_is_printed_there(child: Child) -> None:
    assert child.process is None
    asked = {"a": ["é🙂\n", 1.5, None], "long": "x" * 300_000}  # more than a pipe holds
    (first, process, arguments, given), (second, again, *_) = child.ask(asked), child.ask("next")
    assert (first, second, arguments, given) == (json.loads(json.dumps(asked)), "next", ["an argument"], "x")
    assert child.process and process == again == child.process.pid


def test_one_that_was_killed_costs_no_answer(child: Child) -> None:
    processes = []
    for _ in range(3):
        processes.append(child.ask("it")[1])
        assert child.process
        child.process.kill()
        child.process.wait()
    assert len(set(processes)) == 3


def test_one_that_dies_of_what_it_is_asked_is_told_and_the_next_one_answers(child: Child) -> None:
    with pytest.raises(ChildFailed, match="answering_child"):
        child.ask("die")
    assert child.process is None and child.ask("it")[0] == "it"


def test_one_that_hangs_is_killed(child: Child) -> None:
    child.ask("it")
    child._most_s = 0.3
    with pytest.raises(ChildFailed):
        child.ask("hang")
    assert child.process is None


def test_one_that_loads_for_long_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_child.py").write_text(f"import time\ntime.sleep(2)\n{MODULE}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("slow_child", most_s=1.0)
    assert child.ask("it")[0] == "it"
    child.close()


def test_one_that_is_closed_while_it_hangs_is_not_started_again(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    first, started = child.ask("it")[1], []
    monkeypatch.setattr("llmops.child.child.start", lambda *_: started.append("again"))
    process = child.process
    assert process and process.pid == first
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(child.ask, "hang")
        child.close()
        with pytest.raises(ChildFailed):
            hanging.result(50)  # it would be killed after 60
    with pytest.raises(ChildFailed, match="closed"):
        child.ask("it")
    assert process.returncode and child.process is None and not started


def test_one_that_nobody_holds_ends(child: Child) -> None:
    assert child.ask("it") and child.process
    process, other = child.process, Child("answering_child")
    assert process.stdin
    process.stdin.close()  # as where its parent is gone
    assert process.wait(20) == 0
    other.close()  # it was never asked
