"""Deploy: serve the index of documents, and prove with a question that the serving app answers with the champion.

The app follows the registry's aliases and loads a new champion by itself. This stage asks only after `/readyz` has
named the champion, because an app that is loading answers 503, which would count as an error of the service. Without a
`url`, the stage starts an app on a free loopback port, and stops it afterwards. It asks with an API key of its own,
which it revokes; for an app with another database, LLMOPS_API_KEY must be one of its keys.

    python -m llmops run deploy
"""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from llmops import python_path
from llmops.access.keys import KeyStore
from llmops.config import Deploy, SearchServer
from llmops.data.retrieval import elasticsearch_store
from llmops.data.retrieval.file_store import is_extension
from llmops.frame.artifacts import hold_lock, write_json
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import DeployError, NotServedError
from llmops.release.registry.indexes import OWNER, find_served_index, is_served, make_owner, owner_of, serve_index
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at

log = logging.getLogger(__name__)

_FINAL_STATUSES = {400, 401, 403, 404, 405, 422}  #: responses that do not change by waiting
_KEY_MARGIN_S = 60.0  #: validity of the key beyond the timeouts
_SET_PDEATHSIG = 1  #: prctl(2): the signal that a process gets when the thread that started it ends
_LOG_TAIL = 2000  #: characters of the app's log in an error message


def run(
    config: Deploy,
    *,
    release: Path,
    index: Path,
    home: Path,
    events: Path,
    registry: Path,
    database: str,
    search_server: SearchServer | None = None,
    out: Path,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any]:
    """Write `deployment.json`: url, version, question, answer and seconds.

    The index is served, so that removed documents are not cited any more, unless it only adds passages and the champion
    answers worse from it: then `index` is "held back". If the stage starts an app, the app works in `home`. The API key
    is LLMOPS_API_KEY for an app at `config.url`, and otherwise a new one in the database at the URL `database`.

    Raises:
        DeployError: if there is no champion, if the app refuses or ends (the message quotes it), or if Elasticsearch
            refuses the index.
        NotServedError: if the app does not answer with the champion in time.
        TransientError: if Elasticsearch does not answer.
    """
    decision = _read_decision(release)
    model = str(decision["model"])
    held = {"index": "held back"} if _is_held_back(decision, registry / model, index) else {}
    if held:
        log.warning("%s is not served: the champion's answers from it are not shown to be as good", index.name)
    with hold_lock(registry / model / OWNER):  # another run would delete the index that this one loads
        served = find_served_index(registry / model) if held else index
        owner = make_owner(registry / model) if search_server else ""
        if search_server and served:
            elasticsearch_store.load_index(search_server, owner, served)
        if not held:
            serve_index(registry / model, index)
        if search_server:
            elasticsearch_store.delete_other_indices(search_server, [owner], served)
    champion = Registry(registry, model, database_at(database)).champion()
    if champion is None:
        version = decision["version"]
        raise DeployError(
            f"Nothing is served: {model} has no champion, because the gate did not pass {version} (it is "
            f"{decision['outcome']}; `llmops models decisions` has the reasons). To serve it all the same: "
            f"`llmops models promote {version} --override REASON`, then `llmops serve`."
        )
    own_key = os.environ.get("LLMOPS_API_KEY", "") if config.url else ""
    key_store = KeyStore(database_at(database), events)
    with nullcontext(own_key) if own_key else lend_key(key_store, config.timeout_s) as key:
        if config.url:
            proof = prove(config, config.url, key, champion.name, clock=clock)
        else:
            output = out / "serving.log"
            with run_app(registry, model, home, database, output) as (url, process):
                proof = prove(config, url, key, champion.name, process, output, clock)
    write_json(out / "deployment.json", {"state": "served", **held, **proof})
    return {"state": "served", **held, **proof}


def is_current(
    config: Deploy, *, release: Path, index: Path, registry: Path, search_server: SearchServer | None = None, **_: Any
) -> bool:
    """Return True if the right index is still served; another run may have replaced it."""
    decision = _read_decision(release)
    model = registry / str(decision["model"])
    if not (is_served(model, index) or _is_held_back(decision, model, index)):
        return False
    return search_server is None or elasticsearch_store.is_up_to_date(
        search_server, owner_of(model), find_served_index(model)
    )


