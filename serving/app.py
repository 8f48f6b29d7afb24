"""The app: `create_app(config)` puts it together, `serve(config)` runs it.

python -m serving
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from llmops import __version__
from llmops.config import Config
from llmops.errors import LlmopsError
from llmops.governance.access import KeyStore
from llmops.monitoring.sinks import LocalStore, sinks_for
from llmops.monitoring.spool import Shipper
from llmops.release.registry import Registry, Version
from llmops.threads import spin_briefly
from serving.deps import Parts, assert_guarded
from serving.engines.base import Engine
from serving.engines.transformers import TransformersEngine
from serving.errors import answer
from serving.middleware import Around
from serving.models import Models
from serving.routes import admin, generate, health, pages


def create_app(
    config: Config,
    engine_for: Callable[[Version], Engine] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """The app for a configuration.

    Args:
        config: where registry, keys and events are, and the section `serving`.
        engine_for: makes the engine of a version; by default transformers on its servable folder.
        environ: the environment; `LLMOPS_SESSION_SECRET` keeps browser sessions over restarts and between replicas.

    Raises:
        RuntimeError: if a route names no permission.
    """
    registry = Registry(config.release.registry, config.release.name)
    models = Models(registry, engine_for or _engine_for(config), config.serving.poll_s, config.events)
    secret = environ.get("LLMOPS_SESSION_SECRET", "").encode()
    parts = Parts(
        config=config,
        keys=KeyStore(config.keys),
        registry=registry,
        models=models,
        store=LocalStore(config.events),
        **({"session_secret": secret} if secret else {}),
    )

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        shipper = Shipper(config.events, sinks_for(config.events, config.monitoring))
        shipper.start()
        models.start()
        try:
            yield
        finally:
            await models.stop()
            shipper.stop()

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
    app.add_middleware(Around, folder=config.events, max_body=16 * config.serving.max_prompt_chars + 65_536)
    for kind in (LlmopsError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    for module in (generate, health, admin, pages):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "web" / "static"))
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    assert_guarded(app, frozenset({"/static", "/swagger"}))
    return app


def serve(config: Config) -> None:
    """Run the app until it is told to stop (SIGTERM, Ctrl-C); waiting requests are answered first."""
    spin_briefly(os.environ)
    uvicorn.run(
        create_app(config),
        host=config.serving.host,
        port=config.serving.port,
        server_header=False,
        access_log=False,  # it would hold prompts; every request is an event without them
    )


def _engine_for(config: Config) -> Callable[[Version], Engine]:
    serving = config.serving

    def engine_for(version: Version) -> Engine:
        return TransformersEngine(version.servable, serving.max_queue, serving.max_batch, serving.threads)

    return engine_for
