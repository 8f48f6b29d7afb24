"""The command that answers from the documents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import indent, shorten
from typing import TYPE_CHECKING

from llmops.cli.command import Add
from llmops.config import Config
from llmops.errors import ArtifactError, LlmopsError

if TYPE_CHECKING:
    from llmops.data.index.ranking import Hit

SHOWN = 160  #: characters of a passage that are printed beside its place


def add_to(add: Add) -> None:
    """Add this command to the parser."""
    sub = add(ask)
    sub.add_argument("question")
    sub.add_argument("--show", action="store_true", help="print the whole passages that the answer rests on")
    sub.add_argument("--version", default="champion", help="version, alias, or `base` for the untuned model")
    sub.add_argument("--max-new-tokens", type=int, default=96)


def ask(settings: Config, options: argparse.Namespace) -> None:
    """Answer a question from the served documents on this machine, and name the sources."""
    from llmops.batch.batch import servable
    from llmops.data.index.elasticsearch import opener
    from llmops.grounding.retriever import REFUSAL, Retriever
    from llmops.registry.indexes import served_index
    from llmops.registry.registry import registry_of
    from llmops.registry.version import QUOTE, read_version

    if not options.question.strip():
        raise LlmopsError('Say what to ask, as in `llmops ask "How long does delivery take?"`.')
    index = served_index(registry_of(settings))
    if index is None:
        raise ArtifactError("No index of documents is served; `llmops run all` publishes one.")
    version, folder = servable(settings, options.version)
    quotes = folder.parent.name == version and read_version(folder.parent).answers == QUOTE
    with Retriever(index, settings.grounding, opener(settings)) as retriever:
        found = retriever.look(options.question, quotes)
    if found.quote or not found.hits:
        text, given = found.quote or REFUSAL, 1
    else:
        text, given = _answer(folder, options.question, found.hits, options.max_new_tokens)
    hits = found.hits[:given]
    if options.json:
        sources = [asdict(hit.passage) | {"score": hit.score, "likeness": hit.likeness} for hit in hits]
        print(json.dumps({"response": text, "version": version, "sources": sources}, ensure_ascii=False))
        return
    print(text)
    for number, hit in enumerate(hits, 1):
        passage = hit.passage
        print(f"\n[{number}] {passage.headings or passage.title or passage.source}")
        print(f"    {passage.source}: {passage.location}, {passage.position}")
        print(indent(passage.text if options.show else shorten(passage.text, SHOWN, placeholder=" …"), "    "))


def _answer(folder: Path, question: str, hits: Sequence[Hit], tokens: int) -> tuple[str, int]:
    """What a model answers from passages, and from how many of them: as many as it has room for."""
    from llmops.grounding.context import fit, joined
    from llmops.grounding.retriever import said
    from llmops.model.base.answering import answer, has_room, open_model

    model = open_model(folder)
    try:
        passages = fit([said(hit) for hit in hits], partial(has_room, model, question, tokens))
        if not passages:
            raise LlmopsError(f"The question is too long for the model, which takes {model.window} tokens.")
        return answer(model, [(question, joined(passages))], tokens)[0], len(passages)
    finally:
        model.close()
