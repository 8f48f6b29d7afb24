"""As Azure's worker does: import `function_app` inside a running event loop, read its functions, call one, print it.

python azure_worker.py KEY
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys

from azure_requests import request, sent

QUESTION = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})


async def main(key: str) -> None:
    [function] = importlib.import_module("function_app").app.get_functions()
    bindings = {binding["type"]: binding for binding in json.loads(str(function))["bindings"]}
    headers = {"content-type": "application/json", "x-api-key": key}
    call = function.get_user_function()
    asked = [request("POST", "/generate", headers, QUESTION), request("GET", "/healthz"), request("GET", "/")]
    answers = [sent(answer) for answer in await asyncio.gather(*(call(one, None) for one in asked))]
    print(json.dumps({"trigger": bindings["httpTrigger"], "statuses": [a.status for a in answers]}))
    print(answers[0].body.decode())


asyncio.run(main(sys.argv[1]))
