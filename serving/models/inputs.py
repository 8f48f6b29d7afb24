"""Prompts from Feast's online store, by `input_id`, for the version that is to answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llmops.errors import ArtifactError
from llmops.registry.version import Version
from serving.engines.base import TokenIds
from serving.errors import FeaturesDown, FeaturesMissing, InputUnknown

if TYPE_CHECKING:
    from llmops.features.online import OnlineTokens
    from llmops.registry.registry import Registry

log = logging.getLogger(__name__)

_DOWN = "The online feature store does not answer; send the prompt, or try later."


def open_features(version: Version, model: str) -> OnlineTokens:
    """Open the online store of a version, with the version's own feature service.

    Raises:
        ArtifactError: if the version has no feature store.
        FeaturesMissing: if Feast is not installed.
    """
    folder = version.path / "features"
    if not folder.is_dir():  # known without importing Feast
        raise ArtifactError(f"{version.path} was published without a feature store.")
    from llmops.features.declarations import service_name

    try:
        from llmops.features.online import OnlineTokens
    except ModuleNotFoundError as error:
        raise FeaturesMissing(
            f"{error.name} is not installed here; send the prompt, or build the image with serving-features.txt."
        ) from error

    return OnlineTokens(folder, service_name(model, version.name))


class Inputs:
    """A reader of prompts from the online store.

    It has a thread of its own, because a read blocks for milliseconds, the first one for seconds. `patience_s` is the
    longest that a request waits for the store.
    """

    def __init__(
        self, model: str, open: Callable[[Version, str], OnlineTokens] = open_features, patience_s: float = 10.0
    ) -> None:
        self._model, self._open, self._patience_s = model, open, patience_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inputs")
        self._stores: dict[str, OnlineTokens] = {}  # by version, the two opened last: champion and canary, say

    def warm(self, registry: Registry) -> None:
        """Begin to open the champion's store, if it has one, while the model is being loaded.

        Importing Feast takes 3 s of Python on a core, in which the engine hardly gets the interpreter's lock: done for
        the first request with an `input_id`, all other callers would wait as long (3.5 s instead of 0.25 s).
        """
        self._thread.submit(self._warm, registry)

    async def read(self, version: Version, input_id: str) -> TokenIds:
        """Return the prompt of an example, without its answer.

        Raises:
            InputUnknown: if there is no such example, or the version has no feature store.
            FeaturesDown: if the store does not answer.
            FeaturesMissing: if this image cannot read it.
        """
        prompt = asyncio.get_running_loop().run_in_executor(self._thread, self._read, version, input_id)
        try:
            async with asyncio.timeout(self._patience_s):
                return await prompt
        except TimeoutError:
            log.warning("The online store of %s has not answered for %g s", version.name, self._patience_s)
            raise FeaturesDown(_DOWN) from None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _warm(self, registry: Registry) -> None:
        try:
            champion, *_ = registry.served()
            if champion and (champion.path / "features").is_dir():
                self._opened(champion)
        except Exception:  # whatever it is, a request that needs the store is told
            log.warning("The online store cannot be opened yet", exc_info=True)

    def _opened(self, version: Version) -> OnlineTokens:
        if version.name not in self._stores:
            self._stores = {**dict(list(self._stores.items())[-1:]), version.name: self._open(version, self._model)}
        return self._stores[version.name]

    def _read(self, version: Version, input_id: str) -> TokenIds:
        try:
            (found,) = self._opened(version).read([input_id])
        except ArtifactError as error:
            raise InputUnknown(f"{version.name} was published without a feature store; send the prompt.") from error
        except FeaturesMissing:
            raise
        except Exception as error:
            log.exception("The online store of %s cannot be read", version.name)
            self._stores.pop(version.name, None)  # a connection that broke is opened again
            raise FeaturesDown(_DOWN) from error
        if found is None:
            raise InputUnknown(f"There is no example {input_id!r} in the online store of {version.name}.")
        return TokenIds(tuple(found.token_ids[: found.prompt_tokens]), stored=True)
