"""What of this machine a model may compute with."""

from __future__ import annotations

import pytest

from llmops import machine


@pytest.mark.parametrize(
    ("told", "found"), [({}, 4), ({"OMP_NUM_THREADS": "1"}, 1), ({"OMP_NUM_THREADS": "9"}, 4),
                        ({"OMP_NUM_THREADS": "0"}, 4), ({"OMP_NUM_THREADS": "2,1"}, 4), ({"OMP_NUM_THREADS": ""}, 4)],
)  # fmt: skip
def test_a_model_takes_no_more_threads_than_openmp_may(
    told: dict[str, str], found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 4)
    assert machine.threads(told) == found
