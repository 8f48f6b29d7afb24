"""Every command line of the README, docs/ and the DAGs' pages is run as it stands, or listed here with why it is not.

A command that is new in the docs fails the first test until it is in one of the lists.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops import cli, stack
from llmops.config import load
from llmops.registry.registry import registry_of
from llmops.schedule.orchestrator import Airflow

from .conftest import ROOT, free_port

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "dags").glob("*.py"))]
PROGRAM = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:llmops|airflow|make|python3?|pip|docker|kubectl|curl|uv) \S"
)

#: Run in this order on a real home, with Airflow and the serving app running.
RUN = [
    ".venv/bin/llmops run all --config examples/support_bot/config.yaml",
    "llmops status",
    "llmops status --verify",
    "llmops index stats",
    'llmops index search "How long does delivery take?"',
    'llmops ask "How long does delivery take?"',
    "llmops gc --dry-run",
    "llmops gc",
    "llmops keys create --role user",
    "llmops keys create --role user --owner you",
    "llmops keys create --role user --owner shop --days 90 --requests-per-minute 300 --tokens-per-minute 100000",
    "llmops keys list",
    "llmops events",
    "llmops alerts list",
    "llmops airflow dags list",
    "llmops keys rotate 1a2b3c4d --hours 24",
    "llmops keys revoke 1a2b3c4d",
    "llmops models promote v3",
    "llmops models list",
    'curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d \'{"prompt": "How long does delivery take?"}\' '
    "http://127.0.0.1:8000/generate",
    "llmops models rollback",
    "llmops models canary v3 --share 0.1",
    "llmops models canary",
    "llmops models canary --conclude",
    "llmops models canary --stop",
    "llmops models ab v3",
    "llmops models ab --conclude",
    "llmops models ab v3 --share 0.5",
    "llmops models ab --conclude --promote",
    "llmops data forget anna.lind@example.com --dry-run",
    "llmops trigger --set epochs=2 --wait",
    "llmops trigger llmops_pipeline --set epochs=3 --set trials=10",
    "llmops trigger llmops_canary --set version=v3 --set share=0.1 --set minutes=60",
    "llmops trigger llmops_ab_test --set version=v3 --set share=0.5 --set minutes=10080",
    "llmops trigger llmops_batch --set input=/data/in.parquet --set output=/data/out.parquet",
    "llmops airflow backfill create --dag-id llmops_pipeline --from-date 2026-01-30 --to-date 2026-01-31",
    "llmops airflow dags pause llm_continuous_improvement",
    'llmops airflow pools set llmops_compute 1 "Tasks that need the accelerator or all cores"',
]

#: Run until they answer, then ended.
SERVERS = {
    "llmops serve": "LLMOPS_SERVING__PORT",
    "llmops airflow --config examples/faq/config.yaml standalone": "LLMOPS_AIRFLOW_PORT",
}

#: What may be put in is in brackets, capitals or behind a bar: every form of them is parsed.
SYNOPSES = [
    "llmops run STAGE|all [--interval 2026-01-31] [--set train.seed=1]",
    "llmops trigger [DAG] [--set epochs=2] [--wait]",
    "llmops airflow …",
    "llmops index stats|search [QUESTION] [-k 5] [--way fused]",
    "llmops lineage [VERSION]",
    "llmops models list|show|promote|rollback|canary|ab|decisions [VERSION]",
    "llmops models decisions [v3]",
    "llmops models decisions",
    "llmops models push [--check]",
    "llmops models export VERSION --to gguf|hf DIRECTORY",
    "llmops models export champion --to gguf bot",  # tests/push_to_hub/test_export.py runs both
    "llmops keys create|list|rotate|revoke",
    "llmops ask QUESTION [--show] [--version VERSION|base]",
    "llmops generate PROMPT [--version VERSION|base]",
    "llmops batch IN.parquet OUT.parquet [--url URL]",
    "llmops data forget SUBJECT [--dry-run]",
    "llmops gc [--dry-run]",
    "llmops elk setup|check|down",
    "llmops elk setup",  # with an Elasticsearch: tests/elk runs all of them
    "llmops elk check",
    "llmops elk down",
    "llmops elk down --data",
    "llmops doctor",
    "llmops plan [--gpu GIB]",
    "llmops status [--verify]",
    "llmops plan",
    "llmops lineage",
    "llmops models push",  # with a Hub: tests/push_to_hub/test_stage.py runs both
    "llmops models push --check",
    "llmops data forget",
    'llmops data forget "Ana Petrova"',
    "llmops keys create --role ROLE --owner OWNER",
    "llmops keys revoke PREFIX",
    "llmops events [status|dead|retry|forget]",
    "llmops events dead [SINK]",
    "llmops events retry [SINK]",
    "llmops events forget SINK",
    "llmops alerts list|silence|unsilence|test|watch",
    'llmops alerts silence latency_p95 --reason "load test" --hours 2',
    "llmops alerts silence RULE --reason TEXT --hours 2",
    "llmops alerts unsilence 1",
    "llmops alerts test",  # with receivers: tests/alerts/receivers
    "llmops alerts watch",
    "llmops drift [--against training|served] [--until 2026-03-04] [--json]",
    "llmops drift --against training",
    "llmops decay [--json]",
    "llmops feedback list [--json] [--state held]",
    "llmops feedback accept 3f2a9c1e",
    'llmops feedback edit 3f2a9c1e --text "Within the European Union only."',
    'llmops feedback refuse 3f2a9c1e --why "not our policy"',
    'llmops feedback refuse --key 1a2b3c4d --why "a trigger"',
    "llmops improve report --since 2026-01-01 --until 2026-02-01",
    "llmops improve report",
]

DOCKER, CLUSTER = "needs Docker and networks to fetch images from", "needs a cluster"
#: what a word in capitals stands for
MEANT = {"STAGE": "collect", "GIB": "24", "ROLE": "user", "RULE": "latency_p95"}
#: forms that name a command and are none
NAMED = (["models"], ["data", "forget"], ["alerts", "silence"], ["alerts", "unsilence"], ["events", "forget"])

SERVING_DOCS = "tests/serving/test_docs.py runs it"
WRITES = "writes into the checkout; the test of that name checks what is written"
VLLM = "installs gigabytes into an environment of its own"
GUIDELLM = "installs gigabytes into an environment of its own; tests/serving/answers/test_guidellm.py runs it in one"

#: Only checked for their grammar: beginning of the command → why it is not run.
PARSED = {
    "llmops plan --config examples/support_bot/config.yaml --set select.model=": "its weights are on the Hub and its "
    "licence asks for a token; tests/test_plan.py plans for it",
    "make demo": "leaves everything running; what it starts is started by these tests",
    "make test": "runs these tests, and so does `make test-slow`",
    "make setup PYTHON=": "installs gigabytes; tests/test_makefile.py runs its choice of Python",
    "make stop": "ends what a developer has running; tests/test_stack.py stops services",
    "make test-images": "builds and runs images for five minutes; needs podman",
    "make test-other": "runs a part of the tests on another Python; CI does",
    "make bench": "takes an hour; tests/benchmarks does a part of it",
    "make pipeline": "trains for minutes; tests/e2e/test_front_door.py runs the pipeline in Airflow",
    "LLMOPS_COLLECT__ROOT=/folder/with/your/files": "needs your files; tests/examples reads that configuration",
    "LLMOPS_COLLECT__ROOT=/folder/with/your/documents": "needs yours; test_documents_alone.py runs it on others",
    "python tests/test_readme.py": WRITES,
    "python tests/data/test_bad_input.py": WRITES,
    "python tests/monitoring/test_fields_table.py": WRITES,
    "python -m tests.monitoring.outages": "takes minutes; tests/monitoring/test_chaos.py does a hundredth of it",
    "python benchmarks/drift.py": "takes minutes; tests/benchmarks runs its parts",
    "python benchmarks/NAME.py": "stands for each of the benchmarks; tests/benchmarks runs them",
    "10 0 * * * cd /srv/llmops": "a line of a crontab; tests/data/test_intervals.py runs days one after another",
    "CRON_TZ=UTC": "a line of a crontab",
    "docker ": DOCKER,
    "for name in POSTGRES_PASSWORD": DOCKER,
    'echo "AIRFLOW_FERNET_KEY': DOCKER,
    "chmod 600 .env": DOCKER,
    "kubectl ": CLUSTER,
    "uv pip compile": "the whole line stands in the files that it writes; it asks a package index",
    "curl -s": SERVING_DOCS,
    "id=$(curl -s": SERVING_DOCS,
    "python3.11 -m venv .venv-vllm": VLLM,
    ".venv-vllm/bin/pip ": VLLM,
    "python3.11 -m venv .venv-guidellm": GUIDELLM,
    ".venv-guidellm/bin/pip ": GUIDELLM,
    ".venv-guidellm/bin/guidellm ": GUIDELLM,
    "pip install bitsandbytes": VLLM,
    "sqlite3 .llmops/events/store.db": "tests/serving/test_grounding.py asks it of the app's events",
}


def found() -> list[str]:
    """All command lines, without repetitions: blocks of shell, and code within sentences that begins with a program."""
    commands: dict[str, None] = {}
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            text = text.split('"""')[1]
        blocks = [
            code for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language in SHELL
        ]
        text = re.sub(r"^```.*?^```\n", "", text, flags=re.M | re.S)
        blocks += [re.sub("^    ", "", b, flags=re.M) for b in re.findall(r"(?<=\n\n)(?:    .*\n)+", text)]
        text = re.sub(r"^    .*\n", "", text, flags=re.M)
        for block in blocks:
            commands |= dict.fromkeys(split(block))
        inline = (code.replace(r"\|", "|") for code in re.findall(r"`([^`\n]+)`", text))
        commands |= dict.fromkeys(code for code in inline if PROGRAM.match(code))
    return list(commands)


