"""Prompts from Feast's online store, by `input_id`, for the version that answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llmops.frame.errors import ArtifactError
from llmops.release.registry.version import Version
from serving.engines.base import TokenIds
from serving.errors import FeaturesDown, FeaturesMissing, InputUnknown

if TYPE_CHECKING:
    from llmops.data.features.online import OnlineTokens
    from llmops.release.registry.registry import Registry

log = logging.getLogger(__name__)

_DOWN_MESSAGE = "The online feature store does not answer; send the prompt, or try later."


def open_features(version: Version, model: str) -> OnlineTokens:
    """Return the opened online store of a version, with the version's own feature service.

    Raises:
        ArtifactError: if the version has no feature store.
        FeaturesMissing: if Feast is not installed.
    """
    folder = version.path / "features"
    if not folder.is_dir():  # before Feast is imported
        raise ArtifactError(f"{version.path} was published without a feature store.")
    from llmops.data.features.declarations import make_service_name

    try:
        from llmops.data.features.online import OnlineTokens
    except ModuleNotFoundError as error:
        raise FeaturesMissing(
            f"{error.name} is not installed here; send the prompt, or build the image with serving-features.txt."
        ) from error

    return OnlineTokens(folder, make_service_name(model, version.name))


class Inputs:
    """A reader of prompts from the online store.

    It has its own thread, because a read blocks for milliseconds, the first one for seconds. A request waits at most
    `timeout_s` for the store.
    """

    def __init__(
        self, model: str, open: Callable[[Version, str], OnlineTokens] = open_features, timeout_s: float = 10.0
    ) -> None:
        self._model, self._open, self._timeout_s = model, open, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inputs")
        self._stores: dict[str, OnlineTokens] = {}  # by version, the two opened last: champion and canary

    def warm_up(self, registry: Registry) -> None:
        """Open the champion's store, if it has one, in the background while the model is loaded.

        The import of Feast holds the interpreter's lock for most of 3 s. At the first request with an `input_id`, all
        other callers would wait that long (3.5 s instead of 0.25 s).
        """
        self._thread.submit(self._warm_up, registry)

    async def read(self, version: Version, input_id: str) -> TokenIds:
        """Return the prompt of an example, without its answer.

        Raises:
            InputUnknown: if there is no such example, or the version has no feature store.
            FeaturesDown: if the store does not answer.
            FeaturesMissing: if this image cannot read it.
        """
        prompt = asyncio.get_running_loop().run_in_executor(self._thread, self._read, version, input_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await prompt
        except TimeoutError:
            log.warning("The online store of %s has not answered for %g s", version.name, self._timeout_s)
            raise FeaturesDown(_DOWN_MESSAGE) from None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _warm_up(self, registry: Registry) -> None:
        try:
            champion, *_ = registry.read_served()
            if champion and (champion.path / "features").is_dir():
                self._get_store(champion)
        except Exception:  # a request that needs the store gets the error
            log.warning("The online store cannot be opened yet", exc_info=True)

    def _get_store(self, version: Version) -> OnlineTokens:
        if version.name not in self._stores:
            self._stores = {**dict(list(self._stores.items())[-1:]), version.name: self._open(version, self._model)}
        return self._stores[version.name]

    def _read(self, version: Version, input_id: str) -> TokenIds:
        try:
            (tokens,) = self._get_store(version).read([input_id])
        except ArtifactError as error:
            raise InputUnknown(f"{version.name} was published without a feature store; send the prompt.") from error
        except FeaturesMissing:
            raise
        except Exception as error:
            log.exception("The online store of %s cannot be read", version.name)
            self._stores.pop(version.name, None)  # the next request opens a new connection
            raise FeaturesDown(_DOWN_MESSAGE) from error
        if tokens is None:
            raise InputUnknown(f"There is no example {input_id!r} in the online store of {version.name}.")
        return TokenIds(tuple(tokens.token_ids[: tokens.prompt_tokens]), stored=True)
