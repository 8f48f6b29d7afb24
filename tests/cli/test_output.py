"""The commands' output: foreign text in it is printable."""

import logging
from pathlib import Path

import pytest

from llmops.cli import main


def test_a_reason_forges_no_line_of_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    assert main(["alerts", "silence", "drift", "--reason", "maintenance\nNo alert is open.\x1b[2J"]) == 0
    capsys.readouterr()
    assert main(["alerts", "list"]) == 0
    silence, _ = capsys.readouterr().out.splitlines()
    assert silence.endswith(r"maintenance\nNo alert is open.\x1b[2J")


def test_the_name_of_an_attachment_forges_no_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # so that the command configures the log
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    name = "a.pdf%0A12%3A00%3A00%20forged%1B%5B2J"
    parts = (
        "Content-Type: text/plain\n\nWe repair kettles.",
        f"Content-Type: application/pdf\nContent-Disposition: attachment; filename*=utf-8''{name}\n\nx",
    )
    mail = "Subject: Hi\nContent-Type: multipart/mixed; boundary=s\n\n--s\n" + "\n--s\n".join(parts) + "\n--s--\n"
    (tmp_path / "a.eml").write_text(mail, encoding="utf-8")
    config = tmp_path / "llmops.yaml"
    config.write_text(
        f"collect: {{sources: [{{name: mail, kind: eml, location: {tmp_path}/a.eml}}]}}", encoding="utf-8"
    )
    main(["run", "collect", "--config", str(config)])
    lines = capsys.readouterr().err.splitlines()
    assert any("forged" in line for line in lines)
    assert not any(line.startswith("12:00:00 forged") or "\x1b" in line for line in lines)
