"""Take the README's pictures of a finished demo: Airflow's graph, the dashboard and the playground.

    make demo
    python examples/support_bot/pictures.py    # writes docs/images/*.png

Run it while the demo is up, with Chromium on the path and the packages of the tests (`make test` installs them). It makes
an API key for its visit and revokes it.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from llmops import ROOT, stack
from llmops.access.keys import keys_of
from llmops.config import load
from llmops.schedule.orchestrator import Airflow

FOLDER = ROOT / "docs" / "images"
DAG = "llmops_pipeline"
QUESTION = "How long does delivery take?"
COLOURS = 64  #: enough for pages; a picture is to stay below 150 kB
WIDTH = 1200


def main() -> None:
    """Take all pictures."""
    config = load(Path(__file__).with_name("config.yaml"))
    services = stack.running(config.home)
    airflow, serving = services["airflow"], services["serving"]
    keys = keys_of(config)
    key, kept = keys.create("developer", "pictures")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    FOLDER.mkdir(exist_ok=True)
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
            page.set_default_timeout(90_000)
            take_graph(page, airflow.url, stack.passwords(config.home)[0]["developer"])
            take_dashboard(page, serving.url, key)
            take_playground(page, serving.url, key)
    finally:
        keys.revoke(kept.prefix)


def take_graph(page: Page, url: str, password: str) -> None:
    """Take the graph of the latest successful run of the pipeline."""
    page.set_viewport_size({"width": WIDTH, "height": 520})
    page.goto(url)
    page.fill("[name=username]", "developer")
    page.fill("[name=password]", password)
    page.click("[type=submit]")
    page.wait_for_url(lambda there: "/auth" not in there)
    page.goto(f"{url}/dags/{DAG}")


def take_dashboard(page: Page, url: str, key: str) -> None:
    """Take the upper part of the dashboard."""
    page.set_viewport_size({"width": WIDTH, "height": 900})
    page.goto(f"{url}/dashboard")
    page.fill("#api_key", key)
    page.click("button.primary")
    page.wait_for_selector("#versions td")
    save(page, "dashboard")


def take_playground(page: Page, url: str, key: str) -> None:
    """Ask a question and take the page with its answer."""
    page.set_viewport_size({"width": WIDTH, "height": 520})
    page.goto(url)
    page.fill("#key", key)
    page.click("#use")
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".feedback")
    save(page, "playground")


def save(page: Page, name: str) -> None:
    """Write what the page shows, with few colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
