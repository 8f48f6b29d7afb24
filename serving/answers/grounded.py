"""Answers from the documents: what is found of a question goes into the prompt, and beside the answer.

Passages are no words of the caller's: what the guard lets an answer repeat of its prompt, it does not of them. Where no
passage is good enough, the refusal is the answer, and no model is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from llmops.access.roles import Key
from llmops.config import Grounding
from llmops.data.index.ranking import Hit
from llmops.grounding.context import fewer
from llmops.grounding.retriever import REFUSAL, said
from llmops.registry.version import QUOTE
from serving.admission.dependencies import AppParts
from serving.answers.delivery import heard
from serving.answers.schemas import Source
from serving.engines.base import Chat, Chunk, EngineRequest, Prompt, Question, at_once
from serving.errors import PromptRefused
from serving.guard import Guard
from serving.models.stream import GuardedStream

SNIPPET = 200  #: characters of a passage that are shown


@dataclass(frozen=True, slots=True)
class Grounds:
    """What an answer rests on."""

    hits: Sequence[Hit]

    def sources(self, given: int) -> list[Source]:
        """The first passages, as they are told; the model was given so many."""
        return [_source(hit) for hit in self.hits[:given]]


def is_grounded(asked: bool | None, config: Grounding, hinders: str) -> bool:
    """Whether an answer is to rest on the documents.

    Args:
        asked: by the caller; None: as configured, where nothing hinders it.
        config: says what the default is.
        hinders: what the request has that does not go with it; empty: nothing.

    Raises:
        PromptRefused: if it is asked for and something hinders it.
    """
    if asked and hinders:
        raise PromptRefused(f"With `ground: true` the answer rests on the documents; leave {hinders} out.")
    return not hinders and (config.enabled if asked is None else asked)


async def look_up(
    request: Request, app: AppParts, key: Key, side: str, wanted: EngineRequest
) -> tuple[EngineRequest, Grounds]:
    """What the documents say of a question: a request with their passages, none if they do not say, and the passages.

    Where the version that is to answer quotes, the first passage is the one that is quoted.

    What is found is in the request's event.

    Args:
        request: the HTTP request.
        app: the parts of the app.
        key: the caller's.
        side: see `Models.choose`.
        wanted: a request without passages, to answer a question or the user's last turn.

    Raises:
        NoDocuments: if there is no index, or it cannot be searched.
        NotReady, VersionNotLoaded: see `Models.choose`.
        ClientLeft, TimedOut: see `deliver`.
    """
    serving, event, begun = app.config.serving, request.state.event, time.perf_counter_ns()
    prompt = wanted.prompt
    assert isinstance(prompt, Question | Chat)
    quoting = app.models.choose(key.prefix, side).version.answers == QUOTE
    index, found = await heard(request, app.documents.find(_asked(prompt), key.prefix, quoting), serving.timeout_s)
    passages = tuple(said(hit) for hit in found.hits)
    while sum(map(len, passages)) > serving.max_prompt_chars and (left := fewer(passages)):
        passages = left
    hits = found.hits[: len(passages)]
    event |= {
        "llmops.retrieval.outcome": "quoted" if found.quote else "found" if hits else "refused",
        "llmops.retrieval.index": index,
        "llmops.retrieval.duration": time.perf_counter_ns() - begun,
    }
    if found.likeness is not None:
        event["llmops.retrieval.likeness"] = found.likeness
    grounds = Grounds(hits)
    note_sources(request, grounds, len(hits))  # the caller may leave before the model has told how many it was given
    return replace(wanted, prompt=replace(prompt, passages=passages), quote=found.quote), grounds


def refusal(app: AppParts, prompt: Prompt, caller: str, side: str) -> GuardedStream:
    """The answer where the documents do not say, in the name of the version that would have answered.

    It counts in no trial.

    Raises:
        NotReady, VersionNotLoaded: see `Models.choose`.
    """
    models = app.models
    chosen, stream = models.choose(caller, side), at_once(Chunk(REFUSAL, 0, 0, "stop"))
    of = "champion" if chosen is models.champion else "canary" if chosen is models.canary else "tested"
    return GuardedStream(chosen.version, stream, lambda seconds, end: None, Guard(()).watch(prompt), side=of)


def note_sources(request: Request, grounds: Grounds, given: int) -> list[Source]:
    """Put what the model was given into the request's event; gives it as it is told."""
    passages = [hit.passage for hit in grounds.hits[:given]]
    request.state.event |= {
        "llmops.retrieval.passages": [passage.id for passage in passages],
        "llmops.retrieval.documents": list(dict.fromkeys(passage.document for passage in passages)),
        "llmops.retrieval.locations": list(dict.fromkeys(passage.location for passage in passages)),
    }
    return grounds.sources(given)


def _asked(prompt: Question | Chat) -> str:
    return prompt.text if isinstance(prompt, Question) else prompt.messages[-1].content


def _source(hit: Hit) -> Source:
    passage = hit.passage
    names = ("id", "title", "headings", "source", "location", "position", "licence")
    snippet = passage.text if len(passage.text) <= SNIPPET else f"{passage.text[:SNIPPET].rsplit(None, 1)[0]} …"
    return Source(**{name: getattr(passage, name) for name in names}, snippet=snippet, score=hit.score)
