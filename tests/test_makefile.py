"""Which Python the Makefile takes: the newest on the path that runs and that the doctor lets in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("sh", "echo", "grep", "head")
SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"  #: as pyenv leaves one for a version that is off


#: Runs the doctor, or the text after `-c`, as another version of Python would.
FAKE = """#!{python}
import importlib.util, runpy, sys
sys.version_info, sys.prefix = {version}, sys.base_prefix
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "{without}" else find(name)
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def version(*number: int, without: str = "") -> str:
    """A program that says that it is this version of Python, and that has not the module."""
    return FAKE.format(python=sys.executable, version=(*number, "final", 0), without=without)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and what it looks at, and `bin`, the whole path, with a few tools but no Python."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "llmops/frame/doctor.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is not here"))
    return tmp_path


def put(checkout: Path, **pythons: str) -> None:
    """Programs of these names, in which `_` stands for the dot."""
    for name, text in pythons.items():
        program = checkout / "bin" / name.replace("_", ".")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)


def make(checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What make says, on that path and without what a make that runs the tests hands on."""
    command = [shutil.which("make") or pytest.fail("make is not here"), "--no-print-directory", *arguments]
    environ = {"PATH": str(checkout / "bin"), **environ}
    return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True)


def chosen(checkout: Path, *arguments: str, **environ: str) -> list[str]:
    """The Python that is taken, and the other one to test on."""
    done = make(checkout, "--silent", "--eval=shown: ; @echo '$(PYTHON)/$(OTHER)'", "shown", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("/")


def test_the_newest_that_runs_is_taken_or_the_named_one_and_the_other_is_another(checkout: Path) -> None:
    put(checkout, python3_11=version(3, 11, 5), python3_12=version(3, 12, 1), python3_13=version(3, 13, 5))
    assert chosen(checkout) == ["python3.13", "python3.11"]
    assert chosen(checkout, PYTHON="") == chosen(checkout, "PYTHON=") == chosen(checkout), "as of an unset variable"
    assert chosen(checkout, "PYTHON=python3.11") == ["python3.11", "python3.13"]
    assert chosen(checkout, PYTHON="python3.11") == ["python3.11", "python3.13"]


@pytest.mark.parametrize(
    "unfit", [SHIM, "#!/bin/sh\nexit 0\n", version(3, 14, 0), version(3, 13, 5, without="ensurepip")]
)
def test_one_that_does_not_run_or_fit_is_passed_over(checkout: Path, unfit: str) -> None:
    put(checkout, python3_12=version(3, 12, 1), python3_13=unfit)
    assert chosen(checkout) == ["python3.12", ""]


def environment(checkout: Path, python: str, age_s: float) -> None:
    """An environment of that Python, so many seconds older than what it was made from."""
    put(checkout, **{"../.venv/bin/python": python})
    (checkout / ".venv/.installed").touch()
    for name, time in (("constraints.txt", 1e9), ("pyproject.toml", 1e9), (".venv/.installed", 1e9 - age_s)):
        os.utime(checkout / name, (time, time))


def test_the_other_is_another_than_the_environment_s(checkout: Path) -> None:
    """However it was made: what is tested on already is not tested again."""
    put(checkout, python3_11=version(3, 11, 9), python3_13=version(3, 13, 5))
    environment(checkout, version(3, 11, 9), age_s=-60)
    assert chosen(checkout) == ["python3.13", "python3.13"]


def test_none_that_fits_is_an_error_that_names_what_was_tried(checkout: Path) -> None:
    put(checkout, python3_11=version(3, 11, 2), python3_12=version(3, 12, 3, without="ensurepip"), python3_13=SHIM)
    done = make(checkout, "setup")
    assert done.returncode and not (checkout / ".venv").exists()
    assert "python3.13: pyenv: command not found" in done.stderr
    assert "python3.12-venv" in done.stderr and "3.11.2" in done.stderr and "make PYTHON=" in done.stderr


@pytest.mark.parametrize(("named", "said"), [("python3.9", "3.9.18"), ("nowhere/python3.13", "nowhere/python3.13")])
def test_one_that_is_named_and_unfit_stops_before_any_work(checkout: Path, named: str, said: str) -> None:
    put(checkout, python3_9=version(3, 9, 18), python3_13=version(3, 13, 5))
    done = make(checkout, "setup", f"PYTHON={named}")
    assert done.returncode and said in done.stderr and not (checkout / ".venv").exists()


def test_an_environment_that_is_there_needs_no_other_python(checkout: Path) -> None:
    environment(checkout, version(3, 12, 1), age_s=-60)
    done = make(checkout, "preflight", "NEED=python")
    assert done.returncode == 0 and "3.12.1" in done.stdout
    assert "--clear" not in make(checkout, "--dry-run", "setup").stdout, "it is not made anew"


@pytest.mark.parametrize(
    ("old", "age_s", "gone"),
    [
        pytest.param((3, 11, 2), 60, False, id="older than what is let in now"),
        pytest.param((3, 11, 9), -60, True, id="the system's own Python was updated"),
    ],
)
def test_an_unfit_environment_is_made_anew(checkout: Path, old: tuple[int, ...], age_s: float, gone: bool) -> None:
    put(checkout, python3_13=version(3, 13, 5))
    environment(checkout, version(*old), age_s)
    if gone:
        (checkout / ".venv/bin/python").unlink()
        (checkout / ".venv/bin/python").symlink_to("/nowhere/python3.11")
    done = make(checkout, "preflight", "NEED=python")
    assert done.returncode == 0 and "3.13.5" in done.stdout
    assert "python3.13 -m venv --clear .venv" in make(checkout, "--dry-run", "setup").stdout


def test_the_tiers_install_only_what_they_use(checkout: Path) -> None:
    """The demo needs no packages of the tests, and only real servers need those of npm."""
    put(checkout, python3_12=version(3, 12, 1))
    shown = {goal: make(checkout, "--dry-run", goal).stdout for goal in ("demo", "test", "test-all")}
    assert ["--group test" in text for text in shown.values()] == [False, True, True]
    assert ["azurite" in text for text in shown.values()] == [False, False, True]
    assert "tests/run.py check fast\n" in shown["test"] and "check fast services journeys" in shown["test-all"]


def test_pip_s_settings_are_handed_to_uv(checkout: Path) -> None:
    put(checkout, python3_12=version(3, 12, 1))
    shown = ["--silent", "--eval=shown: ; @echo $$UV_FIND_LINKS $$UV_DEFAULT_INDEX", "shown"]
    settings = {"PIP_FIND_LINKS": "/a /b", "PIP_INDEX_URL": "https://mirror.example/simple"}
    assert make(checkout, *shown, **settings).stdout == "/a,/b https://mirror.example/simple\n"
    assert (
        make(checkout, *shown, UV_DEFAULT_INDEX="https://own.example", **settings).stdout
        == "/a,/b https://own.example\n"
    )


def test_without_another_python_the_part_is_left_out_and_said_so(checkout: Path) -> None:
    put(checkout, python3_12=version(3, 12, 1))
    done = make(checkout, "test-other")
    assert done.returncode == 0 and "python3.12" in done.stdout and not (checkout / ".venv-3.12").exists()
