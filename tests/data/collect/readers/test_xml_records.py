"""XML."""

import gc
import json
from functools import partial
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from llmops.config import Source
from llmops.data.collect.readers import xml_records
from llmops.data.collect.readers.origin import Origin
from llmops.frame.records import Document, DroppedRow
from tests.data.collect.readers.reading import read_file

read_xml = partial(read_file, "xml")


def parse_fields(item: Document | DroppedRow | None) -> dict[str, str]:
    assert isinstance(item, Document)
    return dict(json.loads(item.fields))


def test_attributes_children_and_repeated_elements_become_fields(tmp_path: Path) -> None:
    xml = (
        '<shop xmlns="urn:x"><about>no</about><product sku="1"><name>Big <b>tent</b></name>'
        '<size unit="m"><w>2</w></size>'
        "<tag>a</tag><tag>b</tag><none/></product><product sku='2'/></shop>"
    )
    first, second = read_xml(tmp_path, xml, records="shop/product")
    assert parse_fields(first) == {
        **{"sku": "1", "name": "Big tent", "name.b": "tent", "size.unit": "m", "size.w": "2", "tag": "a; b", "none": ""}
    }
    assert parse_fields(second) == {"sku": "2"}


@pytest.mark.parametrize(
    ("xml", "path", "expected"),
    [
        ("<r><x><p><p><a>1</a></p></p></x><p><a>2</a></p></r>", "r/p", [{"a": "2"}]),
        ("<r><p><p><a>1</a></p></p></r>", "r/p", [{"p.a": "1"}]),
        ("<r><p>1</p><p><p>2</p></p></r>", "", [{"text": "1"}, {"p": "2"}]),  # the children of the root
        ('<?xml version="1.0" encoding="iso-8859-1"?><r><p><a>Müller</a></p></r>', "", [{"a": "Müller"}]),
    ],
)
def test_records_within_records_are_fields(tmp_path: Path, xml: str, path: str, expected: list[dict[str, str]]) -> None:
    assert [parse_fields(item) for item in read_xml(tmp_path, xml.encode("latin-1"), records=path)] == expected


def test_the_tree_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("<r>" + "<x><y/></x><p><a>1</a></p>" * 3_000 + "</r>")
    items = xml_records.read(tmp_path / "x", Origin(Source(name="s", kind="xml", location="x", records="r/p"), "x"))
    assert sum(1 for _ in islice(items, 2_900)) == 2_900
    # All elements in one block of the file are parsed at once.
    assert sum(isinstance(held, Element) for held in gc.get_objects()) < 6_000


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<![CDATA[def f():\n    return 1\n\n\n  # end]]>", "def f():\n    return 1\n\n\n  # end"),
        ("\n      <![CDATA[\n        if x:  \n            y  = 1\n    ]]></a>\n    <a>", "if x:\n    y  = 1"),
        ("\n      Refunds take\n      5  days.\n    ", "Refunds take\n5  days."),
        ("  if x:\n      y\n  z", "if x:\n    y\nz"),
    ],
)
def test_the_lines_of_a_text_stay(tmp_path: Path, xml: str, text: str) -> None:
    (item,) = read_xml(tmp_path, f"<r><p><a>{xml}</a></p></r>")
    assert parse_fields(item)["a"].removesuffix("; ") == text
