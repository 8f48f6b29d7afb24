"""Run tiers of the tests so that their result can be believed: `python tests/run.py fast services`.

Tests that failed run once more, alone. A test that fails again is broken and the tier fails; a test that passes then is
flaky and is named, and the tier passes unless there are three. Tests listed in `tests/flaky.txt` run and never
block; a test leaves that list once `python tests/run.py --repeat 20 ID` passed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_FAILED = 5  #: more failures than these are no chance: nothing is run again
MOST_FLAKY = 2
OVER_BUDGET = 2.5  #: a tier that takes more than this multiple of its budget fails
TOO_LONG = 124  #: exit status of a run that was ended because it took too long
QUIET_WITHIN_S = 60  #: the time that the machine gets to become quiet before failed tests run again
NO_GPU = "needs a CUDA device"  #: the start of the only reason that CI skips a test for
LACKS = "needs "  #: the start of the reasons elsewhere: the machine lacks a program that only some tests need
RUN = "TESTS_RUN"  #: environment variable that names the run which a process belongs to
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",))


@dataclass(frozen=True)
class Tier:
    """A part of the tests that needs the same things.

    Attributes:
        marks: the tests' marks, as pytest's `-m` takes them.
        budget_s: seconds that it may take on two quiet cores.
        timeout_s: seconds that one test may take.
        workers: processes that run tests at the same time.
        commands: programs of the environment that have to pass, too.
        whole_files: run the whole file of a failed test again, because its tests build upon each other.
        options: pytest's options for the first run.
    """

    marks: str
    budget_s: int
    timeout_s: int
    workers: int
    commands: Sequence[Sequence[str]] = ()
    whole_files: bool = False
    options: Sequence[str] = ()


TIERS = {
    "check": Tier("check", 120, 60, 1, CHECKS),
    "fast": Tier("not (check or service or journey)", 480, 60, 3),
    "services": Tier("service and not journey", 600, 300, 2),
    # in the order of their names, because then the longest begin first
    "journeys": Tier("journey", 900, 900, 2, whole_files=True, options=("--no-loadscope-reorder",)),
}


@dataclass
class Result:
    """The outcome of a tier.

    Attributes:
        broken: ids of the tests, or names of the commands, that failed for good, with the first line of the error.
        flaky: ids of the tests that failed and passed when they ran again, with the first error.
        listed: failed tests that `tests/flaky.txt` excuses.
        skipped: ids of skipped tests with the reason.
        reasons: everything that makes the tier fail, a sentence each.
    """

    name: str
    passed: int = 0
    seconds: float = 0
    broken: dict[str, str] = field(default_factory=dict)
    flaky: dict[str, str] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)


class Recorder:
    """A pytest plugin that writes each outcome of a test into a file, a JSON line each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def _write(self, node: str, outcome: str, seconds: float, text: str) -> None:
        self._file.write(json.dumps([node, outcome, seconds, text]) + "\n")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note each phase of a test: a failed set-up or teardown is a failed test, too."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr)
            self._write(report.nodeid, "failed", report.duration, (text.splitlines() or [""])[0][:300])
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            self._write(report.nodeid, "skipped", report.duration, reason.removeprefix("Skipped: "))
        else:
            self._write(report.nodeid, "passed" if report.when == "call" else "", report.duration, "")

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            self._write(report.nodeid or "collection", "import", 0, str(report.longrepr).strip().splitlines()[-1][:300])


@dataclass
class Outcomes:
    """The results of one run of pytest: its exit status and, by test, what was recorded."""

    status: int
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run_pytest(arguments: Sequence[str], root: Path, limit_s: float) -> Outcomes:
    """Run pytest in `root`, in a process of its own; after `limit_s` it is ended with the status `TOO_LONG`."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        record.touch()
        command = [sys.executable, str(Path(__file__).resolve()), "--record", str(record), *arguments]
        environ = {**os.environ, RUN: record.parent.name}
        process = subprocess.Popen(command, cwd=root, env=environ)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = TOO_LONG
        finally:
            end_leftovers(record.parent.name)
        found = Outcomes(status)
        for line in record.read_text(encoding="utf-8").splitlines():
            node, outcome, seconds, text = json.loads(line)
            found.seconds[node] = found.seconds.get(node, 0) + seconds
            if outcome == "passed":
                found.passed.add(node)
            elif outcome == "skipped":
                found.skipped[node] = text
            elif outcome == "failed":
                found.failed.setdefault(node, text)
            elif outcome == "import":
                found.unreadable[node] = text
    found.passed -= found.failed.keys()
    return found


def end_leftovers(run: str) -> None:
    """Kill what a run left behind, such as a server whose test was ended: its environment names the run."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(RUN) == run:
                process.kill()


