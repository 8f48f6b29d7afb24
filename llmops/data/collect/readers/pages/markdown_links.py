"""Reference links of a Markdown page (`[guide][1]` … `[1]: https://…`), replaced by links with their addresses."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token

Edit = tuple[int, int, str]  #: start and end of a label in a block's text, and the address that replaces it
Edits = Mapping[str, Collection[Edit]]  #: text of a block → its edits


def references(parser: MarkdownIt) -> Edits:
    """Return a mapping that the parser will fill with the labels of the links it finds."""
    found: defaultdict[str, set[Edit]] = defaultdict(set)

    def recorded(rule: Callable[[StateInline, bool], bool], bracket: int) -> Callable[[StateInline, bool], bool]:
        def run(state: StateInline, silent: bool) -> bool:
            start, count = state.pos + bracket, len(state.tokens)
            if not rule(state, silent):
                return False
            end = state.md.helpers.parseLinkLabel(state, start, rule is link) + 1
            exclaimed = rule is link and state.src[:start].endswith("!")  # with an address it would become an image
            if not silent and not exclaimed and (end == state.pos or state.src[end] == "["):
                token = next(token for token in state.tokens[count:] if token.type in ("link_open", "image"))
                found[state.src].add((end, state.pos, _address(token)))
            return True

        return run

    parser.inline.ruler.at("link", recorded(link, 0))
    parser.inline.ruler.at("image", recorded(image, 1))
    return found


def with_addresses(lines: Sequence[str], blocks: Iterable[Token], edits: Edits) -> list[str]:
    """Return the lines of a page with addresses in place of labels. A label that spans lines stays."""
    out = [*lines]
    todo: list[tuple[int, int, int, str]] = []
    begins: dict[int, int] = {}  # line → column from which the next table cell is searched
    first = 0
    for block in blocks:
        first = block.map[0] if block.map else first
        if block.type != "inline":
            continue
        offset = 0
        for number, text in enumerate(block.content.split("\n"), start=first):
            column = lines[number].find(text.rstrip(), begins.get(number, 0))
            if column >= 0:
                begins[number] = column + len(text.rstrip())
                todo += [
                    (number, column + start - offset, column + end - offset, address)
                    for start, end, address in edits.get(block.content, ())
                    if offset <= start and end <= offset + len(text)
                ]
            offset += len(text) + 1
    for number, start, end, address in sorted(todo, reverse=True):
        out[number] = out[number][:start] + address + out[number][end:]
    return out


def _address(token: Token) -> str:
    address = str(token.attrGet("href") or token.attrGet("src") or "")
    address = f"<{address}>" if set(address) & set("() ") else address
    title = str(token.attrGet("title") or "").replace('"', '\\"')
    return f'({address} "{title}")' if title else f"({address})"
