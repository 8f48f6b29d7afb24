"""XML files with a repeated record. Entities and external references are refused (defusedxml)."""

from pathlib import Path
from textwrap import dedent
from typing import IO, cast
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, iterparse

from llmops.data.collect.readers.decode import LARGEST, Bytes, line_at, open_bytes, too_large
from llmops.data.collect.readers.origin import Items, Origin

DEEPEST = 500  #: most levels of nesting; each takes memory until its end
OPENS = (":", "{", "(", "[", "then", "do")  #: ends of lines of code after which lines are indented
SHOWN = 5  #: elements listed in the message about missing records


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record at the source's `records` path; default: each child of the root element.

    A record's fields are its attributes and child elements. Deeper ones are named `parent.child`, repeated ones are
    joined by "; ". A text keeps its lines if its element has no children. Records before a syntax error are yielded,
    and the error is quarantined with its line. One record is held in memory.

    Raises:
        SourceError: if no record has a configured field.
        Unreadable: if a gzip file is cut off, or no record ends within `LARGEST` bytes. The records before were
            yielded.
    """
    wanted = origin.source.records.strip("/").split("/") if origin.source.records else []
    depth = len(wanted) or 2
    names, elements = list[str](), list[Element]()
    number = 0
    seen: dict[str, None] = {}
    there: dict[str, None] = {}
    with open_bytes(path) as unmetered:
        file = Metered(unmetered)
        parser = DefusedXMLParser(encoding=origin.source.encoding or None)
        try:
            for event, element in iterparse(cast(IO[bytes], file), events=("start", "end"), parser=parser):
                if event == "start":
                    names.append(_name(element.tag))
                    elements.append(element)
                    if len(names) > DEEPEST:
                        raise RecursionError
                    if len(there) < SHOWN:
                        there["/".join(names[:depth])] = None
                    continue
                fits = len(names) >= depth and (not wanted or names[:depth] == wanted)
                if fits and len(names) == depth:
                    number += 1
                    values = _fields(element)
                    seen.update(dict.fromkeys(values))
                    yield origin.row(f"record {number}", values)
                inside = fits and len(names) > depth
                names.pop()
                elements.pop()
                if not inside:
                    file.since = 0
                if elements and not inside:
                    elements[-1].remove(element)  # otherwise the tree grows to the size of the file
        except ParseError as error:
            line, column = error.position
            detail = f"line {line}, column {column + 1}: {str(error).split(':')[0]}"
            yield origin.dropped(f"line {line}", "malformed", detail, _line(path, line))
            return
        except DefusedXmlException as error:
            yield origin.dropped("file", "unsafe", f"it declares entities or refers to other files: {error}")
            return
        except RecursionError:
            yield origin.dropped(f"record {number}", "malformed", "nested too deeply to be data")
            return
        except (LookupError, ValueError) as error:  # an encoding unknown to the parser
            yield origin.dropped("file", "unreadable", f"{error}; save it as UTF-8")
            return
    if seen:
        origin.check(seen)
    elif not number:
        detail = f"no record at `{'/'.join(wanted) or '*/*'}`; there is {', '.join(there)}"
        yield origin.dropped("file", "empty", detail)


class Metered:
    """A file that raises if a record does not end, because the parser would hold all of it in memory."""

    def __init__(self, file: Bytes) -> None:
        self.file = file
        self.since = 0  #: bytes read since the last record ended

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            Unreadable: after more than `LARGEST` bytes without a record's end.
        """
        # The parser rereads an unfinished tag with each part, so parts grow with the unfinished data.
        data = self.file.read(max(size, self.since // 4))
        self.since += len(data)
        if self.since > LARGEST:
            raise too_large(LARGEST, "bytes in one record", "name the records by the source's `records`, or split it")
        return data


def _fields(element: Element, prefix: str = "") -> dict[str, str]:
    out = {f"{prefix}{_name(key)}": value.strip() for key, value in element.attrib.items()}
    if prefix == "" and not len(element) and (text := _text(element)):
        out["text"] = text
    for child in element:
        name = f"{prefix}{_name(child.tag)}"
        found = _fields(child, f"{name}.")
        if not len(child) or any((text or "").strip() for text in (child.text, *(c.tail for c in child))):
            found[name] = _text(child)
        for key, value in found.items():
            out[key] = f"{out[key]}; {value}" if out.get(key) and value else out.get(key) or value
    return out


def _text(element: Element) -> str:
    """Return an element's text: with lines, but without their common margin; in one line if it has children."""
    lines = [line.rstrip() for line in "".join(element.itertext()).split("\n")]
    if len(element) or sum(map(bool, lines)) < 2:
        return " ".join(" ".join(lines).split())
    first, *rest = lines
    if not first or first[0].isspace():
        return dedent("\n".join(lines)).strip("\n")
    margins = {line[: len(line) - len(line.lstrip())] for line in rest if line}
    if len(margins) == 1 and not first.endswith(OPENS):  # the margin is the file's indentation
        rest = dedent("\n".join(rest)).split("\n")
    return "\n".join([first, *rest]).strip("\n")


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]  # without the namespace


def _line(path: Path, number: int) -> str:
    with open_bytes(path) as file:
        return line_at(file, number).decode("utf-8", "surrogateescape").rstrip()
