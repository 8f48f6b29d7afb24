"""Load by guidellm, the load generator of the vLLM project, against our app: no answer but 200, whole and streamed.

guidellm runs unchanged in an environment of its own. The app runs as `python -m serving` with the `openvino` engine on
SmolLM2-135M-Instruct in 8 bits. guidellm keeps as many streams busy as the engine's batch has places, first with chats
and then with completions, and reads its figures from the streams.

    python benchmarks/guidellm_load.py [--seconds 60] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package
os.environ["HF_HUB_OFFLINE"] = "1"

from contenders import SMALL, prepare  # noqa: E402
from peers import ArmFailedError, Peer, attempted  # noqa: E402
from report import finish, parser  # noqa: E402
from servers import Running, free_port, make_site, running  # noqa: E402

GUIDELLM = Peer("guidellm", ("guidellm==0.8.1", "torch>=2.9,<2.14"))
STREAMS, TOKENS = 8, 32
FORMATS = {"chats": "/v1/chat/completions", "completions": "/v1/completions"}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "ten seconds for each arm")
    made.add_argument("--seconds", type=int, default=60, help="for each arm")
    return made.parse_args(arguments)


def main() -> None:
    """Run both arms and print the table."""
    told = options()
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        prepare()
        site = make_site(folder / "home", SMALL, {"max_batch": STREAMS})
        command = [sys.executable, "-m", "serving"]
        with running(command, port, site.environ(port), folder / "log") as server:
            for arm, route in FORMATS.items():
                with attempted(arm, failed):
                    arms[arm] = load(server, site.key, route, 10 if told.quick else told.seconds, folder / arm)
    ratios = {f"share of {arm} that failed": found["errors"] / found["answers"] for arm, found in arms.items()}
    finish(told, arms, ratios, failed=failed, packages=("openvino-genai", "fastapi"), peers=(GUIDELLM,))


def load(server: Running, key: str, route: str, seconds: int, folder: Path) -> dict[str, float]:
    """Ask for so long, and return the figures that guidellm writes.

    Raises:
        ArmFailedError: with the end of guidellm's output, if it fails or nothing was answered.
    """
    folder.mkdir()
    # After a question the model ends a text at once, and guidellm counts an empty answer as an error.
    rows = [{"prompt": f"Order {n}: the best way to store {n % 30} pairs of boots is to"} for n in range(1000)]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    backend = {
        "kind": "openai_http",
        "target": server.url,
        "api_key": key,
        "request_format": route,
        "api_routes": {"/health": "healthz"},
        "extras": {"body": {"max_tokens": TOKENS}},
    }
    command = [
        str(GUIDELLM.python().with_name("guidellm")), "run", "--disable-console-interactive",
        "--backend", json.dumps(backend),
        "--profile", json.dumps({"kind": "concurrent", "streams": STREAMS}),
        "--constraint", json.dumps({"kind": "max_duration", "seconds": seconds}),
        "--data", json.dumps({"kind": "json_file", "path": str(folder / "prompts.jsonl")}),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    written = folder / "benchmarks.json"
    if done.returncode or not written.is_file():
        raise ArmFailedError(f"guidellm failed:\n{(done.stdout + done.stderr)[-3000:]}")
    metrics: dict[str, Any] = json.loads(written.read_text())["benchmarks"][0]["metrics"]
    totals = metrics["request_totals"]
    if not totals["successful"]:
        raise ArmFailedError(f"Nothing was answered:\n{(done.stdout + done.stderr)[-3000:]}")
    return {
        "answers": totals["successful"] + totals["errored"],
        "errors": totals["errored"],
        "requests/s": metrics["requests_per_second"]["successful"]["mean"],
        "tokens/s": metrics["output_tokens_per_second"]["successful"]["mean"],
        "p50 ms to the first token": metrics["time_to_first_token_ms"]["successful"]["median"],
    }


if __name__ == "__main__":
    main()
