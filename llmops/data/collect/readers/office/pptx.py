"""PowerPoint presentations: a slide's title is a heading, its text, tables and notes are the text below it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmops.data.collect.readers.office.archive_checks import check_archive
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.html_tables import fill_merged_areas, format_table
from llmops.data.collect.readers.pages.sections import PageSection, make_documents

_COMPATIBLE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_SKIPPED_PLACEHOLDERS = ("DATE", "FOOTER", "SLIDE_NUMBER")  #: placeholders without content of the slide


@check_archive
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per slide with text. Hidden slides are left out.

    The title of the first visible slide is the title of the file.
    """
    from pptx import Presentation

    sections: list[PageSection] = []
    for number, slide in enumerate(Presentation(str(path)).slides, start=1):
        if slide.element.get("show") in ("0", "false"):
            continue
        for choice in slide.element.findall(f".//{_COMPATIBLE}AlternateContent/{_COMPATIBLE}Choice[1]"):
            parent = choice.getparent()
            for shape in [*choice]:  # take the place of AlternateContent, in which python-pptx sees no shapes
                parent.addprevious(shape)
            parent.getparent().remove(parent)
        title = slide.shapes.title
        shapes = (shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id)
        parts = ["\n".join(_read_lines(shapes))]
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
            parts.append(notes.text.replace("\v", "\n").strip())
        heading = " ".join(title.text_frame.text.split()) if title is not None else ""
        sections.append(PageSection(f"slide {number}", 1, heading, "\n\n".join(filter(None, parts))))
    yield from make_documents(sections, origin, sections[0].heading if sections else "")


def _read_lines(shapes: Iterable[Any]) -> Iterator[str]:
    """Yield the lines of shapes from top to bottom. Several paragraphs of a placeholder become list items."""
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if shape.is_placeholder and shape.placeholder_format.type.name in _SKIPPED_PLACEHOLDERS:
            continue
        if hasattr(shape, "shapes"):  # a group
            yield from _read_lines(shape.shapes)
        elif shape.has_text_frame:
            paragraphs = [(p.level, text) for p in shape.text_frame.paragraphs if (text := " ".join(p.text.split()))]
            is_list = shape.is_placeholder and len(paragraphs) > 1
            yield from (f"{'  ' * level}- {text}" if is_list else text for level, text in paragraphs)
        elif getattr(shape, "has_table", False):
            rows = [[*row.cells] for row in shape.table.rows]
            merged_areas = (
                (top, left, top + cell.span_height, left + cell.span_width)
                for top, row in enumerate(rows)
                for left, cell in enumerate(row)
                if cell.is_merge_origin
            )
            yield from format_table(
                fill_merged_areas([[" ".join(cell.text.split()) for cell in row] for row in rows], merged_areas)
            )
