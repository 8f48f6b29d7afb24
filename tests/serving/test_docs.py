"""Every example of docs/serving.md is run as it stands, against an app on a real socket."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.events.datasets import FEEDBACK, SERVING
from serving.errors import STATUS
from tests.programs import require_program

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
EXAMPLES = re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(new_site, tmp_path_factory):
    site = new_site(tmp_path_factory.mktemp("site"), max_new_tokens=256).release()
    with site.live() as url:
        yield site, url


@pytest.mark.service
@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(EXAMPLES)])
def test_an_example_works(served, language, code):
    if language == "sh":
        require_program("curl")
    site, url = served
    site.forget_events()
    code = code.replace("http://127.0.0.1:8000", url)
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    environ = {"LLMOPS_API_KEY": site.keys["user"], "PATH": path}
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert "detail" not in run.stdout and run.stdout
    assert all(event["event.outcome"] == "success" for event in site.events(SERVING))
    assert len(site.events(FEEDBACK)) == ("/feedback" in code)


def test_there_is_a_chain_and_a_client_among_them_and_the_table_of_errors_names_every_code():
    assert all(any(words in code for _, code in EXAMPLES) for words in ("langchain_openai", "import OpenAI"))
    table = TEXT[TEXT.index("## Errors") : TEXT.index("## Limits")]
    internal = {"access", "client_left", "state_unreadable", "registry", "key_refused", "key_not_found"}
    assert {code for _, code in STATUS.values()} - internal <= set(re.findall(r"`(\w+)`", table))
