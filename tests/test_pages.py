"""README.md and the pages of docs/: what is generated, their links and their size.

`python tests/test_pages.py` writes the table of docs/configuration.md anew.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops import cli
from llmops.config import Config, Section

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "examples").glob("*/README.md"))
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


def test_the_readme_is_short_names_files_that_are_there_and_its_configuration_loads() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:examples|dags|llmops|serving|benchmarks|docs|docker)/[\w./-]*)`", text)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
    assert len(text.splitlines()) <= 200
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [source.name for source in Config(**yaml.safe_load(example)).collect.sources] == ["tickets", "pages"]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_of_a_page_begins_with_a_word_that_hides_its_subject(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    begin = r"(?:^|[.!?:;] |\| |[-*] |\*\*|# )(?:What|Whether|Those|Of|As) .*"
    assert re.findall(begin, text, re.MULTILINE) == []


def test_each_command_and_each_dag_has_a_row() -> None:
    (commands,) = cli._make_parser()._subparsers._group_actions  # type: ignore[union-attr]
    rows = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in commands.choices if f"\n| `llmops {name}" not in rows] == []  # type: ignore[union-attr]
    rows = (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
    assert [dag.stem for dag in (ROOT / "dags").glob("*.py") if f"\n| `{dag.stem}`" not in rows] == []


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs" / "images").glob("*.png")]
    assert len(pictures) >= 2 and [p.name for p in pictures if p.stat().st_size > 150_000] == []


if __name__ == "__main__":
    head, rest = CONFIGURATION.read_text(encoding="utf-8").split(START)
    CONFIGURATION.write_text(head + START + table() + END + rest.split(END, 1)[1], encoding="utf-8")
    sys.stdout.write("docs/configuration.md: table written\n")
