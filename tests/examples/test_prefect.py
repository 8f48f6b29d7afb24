"""The example for Prefect, run by Prefect's own server in an environment of its own."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.pipeline.pipeline import STAGES
from tests.clock import wait_until
from tests.conftest import find_free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "prefect"
REPLACED = ROOT / "tests" / "dags" / "replaced"
#: `llmops` with tiny stages
COMMAND = "import sys, stand_ins; from llmops.pipeline import pipeline; stand_ins.replace(list(pipeline.STAGES)); from llmops.cli import main; sys.exit(main())"  # noqa: E501


@pytest.fixture(scope="module")
def prefect() -> Path:
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    assert spec and spec.loader
    peers = sys.modules["peers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    python: Path = peers.Peer("prefect", (EXAMPLE / "requirements.txt").read_text().split()).python()
    return python


@pytest.fixture(scope="module")
def server(prefect: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of whoever runs flows with a server of Prefect."""
    home = tmp_path_factory.mktemp("prefect")
    port = find_free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "LLMOPS", "PYTHON"))}
    environ = kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [prefect, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)

    def answers() -> bool:
        assert process.poll() is None, (home / "server.log").read_text()[-3000:]
        try:
            return httpx.get(f"{environ['PREFECT_API_URL']}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, "Prefect's server", 300)
        yield environ
    finally:
        process.terminate()
        process.wait(60)


def run_flow(prefect: Path, environ: dict[str, str], parameters: str) -> subprocess.CompletedProcess[str]:
    code = f"import flow; flow.stage.retry_delay_seconds = [0]; flow.pipeline({parameters})"
    return subprocess.run([prefect, "-c", code], cwd=EXAMPLE, env=environ, capture_output=True, text=True, timeout=600)


def read_tasks(environ: dict[str, str]) -> dict[str, tuple[str, int]]:
    """What the server knows of the tasks of the newest run: name → state and tries."""
    api = environ["PREFECT_API_URL"]
    newest = httpx.post(f"{api}/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()[0]
    found: list[dict[str, Any]] = httpx.post(
        f"{api}/task_runs/filter", json={"flow_runs": {"id": {"any_": [newest["id"]]}}}
    ).json()
    return {row["name"]: (row["state"]["type"], row["run_count"]) for row in found}


@pytest.fixture
def replaced(server: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "log").touch()
    return server | {
        "LLMOPS": shlex.join([sys.executable, "-c", COMMAND]),
        "LLMOPS_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(REPLACED)]),
        "CONTROL": str(tmp_path),
    }


def test_the_flow_has_every_stage_in_its_order() -> None:
    block = re.search(r"^STAGES = \((.*?)\)", (EXAMPLE / "flow.py").read_text(), re.DOTALL | re.MULTILINE)
    assert block and re.findall(r'"(\w+)"', block[1]) == list(STAGES)


@pytest.mark.journey
def test_all_stages_run_and_what_may_pass_runs_again(prefect: Path, replaced: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "2026-01-31.json").write_text(json.dumps({"clean": "fail once"}))
    done = run_flow(prefect, replaced, "interval='2026-01-31', epochs=2, trials=3")
    assert done.returncode == 0, done.stderr[-3000:]
    states = {name: ("COMPLETED", 2 if name == "clean" else 1) for name in STAGES}
    wait_until(lambda: read_tasks(replaced) == states, "the last states")
    records = {path.parts[-3]: json.loads(path.read_text()) for path in tmp_path.glob("home/artifacts/*/*/record.json")}
    assert set(records) == set(STAGES) and {record["interval"] for record in records.values()} == {"2026-01-31"}
    assert (records["train"]["config"]["epochs"], records["tune"]["config"]["trials"]) == (2, 3)
    assert len({record["run"] for record in records.values()}) == 1


@pytest.mark.journey
def test_what_stays_is_not_tried_again_and_says_why(prefect: Path, replaced: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "2026-02-01.json").write_text(json.dumps({"collect": "fail"}))
    done = run_flow(prefect, replaced, "interval='2026-02-01'")
    assert done.returncode != 0 and "collect: llmops: source faq yields nothing" in done.stderr
    wait_until(lambda: read_tasks(replaced) == {"collect": ("FAILED", 1)}, "the last state")
