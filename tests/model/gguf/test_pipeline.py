"""Running a GGUF file: also one that may only be read, as in an image or on a registry that is mounted so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmops import python_path
from llmops.model.gguf.write import write_folder

ASK = """
import sys
from pathlib import Path
from llmops.model.gguf.process import Worker, run_requests
worker = Worker(Path(sys.argv[1]), batch=2, tokens=64, threads=1)
worker.wait_loaded()
print(run_requests(worker, [[1, 2, 3], [7, 8]], {"max_new_tokens": 8}, 2))
worker.close()
"""


def test_a_file_that_may_only_be_read_is_run_all_the_same(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(tmp_path / "servable")]
    if os.getuid() == 0:  # who may write whatever is there
        setpriv = shutil.which("setpriv") or pytest.skip("setpriv is missing (util-linux)")
        command = [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    write_folder(tiny_base, tmp_path / "servable", "f16")
    environ, temporary = {**os.environ, "PYTHONPATH": python_path()}, tmp_path / "temporary"
    temporary.mkdir()

    def said() -> str:
        environ["TMPDIR"] = str(temporary)
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    usual = said()
    (tmp_path / "servable" / "model.gguf").chmod(0o444)
    assert said() == usual
    assert not list(temporary.iterdir())
