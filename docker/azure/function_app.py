"""What Azure's worker imports and calls: one function, which answers every path and method.

It lets everybody in (`ANONYMOUS`): the app asks for its own keys, which have roles and limits.
"""

import logging
import os
from pathlib import Path

from azure.functions import AuthLevel, Context, FunctionApp, HttpMethod, HttpRequest, HttpResponse
from function import Function

from llmops.config import load
from serving.serverless import bring

logging.getLogger().setLevel(logging.INFO)
config = load()
bring(Path(os.environ["LLMOPS_IMAGE_STATE"]), config)
function = Function(config)
app = FunctionApp(http_auth_level=AuthLevel.ANONYMOUS)


@app.function_name("serving")
@app.http_type("asgi")
@app.route(route="/{*route}", methods=list(HttpMethod))
async def serving(req: HttpRequest, context: Context) -> HttpResponse:
    """Answer a request."""
    return await function(req, context)
