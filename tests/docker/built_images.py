"""The images of serving that need no GPU, built and run by podman: `make test-images`, which `make test` is not.

    .venv/bin/python -m pytest -s tests/docker/built_images.py

Where the base image of the Dockerfiles cannot be pulled, debootstrap and this machine's Python make one like it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import DOCKER, ROOT, Home
from .lambda_events import runtime_api, v2

BASE = "localhost/llmops-test-python"
MOST_MIB = 700  #: of packages in the image for CPUs
LIMITS = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=90000:90000"]
#: As Compose and Kubernetes run it: nothing can be written but /tmp and the home, no capability, no way to get one.
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
BUNDLED = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "__pycache__", "sitecustomize.py")


def podman(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """What a command of podman prints; an error if it fails."""
    command = ["podman", *map(str, arguments)]
    environ = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    done = subprocess.run(command, env=environ, text=True, capture_output=True, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="session")
def python_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image: the one that the Dockerfiles name, or one that is made here."""
    for program in ("podman", "runc"):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing (Debian: apt-get install podman runc)")
    named = (DOCKER / "serving-cpu.Dockerfile").read_text().partition("ARG PYTHON=")[2].split()[0]
    for image in (named, BASE):
        if subprocess.run(["podman", "image", "exists", image]).returncode == 0:
            return image
    pulled = subprocess.run(["podman", "pull", "--quiet", f"docker.io/library/{named}"], capture_output=True)
    if pulled.returncode == 0:
        return f"docker.io/library/{named}"
    if not shutil.which("debootstrap") or os.getuid() != 0 or sys.base_prefix == "/usr":
        pytest.skip(
            "the base image cannot be pulled; as root, with debootstrap and a Python of its own, it could be made"
        )
    root = tmp_path_factory.mktemp("base") / "root"
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    subprocess.run(["debootstrap", "--variant=minbase", release, root], check=True, stdout=subprocess.DEVNULL)
    put_python(root)
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    podman("import", archive, BASE)
    shutil.rmtree(root.parent)
    return BASE


def put_python(root: Path) -> None:
    """Copy this Python to /usr/local of a system, with the libraries that its modules link, and give it pip."""
    home, there = Path(sys.base_prefix), root / "usr" / "local"
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(home / "lib" / name, there / "lib" / name, ignore=BUNDLED)
    for library in home.glob("lib/libpython*.so*"):
        shutil.copy(library, there / "lib", follow_symlinks=False)
    shutil.copy(home / "bin" / name, there / "bin" / name)
    for link in ("python", "python3"):
        (there / "bin" / link).symlink_to(name)
    modules = [m for m in (home / "lib" / name / "lib-dynload").glob("*.so") if "tkinter" not in m.name]
    linked = subprocess.run(["ldd", home / "bin" / name, *modules], check=True, capture_output=True, text=True).stdout
    for line in linked.splitlines():
        library = line.partition("=> ")[2].split(" ")[0]
        if library and not (root / library.lstrip("/")).exists() and "libpython" not in library:
            shutil.copy(library, there / "lib")
    path = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin"}
    for command in (["ldconfig"], ["python3", "-m", "ensurepip", "--default-pip"]):
        subprocess.run(["chroot", root, *command], check=True, stdout=subprocess.DEVNULL, env=path)


def build(dockerfile: Path, python: str, tag: str, *more: str) -> str:
    """Build an image; pip finds packages as it does here."""
    where = ["/etc/pip.conf", "/etc/ssl/certs", *os.environ.get("PIP_FIND_LINKS", "").split()]
    mounted = [f"--volume={path}:{path}:ro" for path in where if Path(path).exists()]
    arguments = ["--network", "host", "--isolation", "chroot", "--format", "docker", "--build-arg", f"PYTHON={python}"]
    podman("build", *LIMITS, *arguments, *mounted, *more, "--file", dockerfile, "--tag", tag, ROOT)
    return tag


