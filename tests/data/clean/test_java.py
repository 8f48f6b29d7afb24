"""clean on each Java that this machine has, in a process of its own: a process has one JVM."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.frame.doctor import check_java

TEST = "tests/data/clean/test_stage.py::test_texts_are_tidied_rules_say_why_and_the_smallest_id_survives"


@pytest.mark.service
def test_each_java_that_the_doctor_lets_in_runs_spark() -> None:
    programs = [Path(shutil.which("java") or ""), *Path("/usr/lib/jvm").glob("*/bin/java")]
    homes = {str(program.resolve().parents[1]) for program in programs if program.is_file()}
    fit = sorted(home for home in homes if check_java({"JAVA_HOME": home}).ok)
    assert fit
    for home in fit:
        command = [sys.executable, "-m", "pytest", "-n", "0", TEST]
        done = subprocess.run(command, env={**os.environ, "JAVA_HOME": home}, capture_output=True, text=True)
        assert done.returncode == 0, (home, done.stdout[-3000:])
