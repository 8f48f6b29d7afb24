"""The collector's configurations for cloud monitors: each with the common part, as the collector merges them.

That the common part runs, and that events come through it, is tested by tests/events/sinks/test_otlp.py.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "otel"
PAGE = (ROOT / "docs" / "cloud_monitors.md").read_text(encoding="utf-8")
MONITORS = {"google.yaml", "azure.yaml", "aws.yaml", "grafana.yaml"}


def merged(first: Any, second: Any) -> Any:
    """Merge two configurations as the collector does: maps key by key, of anything else the second counts."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    return first | {key: merged(first[key], said) if key in first else said for key, said in second.items()}


def test_the_page_shows_each_file_as_it_is_and_names_its_variables() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert files.keys() == MONITORS | {"collector.yaml", "file.yaml"}
    assert [name for name, text in files.items() if f"```yaml\n{text}```\n" not in PAGE] == []
    prose = re.sub(r"^```yaml\n.*?^```\n", "", PAGE, flags=re.M | re.S)
    variables = {name for text in files.values() for name in re.findall(r"\$\{env:(\w+)", text)}
    assert variables and {name for name in variables if f"`{name}" not in prose} == set()


@pytest.mark.parametrize("name", sorted(MONITORS | {"file.yaml"}))
def test_its_pipelines_have_what_is_declared_and_send_events_and_traces_on(name: str) -> None:
    common, own = (yaml.safe_load((FOLDER / file).read_text(encoding="utf-8")) for file in ("collector.yaml", name))
    said = merged(common, own)
    pipelines = said["service"]["pipelines"]
    assert pipelines.keys() == {"logs", "traces"}
    for kind in ("receivers", "processors", "exporters"):
        used = {one for pipeline in pipelines.values() for one in pipeline[kind]}
        assert used == said[kind].keys(), kind
    assert all(pipeline["exporters"] for pipeline in pipelines.values())
    assert "batch" not in pipelines["logs"]["processors"]  # it would answer before the monitor has the events
    secrets = [value for key, value in yaml_leaves(own) if re.search("string|project|endpoint|Authorization", key)]
    assert [value for value in secrets if "${env:" not in value] == []


def yaml_leaves(said: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [yaml_leaves(value) if isinstance(value, dict) else [(key, str(value))] for key, value in said.items()]
    return [leaf for part in parts for leaf in part]