SHELL = ("sh", "bash")


def split(block: str) -> Iterator[str]:
    """The commands of a block of shell: lines, put together until bash finds them whole."""
    whole = ""
    for line in block.replace("\\\n", "").splitlines():
        whole += line + "\n"
        checked = subprocess.run(["bash", "-n", "-c", whole], capture_output=True)
        if checked.returncode == 0:
            yield re.sub(r"\s+# .*| +(?=  )", "", whole.strip())
            whole = ""
    assert not whole, f"bash does not understand {whole!r}"


COMMANDS = found()


def listed(command: str) -> bool:
    return command in {*RUN, *SERVERS, *SYNOPSES} or any(command.startswith(begin) for begin in PARSED)


def test_every_command_of_the_docs_is_in_a_list_and_every_list_is_of_the_docs() -> None:
    assert [command for command in COMMANDS if not listed(command)] == []
    gone = [command for command in [*RUN, *SERVERS, *SYNOPSES] if command not in COMMANDS]
    gone += [begin for begin in PARSED if not any(command.startswith(begin) for command in COMMANDS)]
    assert gone == []


@pytest.mark.parametrize("synopsis", SYNOPSES)
def test_every_form_of_a_synopsis_is_understood(synopsis: str) -> None:
    """With and without what is in brackets."""
    parser = cli._parser()
    short, long = re.sub(r" \[[^]]*\]", "", synopsis), synopsis.replace("[", "").replace("]", "")
    for form in {short, long}:
        words = [word.split("|") for word in shlex.split(form)[1:]]
        for words_of_one in itertools.product(*words):
            line = [MEANT.get(word, word) for word in words_of_one]
            if line in NAMED:
                line += ["--help"]
            try:
                parser.parse_args(line)
            except SystemExit as end:
                assert end.code == 0, line


