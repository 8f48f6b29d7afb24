"""What every benchmark has: a place in `make bench`, and the same two options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "finish(told" in path.read_text(encoding="utf-8"))


def test_make_bench_runs_all_that_tell_figures(script: Callable[[str], ModuleType]) -> None:
    assert NAMES and sorted(script("run_all").NAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_the_options_and_is_named_as_its_file(name: str, script: Callable[[str], ModuleType]) -> None:
    module = script(name)
    told = module.options(["--quick", "--json"])
    assert (told.name, told.quick, told.json) == (name, True, True)
    assert not (module.options([]).quick or module.options([]).json)
    with pytest.raises(SystemExit):
        module.options(["--quik"])
