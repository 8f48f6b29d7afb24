"""Word documents, converted to HTML by mammoth and cut at their headings. Pictures and links are not opened."""

from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Tag

from llmops.data.collect.readers.office.archive_checks import check_archive
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages import html

# How styles become HTML, beside mammoth's own table; `!` drops the paragraphs of the table of contents.
_STYLE_MAP = r"""
p[style-name='Title'] => p.title:fresh
p[style-name='Heading 5'] => h5:fresh
p[style-name='Heading 6'] => h6:fresh
p[style-name='HTML Preformatted'] => pre:separator('\n')
p[style-name='Preformatted Text'] => pre:separator('\n')
p[style-name='List Bullet 2'] => ul|ol > li > ul > li:fresh
p[style-name='List Bullet 3'] => ul|ol > li > ul|ol > li > ul > li:fresh
p[style-name='List Number 2'] => ul|ol > li > ol > li:fresh
p[style-name='List Number 3'] => ul|ol > li > ul|ol > li > ol > li:fresh
p[style-name^='toc '] => !
"""


@check_archive
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it. See `html.convert_book`."""
    import mammoth

    with path.open("rb") as file:
        skip_picture = mammoth.images.img_element(lambda picture: {})
        converted = mammoth.convert_to_html(
            file, style_map=_STYLE_MAP, include_embedded_style_map=False, convert_image=skip_picture
        )
    soup = html.parse_html(converted.value.encode(), "utf-8")
    _move_notes(soup)
    # Word marks a header only if each page repeats it, so the first row is the header. A single cell above it is the
    # caption.
    for row in soup.select("table > tr:first-child"):
        cells, next_row = row.find_all("td", recursive=False), row.find_next_sibling("tr")
        if len(cells) == 1 and isinstance(next_row, Tag):
            row.name, cells = "caption", next_row.find_all("td", recursive=False)
        for cell in cells:
            cell.name = "th"
    title = soup.select_one("p.title")
    yield from html.convert_book(soup, origin, title.extract().get_text() if title else "")


def _move_notes(soup: BeautifulSoup) -> None:
    """Move each footnote in brackets to its mark."""
    notes = {str(note["id"]): note for note in soup.select("li[id*='note-']")}
    for mark in soup.select("sup > a[id*='note-ref-']"):
        if mark.parent and (note := notes.pop(str(mark["href"])[1:], None)):
            mark.parent.replace_with(f" [{' '.join(note.get_text().split()).removesuffix('↑').rstrip()}]")
            note.decompose()
