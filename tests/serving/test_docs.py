"""Every example of docs/serving.md is run as it stands, against an app on a real socket."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llmops.monitoring.datasets import FEEDBACK, SERVING
from llmops.registry.indexes import serve_index
from llmops.registry.registry import registry_of

from ..documents import DAY

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
EXAMPLES = re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(EXAMPLES)])
def test_an_example_works(new_site, index, tmp_path, language, code):
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("needs curl")
    site = new_site(tmp_path, max_new_tokens=256).release()
    serve_index(registry_of(site.config), index, DAY, by="a test")
    with site.live() as url:
        site.until(lambda: "ground" not in code or httpx.get(f"{url}/readyz").json()["index"])
        code = code.replace("http://127.0.0.1:8000", url)
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        environ = {"LLMOPS_API_KEY": site.keys["user"], "PATH": path}
        run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "detail" not in run.stdout and run.stdout
    assert ("sources" in run.stdout) == ("ground" in code)
    assert all(event["event.outcome"] == "success" for event in site.events(SERVING))
    assert len(site.events(FEEDBACK)) == ("/feedback" in code)


def test_there_is_a_chain_and_a_client_among_them():
    assert any("langchain_openai" in code for _, code in EXAMPLES) and any(
        "import OpenAI" in code for _, code in EXAMPLES
    )


def test_the_table_of_errors_names_every_code():
    from serving.errors import STATUS

    table = TEXT[TEXT.index("## Errors") : TEXT.index("## Limits")]
    internal = {"access", "client_left", "state_unreadable", "registry", "key_refused", "key_not_found"}
    missing = {code for _, code in STATUS.values()} - internal - set(re.findall(r"`(\w+)`", table))
    assert not missing
