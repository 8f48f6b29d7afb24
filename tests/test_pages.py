"""README.md and the pages of docs/: what is generated, their links and their size.

`python tests/test_pages.py` writes the table of docs/configuration.md anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from llmops.config import Config, Section

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
START, END = (
    "<!-- configuration: written by `python tests/test_pages.py`, checked by the same test -->\n",
    "<!-- /configuration -->",
)


def table() -> str:
    rows = ["| key | default | what |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            continue
        for key, item in field.annotation.model_fields.items():
            rows.append(
                f"| `{name}.{key}` | {shown(item.get_default(call_default_factory=True))} | {item.description or ''} |"
            )
    return "\n".join(rows) + "\n"


def shown(value: Any) -> str:
    if isinstance(value, Path):
        value = "" if value == Path() else value.relative_to(ROOT) if value.is_absolute() else value
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text.replace("|", "\\|")
    return f"`{text}`" if text not in ("", "{}") else ""


def anchors(page: Path) -> set[str]:
    """Return the names by which links reach the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_configuration_table_is_up_to_date_and_describes_every_field() -> None:
    assert START + table() + END in CONFIGURATION.read_text(encoding="utf-8")
    assert [line for line in table().splitlines() if line.endswith("|  |")] == []


def test_the_readme_is_short_and_every_file_it_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:examples|dags|llmops|serving|feature_repo|docs|docker)/[\w./-]*)`", text)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
    assert len(text.splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_image_of_a_page_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


if __name__ == "__main__":
    head, rest = CONFIGURATION.read_text(encoding="utf-8").split(START)
    CONFIGURATION.write_text(head + START + table() + END + rest.split(END, 1)[1], encoding="utf-8")
    sys.stdout.write("docs/configuration.md: table written\n")
