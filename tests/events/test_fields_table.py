"""The fields in docs/events.md are those of the registry: `python tests/events/test_fields_table.py`."""

import sys
from pathlib import Path

from llmops.events.datasets import DATASETS
from llmops.events.fields import FIELDS
from llmops.events.fields.field import Field

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
START, END = (
    "<!-- fields: written by `python tests/events/test_fields_table.py`, checked by the same test -->\n",
    "<!-- /fields -->",
)


def render_tables() -> str:
    several = [field for field in FIELDS if len(field.datasets) != 1]
    parts = ["Fields of several kinds of events:\n", _render_table(several, datasets=True)]
    for dataset, meaning in DATASETS.items():
        if own := [field for field in FIELDS if field.datasets == (dataset,)]:
            parts += [f"\n`{dataset}`: {meaning}\n", _render_table(own, datasets=False)]
        else:
            parts += [f"\n`{dataset}`: {meaning}; it has no fields of its own\n"]
    return "\n".join(parts) + "\n"


def _render_table(fields: list[Field], datasets: bool) -> str:
    rows = ["| field | type | meaning | personal |" + (" in |" if datasets else "")]
    rows.append("|---|---|---|---|" + ("---|" if datasets else ""))
    for field in fields:
        meaning, personal = field.meaning.replace("|", "\\|"), "yes" if field.personal else ""
        row = f"| `{field.name}` | {field.type} | {meaning} | {personal} |"
        where = ", ".join(f"`{name}`" for name in field.datasets) or "every event"
        rows.append(row + (f" {where} |" if datasets else ""))
    return "\n".join(rows)


def test_the_table_of_fields_is_up_to_date() -> None:
    assert START + render_tables() + END in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    head, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(head + START + render_tables() + END + rest.split(END, 1)[1], encoding="utf-8")
    sys.stdout.write("docs/events.md: table of fields written\n")
