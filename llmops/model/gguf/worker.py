"""The process that owns an OpenVINO GenAI pipeline: requests come by standard input, tokens leave by standard output.

    python -m llmops.model.gguf.worker FOLDER '{"batch": 16, "tokens": 2048, "threads": 2, "precision": "f32"}'

A process of its own, because a step of the pipeline holds Python's lock for as long as it computes: beside it in one
process, the app could answer nobody. What the model takes of memory ends with it, and a damaged file that makes
OpenVINO's reader touch what is not its own ends it alone. Nor may signals be handled beside OpenVINO: it puts a stack
of its own in place for them (sigaltstack), and may leave it there when it is gone.

Each line is a JSON value. In: `{"id": 7, "ids": [1, 2], "ends": [2], "settings": {…}, "schema": ""}` begins a request
(tokens that end its answer, arguments of `openvino_genai.GenerationConfig`, and the JSON schema that the answer
follows, if any), `{"id": 7}` takes it back. Out: first `{}`, or
`{"error": "…"}` if the model cannot be loaded; then, after each step, `{"7": [[5, 9], [], false, ""], …}`, what
is new of a request, see `pipeline.Said`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmops.child.answer import take_output
from llmops.model.gguf import pipeline
from llmops.model.gguf.grammar import Grammars
from llmops.model.gguf.pipeline import Said


class Requests:
    """The requests of the pipeline, by their ids.

    Args:
        opening: opens the pipeline.
    """

    def __init__(self, opening: Callable[[], Any]) -> None:
        self._opening, self._handles = opening, dict[int, Any]()
        self._refused: dict[int, Said] = {}
        self._new = dict[int, dict[str, Any]]()  # requests with a schema that is not compiled; one is at each step
        self._open()

    @property
    def running(self) -> bool:
        """Whether there is something to compute."""
        return bool(self._handles or self._refused or self._new)

    def take(self, line: bytes) -> None:
        """Do what a line asks for."""
        asked = json.loads(line)
        name = asked["id"]
        if asked.get("schema") and not self._grammars.has(asked["schema"]):
            self._new[name] = asked
        elif "ids" in asked:
            self._begin(asked)
        elif self._new.pop(name, None):
            pass
        elif handle := self._handles.pop(name, None):
            handle.cancel()
            self._cancelled = True

    def tidy(self) -> None:
        """While there is nothing to compute, let go of schemas if there were many."""
        if self._grammars.full:
            del self._pipeline, self._grammars
            self._open()

    def step(self) -> dict[int, Said]:
        """Compute a step; returns what there is to say of each request."""
        if self._new:
            self._begin(self._new.pop(next(iter(self._new))))
        found: dict[int, Said] = {**self._refused}
        self._refused.clear()
        if self._handles:
            self._take_step()
        for name, handle in list(self._handles.items()):
            said = pipeline.read(handle)
            if said.ended:
                del self._handles[name]
            if said.ended or said.ids:
                found[name] = said
        return found

    def _open(self) -> None:
        self._pipeline = self._opening()
        self._grammars = Grammars(self._pipeline)
        self._cancelled = False  # since the last step, which is what frees the place of such a request

    def _take_step(self) -> None:
        self._cancelled = False
        self._pipeline.step()

    def _begin(self, asked: dict[str, Any]) -> None:
        name = asked["id"]
        try:
            self._handles[name] = self._begun(asked)
        except Exception as error:
            self._refused[name] = Said([], [], True, f"{type(error).__name__}: {error}")

    def _begun(self, asked: dict[str, Any]) -> Any:
        from openvino_genai import GenerationConfig

        if self._cancelled:
            self._take_step()
        settings = GenerationConfig(**asked["settings"], stop_token_ids=set(asked["ends"]))
        if asked["schema"]:
            settings.structured_output_config = self._grammars.known(asked["schema"])
        return self._pipeline.add_request(asked["id"], pipeline.tensor(asked["ids"]), settings)


class Lines:
    """The lines that come by a pipe, without waiting for more than is there."""

    def __init__(self, source: int) -> None:
        self._source, self._rest = source, b""
        self.ended = False  #: whether whoever writes has closed it

    def read(self, wait: bool) -> list[bytes]:
        """The whole lines that have come; with `wait`, after something has come."""
        while select.select([self._source], [], [], None if wait else 0)[0]:
            came = os.read(self._source, 1 << 20)
            if not came:
                self.ended = True
                break
            self._rest += came
            wait = False
        *whole, self._rest = self._rest.split(b"\n")
        return whole


def main(folder: str, settings: str) -> None:
    """Answer until standard input ends; a signal is the app's to heed, which closes it when all is answered."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    out = take_output()

    def say(value: object) -> None:
        out.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        out.flush()

    try:
        requests = Requests(partial(pipeline.open_pipeline, Path(folder), **json.loads(settings)))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({})
    lines = Lines(0)
    while not lines.ended:
        if not requests.running:
            requests.tidy()
        for line in lines.read(wait=not requests.running):
            requests.take(line)
        if requests.running and not lines.ended:
            say(requests.step())


if __name__ == "__main__":
    main(*sys.argv[1:])
