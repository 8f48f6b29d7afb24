"""The runner of the tests: what it calls broken and flaky, and when a tier fails."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import run
from tests.clock import wait_until
from tests.programs import OTHER_NAMES, PROGRAMS

TIER = run.Tier("not check", budget_s=600, timeout_s=50, workers=0)

#: A test that fails at its first run and passes at the second.
FLAKY = """
def test_{name}():
    from pathlib import Path
    mark = Path(__file__).with_suffix(".{name}")
    was_there, _ = mark.exists(), mark.touch()
    assert was_there, "not yet"
"""

Judge = Callable[..., run.Result]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Write a file of tests, run it as a tier and return the result."""
    monkeypatch.setattr(run, "wait_until_quiet", lambda: None)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take a second each time
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)

    def judged(text: str, tier: run.Tier = TIER, flaky: str = "") -> run.Result:
        (tmp_path / "tests").mkdir()
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nmarkers = check\naddopts = -q -p no:cacheprovider -p xdist -p pytest_timeout\n"
        )
        (tmp_path / "tests" / "test_it.py").write_text("def test_good(): pass\n" + text)
        (tmp_path / "tests" / "flaky.txt").write_text(flaky)
        return run.run_tier("it", tier, tmp_path)

    return judged


@pytest.mark.parametrize(
    ("text", "changes", "name", "said"),
    [
        ("def test_bad(): assert 1 == 2, 'one is not two'", {}, "bad", "one is not two"),
        ("def test_hang():\n    import signal\n    signal.pause()", {"timeout_s": 1}, "hang", "Timeout"),
        ("def test_crash():\n    import os\n    os._exit(3)", {"workers": 1}, "crash", "crashed"),
    ],
)
def test_a_test_that_breaks_is_named(judge: Judge, text: str, changes: dict[str, Any], name: str, said: str) -> None:
    result = judge(text, replace(TIER, **changes))
    assert result.reasons[-1] == "1 broken" and result.passed == 1
    assert said in result.broken[f"tests/test_it.py::test_{name}"]


def test_a_flaky_test_is_named_and_does_not_fail_the_tier(judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    result = judge(FLAKY.format(name="a") + FLAKY.format(name="b"))
    assert not result.reasons and not result.broken and result.passed == 3
    assert list(result.flaky) == ["tests/test_it.py::test_a", "tests/test_it.py::test_b"]
    run.print_results([result])
    *_, flaky, total = capsys.readouterr().out.splitlines()
    assert (
        flaky == "FLAKY tests/test_it.py::test_b: AssertionError: not yet" and total == "3 passed, 0 failed, 0 skipped"
    )


def test_three_flaky_tests_fail_the_tier(judge: Judge) -> None:
    result = judge("".join(FLAKY.format(name=name) for name in "abc"))
    assert result.reasons == ["3 flaky"] and not result.broken


def test_a_listed_test_does_not_block_even_if_it_fails_twice(judge: Judge) -> None:
    listed = "# known\ntests/test_it.py::test_bad | 2026-01-31 | waits for a mend\n"
    result = judge("def test_bad(): assert 0", flaky=listed)
    assert not result.reasons and list(result.listed) == ["tests/test_it.py::test_bad"]


def test_a_run_that_hangs_as_a_whole_is_ended(judge: Judge) -> None:
    """As when the plugin for timeouts cannot interrupt: here, while tests are collected."""
    result = judge("import signal\nsignal.pause()", replace(TIER, budget_s=2))
    assert "pytest ended with 124 (took too long)" in result.reasons


def test_what_a_run_leaves_running_is_ended(judge: Judge, tmp_path: Path) -> None:
    judge(
        "def test_server():\n    import subprocess\n"
        "    server = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(server.pid))"
    )
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_more_failures_than_chance_explains_are_not_run_again(judge: Judge) -> None:
    result = judge("import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_bad(n): assert 0")
    assert len(result.broken) == run.MOST_FAILED + 1 and result.reasons[-1] == "6 broken"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_imported_fails_the_tier(judge: Judge, workers: int) -> None:
    result = judge("import nothing_of_this_name", replace(TIER, workers=workers))
    assert result.reasons and "nothing_of_this_name" in "".join(result.broken.values())


SKIPPED = """
import pytest
def test_gpu(): pytest.skip("needs a CUDA device")
def test_server(): pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
"""


def test_ci_skips_for_want_of_a_gpu_alone(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert judge(SKIPPED).reasons == ["1 skipped for another reason than a missing GPU"]


def test_elsewhere_a_missing_program_is_named(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    result = judge(SKIPPED)
    assert not result.reasons
    run.print_results([result])
    *_, gpu, server, _ = capsys.readouterr().out.splitlines()
    assert gpu == "1 skipped: needs a CUDA device"
    assert server == "1 skipped: needs redis-server (Debian: apt-get install redis-server)"


def test_a_skip_needs_a_reason_everywhere(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    result = judge("def test_lazy():\n    import pytest\n    pytest.skip('today')")
    assert result.reasons == ["1 skipped for another reason than a missing GPU or program"]


#: Program → a test that needs it.
NEEDING = {
    "docker-compose": "tests/docker/test_compose.py::test_compose_refuses_to_start_without_a_password",
    "kustomize": "tests/docker/test_kubernetes.py::test_kubernetes_own_schemas_accept_every_object",
    "redis-server": "tests/data/features/test_online.py::test_no_password_is_written_down_and_a_missing_one_is_named",
    "tesseract": "tests/data/collect/readers/pdf/test_pdf.py::test_a_scanned_page_is_read_with_its_headings",
}


def test_without_the_programs_their_tests_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a bare machine: a folder on the path has all programs but these."""
    hidden = {*PROGRAMS, *OTHER_NAMES["chromium"], "docker"}
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).glob("*"):
            if program.name not in hidden:
                link = tmp_path / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = run.run_pytest(["-n", "0", "--timeout=300", "-q", *NEEDING.values()], run.ROOT, 600)
    assert not found.failed and not found.unreadable
    for program in NEEDING:
        assert f"needs {program} (Debian: apt-get install {PROGRAMS[program]})" in found.skipped.values()


def test_no_test_at_all_fails_the_tier(judge: Judge) -> None:
    assert "no test passed" in judge("", replace(TIER, marks="check")).reasons


@pytest.mark.parametrize(("code", "broken"), [("", []), ("print('7 errors'); raise SystemExit(1)", ["python -c"])])
def test_a_command_that_fails_fails_the_tier(judge: Judge, code: str, broken: list[str]) -> None:
    result = judge("", replace(TIER, commands=[("python", "-c", code)]))
    assert [name[:9] for name in result.broken] == broken and bool(result.reasons) == bool(broken)


@pytest.mark.parametrize("whole", [False, True])
def test_whole_files_run_again_where_tests_build_upon_each_other(judge: Judge, whole: bool) -> None:
    later = FLAKY.format(name="later").replace("assert", "assert made and")
    result = judge("made = []\ndef test_first(): made.append(1)\n" + later, replace(TIER, whole_files=whole))
    assert bool(result.broken) != whole


def test_a_tier_that_takes_too_long_fails() -> None:
    result = run.Result("it", passed=1, seconds=251)
    assert run.objections(result, 250) == ["it took 251 s, the most is 250"] and not run.objections(result, 252)


def test_the_exit_status_is_that_of_the_tiers() -> None:
    done = subprocess.run([sys.executable, run.__file__, "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice" in done.stderr
