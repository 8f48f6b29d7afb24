"""Navigation at the edges of an HTML page: links to the previous and next page without other text."""

import re
from collections.abc import Iterable

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

NAVIGATION_TAGS = ["div", "p", "table", "ul", "ol", "dl", "center", "section", "tr"]
HEADING_TAGS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary"]
RELATIONS = {"prev", "previous", "next", "up", "start", "first", "last", "home", "contents", "index"}
ACCESS_KEYS = {"p", "n", "u", "h"}  #: access keys of such links from generators (DocBook, Texinfo)

_DIRECTION_WORDS = re.compile(
    r"\b(?:prev(?:ious)?|next|up|home|top|contents|table of contents|index|back|zurück|weiter|nach oben|inhalt|"
    r"précédent|suivant|sommaire|accueil|anterior|siguiente|próximo|inicio|índice|precedente|successivo|vorige|volgende|page|"
    r"chapter|section)\b",
    re.IGNORECASE,
)
_NO_LETTERS = re.compile(r"[\W\d_]+")


def remove_navigation(soup: BeautifulSoup, root: Tag | BeautifulSoup, title: str) -> None:
    """Remove navigation blocks at the beginning and end of `root`.

    Their text consists of links to other pages, titles of this page or of pages in its head, and words such as "Next".
    At least one link must be marked as navigation (`rel`, `accesskey`, an address in the page's head, or its words),
    because a list of links may also be the answer to the last question.
    """
    related = [link for link in soup.find_all("link") if _list_relations(link) & RELATIONS]
    titles = {_normalize_text(str(link.get("title") or "")) for link in related} | {_normalize_text(title)}
    addresses = {str(link.get("href")) for link in related}
    _box_page_edges(root)
    for is_at_end in (False, True):
        while box := _find_navigation(root, titles, addresses, is_at_end):
            box.decompose()


def _box_page_edges(root: Tag | BeautifulSoup) -> None:
    """Put the content before the first and after the last `hr` into boxes."""
    lines = [line for line in root.find_all("hr") if line.parent is root]
    for siblings in ([*lines[0].previous_siblings][::-1], [*lines[-1].next_siblings]) if lines else ():
        if siblings:
            box = BeautifulSoup("", "lxml").new_tag("div")
            siblings[0].insert_before(box)
            for node in siblings:
                box.append(node.extract())


def _find_navigation(root: Tag | BeautifulSoup, titles: set[str], addresses: set[str], is_at_end: bool) -> Tag | None:
    texts = [text for text in root.find_all(string=True) if text.strip() and not isinstance(text, PreformattedString)]
    if not texts:
        return None
    boxes: list[Tag] = []
    for parent in texts[-1 if is_at_end else 0].parents:
        if parent is root:
            break
        boxes.append(parent)
    candidates = (box for box in boxes[::-1] if box.name in NAVIGATION_TAGS and not box.find(HEADING_TAGS))
    return next((box for box in candidates if _is_navigation(box, titles, addresses)), None)


def _is_navigation(box: Tag, titles: set[str], addresses: set[str]) -> bool:
    links = [link for link in box.find_all("a", href=True) if not str(link["href"]).startswith("#")]
    is_marked = any(
        _list_relations(link) & RELATIONS
        or str(link.get("accesskey", "")).lower() in ACCESS_KEYS
        or str(link["href"]) in addresses
        or (link.get_text().strip() and not _NO_LETTERS.sub("", _DIRECTION_WORDS.sub("", link.get_text())))
        for link in links
    )
    if not is_marked:
        return False
    other_texts = [text for text in box.find_all(string=True) if not any(parent in links for parent in text.parents)]
    return all(_is_navigation_text(text, titles) for text in other_texts)


def _is_navigation_text(text: NavigableString, titles: Iterable[str]) -> bool:
    words = _normalize_text(text)
    return words in titles or not _NO_LETTERS.sub("", _DIRECTION_WORDS.sub("", words))


def _list_relations(link: Tag) -> set[str]:
    return {str(name).lower() for name in link.get_attribute_list("rel", default="")}


def _normalize_text(text: str) -> str:
    return " ".join(text.split()).casefold()
