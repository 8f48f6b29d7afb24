"""The command that serves: what it says before it starts."""

import socket
from typing import Any

import pytest

from llmops import cli
from serving import app


def test_serve_names_a_port_in_use_and_says_that_there_is_no_champion(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setattr(app, "serve", lambda config: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LLMOPS_SERVING__PORT", str(taken.getsockname()[1]))
        taken.listen()
        assert cli.main(["serve"]) == 1 and "LLMOPS_SERVING__PORT" in capsys.readouterr().err
    assert cli.main(["serve"]) == 0 and "no champion yet" in capsys.readouterr().err


def test_serve_starts_while_the_database_is_away(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("PASSWORD", "x")
    monkeypatch.setenv("LLMOPS_STATE__URL", "postgresql://llmops:${PASSWORD}@127.0.0.1:9/llmops")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LLMOPS_SERVING__PORT", str(free.getsockname()[1]))
    monkeypatch.setattr(app, "serve", started.append)
    assert cli.main(["serve"]) == 0 and started
