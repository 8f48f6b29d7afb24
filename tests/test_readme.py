"""The README's configuration table is made from the code: `python tests/test_readme.py` writes it anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from llmops.config import Config, Section

README = Path(__file__).parent.parent / "README.md"
START, END = (
    "<!-- configuration: written by `python tests/test_readme.py`, checked by the same test -->\n",
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
        value = "" if value == Path() else value.relative_to(README.parent) if value.is_absolute() else value
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text.replace("|", "\\|")
    return f"`{text}`" if text not in ("", "{}") else ""


def test_configuration_table_is_up_to_date_and_describes_every_field() -> None:
    assert START + table() + END in README.read_text(encoding="utf-8")
    assert [line for line in table().splitlines() if line.endswith("|  |")] == []


def test_every_file_it_names_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:examples|dags|llmops|serving|feature_repo|docs)/[\w./-]*)`", text) + re.findall(
        r"\]\((docs/[^)#]+)", text
    )
    assert paths
    assert [p for p in paths if not (README.parent / p).exists()] == []


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(START)
    README.write_text(head + START + table() + END + rest.split(END, 1)[1], encoding="utf-8")
    sys.stdout.write("README.md: configuration table written\n")
