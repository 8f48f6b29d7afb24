"""Prompts from Feast's online store, by `input_id`, for the version that is to answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llmops.errors import ArtifactError
from llmops.release.version import Version
from serving.engines.base import Tokens
from serving.errors import FeaturesDown, InputUnknown

if TYPE_CHECKING:
    from llmops.features.online import OnlineTokens

log = logging.getLogger(__name__)


def open_features(version: Version, model: str) -> OnlineTokens:
    """The online store of a version, by the feature service of its own."""
    from llmops.features.declarations import service_name
    from llmops.features.online import OnlineTokens

    return OnlineTokens(version.path / "features", service_name(model, version.name))


class Inputs:
    """Reads the online store in one thread of its own: opening it takes seconds, a read milliseconds, both block.

    Args:
        model: name of the model in the registry.
        open: opens the online store of a version.
    """

    def __init__(self, model: str, open: Callable[[Version, str], OnlineTokens] = open_features) -> None:
        self._model, self._open = model, open
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inputs")
        self._last: tuple[str, OnlineTokens] | None = None

    async def read(self, version: Version, input_id: str) -> Tokens:
        """The prompt of an example, without its answer.

        Raises:
            InputUnknown: if there is no such example, or the version has no feature store.
            FeaturesDown: if the store does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, version, input_id)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, version: Version, input_id: str) -> Tokens:
        try:
            if self._last is None or self._last[0] != version.name:
                self._last = version.name, self._open(version, self._model)
            (found,) = self._last[1].read([input_id])
        except ArtifactError as error:
            raise InputUnknown(f"{version.name} was published without a feature store; send the prompt.") from error
        except Exception as error:
            log.exception("The online store of %s cannot be read", version.name)
            self._last = None  # a connection that broke is opened again
            raise FeaturesDown("The online feature store does not answer; send the prompt, or try later.") from error
        if found is None:
            raise InputUnknown(f"There is no example {input_id!r} in the online store of {version.name}.")
        return Tokens(tuple(found.token_ids[: found.prompt_tokens]))
