"""The layout that docs/architecture.md promises. What may import what is in pyproject.toml, for import-linter."""

import re
from pathlib import Path

from llmops.config import Config
from llmops.pipeline.pipeline import STAGES

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for top in ("llmops", "serving", "dags") for path in (ROOT / top).rglob("*.py"))
MOST_MODULES, MOST_LINES = 14, 300


def test_no_folder_has_too_many_modules_side_by_side() -> None:
    folders = {path.parent for path in MODULES}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_module_is_too_long() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {module: size for module, size in sizes.items() if size > MOST_LINES} == {}


def test_a_stage_is_a_folder_with_its_word() -> None:
    for name, stage in STAGES.items():
        *_, folder, module = stage.module.split(".")
        assert (folder, module) == (name, "stage") and name in Config.model_fields
        assert (ROOT / stage.module.replace(".", "/")).with_suffix(".py").is_file()


def test_tests_stand_where_what_they_test_stands() -> None:
    """Tests of the whole (the app, the data's way through its stages, the demo) stand above the folders they use."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests"}
    places = {str(folder.relative_to(ROOT / "tests")) for folder in folders}
    others = {"benchmarks", "dags", "docker", "e2e", "examples"}
    homeless = {p for p in places - others if not (ROOT / "llmops" / p).is_dir() and not (ROOT / p).is_dir()}
    assert homeless == set()


def test_the_page_about_the_house_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:llmops|serving|dags|tests|docs|docker)/[\w./-]*)`", text)
    assert len(named) > 30 and [path for path in named if not (ROOT / path).exists()] == []
    for top in ("llmops", "serving"):
        folders = {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
        picture = (ROOT / "docs" / "floors.svg").read_text(encoding="utf-8")
        assert {folder for folder in folders if not re.search(rf">(\w+ · )?{folder}\b", picture)} == set()