@pytest.mark.parametrize("command", [c for c in COMMANDS if any(c.startswith(begin) for begin in PARSED)])
def test_what_is_not_run_is_at_least_grammar(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True)
    if command.startswith("make "):
        subprocess.run(["make", "--dry-run", *command.split()[1:2]], cwd=ROOT, check=True, capture_output=True)
    if match := re.match(r"(?:\S+=\S+ )*(?:\.venv/bin/)?llmops (.*)", command):
        cli._parser().parse_args(match[1].split())


@pytest.fixture(scope="module")
def versions(home: Path, settings: dict[str, str]) -> None:
    """Two more versions, which the gate has passed, the first of them the champion."""
    registry = registry_of(load(settings["LLMOPS_CONFIG"], environ=settings))
    first = registry.get("v1")
    facts = json.loads((first.path / "version.json").read_text())
    facts = {key: value for key, value in facts.items() if key not in ("name", "created", "path")}
    trees = {path.name: path for path in first.path.iterdir() if path.name != "version.json"}
    for n in (2, 3):
        opponent = registry.aliases().get("champion", "base")
        made = facts | {"status": "promoted", "compared_with": opponent, "compress": f"copy-{n}"}
        version = registry.publish(made, trees, lambda version: {}, by="test", why="test")
        assert version.status == "promoted"


