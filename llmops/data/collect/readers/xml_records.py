"""XML with a repeated record. Entities and external references are refused (defusedxml)."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import IO, cast
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, iterparse

from llmops.data.collect.readers.decode import LARGEST, Bytes, line_at, open_bytes, too_large
from llmops.data.collect.readers.origin import Items, Origin

DEEPEST = 500  #: elements within each other; more is no data, and each takes memory until it ends
OPENS = (":", "{", "(", "[", "then", "do")  #: ends a line of code, below which others are moved in
SHOWN = 5  #: elements that are named where the wanted ones are missing


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record at the source's `records` path, by default each child of the root element.

    A record's fields are its attributes and child elements; deeper ones are named `parent.child`, repeated ones are
    joined by "; ". A text keeps its lines if its element holds no others. What precedes a break in the file is read,
    the break is quarantined with its line. One record is held in memory.

    Raises:
        SourceError: if a field that the configuration names is in no record.
        Unreadable: where a gzip file breaks off, or where no record ends within `LARGEST` bytes; the records before it
            have been yielded then.
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
                    elements[-1].remove(element)  # done with; the tree would grow to the size of the file
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
        except (LookupError, ValueError) as error:  # an encoding that the parser does not know
            yield origin.dropped("file", "unreadable", f"{error}; save it as UTF-8")
            return
    if seen:
        origin.check(seen)
    elif not number:
        detail = f"no record at `{'/'.join(wanted) or '*/*'}`; there is {', '.join(there)}"
        yield origin.dropped("file", "empty", detail)


class Metered:
    """A file that refuses to be read on when a record does not end, since the parser would hold all of it."""

    def __init__(self, file: Bytes) -> None:
        self.file = file
        self.since = 0  #: bytes read since the last record ended

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            Unreadable: if there have been more than `LARGEST` without a record's end.
        """
        # The parser looks at a tag again from its start with each part of it, so parts grow with what is unfinished.
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
    """Its text: in its lines, which code needs, but for the margin that they share; with others in it, in one line."""
    lines = [line.rstrip() for line in "".join(element.itertext()).split("\n")]
    if len(element) or sum(map(bool, lines)) < 2:
        return " ".join(" ".join(lines).split())
    first, *rest = lines
    if not first or first[0].isspace():
        return dedent("\n".join(lines)).strip("\n")
    margins = {line[: len(line) - len(line.lstrip())] for line in rest if line}
    if len(margins) == 1 and not first.endswith(OPENS):  # what the file's own indentation adds
        rest = dedent("\n".join(rest)).split("\n")
    return "\n".join([first, *rest]).strip("\n")


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]  # without the namespace


def _line(path: Path, number: int) -> str:
    with open_bytes(path) as file:
        return line_at(file, number).decode("utf-8", "surrogateescape").rstrip()
