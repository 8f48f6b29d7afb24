"""What decides that an artifact is the same: what a stage reads, and what it computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops import artifacts, machine
from llmops.artifacts import Record
from llmops.code_version import library_version
from llmops.config import Annotate, Clean, Config, Index, Section, Tune
from llmops.errors import ArtifactError, LlmopsError

if TYPE_CHECKING:
    from llmops.data.annotate.ledger import SplitLedger


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline."""

    module: str  #: module whose function `run` does the work
    inputs: tuple[str, ...] = ()  #: stages whose artifacts it reads
    interval: bool = False  #: reads the data interval itself, not only through its inputs
    ledger: bool = False  #: honours the split ledger, as of the interval: what that holds counts as its input
    sources: bool = False  #: reads the sources: their content counts as its input
    declarations: bool = False  #: reads the Feast feature repository: its content counts as its input
    base: bool = False  #: chooses the base model: the weights that lie on this machine count as its input
    champion: bool = False  #: also reads the champion's version folder, if there is one
    paths: tuple[str, ...] = ()  #: paths of the configuration, and its database: they say where, and decide no result
    libraries: tuple[str, ...] = ()  #: packages that compute its result; with torch among them the GPU counts, too
    compute: bool = False  #: needs the accelerator, or all cores: the schedule runs one of these at a time
    resumable: bool = False  #: goes on from what an interrupted run left in its folder
    outside: bool = False  #: what it makes lies elsewhere and may change there: its function `stands` tells if it has
    aside: tuple[str, ...] = ()  #: patterns of its files that no other stage reads: measured times, what it drops
    read: tuple[str, ...] = ()  #: its metrics that other stages read
    #: other sections that it is given, each with the fields that it has no use for, as its own section decides: it sees
    #: their defaults, so that they change neither its result nor its fingerprint
    sections: Mapping[str, Callable[[Any], tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a stage's artifact belongs, and what it would be made from."""

    stage: str
    path: Path
    inputs: dict[str, Path]
    contents: dict[str, str]  #: of the inputs that are artifacts
    interval: str
    ledger: SplitLedger | None = None  #: what it reads and writes of the split ledger
    sources: str = ""  #: content of the sources, of a stage that reads them

    @property
    def done(self) -> bool:
        """Whether the artifact is there and whole, and the ledger knows of it."""
        return artifacts.is_done(self.path) and (not self.ledger or self.ledger.written)


def environment(libraries: Sequence[str]) -> dict[str, str]:
    """With what a stage would compute here: its libraries' versions; with torch among them the GPU, if there is one."""
    found = {name: library_version(name) for name in libraries}
    return found | ({"gpu": machine.gpu()} if "torch" in found and machine.gpu() else {})


def prepare(stage: Stage, config: Config, interval: str) -> None:
    """Bring up to date what a stage reads of the database of what is decided."""
    if stage.sources:
        take_in(config, interval)


def take_in(config: Config, interval: str) -> None:
    """Take what users said until the end of an interval into the database, and judge it, where feedback is a source."""
    if any(source.kind == "feedback" for source in config.collect.sources):
        from llmops.data.feedback import intake
        from llmops.monitoring.reader import reader_of
        from llmops.state.database import database_of

        with artifacts.locked(config.artifacts, shared=True):
            check_erased(config)
            intake.take_in(database_of(config), reader_of(config), config.improve, intake.end_of(interval))


def weights(config: Config) -> str:
    """The weights on this machine that `select` would take by itself; empty: a Hub model, which has its commit."""
    from llmops.model.base.hashes import content

    return content(config.select, config.database)


def check_base(config: Config, select: Path) -> None:
    """Make sure that the base model is still the one that the select artifact at `select` took."""
    from llmops.model.base.hashes import check

    check(select, config.database)


def declarations(config: Config) -> str:
    """The content of the Feast feature repository."""
    from llmops.features.declarations import repository_hash

    return repository_hash(config.features)


def champion(config: Config, candidate: str) -> Path | None:
    """The version a candidate is compared with: the one it was, if it has been decided on, else today's champion."""
    from llmops.registry.registry import registry_of

    return registry_of(config).opponent(candidate)


def check_erased(config: Config) -> None:
    """Make sure that no erasure was interrupted: the person is still in some places, and would be in more again.

    Raises:
        LlmopsError: if one was.
    """
    import sqlalchemy as sa

    from llmops.state.database import database_of
    from llmops.state.tables import erasures

    if (database := database_of(config)).absent:
        return
    with database.read() as connection:
        row = connection.execute(sa.select(erasures).where(erasures.c.ended == "")).first()
    if row:
        raise LlmopsError(
            f"The erasure {row.number}, begun at {row.begun} by {row.plan['by'] or 'somebody'}, was interrupted; "
            "finish it first, with `llmops data forget` and the same identifier."
        )


def check_done(name: str, source: str, path: Path) -> None:
    """Make sure that the artifact at `path`, which the stage `name` reads as its input `source`, is finished."""
    if not artifacts.is_done(path):
        why = "which has no finished artifact at"
        if artifacts.is_gone(path):
            record = artifacts.read_record(path)
            why = f"whose data was {artifacts.gone_since(record.removed, record.receipt)} from"
        raise ArtifactError(f"Stage {name} needs {source}, {why} {path}; run {source} first.")


def check_inputs(root: Path, inputs: Mapping[str, Path]) -> None:
    """Make sure that finished artifacts are whole and belong together: what one was made from holds what is given.

    They may have different names: what is made again with the same content belongs to what was made of the first. So
    only what was made directly from each other is compared.

    Args:
        root: the artifacts folder, in which they lie.
        inputs: stage → its artifact.

    Raises:
        ArtifactError: naming the two that do not, or the one that is damaged or lies elsewhere.
    """
    given = {name: artifacts.read_record(path) for name, path in inputs.items()}
    for name, path in inputs.items():
        place, whole = artifacts.artifact_path(root, name, given[name].fingerprint).absolute(), path.absolute()
        if whole.parts[-2:] != place.parts[-2:] or whole.parents[1].resolve() != place.parents[1].resolve():
            raise ArtifactError(f"{path} is given as artifact of {name}, but it would lie at {place}.")
    for name, record in given.items():
        for source in record.inputs.keys() & given.keys():
            made_from, beside = record.inputs[source], artifacts.ref(inputs[source])
            held = record.contents.get(source)
            if held != given[source].content if held else made_from != beside:
                raise ArtifactError(
                    f"{artifacts.ref(inputs[name])} was made from {made_from}, but {beside} is given with it: these do "
                    "not belong together. Give what one run made, or run `llmops run all`."
                )
    for path in inputs.values():
        artifacts.check_whole(path)


def unchanged(record: Record, interval: str) -> str:
    """What to say of an artifact that a run of `interval` found done: since when it is as it is."""
    if record.interval == interval:
        return "done already"
    since = f"unchanged since {record.interval}" if record.interval < interval else f"the same as of {record.interval}"
    return f"{since}, nothing to train" if record.stage == "train" else since


def section(config: Config, name: str) -> Section:
    """The section of a name."""
    found: Section = getattr(config, name)
    return found


def sections(stage: Stage, config: Config, name: str) -> dict[str, Section]:
    """A stage's own section and the others that it is given, these with defaults in the fields it has no use for."""
    own = section(config, name)
    found = {name: own}
    for other, useless in stage.sections.items():
        whole = section(config, other)
        fields = type(whole).model_fields
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in useless(own)}
        found[other] = whole.model_copy(update=defaults)
    return found


def hashed(stage: Stage, config: Config, name: str) -> dict[str, Any]:
    """What of the configuration decides a stage's result, as JSON values."""
    own, *others = sections(stage, config, name).items()
    return own[1].hashed() | {name: other.hashed() for name, other in others}


def useless_to_a_search(tune: Tune) -> tuple[str, ...]:
    """The fields of `train` that trials have no use for: of the epochs only those that are trained whole have one."""
    return ("validate_steps", "patience", "report_to", "seed", *(("epochs",) if tune.steps else ()))


def useless_to_clean(clean: Clean) -> tuple[str, ...]:
    """The fields of `annotate` that cleaning has no use for: all but which sources are tested."""
    return tuple(name for name in Annotate.model_fields if name != "test_sources")


def useless_to_index(index: Index) -> tuple[str, ...]:
    """Return the fields of `annotate` that indexing has no use for: all but what is redacted."""
    return tuple(name for name in Annotate.model_fields if name != "redact")
