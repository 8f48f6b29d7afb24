"""What is kept, for all homes: closed under inputs, the newest among it, and no more than was promised."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmops.frame.artifacts import Record
from llmops.pipeline import pipeline
from llmops.privacy.retention import plan
from llmops.privacy.retention.plan import Artifact
from llmops.release.registry.decisions import UNDECIDED
from llmops.release.registry.version import Version

STAGES, DAY_S = list(pipeline.STAGES), 86_400


def make_record(stage: str, key: str, inputs: dict[str, str]) -> Record:
    return Record(stage, key, {}, inputs, "", "", {}, {}, "", "", "")


@st.composite
def draw_home(draw: st.DrawFn) -> dict[str, Artifact]:
    """Artifacts that were made from others before them, some of which are not there any more."""
    found: dict[str, Artifact] = {}
    for stage in STAGES:
        for number in range(draw(st.integers(0, 4))):
            inputs = {}
            for source in pipeline.STAGES[stage].inputs:
                made = [ref for ref in found if ref.startswith(f"{source}/")]
                inputs[source] = draw(st.sampled_from([*made, f"{source}/gone"]))
            used = draw(st.integers(0, 30))
            found[f"{stage}/{number}"] = Artifact(make_record(stage, str(number), inputs), DAY_S * used)
    return found


@given(draw_home(), st.integers(1, 4), st.integers(0, 31), st.data())
def test_what_is_kept_has_its_reasons(found: dict[str, Artifact], runs: int, since: int, data: st.DataObject) -> None:
    since *= DAY_S
    newest = plan.keep_recent(found, runs, since)
    kept = plan.keep_inputs(newest, newest, found)
    refs = data.draw(st.lists(st.sampled_from(sorted(found)), max_size=3)) if found else []
    served = plan.keep_rows(kept, "bot v1", refs, found)
    assert {ref for ref, artifact in found.items() if artifact.used >= since} <= newest.keys()
    for stage in STAGES:
        used = sorted((a.used for r, a in found.items() if r.startswith(f"{stage}/")), reverse=True)
        mine = [found[ref].used for ref in newest if ref.startswith(f"{stage}/")]
        assert sorted(mine, reverse=True)[:runs] == used[:runs]
        assert len(mine) <= runs or min(mine) >= since
    for ref in kept:  # a run finds all that it needs
        assert {s for s in found[ref].record.inputs.values() if s in found} <= kept.keys()
    for ref in served:  # and an erasure follows every row to what is kept
        rows = {s for n, s in found[ref].record.inputs.items() if s in found and n in plan.ROWS}
        assert rows <= served.keys()
    assert {ref for ref in refs if ref.partition("/")[0] in plan.ROWS} <= served.keys() and all(served.values())
    extra = served.keys() - kept.keys()
    assert all(ref.partition("/")[0] in plan.ROWS for ref in extra)  # no weights for a version's sake


def test_served_undecided_and_newest_versions_stay_with_those_they_are_compared_with() -> None:
    facts = dict.fromkeys(
        ("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset", "created"), ""
    )
    statuses = {2: UNDECIDED, 3: "rejected"}
    against = {5: "v1", 9: "v3"}
    known = [
        Version(
            name=f"v{n}", path=Path("x"), status=statuses.get(n, "promoted"), compared_with=against.get(n, "base"),
            compress=f"c{n}", **facts,
        )
        for n in range(1, 11)
    ]  # fmt: skip
    kept = plan.keep_versions(known, {"champion": "v5", "canary": "v9"}, 1)
    assert kept.keys() == {"v1", "v5", "v3", "v9", "v2", "v10"}
