"""XML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.readers import xml_records
from llmops.data.readers.origin import Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped


def read(tmp_path: Path, text: str | bytes, **source: object) -> list[Document | Dropped | None]:
    (tmp_path / "x.xml").write_bytes(text.encode() if isinstance(text, str) else text)
    return list(xml_records.read(tmp_path / "x.xml", Origin(Source(name="s", kind="xml", location="x", **source), "x")))


def fields(item: Document | Dropped | None) -> dict[str, str]:
    assert isinstance(item, Document)
    return dict(json.loads(item.fields))


def test_attributes_children_and_repeated_elements_become_fields(tmp_path: Path) -> None:
    xml = (
        '<shop xmlns="urn:x"><about>no</about><product sku="1"><name>Big <b>tent</b></name>'
        '<size unit="m"><w>2</w></size>'
        "<tag>a</tag><tag>b</tag><none/></product><product sku='2'/></shop>"
    )
    first, second = read(tmp_path, xml, records="shop/product")
    assert fields(first) == {
        **{"sku": "1", "name": "Big tent", "name.b": "tent", "size.unit": "m", "size.w": "2", "tag": "a; b", "none": ""}
    }
    assert fields(second) == {"sku": "2"}


def test_by_default_the_children_of_the_root_are_records(tmp_path: Path) -> None:
    assert [fields(item) for item in read(tmp_path, "<r><p>1</p><p><p>2</p></p></r>")] == [{"text": "1"}, {"p": "2"}]


def test_what_precedes_a_break_goes_on(tmp_path: Path) -> None:
    good, bad = read(tmp_path, "<r>\n<p><a>1</a></p>\n<p><a>2</b></p>\n<p><a>3</a></p></r>")
    assert fields(good) == {"a": "1"}
    assert isinstance(bad, Dropped) and (bad.rule, bad.position) == ("malformed", "line 3")
    assert bad.content == "<p><a>2</b></p>"


@pytest.mark.parametrize(
    "attack",
    [
        '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r><p>&e;</p></r>',
        '<!DOCTYPE r [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><r><p>&b;</p></r>',
    ],
)
def test_entities_are_refused(tmp_path: Path, attack: str) -> None:
    assert [item.rule for item in read(tmp_path, attack) if isinstance(item, Dropped)] == ["unsafe"]


def test_the_declared_encoding_is_used(tmp_path: Path) -> None:
    xml = '<?xml version="1.0" encoding="iso-8859-1"?><r><p><a>Müller</a></p></r>'.encode("latin-1")
    assert fields(read(tmp_path, xml)[0]) == {"a": "Müller"}


@pytest.mark.parametrize("data", [b"", b"no xml", b"<r><p><a>caf\xe9</a></p></r>", b"\x00\xff\xfe"])
def test_what_is_no_xml_is_quarantined(tmp_path: Path, data: bytes) -> None:
    assert [item.rule for item in read(tmp_path, data) if isinstance(item, Dropped)] == ["malformed"]


def test_a_field_that_no_record_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'title'"):
        read(tmp_path, "<r><p><a>1</a></p></r>", fields={"question": "title"})
