"""The parts of a fingerprint: what a stage reads, and what it computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.config import Annotate, Clean, Collect, Config, Features, Index, Section, Serving, Tune
from llmops.frame import artifacts, machine
from llmops.frame.artifacts import Record
from llmops.frame.code_version import library_version
from llmops.frame.errors import ArtifactError, LlmopsError

if TYPE_CHECKING:
    from llmops.data.annotate.ledger import SplitLedger


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline."""

    module: str  #: module whose function `run` does the work
    inputs: tuple[str, ...] = ()  #: stages whose artifacts it reads
    interval: bool = False  #: reads the data interval directly, not only through its inputs
    ledger: bool = False  #: uses the split ledger; its content at the interval counts as an input
    sources: bool = False  #: reads the sources; their content counts as an input
    declarations: bool = False  #: reads the Feast feature repository; its content counts as an input
    base: bool = False  #: chooses the base model; the local weights count as an input
    champion: bool = False  #: also reads the champion's version folder, if there is one
    #: other sections, as in `sections`, that it gets with the input `index` only if `grounding.enabled`
    grounded: Mapping[str, Callable[[Any], tuple[str, ...]]] | None = None
    #: inputs and other sections that it reads when it is made; their changes alone do not make it again
    read_once: tuple[str, ...] = ()
    trains: bool = False  #: does nothing if `annotate` has no training examples
    paths: tuple[str, ...] = ()  #: paths of the configuration, and its database; they do not influence the result
    libraries: tuple[str, ...] = ()  #: packages that compute its result; with torch the GPU counts, too
    compute: bool = False  #: always needs the accelerator or all cores; only one such stage runs at a time
    resumable: bool = False  #: continues from the files of an interrupted run
    outside: bool = False  #: its result lives outside the artifact; `is_current` tells if it is still there
    aside: tuple[str, ...] = ()  #: patterns of its files that no other stage reads: measured times, dropped rows
    read: tuple[str, ...] = ()  #: its metrics that other stages read
    #: other sections that it gets → function from its own section to the fields that it does not use; these have their
    #: defaults, so that they change neither result nor fingerprint
    sections: Mapping[str, Callable[[Any], tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The path of a stage's artifact, and its inputs."""

    stage: str
    path: Path
    inputs: dict[str, Path]
    contents: dict[str, str]  #: contents of the inputs that are artifacts
    interval: str
    ledger: SplitLedger | None = None  #: its access to the split ledger
    sources: str = ""  #: content of the sources, for a stage that reads them

    @property
    def done(self) -> bool:
        """Return True if the artifact is finished and recorded in the ledger."""
        return artifacts.is_done(self.path) and (not self.ledger or self.ledger.written)


def inputs(stage: Stage, config: Config) -> tuple[str, ...]:
    """Return the stages whose artifacts a stage reads with this configuration."""
    grounded = config.grounding.enabled or stage.grounded is None
    return tuple(name for name in stage.inputs if grounded or name != "index")


def computes(stage: Stage, config: Config) -> bool:
    """Return whether a stage needs the accelerator or all cores: those that look passages up embed questions."""
    return stage.compute or bool(stage.grounded and config.grounding.enabled)


def environment(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of a stage's libraries on this machine, and the GPU if torch is among them."""
    found = {name: library_version(name) for name in libraries}
    return found | ({"gpu": machine.gpu()} if "torch" in found and machine.gpu() else {})


def take_in(config: Config, interval: str) -> None:
    """Read feedback until the end of an interval into the database and judge it, if feedback is a source."""
    if any(source.kind == "feedback" for source in config.collect.sources):
        from llmops.data.feedback import intake
        from llmops.events.reader import reader_of
        from llmops.state.database import database_of

        with artifacts.locked(config.artifacts, shared=True):
            check_erased(config)
            intake.ingest(database_of(config), reader_of(config), config.improve, intake.end_of(interval))


def weights(config: Config) -> str:
    """Return a hash of the local weights that `select` would choose; empty for a Hub model, which has its commit."""
    from llmops.model.base.hashes import content

    return content(config.select, config.database)


def check_base(config: Config, select: Path) -> None:
    """Raise if the base model is not the one that the select artifact recorded."""
    from llmops.model.base.hashes import check

    check(select, config.database)


def champion(config: Config, candidate: str) -> Path | None:
    """Return the version a candidate is compared with: the opponent of its decision, else the current champion."""
    from llmops.release.registry.registry import registry_of

    return registry_of(config).find_opponent(candidate)


def check_erased(config: Config) -> None:
    """Check that no erasure was interrupted: new artifacts could contain the person again.

    Raises:
        LlmopsError: if one was.
    """
    import sqlalchemy as sa

    from llmops.state.database import database_of
    from llmops.state.tables import erasures

    if not (database := database_of(config)).exists:
        return
    with database.read() as connection:
        row = connection.execute(sa.select(erasures).where(erasures.c.ended == "")).first()
    if row:
        raise LlmopsError(
            f"The erasure {row.number}, begun at {row.begun} by {row.plan['by'] or 'somebody'}, was interrupted; "
            "finish it first, with `llmops data forget` and the same identifier."
        )


def check_done(name: str, source: str, path: Path) -> None:
    """Raise if the artifact at `path`, input `source` of stage `name`, is not finished."""
    if not artifacts.is_done(path):
        why = "which has no finished artifact at"
        if artifacts.is_gone(path):
            record = artifacts.read_record(path)
            why = f"whose data was {artifacts.gone_since(record.removed, record.receipt)} from"
        raise ArtifactError(f"Stage {name} needs {source}, {why} {path}; run {source} first.")


def check_inputs(root: Path, inputs: Mapping[str, Path]) -> None:
    """Check that finished artifacts are whole and belong together: each was made from the content that is given.

    Their names may differ, because an input that is made again with the same content still fits. So only direct inputs
    are compared.

    Raises:
        ArtifactError: naming two that do not fit, or one that is damaged or in another folder.
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


def nothing_to_train(inputs: Mapping[str, Path]) -> bool:
    """Return whether `annotate`, or a stage that read it, has no training examples."""
    records = map(artifacts.read_record, inputs.values())
    return any(artifacts.SKIPPED in record.metrics or record.metrics.get("train") == 0 for record in records)


def unchanged(record: Record, interval: str) -> str:
    """Return in words since when an artifact, found done in a run of `interval`, is unchanged."""
    if record.interval == interval:
        return "done already"
    since = f"unchanged since {record.interval}" if record.interval < interval else f"the same as of {record.interval}"
    return f"{since}, nothing to train" if record.stage == "train" else since


def section(config: Config, name: str) -> Section:
    """Return a section by its name."""
    found: Section = getattr(config, name)
    return found


def sections(stage: Stage, config: Config, name: str) -> dict[str, Section]:
    """Return a stage's own section and its other sections, these with defaults in unused fields."""
    own = section(config, name)
    found = {name: own}
    grounded = stage.grounded if config.grounding.enabled else None
    for other, useless in {**stage.sections, **(grounded or {})}.items():
        whole = section(config, other)
        fields = type(whole).model_fields
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in useless(own)}
        found[other] = whole.model_copy(update=defaults)
    return found


def hashed(stage: Stage, config: Config, name: str) -> dict[str, Any]:
    """Return the configuration values that influence a stage's result, as JSON values."""
    own, *others = sections(stage, config, name).items()
    return own[1].hashed() | {name: other.hashed() for name, other in others if name not in stage.read_once}


def useless_to_a_search(tune: Tune) -> tuple[str, ...]:
    """Return the fields of `train` that trials do not use; `epochs` only if trials have a fixed number of steps."""
    return ("validate_steps", "patience", "report_to", "seed", *(("epochs",) if tune.steps else ()))


def useless_to_clean(clean: Clean) -> tuple[str, ...]:
    """Return the fields of `annotate` that cleaning does not use: all but `test_sources`."""
    return tuple(name for name in Annotate.model_fields if name != "test_sources")


def useless_to_index(index: Index) -> tuple[str, ...]:
    """Return the fields of `annotate` that indexing has no use for: all but what is redacted."""
    return tuple(name for name in Annotate.model_fields if name != "redact")


def unread_by_index(index: Index) -> tuple[str, ...]:
    """Return the fields of `collect` that indexing has no use for: all but the sources."""
    return tuple(name for name in Collect.model_fields if name != "sources")


def unread_by_features(features: Features) -> tuple[str, ...]:
    """Return the fields of `grounding` that training prompts do not depend on."""
    return ("likeness", "answer")


#: further sections of a stage that answers from the documents, see `Stage.grounded`
GROUNDED: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "grounding": lambda own: (),
    "serving": lambda own: tuple(name for name in Serving.model_fields if name != "max_context"),
    "collect": unread_by_index,
}
