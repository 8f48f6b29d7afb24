"""The engines of a batch: a model folder on this machine, or a serving app over HTTP."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx

from llmops import prompts
from llmops.frame.errors import ArtifactError, DeployError, NotServedError

if TYPE_CHECKING:
    from llmops.model.base.inference import InferenceModel

log = logging.getLogger(__name__)

PATIENCE_S = 120.0  #: how long an app may be down or overloaded before a batch gives up
_FAULTY_STATUSES = {400, 413, 422}  #: statuses of a faulty request: its row gets the error


@dataclass(frozen=True, slots=True)
class RowReply:
    """The reply to one row."""

    answer: str = ""
    error: str = ""  #: why there is no answer; else empty
    version: str = ""


class BatchEngine(Protocol):
    """An engine that answers the rows of a batch."""

    @property
    def name(self) -> str:
        """Return the engine's name and settings. An interrupted job continues only with an engine of the same name."""

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        """Answer non-empty (question, context) pairs, in their order."""


class LocalEngine:
    """A servable folder on this machine, loaded at first use. It decodes greedily, longest prompts first."""

    def __init__(self, folder: Path, version: str, max_new_tokens: int, size: int) -> None:
        self.name = f"{version} at {folder.absolute()}, {max_new_tokens} tokens, {size} at a time"
        self._folder, self._version = folder, version
        self._tokens, self._size = max_new_tokens, size

    @cached_property
    def _model(self) -> InferenceModel:
        from llmops.model.base.inference import open_model

        return open_model(self._folder)

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        """See `BatchEngine`."""
        tokenizer, context_tokens = self._model.tokenizer, self._model.window
        replies: list[RowReply] = [RowReply()] * len(requests)
        ids: dict[int, list[int]] = {}
        for i, (question, context) in enumerate(requests):
            try:
                ids[i] = prompts.encode_question(tokenizer, question, context)
            except ArtifactError as error:
                replies[i] = RowReply(error=str(error), version=self._version)
                continue
            if len(ids[i]) + self._tokens > context_tokens:
                replies[i] = RowReply(
                    error=f"the prompt has {len(ids.pop(i))} tokens and the answer may take {self._tokens}; together "
                    f"the model takes {context_tokens}",
                    version=self._version,
                )
        order = sorted(ids, key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self._size):
            chosen = order[start : start + self._size]
            for i, reply in zip(chosen, self._generate([ids[i] for i in chosen]), strict=True):
                replies[i] = reply
        return replies

    def _generate(self, ids: list[list[int]]) -> list[RowReply]:
        """Answer prompts together. After a failure, halve them, so that only a faulty prompt gets the error."""
        from llmops.model.base.generate import decode

        try:
            return [
                RowReply(answer=decode(self._model.tokenizer, tokens), version=self._version)
                for tokens in self._model.generate(ids, self._tokens, len(ids))
            ]
        except (RuntimeError, ValueError, IndexError) as error:  # including out of memory
            if len(ids) == 1:
                return [RowReply(error=f"{type(error).__name__}: {error}", version=self._version)]
            half = len(ids) // 2
            return self._generate(ids[:half]) + self._generate(ids[half:])


def make_server_engine(url: str, max_new_tokens: int, size: int) -> ServerEngine:
    """Return the engine of the serving app at `url`, with the key in LLMOPS_API_KEY.

    Raises:
        DeployError: if there is no key.
    """
    key = os.environ.get("LLMOPS_API_KEY", "")
    if not key:
        raise DeployError(f"To ask {url}, an API key is needed: set LLMOPS_API_KEY (`llmops keys create` makes one).")
    return ServerEngine(url, httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=600), max_new_tokens, size)


@dataclass
class ServerEngine:
    """A serving app with `size` concurrent callers, so that it can answer as many together."""

    url: str
    client: httpx.Client
    max_new_tokens: int
    size: int
    sleep: Callable[[float], None] = field(default=time.sleep)

    @property
    def name(self) -> str:
        """See `BatchEngine`."""
        return f"{self.url}, {self.max_new_tokens} tokens"

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        """See `BatchEngine`. Wait for an app that is overloaded or restarts.

        Raises:
            DeployError: if it refuses the key.
            NotServedError: if it does not answer for `PATIENCE_S`.
        """
        with ThreadPoolExecutor(self.size) as callers:
            replies = [callers.submit(self._ask, *request) for request in requests]
            try:
                return [reply.result() for reply in replies]
            except DeployError:
                for reply in replies:
                    reply.cancel()
                raise

    def _ask(self, question: str, context: str) -> RowReply:
        body = {"prompt": question, "context": context, "max_new_tokens": self.max_new_tokens}
        pause, until = 0.5, time.monotonic() + PATIENCE_S
        while True:
            try:
                response = self.client.post("/generate", json=body)
            except httpx.TransportError as error:
                problem, wait = f"{type(error).__name__}: {error}", pause
            else:
                if response.status_code == 200:
                    value = response.json()
                    return RowReply(answer=value["response"], version=value["model_version"])
                problem = f"{response.status_code} {_read_detail(response)}"
                if response.status_code in _FAULTY_STATUSES:
                    return RowReply(error=problem)
                if response.status_code not in (429, 502, 503, 504):
                    raise DeployError(f"The serving app at {self.url} refuses the batch: {problem}")
                wait = float(response.headers.get("Retry-After", pause))
            if time.monotonic() + wait > until:
                raise NotServedError(
                    f"The serving app at {self.url} has not answered for {PATIENCE_S:.0f} s: {problem}. The finished "
                    "rows are kept; run the same command again."
                )
            self.sleep(wait)
            pause = min(2 * pause, 15.0)


def _read_detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
