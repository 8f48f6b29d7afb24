"""The front door, as a new user finds it: a real Airflow, its forms in a browser, its REST API, its command line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops import artifacts, stack
from llmops.pipeline import STAGES
from llmops.schedule.orchestrator import Airflow, OrchestratorError

from .conftest import DAY, ROOT, Llmops

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DAGS = sorted(file.stem for file in (ROOT / "dags").glob("*.py"))
PIPELINE = "llmops_pipeline"


def sign_in(service: stack.Service, home: Path, user: str) -> Airflow:
    return Airflow(service.url, user, stack.passwords(home)[0][user])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("needs Chromium on the PATH; on Debian, apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, service: stack.Service, home: Path) -> Iterator[Any]:
    """Airflow's pages, signed in as the developer."""
    page = browser.new_page(viewport={"width": 1300, "height": 1600})
    page.set_default_timeout(60_000)
    page.goto(f"{service.url}/auth/login")
    page.locator("input[name=username]").fill("developer")
    page.locator("input[name=password]").fill(stack.passwords(home)[0]["developer"])
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/auth/login" not in url)
    yield page
    page.close()


def form(page: Any, service: stack.Service, dag: str) -> Any:
    """The form that triggers a run of the DAG, opened."""
    page.goto(f"{service.url}/dags/{dag}")
    page.get_by_role("button", name="Trigger Dag").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Trigger", exact=True).wait_for()
    return dialog


def end(airflow: Airflow, dag: str, run: str) -> tuple[str, dict[str, str]]:
    """How a run ends, and its tasks."""
    for state, tasks in airflow.follow(dag, run):
        last = state, {task.name: task.state for task in tasks}
    return last


