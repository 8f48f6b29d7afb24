"""The app: `create_app(config)` puts it together, `serve(config)` runs it.

python -m serving
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from llmops import __version__
from llmops.access.keys import keys_of
from llmops.alerts.watch import Watch
from llmops.config import Config
from llmops.data.index.elasticsearch import opener
from llmops.errors import ArtifactError, ConfigError, LlmopsError
from llmops.machine import spin_briefly
from llmops.model.gguf.pipeline import is_gguf
from llmops.monitoring.datasets import LOADS
from llmops.monitoring.events import emit
from llmops.monitoring.reader import Reader, reader_of
from llmops.monitoring.shipping import shipper_for
from llmops.registry.registry import registry_of
from llmops.registry.version import Version
from serving.admission import signing
from serving.admission.dependencies import AppParts, assert_guarded
from serving.admission.limits import Limiter
from serving.engines.base import Engine
from serving.guard import Guard
from serving.http.draining import DrainingServer
from serving.http.middleware import RequestMiddleware
from serving.http.problems import problem_response
from serving.models.documents import Documents
from serving.models.embeddings import Embeddings
from serving.models.inputs import Inputs
from serving.models.turns import Turns
from serving.models.watcher import Models
from serving.observe.audit import Audit
from serving.observe.digests import Digests
from serving.observe.metrics import Metrics
from serving.observe.redaction import Redaction
from serving.observe.texts import Texts
from serving.observe.traces import traces_to
from serving.routes import ab_test, admin, embeddings, feedback, generate, health, keys, metrics, openai, pages, review


def create_app(
    config: Config,
    engine_for: Callable[[Version], Engine] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """The app for a configuration.

    Args:
        config: where registry, keys and events are, and the section `serving`.
        engine_for: makes the engine of a version; by default the one of `serving.engine` on its servable folder.
        environ: the environment; `LLMOPS_SESSION_SECRET` is what replicas without a common home sign with.

    Raises:
        RuntimeError: if a route names no permission.
    """
    registry = registry_of(config)
    guard = Guard(config.serving.guard)
    objective_s = config.release.canary_slow_ms / 1000
    engine_of = engine_for or _engine_for(config)

    def make(version: Version) -> Engine:
        return Turns(engine_of(version), config.serving.max_queue, config.serving.max_batch)

    poll_s, idle_s, trials = config.serving.poll_s, config.serving.test_idle_s, config.serving.trials
    models = Models(registry, make, poll_s, config.events, guard, objective_s, idle_s, trials)
    documents = Documents(registry, config.grounding, poll_s, opener(config, environ))
    secret = signing.secret(config.home / "serving.secret", environ)
    audit = Audit(config.events)
    parts = AppParts(
        config=config,
        keys=keys_of(config),
        limiter=Limiter(config.serving, audit.note_limits_store, environ),
        audit=audit,
        registry=registry,
        models=models,
        documents=documents,
        embeddings=Embeddings(config.serving.threads, config.serving.max_queue),
        reader=_reader(config, environ),
        inputs=Inputs(config.release.name),
        metrics=Metrics(models),
        digests=Digests(secret),
        redaction=Redaction(config.govern.entities),
        session_secret=secret,
    )

    texts, traces = Texts(config, parts.metrics.count_lost), traces_to(config.monitoring.traces_url)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        shipper = shipper_for(config.events, config.monitoring)
        watch = Watch(config, waiting=lambda: sum(loaded.engine.stats().waiting for loaded in models.loaded))
        async with (
            AsyncExitStack() as ending
        ):  # what began last ends first, and if it fails the others end all the same
            ending.push_async_callback(asyncio.to_thread, traces.close)  # 30 s if the collector hangs
            shipper.start()
            ending.push_async_callback(asyncio.to_thread, shipper.stop)
            watch.start()
            ending.push_async_callback(asyncio.to_thread, watch.stop)
            texts.start()
            ending.push_async_callback(asyncio.to_thread, texts.stop)
            audit.start()
            ending.push_async_callback(audit.stop)
            ending.push_async_callback(parts.limiter.close)
            ending.callback(parts.inputs.close)
            ending.push_async_callback(asyncio.to_thread, parts.redaction.close)
            ending.push_async_callback(asyncio.to_thread, parts.embeddings.close)
            parts.inputs.warm(registry)
            models.start()
            ending.push_async_callback(models.stop)
            documents.start()
            ending.push_async_callback(documents.stop)
            await _warm(guard, config)  # while the model is being loaded
            yield

    app = FastAPI(
        title="llmops",
        description="Answers from the released model. Send an API key in the header `X-API-Key`.",
        version=__version__,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.parts = parts
    app.state.texts = texts
    app.state.draining = False  #: whether `/readyz` tells to send no more requests here
    max_body = 16 * config.serving.max_prompt_chars + 65_536
    timeout_s = config.serving.timeout_s
    app.add_middleware(
        RequestMiddleware,
        folder=config.events,
        max_body=max_body,
        timeout_s=timeout_s,
        count=parts.metrics.count,
        texts=texts,
        traces=traces,
    )
    for kind in (LlmopsError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, problem_response)
    for module in (generate, openai, embeddings, feedback, health, metrics, admin, ab_test, keys, review, pages):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "web" / "static"))
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    assert_guarded(app, frozenset({"/static", "/swagger"}))
    return app


async def _warm(guard: Guard, config: Config) -> None:
    """Let the guard load what it needs; without it nothing is served, and the event says why."""
    try:
        await asyncio.to_thread(guard.warm)
    except Exception as error:
        fields = {
            "event.action": "load_guard",
            "event.outcome": "failure",
            "error.message": f"{type(error).__name__}: {error}",
        }
        with contextlib.suppress(Exception):  # the disk that is full, say: the guard's own error must be told
            await asyncio.to_thread(emit, config.events, LOADS, fields)
        raise


def serve(config: Config, engine_for: Callable[[Version], Engine] | None = None) -> None:
    """Run the app until it is told to stop (SIGTERM, Ctrl-C); what it has taken is answered first."""
    spin_briefly(os.environ)
    app = create_app(config, engine_for)
    DrainingServer(app, config.serving).run()


def _reader(config: Config, environ: Mapping[str, str]) -> Reader | None:
    """What the dashboard reads; None where events go to no sink that can be read."""
    try:
        return reader_of(config, environ)
    except ConfigError:
        return None


def _engine_for(config: Config) -> Callable[[Version], Engine]:
    serving = config.serving

    def engine_for(version: Version) -> Engine:
        usual = (version.servable, serving.max_queue, serving.max_batch, serving.max_context)
        kind = serving.engine
        if kind == "auto":
            kind = "openvino" if is_gguf(version.servable) else "transformers"
        if kind == "vllm":
            from serving.engines.vllm import VllmEngine

            return VllmEngine(*usual, serving.vllm, serving.tool_call_parser)
        if kind == "openvino":
            from serving.engines.openvino import OpenvinoEngine

            return OpenvinoEngine(*usual, serving.threads, serving.precision)
        if find_spec("torch") is None:
            raise ArtifactError(
                f"{version.name} is no GGUF file, and this server, which has no torch, answers with those alone. Serve "
                "it from the image of docker/serving.Dockerfile or docker/vllm.Dockerfile, or release one that is: "
                "compress.variants: [q8_0]."
            )
        from serving.engines.transformers import TransformersEngine

        return TransformersEngine(*usual, serving.threads)

    return engine_for
