"""The command about alerts: silences, and the process that judges."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from llmops import cli
from llmops.config import Config
from llmops.config.alerts import Rule
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.breach import Breach
from llmops.monitoring.alerts.rules import RULES
from tests.clock import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    return Config(home=tmp_path)


def test_each_rule_has_a_row_a_section_in_the_runbook_and_its_line_in_the_documentation() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(get_args(Rule)) == sorted(RULES)
    values = {name: getattr(Config(), name) for name in ("alerts", "monitoring", "schedule")}
    table = [f"| `{rule}` | {row.raised_when.format(**values)} | {row.severity} |" for rule, row in RULES.items()]
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert "\n".join(["| rule | raised when | severity |", "|---|---|---|", *table, ""]) in page


def test_list_silence_unsilence(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    lifecycle.update_alerts(config, [Breach("disk", "It is full.")], {"disk"}, now - timedelta(minutes=1))
    assert cli.main(["alerts", "list"]) == 0
    out = capsys.readouterr().out
    assert "critical" in out and "It is full." in out and "docs/runbook.md#disk" in out
    assert cli.main(["alerts", "silence", "disk", "--reason", "it is swapped", "--hours", "3", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert cli.main(["alerts", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["rule"] for row in listed["open"]] == ["disk"]
    assert [row["reason"] for row in listed["silences"]] == ["it is swapped"]
    assert cli.main(["alerts", "unsilence", str(made["id"])]) == 0
    assert cli.main(["alerts", "unsilence", str(made["id"])]) == 1


def test_the_process_that_judges_ends_when_it_is_told_to(config: Config) -> None:
    command = [sys.executable, "-m", "llmops", "alerts", "watch"]
    command += ["--set", "alerts.every_s=0.2", "--set", "alerts.disk_free=0.9999"]
    said = config.home / "said"
    with said.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=file)
    try:
        wait_until(lambda: "critical: disk" in said.read_text(), "the alert")
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0
    finally:
        process.kill()
        process.wait()
    assert [row["rule"] for row in lifecycle.list_alerts(config, datetime.now(UTC))["open"]] == ["disk"]
