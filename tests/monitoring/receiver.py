"""A receiver of events by HTTP, in a process of its own, that misbehaves as it is told.

It speaks Elasticsearch's bulk API, takes JSON arrays as Logstash's HTTP input does, and OTLP's logs, and keeps whatever
it has taken in a file, so that it can be killed at any time. Its faults are in a file, too, and can change meanwhile:
shares of the requests that are answered `429`, `500`, `hang`, or are taken and not confirmed (`lost`); the `largest`
body; whether single documents are refused whose field `poison` is true.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HANG_S = 60.0


class Receiver:
    """The receiver as its test sees it."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._python, self._process = folder, python, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.misbehave()

    def misbehave(self, **faults: Any) -> None:
        """From now on."""
        partial = self.folder / "faults.new"
        partial.write_text(json.dumps(faults))
        os.replace(partial, self.folder / "faults.json")

    def start(self) -> None:
        command = [self._python, __file__, str(self.folder), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()

    def taken(self, sink: str) -> Counter[str]:
        """How often each `event.id` was taken."""
        path = self.folder / f"{sink}.taken"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def requests(self) -> list[dict[str, str]]:
        """The requests that came whole: sink, and what they named themselves with."""
        return [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        faults = json.loads((self.folder / "faults.json").read_text())
        sink = {"/_bulk": "elasticsearch", "/v1/logs": "otlp"}.get(self.path.split("?")[0], "logstash")
        asked = {"sink": sink, "authorization": self.headers.get("Authorization", ""), "path": self.path}
        self._keep("requests.jsonl", [json.dumps(asked)])
        user = "Basic " + base64.b64encode(faults.get("user", "").encode()).decode()
        if "user" in faults and self.headers.get("Authorization") != user:
            return self._answer(401, {"message": "Unauthorized"})
        luck = random.random()
        for name in ("429", "500", "hang", "lost"):
            if luck < faults.get(name, 0):
                break
            luck -= faults.get(name, 0)
        else:
            name = ""
        if name == "hang":
            time.sleep(HANG_S)
            return None
        if name in ("429", "500"):
            return self._answer(int(name), {"error": "busy"})
        if len(body) > faults.get("largest", 10**9):
            return self._answer(413, {"error": "too large"})
        status, answer, ids = getattr(self, f"_{sink}")(body, faults.get("poison", False))
        self._keep(f"{sink}.taken", ids)
        if name == "lost":
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

    def _keep(self, name: str, lines: list[str]) -> None:
        with open(self.folder / name, "ab", buffering=0) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def _answer(self, status: int, answer: Any) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/x-protobuf" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()