@pytest.fixture(scope="module")
def cpu_image(python_image: str) -> str:
    """The image of serving without a GPU."""
    return build(DOCKER / "serving-cpu.Dockerfile", python_image, "localhost/llmops-test-serving")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts containers, and removes them."""
    ids: list[str] = []

    def start(*arguments: str | Path) -> str:
        ids.append(podman("run", "--runtime", "runc", "--detach", *LIMITS, *HARDENED, *arguments).stdout.strip())
        return ids[-1]

    yield start
    for one in ids:
        print(subprocess.run(["podman", "logs", one], capture_output=True, text=True).stderr[-3000:])
        subprocess.run(["podman", "rm", "--force", "--time", "0", one], capture_output=True)


def inside(container: str, code: str) -> str:
    """What Python prints in a container."""
    return podman("exec", container, "python", "-c", code).stdout.strip()


def test_the_image_answers_under_load_and_loses_no_request_when_it_is_told_to_stop(
    cpu_image: str, started: Callable[..., str], released: Home, tmp_path: Path, free_port: int
) -> None:
    home = shutil.copytree(released.path, tmp_path / "home")
    many = 1_000_000_000
    settings = {"HOST": "127.0.0.1", "PORT": free_port, "DRAIN_S": 3}
    limits = {"REQUESTS_PER_MINUTE": many, "TOKENS_PER_MINUTE": many}
    environ = [f"--env=LLMOPS_SERVING__{name}={value}" for name, value in (settings | limits).items()]
    registry = [f"--volume={released.path / 'registry'}:/models:ro", "--env=LLMOPS_RELEASE__REGISTRY=/models"]
    container = started("--network=host", f"--volume={home}:/var/lib/llmops:U", *registry, *environ, cpu_image)
    at = f"http://127.0.0.1:{free_port}"
    begun = time.monotonic()
    while not ready(at):
        assert time.monotonic() < begun + 120, "it is not ready"
        time.sleep(0.1)
    print(f"ready after {time.monotonic() - begun:.1f} s")

    assert inside(container, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
    assert inside(container, TRIES_TO_WRITE) == "[]"
    mib = float(inside(container, MEASURE))
    print(f"packages: {mib:.0f} MiB")
    assert mib < MOST_MIB
    key = podman("exec", container, "llmops", "keys", "create", "--role", "user", "--owner", "ann").stdout
    assert "llmops_" in key
    texts = {"model": "all-MiniLM-L6-v2", "input": "Where is my order?"}
    begun = time.monotonic()
    answer = httpx.post(f"{at}/v1/embeddings", json=texts, headers={"X-API-Key": released.key}, timeout=60)
    print(f"first embedding after {time.monotonic() - begun:.1f} s")
    assert len(answer.json()["data"][0]["embedding"]) == 384

    stop, statuses = threading.Event(), Counter[int]()

    def ask() -> None:
        body = {"prompt": "Where is my order?", "max_new_tokens": 32}
        with httpx.Client(base_url=at, headers={"X-API-Key": released.key}, timeout=60) as client:
            while not stop.is_set():
                statuses[client.post("/generate", json=body).status_code] += 1

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    time.sleep(5)
    podman("kill", "--signal", "TERM", container)
    while ready(at):
        time.sleep(0.05)
    stop.set()  # as a balancer sends no more to who is not ready
    for caller in callers:
        caller.join()
    code = podman("wait", container, timeout=60).stdout.strip()
    print(f"answers: {dict(statuses)}, exit code {code}")
    assert set(statuses) == {200} and statuses[200] > 50 and code == "0"


def ready(at: str) -> bool:
    """Whether a server takes requests."""
    try:
        return httpx.get(f"{at}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


TRIES_TO_WRITE = """
import os
written = []
for path in ("/x", "/opt/venv/x", "/etc/x", "/home/x"):
    try:
        open(path, "w")
        written.append(path)
    except OSError:
        pass
print(written)
"""
MEASURE = """
import os
files = [os.path.join(at, name) for at, _, names in os.walk("/opt/venv") for name in names]
print(sum(os.lstat(path).st_size for path in files) / 2**20)
"""


def test_the_lambda_image_answers_an_event(
    python_image: str, started: Callable[..., str], released: Home, tmp_path: Path
) -> None:
    home = shutil.copytree(released.path, tmp_path / "home")
    more = ["--build-context", f"home={home}"]
    image = build(DOCKER / "lambda" / "Dockerfile", python_image, "localhost/llmops-test-lambda", *more)
    headers = {"content-type": "application/json", "x-api-key": released.key}
    body = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})
    texts = json.dumps({"model": "all-MiniLM-L6-v2", "input": "Where is my order?"})
    asked = [v2("POST", "/generate", headers, body), v2("POST", "/v1/embeddings", headers, texts)]
    with runtime_api(asked) as (port, answers):
        begun = time.monotonic()
        started("--network", "host", "--env", f"AWS_LAMBDA_RUNTIME_API=127.0.0.1:{port}", image)
        _, answer = answers.get(timeout=120)
        print(f"first answer after {time.monotonic() - begun:.1f} s")
        assert answer["statusCode"] == 200 and json.loads(answer["body"])["model_version"] == "v1"
        assert len(json.loads(answers.get(timeout=120)[1]["body"])["data"][0]["embedding"]) == 384


def test_the_lambda_image_is_not_built_of_what_it_could_not_answer_with(
    python_image: str, released: Home, tmp_path: Path
) -> None:
    home = shutil.copytree(released.path, tmp_path / "home")
    (home / "registry" / "support-bot" / "versions" / "v1" / "servable" / "model.gguf").unlink()
    with pytest.raises(AssertionError, match="v1 is no GGUF file"):
        build(
            DOCKER / "lambda" / "Dockerfile", python_image, "localhost/llmops-test", "--build-context", f"home={home}"
        )


def test_the_azure_image_answers_what_the_worker_would_ask(python_image: str, released: Home, tmp_path: Path) -> None:
    """On a base that has Python and no Functions host: all of the image but what starts it."""
    home = shutil.copytree(released.path, tmp_path / "home")
    more = ["--build-context", f"home={home}", "--build-arg", f"FUNCTIONS={python_image}"]
    image = build(DOCKER / "azure" / "Dockerfile", python_image, "localhost/llmops-test-azure", *more)
    tests = [f"--volume={ROOT / 'tests' / 'docker'}:/tests:ro", "--env=PYTHONPATH=/tests:/home/site/wwwroot"]
    run = [
        "run",
        "--rm",
        "--runtime",
        "runc",
        "--network",
        "none",
        *LIMITS,
        *HARDENED,
        *tests,
        "--entrypoint",
        "python",
    ]
    begun = time.monotonic()
    said, answer = podman(*run, image, "-P", "/tests/azure_worker.py", released.key).stdout.splitlines()
    print(f"imported, answered and ended after {time.monotonic() - begun:.1f} s")
    assert json.loads(said)["statuses"] == [200, 200, 401] and json.loads(answer)["model_version"] == "v1"
