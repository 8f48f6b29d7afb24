"""Reference links of a Markdown page (`[guide][1]` … `[1]: https://…`), replaced by links with their addresses."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token

Edit = tuple[int, int, str]  #: start and end of a label in a block's text, and the address that replaces it
Edits = Mapping[str, Collection[Edit]]  #: text of a block → its edits


def record_references(parser: MarkdownIt) -> Edits:
    """Return a mapping that the parser will fill with the labels of the links it finds."""
    edits: defaultdict[str, set[Edit]] = defaultdict(set)

    def wrap_rule(rule: Callable[[StateInline, bool], bool], bracket: int) -> Callable[[StateInline, bool], bool]:
        def run_rule(state: StateInline, silent: bool) -> bool:
            start, count = state.pos + bracket, len(state.tokens)
            if not rule(state, silent):
                return False
            end = state.md.helpers.parseLinkLabel(state, start, rule is link) + 1
            follows_exclamation_mark = rule is link and state.src[:start].endswith(
                "!"
            )  # with an address it would become an image
            if not silent and not follows_exclamation_mark and (end == state.pos or state.src[end] == "["):
                token = next(token for token in state.tokens[count:] if token.type in ("link_open", "image"))
                edits[state.src].add((end, state.pos, _format_address(token)))
            return True

        return run_rule

    parser.inline.ruler.at("link", wrap_rule(link, 0))
    parser.inline.ruler.at("image", wrap_rule(image, 1))
    return edits


def insert_addresses(lines: Sequence[str], blocks: Iterable[Token], edits: Edits) -> list[str]:
    """Return the lines of a page with addresses in place of labels. A label that spans lines stays."""
    result = [*lines]
    replacements: list[tuple[int, int, int, str]] = []
    search_starts: dict[int, int] = {}  # line → column from which the next table cell is searched
    first = 0
    for block in blocks:
        first = block.map[0] if block.map else first
        if block.type != "inline":
            continue
        offset = 0
        for number, text in enumerate(block.content.split("\n"), start=first):
            column = lines[number].find(text.rstrip(), search_starts.get(number, 0))
            if column >= 0:
                search_starts[number] = column + len(text.rstrip())
                replacements += [
                    (number, column + start - offset, column + end - offset, address)
                    for start, end, address in edits.get(block.content, ())
                    if offset <= start and end <= offset + len(text)
                ]
            offset += len(text) + 1
    for number, start, end, address in sorted(replacements, reverse=True):
        result[number] = result[number][:start] + address + result[number][end:]
    return result


def _format_address(token: Token) -> str:
    address = str(token.attrGet("href") or token.attrGet("src") or "")
    address = f"<{address}>" if set(address) & set("() ") else address
    title = str(token.attrGet("title") or "").replace('"', '\\"')
    return f'({address} "{title}")' if title else f"({address})"
