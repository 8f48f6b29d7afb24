"""The app: `create_app(config)` assembles it, `serve(config)` runs it.

python -m serving
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from llmops import __version__
from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.events.reader import Reader, make_reader
from llmops.events.shipping import make_shipper
from llmops.frame.errors import ConfigError, LlmopsError, StateUnavailable
from llmops.frame.machine import shorten_thread_spin
from llmops.frame.printable import configure_logging
from llmops.model.base.classifier import GRAPH_FILE
from llmops.model.gguf.worker import is_gguf
from llmops.monitoring.alerts.threads import AlertThreads
from llmops.release.registry.registry import registry_of
from llmops.release.registry.version import Version
from llmops.release.rollout import read_rules
from llmops.state.database import database_of
from serving.admission import signing
from serving.admission.budgets import Budgets
from serving.admission.dependencies import AppParts, assert_guarded
from serving.admission.limits import Limiter
from serving.answers.schemas import MAX_TEXTS
from serving.engines.base import Engine
from serving.guard import Guard
from serving.http.middleware import RequestMiddleware
from serving.http.problems import respond_to_error
from serving.http.protocol import KEEP_ALIVE_S, BoundedProtocol
from serving.http.server import DrainingServer
from serving.models.documents import Documents
from serving.models.inputs import Inputs
from serving.models.watcher import Models
from serving.observe.audit import Audit
from serving.observe.exchange import Digests
from serving.observe.metrics import Metrics
from serving.observe.text_events import TextRecorder
from serving.observe.traces import make_traces
from serving.routes import admin, classify, feedback, generate, health, keys, openai, pages, review, usage

if TYPE_CHECKING:
    from serving.admission.provider import Provider


def create_app(
    config: Config,
    make_engine: Callable[[Version], Engine] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """Return the app for a configuration. Replicas without a common home need the same `LLMOPS_SESSION_SECRET`.

    Raises:
        RuntimeError: if a route names no permission.
        ConfigError: if a secret that the configuration needs is not in `environ`.
    """
    registry = registry_of(config)
    guard = Guard(config.serving.guard)
    make_engine = make_engine or _make_engine_factory(config)
    poll_s, idle_s, trials = config.serving.poll_s, config.serving.test_idle_s, config.serving.trials
    models = Models(registry, make_engine, poll_s, config.events, guard, read_rules(config), idle_s, trials)
    secret = signing.read_secret(config.home / "serving.secret", environ)
    audit = Audit(config.events)
    parts = AppParts(
        config=config,
        keys=keys_of(config),
        limiter=Limiter(config.serving, audit.record_limits_store, environ),
        budgets=Budgets(database_of(config), config.release.name),
        audit=audit,
        registry=registry,
        models=models,
        guard=guard,
        reader=_open_reader(config, environ),
        inputs=Inputs(config.release.name),
        documents=Documents(registry.folder, config.grounding, config.serving, config.search_server),
        metrics=Metrics(models),
        digests=Digests(secret),
        provider=_make_provider(config, environ, secret),
        session_secret=secret,
    )

    texts = TextRecorder(config, parts.metrics.count_lost, is_erased=parts.keys.is_erased)
    traces = make_traces(config.monitoring.traces_url)

    def count(event: Mapping[str, Any]) -> None:
        parts.metrics.count(event)
        parts.budgets.count(event)

    @asynccontextmanager
    async def run_parts(app: FastAPI) -> AsyncIterator[None]:
        shipper = make_shipper(config.events, config.monitoring)
        alerts = AlertThreads(
            config, count_waiting=lambda: sum(loaded.engine.get_stats().waiting for loaded in models.loaded)
        )
        async with AsyncExitStack() as stack:  # stops the last part first, and the others even if one fails
            stack.push_async_callback(asyncio.to_thread, traces.close)  # 30 s if the collector hangs
            shipper.start()
            stack.push_async_callback(asyncio.to_thread, shipper.stop)
            alerts.start()
            stack.push_async_callback(asyncio.to_thread, alerts.stop)
            texts.start()
            stack.push_async_callback(asyncio.to_thread, texts.stop)
            audit.start()
            stack.push_async_callback(audit.stop)
            stack.push_async_callback(parts.limiter.close)
            parts.budgets.start()
            stack.push_async_callback(parts.budgets.stop)
            stack.callback(parts.inputs.close)
            stack.push_async_callback(asyncio.to_thread, parts.documents.close)
            parts.inputs.warm_up(registry)
            if config.grounding.enabled:
                parts.documents.warm_up()
            models.start()
            stack.push_async_callback(models.stop)
            await asyncio.to_thread(guard.warm_up)  # while the model is loaded; without its rules nothing is served
            yield

    app = FastAPI(
        title="llmops",
        description="Answers from the released model. Send an API key in the header `X-API-Key`.",
        version=__version__,
        lifespan=run_parts,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.parts = parts
    app.state.draining = False  #: if True, `/readyz` answers 503, so that balancers send no more requests
    app.add_middleware(
        RequestMiddleware,
        folder=config.events,
        max_body=16 * config.serving.max_prompt_chars + 65_536,
        timeout_s=config.serving.timeout_s,
        count=count,
        texts=texts,
        traces=traces,
    )
    for kind in (LlmopsError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, respond_to_error)
    for module in (generate, classify, openai, feedback, health, admin, keys, usage, review, pages):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "web" / "static"))
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    assert_guarded(app, frozenset({"/static", "/swagger"}))
    return app


def serve(config: Config, make_engine: Callable[[Version], Engine] | None = None) -> None:
    """Run the app until SIGTERM or Ctrl-C. Answer all accepted requests before it ends.

    Raises:
        ConfigError: if the configuration cannot be served.
        StateError: if the database answers and can never be used.
    """
    shorten_thread_spin(os.environ)
    configure_logging("%(asctime)s %(levelname)s %(name)s: %(message)s")
    with suppress(StateUnavailable):  # it may come up later
        database_of(config).describe()
    app = create_app(config, make_engine)
    settings = uvicorn.Config(
        app,
        host=config.serving.host,
        port=config.serving.port,
        http=BoundedProtocol,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(config.serving.timeout_s) + 1,  # until then all answers are complete
        access_log=False,  # it would hold prompts; events hold none
        log_config=None,  # by ours, so that no foreign text forges a line
    )
    DrainingServer(settings, app, config.serving.drain_s).run()


def _make_provider(config: Config, environ: Mapping[str, str], secret: bytes) -> Provider | None:
    if not config.serving.oidc:
        return None
    from serving.admission.provider import Provider  # its libraries take memory and time that others do not need

    return Provider(config.serving.oidc, environ, secret)


def _open_reader(config: Config, environ: Mapping[str, str]) -> Reader | None:
    try:
        return make_reader(config, environ)
    except ConfigError:
        return None


def _make_engine_factory(config: Config) -> Callable[[Version], Engine]:
    serving = config.serving

    def make_engine(version: Version) -> Engine:
        sizes = serving.max_queue, serving.max_batch, serving.max_context
        if (version.servable / GRAPH_FILE).is_file():
            from serving.engines.classifier import ClassifierEngine

            # A text takes a millisecond, so many may wait.
            return ClassifierEngine(
                version.servable,
                MAX_TEXTS * serving.max_queue,
                MAX_TEXTS,
                threads=serving.threads,
                threshold=serving.classify_threshold,
            )
        if serving.engine == "vllm":
            from serving.engines.vllm import VllmEngine

            return VllmEngine(version.servable, *sizes, serving.vllm)
        if serving.engine == "openvino" or (serving.engine == "auto" and is_gguf(version.servable)):
            from serving.engines.openvino import OpenvinoEngine

            return OpenvinoEngine(version.servable, *sizes, serving.threads, serving.precision)
        from serving.engines.transformers import TransformersEngine

        return TransformersEngine(version.servable, *sizes, serving.threads)

    return make_engine