def latest(airflow: Airflow, dag: str, before: set[str]) -> str:
    """The run that is new, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if new := set(runs(airflow, dag)) - before:
            return new.pop()
        time.sleep(0.5)
    raise AssertionError(f"no new run of {dag}")


def runs(airflow: Airflow, dag: str) -> list[str]:
    return [run["dag_run_id"] for run in airflow._call("GET", f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]]


@pytest.mark.parametrize("dag", DAGS)
def test_every_form_can_be_sent_as_it_opens(page: Any, service: stack.Service, dag: str) -> None:
    dialog = form(page, service, dag)
    button = dialog.get_by_role("button", name="Trigger", exact=True)
    if dag == "llmops_batch":  # nothing to answer is no batch: the form says so, and asks for nothing else
        assert dialog.get_by_text("This field is required").count() == 2 and not button.is_enabled()
        dialog.locator("[name=element_input]").fill("in.parquet")
        dialog.locator("[name=element_output]").fill("out.parquet")
        page.keyboard.press("Tab")
    assert dialog.get_by_text("This field is required").count() == 0
    assert button.is_enabled()


def test_the_form_of_the_pipeline_offers_the_list_with_its_limits(page: Any, service: stack.Service) -> None:
    dialog = form(page, service, PIPELINE)
    names = [name for field in dialog.locator("[name^=element_]").all() if (name := field.get_attribute("name"))]
    wanted = ["interval", "epochs", "learning_rate", "rank", "batch", "seed", "trials", "base_model"]
    assert names == [f"element_{name}" for name in wanted]
    assert dialog.get_by_text("Passes over the training examples.").is_visible()
    dialog.get_by_role("combobox").click()
    assert page.get_by_text("HuggingFaceTB/SmolLM2-135M-Instruct").is_visible()
    dialog.locator("[name=element_rank]").fill("5000")
    page.keyboard.press("Tab")
    assert dialog.locator("[name=element_rank]").input_value() == "1024"


def test_other_epochs_are_set_in_the_form_and_the_run_ends_with_them(
    page: Any, service: stack.Service, airflow: Airflow
) -> None:
    before = set(runs(airflow, PIPELINE))
    dialog = form(page, service, PIPELINE)
    dialog.locator("[name=element_interval]").fill(DAY)
    dialog.locator("[name=element_epochs]").fill("0.25")
    page.keyboard.press("Tab")
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    run = latest(airflow, PIPELINE, before)
    assert end(airflow, PIPELINE, run) == ("success", dict.fromkeys([*STAGES, "fall_back", "gc"], "success"))
    record = artifacts.read_record(Path(airflow.outputs(PIPELINE, run, "train")))
    assert (record.interval, record.config["epochs"]) == (DAY, 0.25)
    page.goto(f"{service.url}/dags/{PIPELINE}/runs/{run}")
    page.get_by_text("Success").first.wait_for()


EVIL: list[dict[str, Any]] = [
    {"release": {"primary": "reading_ease", "guardrails": {}, "floors": {}, "min_effect": 0}},
    {"annotate": {"seed": 5}, "epochs": 0.5},
    {"config": "/tmp/evil.yaml"},
    {"EPOCHS": 9},
]


@pytest.mark.parametrize("conf", EVIL, ids=lambda conf: next(iter(conf)))
def test_over_rest_another_name_ends_the_run_at_its_first_task(
    airflow: Airflow, home: Path, conf: dict[str, Any]
) -> None:
    before = sorted((home / "artifacts").glob("*/*"))
    run = airflow.trigger(PIPELINE, {"interval": "2026-02-02", **conf})
    state, tasks = end(airflow, PIPELINE, run)
    assert (state, tasks["collect"]) == ("failed", "failed")
    assert {state for task, state in tasks.items() if task != "gc"} == {"failed", "upstream_failed"}
    said = "\n".join(airflow.log(PIPELINE, run, "collect", 1))
    assert f"may not be given {next(iter(conf))!r}" in said and "only interval, epochs" in said
    assert sorted((home / "artifacts").glob("*/*")) == before


@pytest.mark.parametrize(
    "conf", [{"epochs": 0}, {"epochs": {"value": 1}}, {"epochs": "1"}, {"base_model": "/tmp/model"}, {"interval": "x"}]
)
def test_over_rest_a_value_out_of_its_limits_starts_nothing(airflow: Airflow, conf: dict[str, Any]) -> None:
    before = runs(airflow, PIPELINE)
    with pytest.raises(OrchestratorError, match=next(iter(conf))):
        airflow.trigger(PIPELINE, conf)
    assert runs(airflow, PIPELINE) == before


def test_airflows_command_line_works_on_this_home_and_is_no_way_around(
    airflow: Airflow, llmops: Llmops, home: Path, service: stack.Service, tmp_path: Path
) -> None:
    before = set(runs(airflow, "llm_governance_review"))
    done = llmops("airflow", "dags", "trigger", "llm_governance_review", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert end(airflow, "llm_governance_review", latest(airflow, "llm_governance_review", before))[0] == "success"
    before = set(runs(airflow, PIPELINE))
    conf = json.dumps({"config": "/tmp/evil.yaml", "interval": DAY})
    done = llmops("airflow", "dags", "trigger", PIPELINE, "--conf", conf, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert end(airflow, PIPELINE, latest(airflow, PIPELINE, before))[0] == "failed"
    assert list(tmp_path.iterdir()) == []  # nothing in the user's own home


def test_the_json_of_the_form_is_no_way_around(page: Any, service: stack.Service, airflow: Airflow, home: Path) -> None:
    before = set(runs(airflow, PIPELINE))
    dialog = form(page, service, PIPELINE)
    dialog.get_by_role("button", name="Advanced Options").click()
    dialog.locator(".monaco-editor .view-line").first.click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(json.dumps({"interval": DAY, "govern": {"fail_on": "never"}}))
    page.get_by_text("fail_on").wait_for()
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    run = latest(airflow, PIPELINE, before)
    assert airflow._call("GET", f"/api/v2/dags/{PIPELINE}/dagRuns/{run}")["conf"]["govern"] == {"fail_on": "never"}
    assert end(airflow, PIPELINE, run)[0] == "failed"


def test_llmops_trigger_follows_a_run_to_its_end(llmops: Llmops, service: stack.Service) -> None:
    done = llmops("trigger", "--interval", DAY, "--wait")
    assert done.returncode == 0, done.stderr[-3000:]
    ended = [line.split()[0] for line in done.stdout.splitlines() if " success" in line]
    assert sorted(ended) == sorted([*STAGES, "fall_back", "gc"])
    refused = llmops("trigger", "--set", "release.min_effect=0")
    assert refused.returncode == 1 and "release.min_effect" in refused.stderr and "epochs" in refused.stderr
    failed = llmops("trigger", "llmops_canary", "--set", "version=v99", "--wait")
    assert failed.returncode == 1 and "v99" in failed.stderr and "start failed" in failed.stderr


def test_a_user_of_the_api_has_no_place_and_a_developer_only_triggers_and_looks(
    service: stack.Service, airflow: Airflow, home: Path
) -> None:
    assert set(stack.passwords(home)[0]) == {"developer", "admin"}
    with pytest.raises(OrchestratorError, match="401"):
        Airflow(service.url, "user", "anything")
    for path in ("connections", "variables"):
        with pytest.raises(OrchestratorError, match="403"):
            airflow._call("GET", f"/api/v2/{path}")
    with sign_in(service, home, "admin") as admin:
        assert admin._call("GET", "/api/v2/connections")["total_entries"] == 0
    assert httpx.get(f"{service.url}/api/v2/dags").status_code == 401


def test_the_dags_that_should_run_are_not_paused(airflow: Airflow, home: Path) -> None:
    scheduled = json.loads((home / "scheduled.json").read_text())  # as Airflow first knew them
    assert set(scheduled) == set(DAGS) - {"llmops_ab_test", "llmops_batch", "llmops_canary"}
    assert not any(scheduled.values())
    assert airflow.parameters("llmops_canary") and airflow.parameters("llmops_batch")
