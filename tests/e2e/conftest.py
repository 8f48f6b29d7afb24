"""A home for one whole run of the pipeline on the example's data, with a tiny base model so that it takes a minute."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import find_free_port

from .commands import FIRST

ROOT = Path(__file__).parents[2]
DAY = "2026-01-31"
SMALL = {
    "LLMOPS_TUNE__TRIALS": "0",
    "LLMOPS_TRAIN__EPOCHS": "0.5",
    "LLMOPS_TRAIN__LEARNING_RATE": "0.005",
    "LLMOPS_COMPRESS__WITHIN": "9",  # so that what is evaluated, released and served is the compressed model
    "LLMOPS_COMPRESS__MAX_NEW_TOKENS": "8",
    "LLMOPS_EVALUATE__MAX_NEW_TOKENS": "8",
    "LLMOPS_GOVERN__PROBE_TOKENS": "8",
    "LLMOPS_GOVERN__FAIL_ON": "never",  # random weights print anything
    "LLMOPS_RELEASE__FLOORS": "{}",
    "LLMOPS_RELEASE__GUARDRAILS": "{}",
    "LLMOPS_RELEASE__MIN_EFFECT": "0.0",
}

#: Runs a command line in bash, in the checkout.
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def settings(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings that say where the home is, what is read and how small everything is."""
    return {
        "LLMOPS_HOME": str(tmp_path_factory.mktemp("home")),
        "LLMOPS_CONFIG": str(ROOT / "examples/support_bot/config.yaml"),
        "LLMOPS_SELECT__MODEL": str(tiny_base),
        "LLMOPS_AIRFLOW_PORT": str(find_free_port()),
        "LLMOPS_SERVING__PORT": str(find_free_port()),
        **SMALL,
    }


@pytest.fixture(scope="session")
def environ(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    user = tmp_path_factory.mktemp("user")
    programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    return {**kept, **settings, "HOME": str(user), "PATH": programs, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def shell(environ: dict[str, str]) -> Shell:
    """Return a function that runs a command of the docs with this home's addresses in place of those of the docs."""

    def run(command: str, **more: str) -> subprocess.CompletedProcess[str]:
        for written, here in (
            ("127.0.0.1:8000", f"127.0.0.1:{environ['LLMOPS_SERVING__PORT']}"),
            ("/data/", f"{environ['HOME']}/data/"),
            ("1a2b3c4d", more.get("KEY", "_1a2b3c4d_").split("_")[1]),
            (".venv/bin/llmops", "llmops"),
            ("examples/faq/config.yaml", "examples/support_bot/config.yaml"),
        ):
            command = command.replace(written, here)
        line = ["bash", "-c", command]
        return subprocess.run(line, cwd=ROOT, env=environ | more, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def home(shell: Shell, settings: dict[str, str]) -> Path:
    done = shell(f"{FIRST} --interval {DAY} --run-id test")
    assert done.returncode == 0, done.stderr[-4000:]
    path = Path(settings["LLMOPS_HOME"])
    (path / "printed").write_text(done.stdout)
    return path
