"""How a benchmark tells its figures, also when some of them are missing."""

import json
import math
from collections.abc import Callable
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
ARMS = {"ours": {"docs/s": 30.0, "loss": math.inf}, "theirs": {"docs/s": 10.0}, "idle": {"docs/s": 0.0}}


def test_the_last_line_is_one_object_and_no_figure_fails(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    report = script("report")
    claims = {"faster": ("theirs", "docs/s"), "other arm": ("gone", "docs/s"), "nothing": ("idle", "docs/s")}
    ratios = report.divided(ARMS, {name: (("ours", "docs/s"), other) for name, other in claims.items()})
    told = report.parser("somewhere/sorting.py", "Sorting: fast.\n\nMore.", "less").parse_args(["--json"])
    report.finish(told, ARMS, ratios, {"(c) peer": "It cannot be installed"}, ["pytest"])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert set(found) == {"name", "machine", "arms", "ratios", "failed"}
    assert (found["name"], found["arms"]["ours"], found["ratios"]) == (
        "sorting",
        {"docs/s": 30.0, "loss": None},
        {"faster": 3.0},
    )
    assert found["machine"]["versions"]["pytest"] == pytest.__version__
    assert any("(c) peer" in line and "It cannot be installed" in line for line in table)
    assert report.machine_name(found["machine"]) == report.machine_name(report.machine())
    with pytest.raises(SystemExit) as ended:
        report.finish(told, {}, {}, {"ours": "It does not start"})
    assert ended.value.code not in (0, None) and '{"name"' not in capsys.readouterr().out
