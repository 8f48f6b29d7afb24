"""What Azure's worker gives a function and takes from it, by the same converters of `azure-functions`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from azure.functions import HttpRequest, HttpResponse
from azure.functions.http import HttpRequestConverter, HttpResponseConverter
from azure.functions.meta import Datum

SITE = "https://bot.azurewebsites.net"


def request(
    method: str, path: str, headers: dict[str, str] | None = None, body: str | bytes = b"", site: str = SITE
) -> HttpRequest:
    """A request as the host passes it on, with what the front end adds."""
    added = {"host": site.partition("://")[2], "x-forwarded-for": "203.0.113.7:51234", "x-forwarded-proto": "https"}
    text = {name: Datum(value, "string") for name, value in {**added, **(headers or {})}.items()}
    value = {
        "method": Datum(method, "string"),
        "url": Datum(site + path, "string"),
        "headers": text,
        "query": {},
        "params": {"route": Datum(path.partition("?")[0].strip("/"), "string")},
        "body": Datum(body.encode() if isinstance(body, str) else body, "bytes"),
    }
    return HttpRequestConverter.decode(Datum(value, "http"), trigger_metadata=None)


class Answer(NamedTuple):
    """What the host sends to the caller."""

    status: int
    headers: dict[str, str]
    cookies: list[Any]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def sent(response: HttpResponse) -> Answer:
    """A function's answer, as the worker hands it to the host."""
    value = HttpResponseConverter.encode(response, expected_type=None).value
    headers = {name.lower(): datum.value for name, datum in value["headers"].items()}
    return Answer(int(value["status_code"].value), headers, value["cookies"] or [], value["body"].value)
