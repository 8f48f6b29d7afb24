"""What keeps its data, and why: the rules of the section `retention`, on what there is.

The artifacts that are kept are closed: what one of them was made from is kept, too, so that a run finds all that it
needs, and an erasure can follow a row of the sources as far as it went. Of a version that is kept, the artifacts that
hold rows are, for the same reason; what only its training needed is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from llmops.artifacts import Record
from llmops.registry.decisions import UNDECIDED
from llmops.registry.version import Version
from llmops.registry.view import BASE

DAY_S = 86_400

#: Stages through which a row of the sources is followed to a model: what was made of their artifacts needs these.
ROWS = ("collect", "clean", "annotate", "features")

Reasons = dict[str, str]  #: what is kept → why


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact."""

    record: Record
    used: float  #: when a run has made or used it last, in seconds since the epoch


def newest(found: Mapping[str, Artifact], runs: int, since: float) -> Reasons:
    """The artifacts that the newest runs have made or used: by the day of the last use, on one day by when they were
    made, since a copy of a home may have one day for all.

    Args:
        found: "stage/fingerprint" → artifact.
        runs: how many of each stage.
        since: whatever was used from this moment on, in seconds since the epoch, is kept beside them.
    """
    stages: defaultdict[str, list[str]] = defaultdict(list)
    for ref in sorted(found, key=lambda ref: (found[ref].used // DAY_S, found[ref].record.finished), reverse=True):
        stages[_stage(ref)].append(ref)
    kept: Reasons = {}
    for refs in stages.values():
        kept |= dict.fromkeys(refs[:runs], f"one of the {runs} that were used last")
        kept |= {ref: f"used on {_day(found[ref].used)}" for ref in refs[runs:] if found[ref].used >= since}
    return kept


def with_inputs(
    kept: Mapping[str, str], refs: Iterable[str], found: Mapping[str, Artifact], stages: Collection[str] = ()
) -> Reasons:
    """`kept` with all that `refs`, which are in it, were made from; of these `stages` only, if any are named."""
    all_kept, queue = dict(kept), list(refs)
    while queue:
        ref = queue.pop()
        for name, source in sorted(found[ref].record.inputs.items()):
            wanted = name != "champion" and source in found and (not stages or _stage(source) in stages)
            if wanted and source not in all_kept:
                all_kept[source] = f"{ref} was made from it"
                queue.append(source)
    return all_kept


def with_rows_of(kept: Mapping[str, str], version: str, refs: Iterable[str], found: Mapping[str, Artifact]) -> Reasons:
    """`kept` with the artifacts that hold the rows which a version was made from.

    Args:
        kept: what is kept for other reasons.
        version: its name, for the reason.
        refs: all artifacts that it was made from.
        found: as in `newest`.
    """
    rows = [ref for ref in refs if ref in found and _stage(ref) in ROWS]
    new = {ref: f"{version} was made from it" for ref in rows if ref not in kept}
    return with_inputs({**kept, **new}, new, found, ROWS)


def versions(known: Iterable[Version], aliases: Mapping[str, str], newest: int, compress: Collection[str]) -> Reasons:
    """The versions of a model that keep their weights.

    Args:
        known: all versions, oldest first.
        aliases: alias → version.
        newest: how many of the last are kept.
        compress: fingerprints of the compress artifacts that are kept: a run that goes on from one of them asks the
            version that it was compared with again.
    """
    known = list(known)
    named: defaultdict[str, list[str]] = defaultdict(list)
    for alias, name in aliases.items():
        named[name].append(alias)
    kept: Reasons = {name: f"it is {' and '.join(sorted(names))}" for name, names in named.items()}
    for version in reversed(known[-newest:]):
        kept.setdefault(version.name, f"one of the newest {newest} versions")
    for version in known:
        if version.status == UNDECIDED:
            kept.setdefault(version.name, "the gate has not decided on it")
        if (version.name in named or version.compress in compress) and version.compared_with not in ("", BASE):
            kept.setdefault(version.compared_with, f"{version.name} was compared with it")
    return kept


def _stage(ref: str) -> str:
    return ref.partition("/")[0]


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
