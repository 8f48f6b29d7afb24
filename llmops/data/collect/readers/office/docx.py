"""Word documents, converted to HTML by mammoth and cut at their headings. Pictures and links are not opened."""

from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Tag

from llmops.data.collect.readers.office.archive import archived
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages import html

# How styles become HTML, beside mammoth's own table; `!` leaves out the table of contents.
_STYLES = r"""
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


@archived
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it. See `html.book_items`."""
    import mammoth

    with path.open("rb") as file:
        no_picture = mammoth.images.img_element(lambda picture: {})
        made = mammoth.convert_to_html(
            file, style_map=_STYLES, include_embedded_style_map=False, convert_image=no_picture
        )
    soup = html.parsed(made.value.encode(), "utf-8")
    _write_notes(soup)
    for row in soup.select("table > tr:first-child"):  # Word marks no header unless each page repeats it
        cells, below = row.find_all("td", recursive=False), row.find_next_sibling("tr")
        if len(cells) == 1 and isinstance(below, Tag):
            row.name, cells = "caption", below.find_all("td", recursive=False)
        for cell in cells:
            cell.name = "th"
    title = soup.select_one("p.title")
    yield from html.book_items(soup, origin, title.extract().get_text() if title else "")


def _write_notes(soup: BeautifulSoup) -> None:
    """Move each footnote in brackets to its mark."""
    notes = {str(note["id"]): note for note in soup.select("li[id*='note-']")}
    for mark in soup.select("sup > a[id*='note-ref-']"):
        if mark.parent and (note := notes.pop(str(mark["href"])[1:], None)):
            mark.parent.replace_with(f" [{' '.join(note.get_text().split()).removesuffix('↑').rstrip()}]")
            note.decompose()
