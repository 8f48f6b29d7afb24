"""XML with a repeated record. Entities and external references are refused (defusedxml)."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, iterparse

from llmops.data.readers.origin import Items, Origin


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record at the source's `records` path, by default each child of the root element.

    A record's fields are its attributes and child elements; deeper ones are named `parent.child`, repeated ones are
    joined by "; ". What precedes a break in the file is read, the break is quarantined with its line.

    Raises:
        SourceError: if a field that the configuration names is in no record.
    """
    wanted = origin.source.records.strip("/").split("/") if origin.source.records else []
    stack: list[str] = []
    number = 0
    seen: dict[str, None] = {}
    with open(path, "rb") as file:
        parser = DefusedXMLParser(encoding=origin.source.encoding or None)
        try:
            for event, element in iterparse(file, events=("start", "end"), parser=parser):
                if event == "start":
                    stack.append(_name(element.tag))
                    continue
                if stack == wanted or (not wanted and len(stack) == 2):
                    number += 1
                    values = _fields(element)
                    seen.update(dict.fromkeys(values))
                    yield origin.row(f"record {number}", values)
                    element.clear()
                stack.pop()
        except ParseError as error:
            line, column = error.position
            detail = f"line {line}, column {column + 1}: {str(error).split(':')[0]}"
            yield origin.dropped(f"line {line}", "malformed", detail, _line(path, line))
        except DefusedXmlException as error:
            yield origin.dropped("file", "unsafe", f"it declares entities or refers to other files: {error}")
    if seen:
        origin.check(seen)


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
    return " ".join("".join(element.itertext()).split())


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]  # without the namespace


def _line(path: Path, number: int) -> str:
    lines = path.read_bytes().splitlines()
    return lines[number - 1].decode("utf-8", "surrogateescape") if number <= len(lines) else ""
