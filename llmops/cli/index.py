"""The commands about documents: figures of the index of the last run, a search in it, and answers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from textwrap import indent
from typing import Any

from llmops.cli.command import Add
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame import artifacts
from llmops.frame.errors import LlmopsError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(index)
    sub.add_argument("action", choices=["stats", "search"])
    sub.add_argument("question", nargs="?", default="", help="what to search for")
    sub.add_argument("-k", type=int, default=5, help="most passages that are printed, up to 1,000 (default: 5)")
    sub.add_argument("--way", choices=["fused", "bm25", "dense"], default="fused", help="how they are ranked")
    sub = add(ask)
    sub.add_argument("question")
    sub.add_argument("--show", action="store_true", help="print the whole passages that the answer rests on")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--max-new-tokens", type=int, default=96)


def index(settings: Config, options: argparse.Namespace) -> None:
    """Show the contents of the last run's index of documents, or search it."""
    from llmops.data.retrieval.search import open_index

    folder = artifacts.find_newest(settings.artifacts / "index")
    if options.action == "search" and not options.question:
        raise LlmopsError('Say what to search for, as in `llmops index search "How long does delivery take?"`.')
    with open_index(folder) as opened:
        if options.action == "stats":
            record = artifacts.read_record(folder)
            stats = {"artifact": str(folder), "interval": record.interval, **record.metrics}
            stats["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
            print_text(json.dumps(stats) if options.json else _format_stats(stats))
            return
        hits = opened.search(options.question, options.k, options.way)
    if options.json:
        print_line(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
        return
    for number, hit in enumerate(hits, 1):
        passage = hit.passage
        ranks = ", ".join(f"{way} {rank}" for way, rank in (("bm25", hit.bm25), ("dense", hit.dense)) if rank)
        print_line(f"{number}. {passage.headings or passage.title or passage.source}  ({ranks})")
        print_line(f"   {passage.source}: {passage.location}, {passage.position}")
        print_text(indent(passage.text, "   ") + "\n")
    if not hits:
        print_line("Nothing was found.")


def ask(settings: Config, options: argparse.Namespace) -> None:
    """Answer a question from the served documents with a model on this machine, and name the passages."""
    from llmops.data.retrieval.grounding import (
        MIN_ROOM,
        REFUSAL,
        TIGHT_ROOM,
        compute_room,
        describe_source,
        retrieve_context,
    )
    from llmops.data.retrieval.search import open_index
    from llmops.model.base.inference import answer_questions, open_model
    from llmops.release.batch.batch import find_answer_mode, find_servable
    from llmops.release.registry.indexes import find_served_index
    from llmops.release.registry.registry import registry_of

    if (folder := find_served_index(registry_of(settings).folder)) is None:
        raise LlmopsError("No documents are served; `llmops run all` serves them.")
    version, model_folder = find_servable(settings, options.version)
    with open_index(folder, server=settings.search_server) as opened:
        room = compute_room(settings.serving.max_context, options.max_new_tokens, options.question)
        mode = find_answer_mode(settings, version, model_folder)
        room = room if room >= MIN_ROOM else TIGHT_ROOM
        found = retrieve_context(opened, options.question, settings.grounding.with_answer(mode), room)
    text = found.quote or REFUSAL
    if found.hits and not found.quote:
        model = open_model(model_folder)
        try:
            text = answer_questions(model, [(options.question, found.context)], options.max_new_tokens)[0]
        finally:
            model.close()
    sources = [describe_source(hit) | ({"text": hit.passage.text} if options.show else {}) for hit in found.hits]
    if options.json:
        print_line(json.dumps({"response": text, "version": version, "sources": sources}, ensure_ascii=False))
        return
    print_text(text)
    for number, source in enumerate(sources, 1):
        print_line()
        print_line(f"[{number}] {source['title']}")
        print_line(f"    {source['source']}: {source['location']}, {source['position']}")
        print_text(indent(source.get("text") or source["snippet"], "    "))


def _format_stats(stats: dict[str, object]) -> str:
    lines = [f"{stats['artifact']}, made for {stats['interval']}:"]
    rows = [(name, stats[name]) for name in ("documents", "passages", "words", "embedded")]
    for kind, word in (("sources", "passages of"), ("dropped", "left out:"), ("redactions", "redacted:")):
        values = stats[kind]
        assert isinstance(values, dict)
        rows += [(f"{word} {name.replace('_', ' ')}", number) for name, number in values.items()]
    lines += [f"  {name:<28} {number:>12,}" for name, number in [*rows, ("bytes", stats["bytes"])]]
    lines += [f"  {'vectors by':<28} {stats['model'] or 'no model':>12}"]
    return "\n".join([*lines, *_format_likeness(stats.get("likeness"))])


def _format_likeness(likeness: Any) -> list[str]:
    """Return lines about the least match of an answer; none for an index without vectors."""
    if not likeness:
        return []
    lines = [
        f"  {'likeness chosen':<28} {likeness['chosen']:>12}",
        f"  {'by questions':<28} {likeness['questions']:>12}",
    ]
    if "others_refused" in likeness:
        lines += [f"  {'refused without their page':<28} {likeness['others_refused']:>12.0%}"]
    return lines
