"""Take the README's pictures of a finished demo: Airflow's graph, the dashboard and the playground.

    make demo
    python examples/support_bot/screenshots.py    # writes docs/images/*.png

Run it while the demo is up, with Chromium on the path and the packages of the tests (`make test` installs them). It
makes an API key for its visit and revokes it.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from llmops import ROOT
from llmops.access.keys import keys_of
from llmops.config import load
from llmops.pipeline import stack

FOLDER = ROOT / "docs" / "images"
DAG = "llmops_pipeline"
QUESTION = "How long does delivery take?"
WIDTH = 1200
ROW, MARGIN = 5, 12  #: tasks of the graph side by side, and pixels around them


def main() -> None:
    """Take all pictures."""
    config = load(Path(__file__).with_name("config.yaml"))
    services = stack.find_running(config.home)
    airflow, serving = services["airflow"], services["serving"]
    keys = keys_of(config)
    key, kept = keys.create("developer", "pictures")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    FOLDER.mkdir(exist_ok=True)
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
            page.set_default_timeout(90_000)
            take_graph(page, airflow.url, stack.ensure_passwords(config.home)[0]["developer"])
            take_dashboard(page, serving.url, key)
            take_playground(page, serving.url)
    finally:
        keys.revoke(kept.prefix)


def take_graph(page: Page, url: str, password: str) -> None:
    """Take the graph of the latest successful run of the pipeline, cut into rows, as it is four times too wide."""
    page.set_viewport_size({"width": 4200, "height": 700})
    page.goto(url)
    page.fill("[name=username]", "developer")
    page.fill("[name=password]", password)
    page.click("[type=submit]")
    page.wait_for_selector("text=Dags")
    page.evaluate('localStorage.setItem("default_dag_view", JSON.stringify("graph"))')
    query = f"{url}/api/v2/dags/{DAG}/dagRuns?state=success&order_by=-run_after&limit=1"
    run = page.request.get(query).json()["dag_runs"][0]["dag_run_id"]
    page.goto(f"{url}/dags/{DAG}/runs/{run}")
    page.wait_for_selector(".react-flow__node")
    page.click('[aria-label="Collapse Details Panel"]')
    page.click('[aria-label="Fit View"]')
    page.wait_for_timeout(3000)  # the graph moves to its place
    graph = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    boxes = [box for node in page.locator(".react-flow__node").all() if (box := node.bounding_box())]
    boxes.sort(key=lambda box: box["x"])
    top = min(box["y"] for box in boxes) - 4 * MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + 4 * MARGIN
    rows = [boxes[start : start + ROW] for start in range(0, len(boxes), ROW)]
    strips = [
        graph.crop((int(row[0]["x"]) - MARGIN, int(top), int(row[-1]["x"] + row[-1]["width"]) + MARGIN, int(bottom)))
        for row in rows
    ]
    whole = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    for number, strip in enumerate(strips):
        whole.paste(strip, (0, number * strip.height))
    whole.save(FOLDER / "airflow.png", optimize=True)


def take_dashboard(page: Page, url: str, key: str) -> None:
    """Take the upper part of the dashboard."""
    page.set_viewport_size({"width": WIDTH, "height": 770})
    page.goto(f"{url}/dashboard")
    page.fill("#api_key", key)
    page.click("button.primary")
    page.wait_for_selector("#versions td")
    page.screenshot(path=FOLDER / "dashboard.png")


def take_playground(page: Page, url: str) -> None:
    """Ask a question in the session of the dashboard and take the page with its answer."""
    page.set_viewport_size({"width": WIDTH, "height": 520})
    page.goto(url)
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".feedback")
    page.screenshot(path=FOLDER / "playground.png")


if __name__ == "__main__":
    main()