@pytest.fixture(scope="module")
def environ(
    versions: None, service: stack.Service, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """What a user's terminal has, with an empty home folder and a key, while Airflow and the serving app run."""
    user = tmp_path_factory.mktemp("user")
    programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")} | settings
    environ |= {"HOME": str(user), "PATH": programs, "PYTHONPATH": str(ROOT)}
    config = load(settings["LLMOPS_CONFIG"], environ=settings)
    stack.start_serving(config, environ)
    done = subprocess.run(
        ["llmops", "keys", "create", "--json"], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    (user / "data").mkdir()
    pq.write_table(pa.table({"question": ["Where?"]}), user / "data" / "in.parquet")
    yield environ | {"KEY": json.loads(done.stdout)["key"]}
    stack.stop(config.home, ["serving"])
    assert not (user / "airflow").exists()  # where Airflow would put its database without being told


def shell(command: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, with this home's address, folder and key in place of those that docs make up."""
    prefix = environ["KEY"].split("_")[1]
    for written, here in (
        ("127.0.0.1:8000", f"127.0.0.1:{environ['LLMOPS_SERVING__PORT']}"),
        ("/data/", f"{environ['HOME']}/data/"),
        ("1a2b3c4d", prefix),
        (".venv/bin/llmops", f"{Path(sys.executable).parent}/llmops"),
    ):
        command = command.replace(written, here)
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_the_commands_of_the_docs_work_one_after_another(environ: dict[str, str], airflow: Airflow) -> None:
    url = f"http://127.0.0.1:{environ['LLMOPS_SERVING__PORT']}"
    deadline = time.monotonic() + 120
    while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    said: dict[str, str] = {}
    for command in RUN:
        if command.startswith("llmops keys revoke"):
            continue  # of the key that is used here: last
        done = shell(command, environ)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said[command] = done.stdout
        if any(word in command for word in ("trigger llmops_canary", "trigger llmops_ab", "backfill", "trials=10")):
            for dag in ("llmops_pipeline", "llmops_canary", "llmops_ab_test"):
                for run in airflow.active(dag):
                    airflow.abandon(dag, run)
    assert '"response"' in said[next(command for command in RUN if command.startswith("curl"))]
    assert shell("llmops keys revoke 1a2b3c4d", environ).returncode == 0


@pytest.mark.parametrize("command", list(SERVERS))
def test_a_server_of_the_docs_comes_up(command: str, environ: dict[str, str], tmp_path: Path) -> None:
    own = environ | {"LLMOPS_HOME": str(tmp_path / "home"), SERVERS[command]: free_port()}
    path = "/api/v2/monitor/health" if "airflow" in command else "/healthz"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=ROOT, env=own, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while not _answers(f"http://127.0.0.1:{own[SERVERS[command]]}{path}"):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        time.sleep(1)
        _kill_session(process.pid)


def test_generate_prints_the_answer_and_no_warning(environ: dict[str, str]) -> None:
    done = shell('llmops generate "How long does delivery take?" --version v3 --max-new-tokens 4', environ)
    assert done.returncode == 0 and done.stdout
    assert "bitsandbytes" not in done.stderr and "arning" not in done.stderr and "kernels" not in done.stderr


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _kill_session(leader: int) -> None:
    """What of a session its leader has left: Airflow orphans its parts."""
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
