"""Files that are made of others: `python tests/monitoring/elk/test_files.py` writes the template of fields anew."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmops.events.fields import FIELDS
from llmops.monitoring.elk.setup import FIELDS_TEMPLATE as NAME
from llmops.monitoring.elk.setup import read_yaml

ROOT = Path(__file__).parents[3]
KIBANA = ROOT / "docker" / "kibana"
LONGEST = 8191  # characters of a keyword: of four bytes each, the most that Lucene takes as one term (32,766)
TEXT = """# Written by `python tests/monitoring/elk/test_files.py` from the registry; a change gets the next version.
version: {version}
_meta: {{managed_by: llmops}}
template:
  mappings:
    _meta: {{version: {version}}} # each index tells by it whether it has these fields
    dynamic: false # `strict` would refuse an event of a newer writer, and an event may not be lost
    properties:
{fields}"""


def make_mappings() -> dict[str, dict[str, Any]]:
    more = {"keyword": {"ignore_above": LONGEST}, "object": {"enabled": False}}
    return {field.name: {"type": field.type, **more.get(field.type, {})} for field in FIELDS}


def make_text(version: int) -> str:
    lines = (f"      {json.dumps(name)}: {json.dumps(said)}\n" for name, said in make_mappings().items())
    return TEXT.format(version=version, fields="".join(lines))


def test_the_template_of_fields_is_made_of_the_registry() -> None:
    kept = read_yaml(NAME)
    assert (ROOT / "llmops" / "monitoring" / "elk" / f"{NAME}.yaml").read_text() == make_text(kept["version"])


def find_newer_python() -> str:
    ask = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
    for name in (sys.executable, "python3.13", "python3.12", "/usr/bin/python3.13", "/usr/bin/python3.12"):
        if shutil.which(name) and subprocess.run([name, "-c", ask], capture_output=True).returncode == 0:
            return name
    pytest.skip("needs Python 3.12 or newer with venv (Debian 13: apt-get install python3-venv)")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the compiler, in an environment of its own."""
    folder = tmp_path_factory.mktemp("compiler") / "venv"
    subprocess.run([find_newer_python(), "-m", "venv", folder], check=True)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "3", "--timeout", "60"]
    packages = ["-r", KIBANA / "requirements.txt", "logstash-pipeline-parser==0.0.3"]
    installed = subprocess.run([folder / "bin" / "python", *pip, *packages], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the compiler could not be installed: {installed.stderr.strip()[-200:]}")
    return folder / "bin" / "python"


@pytest.mark.journey
def test_the_dashboards_are_what_their_yaml_compiles_to(python: Path) -> None:
    """By what docker/kibana/requirements.txt pins; its models, which are Kibana's, check the objects."""
    done = subprocess.run([python, KIBANA / "compile.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "llmops" / "monitoring" / "elk" / "kibana.ndjson").read_text(encoding="utf-8")


@pytest.mark.journey
def test_the_pipeline_is_in_logstashs_grammar_and_adds_each_event_once(python: Path) -> None:
    parse = "import json, sys, logstash_pipeline_parser as parser; "
    parse += "print(json.dumps(parser.Pipeline(sys.stdin.read()).parse(), default=str))"
    text = (ROOT / "docker" / "logstash" / "pipeline" / "llmops.conf").read_text(encoding="utf-8")
    done = subprocess.run([python, "-c", parse], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sections = {name: {plugin: dict(options) for plugin, options in said} for name, said in json.loads(done.stdout)}
    assert list(sections) == ["input", "filter", "output"] and sections["input"].keys() == {"http"}
    assert sections["input"]["http"]["password"] == ["${LOGSTASH_PASSWORD}"]
    output = sections["output"]["elasticsearch"]
    assert output["action"] == ["create"] and output["data_stream"] == ["false"]
    assert output["document_id"] == ["%{[event.id]}"] and output["index"] == ["logs-%{[event.dataset]}-default"]


if __name__ == "__main__":
    kept = read_yaml(NAME)
    changed = kept["template"]["mappings"]["properties"] != make_mappings()
    (ROOT / "llmops" / "monitoring" / "elk" / f"{NAME}.yaml").write_text(make_text(kept["version"] + changed))
