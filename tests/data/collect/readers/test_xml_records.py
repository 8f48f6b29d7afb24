"""XML."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.collect.readers import xml_records
from llmops.data.collect.readers.decode import Unreadable
from llmops.data.collect.readers.origin import Origin
from llmops.records import Document, Dropped
from tests.data.collect.readers.reading import read_file

read = partial(read_file, "xml")


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


@pytest.mark.parametrize(
    ("xml", "path", "expected"),
    [
        ("<r><x><p><p><a>1</a></p></p></x><p><a>2</a></p></r>", "r/p", [{"a": "2"}]),
        ("<r><p><p><a>1</a></p></p></r>", "r/p", [{"p.a": "1"}]),
        ("<r><p>1</p><p><p>2</p></p></r>", "", [{"text": "1"}, {"p": "2"}]),  # the children of the root
        ('<?xml version="1.0" encoding="iso-8859-1"?><r><p><a>Müller</a></p></r>', "", [{"a": "Müller"}]),
    ],
)
def test_records_inside_of_records_are_fields(
    tmp_path: Path, xml: str, path: str, expected: list[dict[str, str]]
) -> None:
    assert [fields(item) for item in read(tmp_path, xml.encode("latin-1"), records=path)] == expected


def test_gzip_is_unzipped_and_a_cut_one_gives_what_precedes(tmp_path: Path) -> None:
    data = gzip.compress(("<r>" + "".join(f"<p><a>{n * n * 7919}</a></p>" for n in range(9_000)) + "</r>").encode())
    assert len(read(tmp_path, data)) == 9_000
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    items, got = xml_records.read(tmp_path / "x", Origin(Source(name="s", kind="xml", location="x"), "x")), 0
    with pytest.raises(Unreadable):
        for _ in items:
            got += 1
    assert 1000 < got < 9_000


PEAK = """
import sys, tracemalloc
from pathlib import Path
from llmops.config import Source
from llmops.data.collect.readers import xml_records
from llmops.data.collect.readers.origin import Origin

origin = Origin(Source(name="s", kind="xml", location="x", records="r/p"), "x")

def peak(records):
    path = Path(sys.argv[1], "x.xml")
    path.write_text("<r>" + "<x><y/></x><p><a>1</a></p>" * records + "</r>")
    tracemalloc.start()
    assert sum(1 for _ in xml_records.read(path, origin)) == records
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

peak(100)  # whatever is only made once
assert peak(5_000) < 1.2 * peak(1_500) + 80_000
"""


def test_the_tree_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # In a process of its own: threads that other tests have left behind are counted, too.
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<![CDATA[def f():\n    return 1\n\n\n  # end]]>", "def f():\n    return 1\n\n\n  # end"),
        ("\n      <![CDATA[\n        if x:  \n            y  = 1\n    ]]></a>\n    <a>", "if x:\n    y  = 1"),
        ("\n      Refunds take\n      5  days.\n    ", "Refunds take\n5  days."),
        ("  if x:\n      y\n  z", "if x:\n    y\nz"),
        ("Press <b>it</b>\n  and wait", "Press it and wait"),
    ],
)
def test_the_lines_of_a_text_stay(tmp_path: Path, xml: str, text: str) -> None:
    (item,) = read(tmp_path, f"<r><p><a>{xml}</a></p></r>")
    assert fields(item)["a"].removesuffix("; ") == text
