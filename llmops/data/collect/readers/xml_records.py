"""XML files with a repeated record. Entities and external references are refused (defusedxml)."""

from pathlib import Path
from textwrap import dedent
from typing import IO, cast
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, iterparse

from llmops.data.collect.readers.decoding import LARGEST_RECORD, Bytes, find_line, make_size_error, open_bytes
from llmops.data.collect.readers.origin import Items, Origin

MAX_DEPTH = 500  #: most levels of nesting; each takes memory until its end
BLOCK_OPENERS = (":", "{", "(", "[", "then", "do")  #: ends of lines of code after which lines are indented
LISTED_PATHS = 5  #: elements listed in the message about missing records


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record at the source's `records` path; default: each child of the root element.

    A record's fields are its attributes and child elements. Deeper ones are named `parent.child`, repeated ones are
    joined by "; ". A text keeps its lines if its element has no children. Records before a syntax error are yielded,
    and the error is quarantined with its line. One record is held in memory.

    Raises:
        SourceError: if no record has a configured field.
        UnreadableError: if a gzip file is cut off, or no record ends within `LARGEST_RECORD` bytes. The records
            before were yielded.
    """
    record_path = origin.source.records.strip("/").split("/") if origin.source.records else []
    depth = len(record_path) or 2
    names, elements = list[str](), list[Element]()
    number = 0
    seen: dict[str, None] = {}
    paths: dict[str, None] = {}
    with open_bytes(path) as unlimited_file:
        file = LimitedFile(unlimited_file)
        parser = DefusedXMLParser(encoding=origin.source.encoding or None)
        try:
            for event, element in iterparse(cast(IO[bytes], file), events=("start", "end"), parser=parser):
                if event == "start":
                    names.append(_strip_namespace(element.tag))
                    elements.append(element)
                    if len(names) > MAX_DEPTH:
                        raise RecursionError
                    if len(paths) < LISTED_PATHS:
                        paths["/".join(names[:depth])] = None
                    continue
                is_on_path = len(names) >= depth and (not record_path or names[:depth] == record_path)
                if is_on_path and len(names) == depth:
                    number += 1
                    values = _extract_fields(element)
                    seen.update(dict.fromkeys(values))
                    yield origin.convert_row(f"record {number}", values)
                is_inside_record = is_on_path and len(names) > depth
                names.pop()
                elements.pop()
                if not is_inside_record:
                    file.bytes_since_record = 0
                if elements and not is_inside_record:
                    elements[-1].remove(element)  # otherwise the tree grows to the size of the file
        except ParseError as error:
            line, column = error.position
            detail = f"line {line}, column {column + 1}: {str(error).split(':')[0]}"
            yield origin.make_dropped(f"line {line}", "malformed", detail, _read_line(path, line))
            return
        except DefusedXmlException as error:
            yield origin.make_dropped("file", "unsafe", f"it declares entities or refers to other files: {error}")
            return
        except RecursionError:
            yield origin.make_dropped(f"record {number}", "malformed", "nested too deeply to be data")
            return
        except (LookupError, ValueError) as error:  # an encoding unknown to the parser
            yield origin.make_dropped("file", "unreadable", f"{error}; save it as UTF-8")
            return
    if seen:
        origin.check_columns(seen)
    elif not number:
        detail = f"no record at `{'/'.join(record_path) or '*/*'}`; there is {', '.join(paths)}"
        yield origin.make_dropped("file", "empty", detail)


class LimitedFile:
    """A file that raises an error if a record is too long, because the parser would hold all of it in memory."""

    def __init__(self, file: Bytes) -> None:
        self.file = file
        self.bytes_since_record = 0  #: bytes read since the last record ended

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            UnreadableError: after more than `LARGEST_RECORD` bytes without a record's end.
        """
        # The parser rereads an unfinished tag with each part, so parts grow with the unfinished data.
        data = self.file.read(max(size, self.bytes_since_record // 4))
        self.bytes_since_record += len(data)
        if self.bytes_since_record > LARGEST_RECORD:
            raise make_size_error(
                LARGEST_RECORD, "bytes in one record", "name the records by the source's `records`, or split it"
            )
        return data


def _extract_fields(element: Element, prefix: str = "") -> dict[str, str]:
    fields = {f"{prefix}{_strip_namespace(key)}": value.strip() for key, value in element.attrib.items()}
    if prefix == "" and not len(element) and (text := _extract_text(element)):
        fields["text"] = text
    for child in element:
        name = f"{prefix}{_strip_namespace(child.tag)}"
        child_fields = _extract_fields(child, f"{name}.")
        if not len(child) or any((text or "").strip() for text in (child.text, *(c.tail for c in child))):
            child_fields[name] = _extract_text(child)
        for key, value in child_fields.items():
            fields[key] = f"{fields[key]}; {value}" if fields.get(key) and value else fields.get(key) or value
    return fields


def _extract_text(element: Element) -> str:
    """Return an element's text: with lines, but without their common margin; in one line if it has children."""
    lines = [line.rstrip() for line in "".join(element.itertext()).split("\n")]
    if len(element) or sum(map(bool, lines)) < 2:
        return " ".join(" ".join(lines).split())
    first, *rest = lines
    if not first or first[0].isspace():
        return dedent("\n".join(lines)).strip("\n")
    margins = {line[: len(line) - len(line.lstrip())] for line in rest if line}
    if len(margins) == 1 and not first.endswith(BLOCK_OPENERS):  # the margin is the file's indentation
        rest = dedent("\n".join(rest)).split("\n")
    return "\n".join([first, *rest]).strip("\n")


def _strip_namespace(tag: str) -> str:
    return tag.rpartition("}")[2]  # without the namespace


def _read_line(path: Path, number: int) -> str:
    with open_bytes(path) as file:
        return find_line(file, number).decode("utf-8", "surrogateescape").rstrip()