def wait_until_quiet(clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until less than a process a core wants to run, a minute at most."""
    end = clock() + QUIET_WITHIN_S
    while os.getloadavg()[0] > (os.cpu_count() or 1) and clock() < end:
        sleep(2)


def read_flaky(path: Path) -> dict[str, str]:
    """Return the tests that `tests/flaky.txt` excuses: id to date and reason; a line is `ID | DATE | REASON`."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [line.split(" | ", 1) for line in lines if line.strip() and not line.startswith("#")]
    return {row[0]: row[1] for row in rows}


def run_commands(commands: Sequence[Sequence[str]]) -> dict[str, str]:
    """Run programs of the environment, two at a time; returns those that failed with their last line."""
    folder = Path(sys.executable).parent

    def run(command: Sequence[str]) -> tuple[str, subprocess.CompletedProcess[str]]:
        done = subprocess.run([folder / command[0], *command[1:]], capture_output=True, text=True)
        return " ".join(command), done

    failed = {}
    with ThreadPoolExecutor(2) as pool:
        for name, done in pool.map(run, commands):
            output = (done.stdout + done.stderr).strip()
            if done.returncode:
                print(f"$ {name}\n{output}", flush=True)
                failed[name] = (output.splitlines() or ["it printed nothing"])[-1]
            else:
                print(f"$ {name}: passed", flush=True)
    return failed


def run_tier(name: str, tier: Tier, root: Path = ROOT) -> Result:
    """Run a tier of the tests below `root`; tests that failed run once more, alone."""
    result, begun, limit_s = Result(name), time.monotonic(), tier.budget_s * OVER_BUDGET
    excused = read_flaky(root / "tests" / "flaky.txt")
    every = ["-m", tier.marks, f"--timeout={tier.timeout_s}"]
    with ThreadPoolExecutor(1) as pool:
        commands = pool.submit(run_commands, tier.commands)
        options = [*tier.options, "-n", str(tier.workers), f"--maxfail={MOST_FAILED + 1}"]
        first = run_pytest([*every, *options], root, limit_s)
        result.broken = commands.result() | first.unreadable
    result.skipped = first.skipped
    passed, failed = first.passed, first.failed
    if first.status not in (0, 1) or first.unreadable or len(failed.keys() - excused.keys()) > MOST_FAILED:
        result.broken |= failed
        result.reasons.append(f"pytest ended with {first.status}" + " (took too long)" * (first.status == TOO_LONG))
    elif failed:
        wait_until_quiet()
        again = sorted({node.split("::")[0] if tier.whole_files else node for node in failed})
        print(f"\n{name}: {len(failed)} failed; running once more, alone: {' '.join(again)}", flush=True)
        second = run_pytest([*every, "-n", "0", *again], root, limit_s)
        passed, failed = passed | second.passed, second.failed | failed
        for node, text in failed.items():
            is_flaky = node in second.passed
            kind = result.listed if node in excused else result.flaky if is_flaky else result.broken
            kind[node] = text
        if second.status not in (0, 1):
            result.reasons.append(f"pytest ended with {second.status} as failed tests ran again")
    result.passed, result.seconds = len(passed), time.monotonic() - begun
    result.slowest = sorted(((seconds, node) for node, seconds in first.seconds.items()), reverse=True)[:10]
    result.reasons += objections(result, limit_s)
    return result


def objections(result: Result, limit_s: float) -> list[str]:
    """Return why a tier fails whose tests have run: a sentence each, none if it passes."""
    is_ci = os.environ.get("CI") == "true"
    wrong = [node for node, reason in result.skipped.items() if not reason.startswith(NO_GPU if is_ci else LACKS)]
    found = {
        f"{len(result.broken)} broken": result.broken,
        f"{len(result.flaky)} flaky": len(result.flaky) > MOST_FLAKY,
        f"it took {result.seconds:.0f} s, the most is {limit_s:.0f}": result.seconds > limit_s,
        f"{len(wrong)} skipped for another reason than a missing {'GPU' if is_ci else 'GPU or program'}": wrong,
        "no test passed": not result.passed,
    }
    return [reason for reason, holds in found.items() if holds]


def print_results(results: Sequence[Result]) -> None:
    """Print a table of the tiers, then the tests to look at, what is missing here, and last the sum."""
    print("\ntier       seconds  passed  skipped  flaky  broken")
    for r in results:
        counts = f"{r.passed:>7} {len(r.skipped):>8} {len(r.flaky):>6} {len(r.broken):>7}"
        print(f"{r.name:<10} {r.seconds:>7.0f} {counts}  {'failed: ' if r.reasons else 'passed'}{'; '.join(r.reasons)}")
    for r in results:
        print(f"slowest of {r.name}: " + ", ".join(f"{node} {seconds:.1f} s" for seconds, node in r.slowest))
    for kind in ("skipped", "listed", "flaky", "broken"):
        for r in results:
            for node, text in getattr(r, kind).items():
                print(f"{kind.upper()} {node}: {text}")
    for reason, count in Counter(reason for r in results for reason in r.skipped.values()).most_common():
        print(f"{count} skipped: {reason}")
    failed = sum(len(r.broken) or bool(r.reasons) for r in results)
    passed, skipped = sum(r.passed for r in results), sum(len(r.skipped) for r in results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def repeat(node: str, times: int) -> int:
    """Run one test many times; returns the number of failures as the exit status."""
    failures = 0
    for number in range(1, times + 1):
        ok = run_pytest(["-n", "0", "--timeout=900", node], ROOT, 1000)
        failures += node not in ok.passed
        print(f"{number} of {times}: {'passed' if node in ok.passed else 'failed'}", flush=True)
    return min(failures, 125)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    if arguments and arguments[0] == "--record":
        sys.path[0] = os.getcwd()  # not this folder, whose `serving` would hide the app
        return int(pytest.main(list(arguments[2:]), plugins=[Recorder(Path(arguments[1]))]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiers", nargs="*", choices=[*TIERS, []], help="run in this order, until one fails")
    parser.add_argument("--repeat", nargs=2, metavar=("TIMES", "ID"), help="run one test many times")
    options = parser.parse_args(arguments)
    if options.repeat:
        return repeat(options.repeat[1], int(options.repeat[0]))
    results: list[Result] = []
    for name in options.tiers or TIERS:
        print(f"\n=== {name}", flush=True)
        results.append(run_tier(name, TIERS[name]))
        if results[-1].reasons:
            break
    print_results(results)
    return int(any(r.reasons for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
