"""Navigation at the edges of an HTML page: links to the previous and next page without other text."""

import re
from collections.abc import Iterable

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

BLOCKS = ["div", "p", "table", "ul", "ol", "dl", "center", "section", "tr"]
HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary"]
RELATIONS = {"prev", "previous", "next", "up", "start", "first", "last", "home", "contents", "index"}
KEYS = {"p", "n", "u", "h"}  #: access keys of such links from generators (DocBook, Texinfo)

_DIRECTION = re.compile(
    r"\b(?:prev(?:ious)?|next|up|home|top|contents|table of contents|index|back|zurück|weiter|nach oben|inhalt|"
    r"précédent|suivant|sommaire|accueil|anterior|siguiente|próximo|inicio|índice|precedente|successivo|vorige|volgende|page|"
    r"chapter|section)\b",
    re.IGNORECASE,
)
_SILENT = re.compile(r"[\W\d_]+")


def remove_navigation(soup: BeautifulSoup, root: Tag | BeautifulSoup, title: str) -> None:
    """Remove navigation blocks at the beginning and end of `root`.

    Their text consists of links to other pages, titles of this page or of pages in its head, and words such as "Next".
    At least one link must be marked as navigation (`rel`, `accesskey`, an address in the page's head, or its words),
    because a list of links may also be the answer to the last question.
    """
    related = [link for link in soup.find_all("link") if _relations(link) & RELATIONS]
    titles = {_plain(str(link.get("title") or "")) for link in related} | {_plain(title)}
    addresses = {str(link.get("href")) for link in related}
    _box_rules(root)
    for last in (False, True):
        while box := _box(root, titles, addresses, last):
            box.decompose()


def _box_rules(root: Tag | BeautifulSoup) -> None:
    """Put the content before the first and after the last `hr` into boxes."""
    rules = [rule for rule in root.find_all("hr") if rule.parent is root]
    for siblings in ([*rules[0].previous_siblings][::-1], [*rules[-1].next_siblings]) if rules else ():
        if siblings:
            box = BeautifulSoup("", "lxml").new_tag("div")
            siblings[0].insert_before(box)
            for node in siblings:
                box.append(node.extract())


def _box(root: Tag | BeautifulSoup, titles: set[str], addresses: set[str], last: bool) -> Tag | None:
    texts = [text for text in root.find_all(string=True) if text.strip() and not isinstance(text, PreformattedString)]
    if not texts:
        return None
    boxes: list[Tag] = []
    for parent in texts[-1 if last else 0].parents:
        if parent is root:
            break
        boxes.append(parent)
    fitting = (box for box in boxes[::-1] if box.name in BLOCKS and not box.find(HEADINGS))
    return next((box for box in fitting if _is_navigation(box, titles, addresses)), None)


def _is_navigation(box: Tag, titles: set[str], addresses: set[str]) -> bool:
    links = [link for link in box.find_all("a", href=True) if not str(link["href"]).startswith("#")]
    marked = any(
        _relations(link) & RELATIONS
        or str(link.get("accesskey", "")).lower() in KEYS
        or str(link["href"]) in addresses
        or (link.get_text().strip() and not _SILENT.sub("", _DIRECTION.sub("", link.get_text())))
        for link in links
    )
    if not marked:
        return False
    outside = [text for text in box.find_all(string=True) if not any(parent in links for parent in text.parents)]
    return all(_says_nothing(text, titles) for text in outside)


def _says_nothing(text: NavigableString, titles: Iterable[str]) -> bool:
    said = _plain(text)
    return said in titles or not _SILENT.sub("", _DIRECTION.sub("", said))


def _relations(link: Tag) -> set[str]:
    return {str(name).lower() for name in link.get_attribute_list("rel", default="")}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
