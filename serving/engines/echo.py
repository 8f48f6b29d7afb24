"""An engine without a model, which answers with the prompt: for tests of everything around it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.engines.base import Answer, Ask
from serving.engines.batching import BatchingEngine
from serving.errors import PromptRefused


class EchoEngine(BatchingEngine):
    """Answers with the words of the prompt, as many as asked for; a word counts as a token."""

    def __init__(
        self, max_queue: int = 64, max_batch: int = 16, load_s: float = 0.0, batch_s: float = 0.0, window: int = 1000
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._load_s, self._pause_s, self._window = load_s, batch_s, window

    def _load(self) -> None:
        time.sleep(self._load_s)

    def _answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        time.sleep(self._pause_s)
        return [self._echo(ask) for ask in asks]

    def _echo(self, ask: Ask) -> Answer | Exception:
        words = ask.prompt.split()
        if len(words) > self._window:
            return PromptRefused(f"The prompt has {len(words)} tokens; the model takes {self._window}.")
        said = words[: ask.max_new_tokens]
        return Answer(" ".join(said), len(words), len(said), "stop" if len(said) == len(words) else "length")
