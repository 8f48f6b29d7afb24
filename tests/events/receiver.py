"""A receiver of events by HTTP, in threads of the test, that misbehaves as it is told.

It speaks Elasticsearch's bulk API, takes JSON arrays as Logstash's HTTP input does, and OTLP's logs.
"""

import base64
import itertools
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Receiver:
    """The receiver as its test sees it.

    Attributes:
        taken: by sink, how often each `event.id` was taken.
        requests: those that came whole: sink, path, and what they named themselves with.
    """

    def __init__(self) -> None:
        self.taken: dict[str, Counter[str]] = {"elasticsearch": Counter(), "logstash": Counter(), "otlp": Counter()}
        self.requests: list[dict[str, str]] = []
        self.closed = threading.Event()
        self.misbehave()
        handler = type("Bound", (Handler,), {"receiver": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def misbehave(self, *faults: str, largest: int = 10**9, poison: bool = False, user: str = "") -> None:
        """Answer from now on so.

        Args:
            faults: of the requests, in turn: "429", "500", "hang", "reset" (as of a receiver that is killed), "lost"
                (taken, and not confirmed), or "" for none.
            largest: bytes of a body that is not refused.
            poison: refuse single documents whose field `poison` is true.
            user: `name:password` that is asked for.
        """
        self.faults, self.largest, self.poison, self.user = itertools.cycle(faults or ("",)), largest, poison, user

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body, receiver = self.rfile.read(int(self.headers["Content-Length"])), self.receiver
        sink = {"/_bulk": "elasticsearch", "/v1/logs": "otlp"}.get(self.path.split("?")[0], "logstash")
        authorization = self.headers.get("Authorization", "")
        receiver.requests.append({"sink": sink, "authorization": authorization, "path": self.path})
        if receiver.user and authorization != "Basic " + base64.b64encode(receiver.user.encode()).decode():
            return self._answer(401, {"message": "Unauthorized"})
        fault = next(receiver.faults)
        if fault in ("hang", "reset"):
            receiver.closed.wait(60 if fault == "hang" else 0)
            self.close_connection = True
            return None
        if fault in ("429", "500"):
            return self._answer(int(fault), {"error": "busy"})
        if len(body) > receiver.largest:
            return self._answer(413, {"error": "too large"})
        status, answer, ids = getattr(self, f"_{sink}")(body, receiver.poison)
        receiver.taken[sink].update(ids)
        if fault == "lost":
            self.close_connection = True
            return None
        return self._answer(status, answer)

    do_PUT = do_POST

    def _elasticsearch(self, body: bytes, poison: bool) -> tuple[int, Any, list[str]]:
        lines = [json.loads(line) for line in body.splitlines()]
        items, ids = [], []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            if poison and document.get("poison"):
                error = {"type": "document_parsing_exception", "reason": "no number"}
                items.append({"create": {"status": 400, "error": error}})
            else:
                items.append({"create": {"status": 201}})
                ids.append(action["create"]["_id"])
        return 200, {"errors": len(ids) < len(items), "items": items}, ids

    def _logstash(self, body: bytes, poison: bool) -> tuple[int, Any, list[str]]:
        events = json.loads(body)
        if poison and any(event.get("poison") for event in events):
            return 400, {"message": "one of them"}, []
        return 200, "ok", [event["event.id"] for event in events]

    def _otlp(self, body: bytes, poison: bool) -> tuple[int, Any, list[str]]:
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

        asked = service.ExportLogsServiceRequest.FromString(body)
        records = [r for of in asked.resource_logs for scope in of.scope_logs for r in scope.log_records]
        fields = [{pair.key: pair.value for pair in record.attributes} for record in records]
        bad = [poison and "poison" in f and f["poison"].bool_value for f in fields]
        answer = service.ExportLogsServiceResponse()
        if any(bad):
            answer.partial_success.rejected_log_records = sum(bad)
            answer.partial_success.error_message = "not these"
        ids = [f["event.id"].string_value for f, refused in zip(fields, bad, strict=True) if not refused]
        return 200, answer.SerializeToString(), ids

    def _answer(self, status: int, answer: Any) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/x-protobuf" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
