"""The command about the index that was used last: what is in it, and what it finds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from llmops import artifacts
from llmops.cli.command import Add
from llmops.config import Config
from llmops.errors import LlmopsError
from llmops.retention.disk import files, size

if TYPE_CHECKING:
    from llmops.data.index.ranking import Index


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(index)
    sub.add_argument("action", choices=["stats", "search"])
    sub.add_argument("question", nargs="?", default="", help="what to search for")
    sub.add_argument("-k", type=int, default=5, help="how many passages at most, up to 1,000 (default: 5)")
    sub.add_argument("--way", choices=["fused", "bm25", "dense"], default="fused", help="how they are ranked")


def index(settings: Config, options: argparse.Namespace) -> None:
    """What can be found in the documents: count the passages of the index that was used last, or search them."""
    folder = artifacts.newest(settings.artifacts / "index")
    if options.action == "stats":
        _stats(settings, folder, options)
    else:
        _search(settings, folder, options)


def _opened(settings: Config, folder: Path) -> Index:
    """The index, on the server if it is there; that is the served one alone."""
    from llmops.data.index.elasticsearch import opener
    from llmops.data.index.search import open_index
    from llmops.registry.indexes import served_index
    from llmops.registry.registry import registry_of

    served = served_index(registry_of(settings))
    return opener(settings)(folder) if served and served.name == folder.name else open_index(folder)


def _stats(settings: Config, folder: Path, options: argparse.Namespace) -> None:
    record = artifacts.read_record(folder)
    with _opened(settings, folder) as opened:
        counts = record.metrics | opened.count()  # an erasure leaves what was counted when it was made
    found = {"artifact": str(folder), "interval": record.interval, "bytes": size(files(folder)), **counts}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{folder}, of the interval {record.interval}:")
    for name in ("documents", "passages", "words"):
        print(f"  {name:<28} {found[name]:>10,}")
    for kind, word in (("sources", "passages of"), ("dropped", "left out:"), ("redactions", "redacted:")):
        for name, number in found[kind].items():
            print(f"  {word + ' ' + name.replace('_', ' '):<28} {number:>10,}")
    print(f"  {'on the disk':<28} {found['bytes'] / 1e6:>10,.1f} MB")
    print(f"  {'vectors by':<28} {found['model'] or 'nothing'}")


def _search(settings: Config, folder: Path, options: argparse.Namespace) -> None:
    if not options.question:
        raise LlmopsError('Say what to search for, as in `llmops index search "How long does delivery take?"`.')
    with _opened(settings, folder) as opened:
        hits = opened.search(options.question, options.k, options.way)
    if options.json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
        return
    for number, hit in enumerate(hits, 1):
        passage = hit.passage
        ranks = ", ".join(f"{way} {rank}" for way, rank in (("bm25", hit.bm25), ("dense", hit.dense)) if rank)
        print(f"{number}. {passage.headings or passage.title or passage.source}  ({hit.score:.4f}; {ranks})")
        print(f"   {passage.source}: {passage.location}, {passage.position}")
        print(indent(passage.text, "   ") + "\n")
    if not hits:
        print("Nothing was found.")
