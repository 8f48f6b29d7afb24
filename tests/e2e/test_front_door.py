"""The front door, as a new user finds it: the docs' commands, a real Airflow with its REST API and commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.config import load
from llmops.frame import artifacts
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import Airflow, OrchestratorError
from llmops.pipeline.pipeline import STAGES
from llmops.release.registry.registry import registry_of

from .commands import AIRFLOW, RUN, SERVE
from .conftest import DAY, ROOT, Shell

DAGS = {file.stem for file in (ROOT / "dags").glob("*.py")}
PIPELINE = "llmops_pipeline"


@pytest.fixture(scope="module")
def versions(home: Path, settings: dict[str, str]) -> None:
    registry = registry_of(load(settings["LLMOPS_CONFIG"], environ=settings))
    first = registry.get("v1")
    facts = json.loads((first.path / "version.json").read_text())
    facts = {key: value for key, value in facts.items() if key not in ("name", "created", "path", "erasures")}
    trees = {path.name: path for path in first.path.iterdir() if path.name != "version.json"}
    for n in (2, 3):
        opponent = registry.aliases().get("champion", "base")
        made = facts | {"status": "promoted", "compared_with": opponent, "compress": f"copy-{n}"}
        version = registry.publish(made, trees, lambda version: {}, by="test", why="test")
        assert version.status == "promoted"


@pytest.fixture(scope="module")
def key(versions: None, shell: Shell, environ: dict[str, str]) -> str:
    (Path(environ["HOME"]) / "data").mkdir()
    pq.write_table(pa.table({"question": ["Where?"]}), Path(environ["HOME"]) / "data" / "in.parquet")
    return str(json.loads(shell("llmops keys create --json").stdout)["key"])


@pytest.fixture(scope="module")
def service(home: Path, key: str, environ: dict[str, str]) -> Iterator[stack.Service]:
    """Start Airflow with all of the DAGs, and the serving app, by the commands of the docs, until these tests end."""
    started = {}
    for name, command in (("serving", SERVE), ("airflow", AIRFLOW)):
        line = ["bash", "-c", f"exec {command.replace('examples/faq', 'examples/support_bot')}"]
        port = int(environ["LLMOPS_SERVING__PORT" if name == "serving" else "LLMOPS_AIRFLOW_PORT"])
        started[name] = stack._start_service(home, name, line, port, environ)
    try:
        stack._wait_until_ready(
            home, started["serving"], lambda s: stack._is_answering(f"{s.url}/readyz"), timeout_s=300
        )
        stack._wait_until_ready(home, started["airflow"], stack._airflow_is_ready, timeout_s=300)
        with Airflow(started["airflow"].url, "developer", stack.ensure_passwords(home)[0]["developer"]) as airflow:
            for dag in sorted(DAGS):
                airflow.wait_for_dag(dag)
            (home / "scheduled.json").write_text(json.dumps(airflow.list_scheduled()))  # before a command pauses one
        yield started["airflow"]
    finally:
        stack.stop(home)
    assert not (Path(environ["HOME"]) / "airflow").exists()  # where Airflow would put its database without being told


@pytest.fixture
def airflow(service: stack.Service, home: Path) -> Iterator[Airflow]:
    with Airflow(service.url, "developer", stack.ensure_passwords(home)[0]["developer"]) as airflow:
        yield airflow


def end(airflow: Airflow, dag: str, run: str) -> tuple[str, dict[str, str]]:
    for state, tasks in airflow.follow(dag, run):
        last = state, {task.name: task.state for task in tasks}
    return last


def test_the_dags_that_should_run_are_not_paused(airflow: Airflow, home: Path) -> None:
    scheduled = json.loads((home / "scheduled.json").read_text())
    assert set(scheduled) == DAGS - {"llmops_ab_test", "llmops_batch", "llmops_canary"}
    assert not any(scheduled.values())
    assert airflow.list_parameters("llmops_canary") and airflow.list_parameters("llmops_batch")


def test_another_name_ends_a_run_at_its_first_task(airflow: Airflow, home: Path, shell: Shell, tmp_path: Path) -> None:
    """Over REST, and by Airflow's own command line, which works on this home and writes nowhere else."""
    before = sorted((home / "artifacts").glob("*/*"))
    evil = {"interval": "2026-02-02", "release": {"primary": "reading_ease", "floors": {}}}
    asked = airflow.trigger(PIPELINE, evil)
    conf = json.dumps({"interval": DAY, "config": "/tmp/evil.yaml"})
    done = shell(f"llmops airflow dags trigger {PIPELINE} --conf '{conf}' --run-id evil", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for run, name in ((asked, "release"), ("evil", "config")):
        state, tasks = end(airflow, PIPELINE, run)
        assert (state, tasks.pop("collect"), tasks.pop("gc")) == ("failed", "failed", "success")
        assert set(tasks.values()) == {"upstream_failed"}
        said = "\n".join(airflow.read_log(PIPELINE, run, "collect", 1))
        assert f"may not be given '{name}'" in said and "only interval, epochs" in said
    assert sorted((home / "artifacts").glob("*/*")) == before and list(tmp_path.iterdir()) == []


def test_users_have_no_place_and_developers_only_trigger(service: stack.Service, airflow: Airflow, home: Path) -> None:
    assert set(stack.ensure_passwords(home)[0]) == {"developer", "admin"}
    with pytest.raises(OrchestratorError, match="401"):
        Airflow(service.url, "user", "anything")
    for path in ("connections", "variables"):
        with pytest.raises(OrchestratorError, match="403"):
            airflow._call("GET", f"/api/v2/{path}")
    with Airflow(service.url, "admin", stack.ensure_passwords(home)[0]["admin"]) as admin:
        assert admin._call("GET", "/api/v2/connections")["total_entries"] == 0
    assert httpx.get(f"{service.url}/api/v2/dags").status_code == 401


def test_the_commands_of_the_docs_work_one_after_another(
    service: stack.Service, airflow: Airflow, shell: Shell, key: str, settings: dict[str, str]
) -> None:
    revoke = next(command for command in RUN if command.startswith("llmops keys revoke"))
    for command in [*(command for command in RUN if command != revoke), revoke]:  # of the key that is used here
        done = shell(command, KEY=key)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if command.startswith("curl"):
            assert '"response"' in done.stdout
        if command.endswith("epochs=2 --wait"):
            ended = [line.split()[0] for line in done.stdout.splitlines() if " success" in line]
            assert sorted(ended) == sorted([*STAGES, "gc"])
            train = artifacts.find_newest(Path(settings["LLMOPS_HOME"]) / "artifacts" / "train")
            assert artifacts.read_record(train).config["epochs"] == 2
        if any(word in command for word in ("trigger llmops_canary", "trigger llmops_ab", "backfill", "trials=10")):
            for dag in (PIPELINE, "llmops_canary", "llmops_ab_test"):
                for run in airflow.list_active(dag):
                    airflow.fail(dag, run)


def test_a_run_that_fails_says_why_and_an_answer_comes_without_warnings(service: stack.Service, shell: Shell) -> None:
    failed = shell("llmops trigger llmops_canary --set version=v99 --wait")
    assert failed.returncode == 1 and "v99" in failed.stderr and "start failed" in failed.stderr
    done = shell('llmops generate "How long does delivery take?" --version v3 --max-new-tokens 4')
    assert done.returncode == 0 and done.stdout
    assert "bitsandbytes" not in done.stderr and "arning" not in done.stderr and "kernels" not in done.stderr