def prove(
    config: Deploy,
    url: str,
    key: str,
    version: str,
    process: subprocess.Popen[bytes] | None = None,
    output: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any]:
    """Wait until the app is ready with `version`, then ask it. Ask again if a replica with another version answers.

    The model is asked without documents, because a refusal comes from no model, then the documents, if there are any.

    Args:
        config: the question and the timeout.
        url: the app's URL.
        key: an API key of the app.
        version: the model version that must answer.
        process: the app, if the stage has started it. If it ends, the wait ends.
        output: the app's log.
        clock: the clock of the timeout.

    Returns:
        url, version, question, the model's answer and the seconds until it came, and the keys of `_ask_documents`.
    """
    started, last_reply = clock.monotonic(), "nothing yet"
    body: dict[str, Any] = {"prompt": config.question, "ground": False}
    headers = {"X-API-Key": key, "X-LLMOps-Side": "champion"}  # else a canary might answer this key
    with httpx.Client(base_url=url, headers=headers) as client:
        while (left := config.timeout_s - (clock.monotonic() - started)) > 0:
            if process and process.poll() is not None:
                raise DeployError(f"The serving app ended with code {process.returncode}. {_quote_log(output)}")
            try:
                response = client.get("/readyz", timeout=max(left, 1.0))
                if _read_answer(response).get("model_version") == version:
                    response = client.post("/generate", json=body, timeout=max(left, 1.0))
            except httpx.TransportError as error:
                last_reply = f"{type(error).__name__}: {error}"
            else:
                answer = _read_answer(response)
                if "response" in answer and answer.get("model_version") == version:
                    seconds = round(clock.monotonic() - started, 2)
                    log.info("%s answers with %s after %.1f s", url, version, seconds)
                    return {
                        "url": url,
                        "version": version,
                        "question": config.question,
                        "answer": answer["response"],
                        "seconds": seconds,
                        **_ask_documents(client, config),
                    }
                last_reply = _describe_reply(response, answer)
                if response.status_code in _FINAL_STATUSES:
                    remedy = " Set LLMOPS_API_KEY to a key of that app." if response.status_code == 401 else ""
                    raise DeployError(f"The serving app at {url} refuses the question; it said: {last_reply}.{remedy}")
            clock.sleep(min(0.5, max(left, 0)))
    raise NotServedError(
        f"The serving app at {url} did not answer with {version} within {config.timeout_s:g} s (deploy.timeout_s); "
        f"it said: {last_reply}. {_quote_log(output)}".strip()
    )


def _ask_documents(client: httpx.Client, config: Deploy) -> dict[str, Any]:
    """Return `answer_from_documents` and its `sources`, as locations; nothing if the app has no documents."""
    body = {"prompt": config.question, "ground": True}
    try:
        answer = _read_answer(client.post("/generate", json=body, timeout=config.timeout_s))
    except httpx.TransportError as error:
        log.warning("%s does not answer from its documents: %s", client.base_url, error)
        return {}
    if "response" not in answer:
        return {}
    locations = dict.fromkeys(source["location"] for source in answer.get("sources", []))
    return {"answer_from_documents": answer["response"], "sources": list(locations)}


@contextmanager
def lend_key(store: KeyStore, timeout_s: float) -> Iterator[str]:
    """Yield an API key for a proof, and revoke it at the end. If this process is killed, the key soon expires."""
    days = (2 * timeout_s + _KEY_MARGIN_S) / 86_400  # the documents are asked after the proof
    key, entry = store.create("user", "deploy: proof of the champion", days=days, requests_per_minute=0)
    try:
        yield key
    finally:
        store.revoke(entry.prefix)


@contextmanager
def run_app(
    registry: Path, model: str, home: Path, database: str, output: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a serving app; yield its URL and the process. At the end stop the process.

    If this process is killed, the kernel stops the app; only Linux can. The app takes no part in trials, because a
    canary's failures here do not concern real callers.
    """
    port = _find_free_port()
    environ = {
        **os.environ,
        "LLMOPS_HOME": str(home),
        "LLMOPS_RELEASE__REGISTRY": str(registry),
        "LLMOPS_RELEASE__NAME": json.dumps(model),  # so that a name such as 2024 stays text
        "LLMOPS_SERVING__HOST": "127.0.0.1",
        "LLMOPS_SERVING__PORT": str(port),
        "LLMOPS_SERVING__TRIALS": "false",
        "LLMOPS_STATE__URL": database,
        "PYTHONPATH": python_path(),
    }
    end_with_parent = (
        partial(ctypes.CDLL(None).prctl, _SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) if sys.platform == "linux" else None
    )
    with output.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            env=environ,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            _stop(process)


def _read_decision(release: Path) -> dict[str, Any]:
    decision: dict[str, Any] = json.loads((release / "decision.json").read_text(encoding="utf-8"))
    return decision


def _is_held_back(decision: Mapping[str, Any], model: Path, index: Path) -> bool:
    """Return whether the served index stays: the champion answers worse from the new one, which only adds passages."""
    rejected: bool = decision.get("documents", {}).get("outcome") == "rejected"
    return rejected and is_extension(index, find_served_index(model))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read_answer(response: httpx.Response) -> Mapping[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if response.status_code == 200 and isinstance(answer, dict) else {}


def _describe_reply(response: httpx.Response, answer: Mapping[str, Any]) -> str:
    if "response" in answer:
        return f"an answer of {answer['model_version']}"
    return f"{response.status_code} {response.text[:300]}"


def _quote_log(output: Path | None) -> str:
    if output is None:
        return ""
    text = output.read_text(encoding="utf-8", errors="replace").strip()
    return f"Its log, {output}, ends with:\n{text[-_LOG_TAIL:]}"
