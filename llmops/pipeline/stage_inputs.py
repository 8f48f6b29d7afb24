"""The inputs of a stage and the other parts of its artifact's fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.config import Annotate, Clean, Collect, Config, Features, Index, Section, Serving, Tune
from llmops.frame import artifacts, machine
from llmops.frame.artifacts import Record
from llmops.frame.code_version import get_library_version
from llmops.frame.errors import ArtifactError, LlmopsError

if TYPE_CHECKING:
    from llmops.data.annotate.split_ledger import SplitLedger


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
    needs_examples: bool = False  #: does nothing if `annotate` has no training examples
    paths: tuple[str, ...] = ()  #: paths of the configuration, and its database; they do not influence the result
    libraries: tuple[str, ...] = ()  #: packages that compute its result; with torch the GPU counts, too
    heavy: bool = False  #: always needs the accelerator or all cores; only one such stage runs at a time
    resumable: bool = False  #: continues from the files of an interrupted run
    external: bool = False  #: its result lives outside the artifact; `is_current` reports whether it is still there
    unread_files: tuple[str, ...] = ()  #: patterns of its files that no other stage reads: measured times, dropped rows
    read_metrics: tuple[str, ...] = ()  #: its metrics that other stages read
    #: other sections that it gets → function from its own section to the fields that the stage does not use; these have
    #: their defaults, so that they change neither result nor fingerprint
    sections: Mapping[str, Callable[[Any], tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagePlan:
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


def list_inputs(stage: Stage, config: Config) -> tuple[str, ...]:
    """Return the stages whose artifacts a stage reads with this configuration."""
    reads_index = config.grounding.enabled or stage.grounded is None
    return tuple(name for name in stage.inputs if reads_index or name != "index")


def is_heavy(stage: Stage, config: Config) -> bool:
    """Return True if a stage needs the accelerator or all cores. A stage that looks passages up embeds questions."""
    return stage.heavy or bool(stage.grounded and config.grounding.enabled)


def describe_environment(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of a stage's libraries on this machine, and the GPU if torch is among them."""
    versions = {name: get_library_version(name) for name in libraries}
    return versions | ({"gpu": machine.describe_gpus()} if "torch" in versions and machine.describe_gpus() else {})


def store_feedback(config: Config, interval: str) -> None:
    """Read feedback until the end of an interval into the database and judge it, if feedback is a source."""
    if any(source.kind == "feedback" for source in config.collect.sources):
        from llmops.data.feedback import intake
        from llmops.events.reader import make_reader
        from llmops.state.database import database_of

        with artifacts.hold_lock(config.artifacts, shared=True):
            check_no_erasure(config)
            intake.ingest(database_of(config), make_reader(config), config.improve, intake.get_interval_end(interval))


def hash_weights(config: Config) -> str:
    """Return a hash of the local weights that `select` would choose; empty for a Hub model, which has its commit."""
    from llmops.model.base.hashes import hash_local_weights

    return hash_local_weights(config.select, config.database)


def check_base(config: Config, select: Path) -> None:
    """Raise if the base model is not the one that the select artifact recorded."""
    from llmops.model.base.hashes import check_base_unchanged

    check_base_unchanged(select, config.database)


def find_opponent(config: Config, candidate: str) -> Path | None:
    """Return the version a candidate is compared with: the opponent of its decision, else the current champion."""
    from llmops.release.registry.registry import registry_of

    return registry_of(config).find_opponent(candidate)


def check_no_erasure(config: Config) -> None:
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
        if artifacts.is_removed(path):
            record = artifacts.read_record(path)
            why = f"whose data was {artifacts.describe_removal(record.removed, record.receipt)} from"
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
        expected, actual = artifacts.get_artifact_path(root, name, given[name].fingerprint).absolute(), path.absolute()
        if actual.parts[-2:] != expected.parts[-2:] or actual.parents[1].resolve() != expected.parents[1].resolve():
            raise ArtifactError(f"{path} is given as artifact of {name}, but it would lie at {expected}.")
    for name, record in given.items():
        for source in record.inputs.keys() & given.keys():
            made_from, present = record.inputs[source], artifacts.get_ref(inputs[source])
            content = record.contents.get(source)
            if content != given[source].content if content else made_from != present:
                raise ArtifactError(
                    f"{artifacts.get_ref(inputs[name])} was made from {made_from}, but {present} is given with it: "
                    "these do not belong together. Give what one run made, or run `llmops run all`."
                )
    for path in inputs.values():
        artifacts.check_files(path)


def has_nothing_to_train(inputs: Mapping[str, Path]) -> bool:
    """Return True if `annotate`, or a stage that read it, has no training examples."""
    records = map(artifacts.read_record, inputs.values())
    return any(artifacts.SKIPPED in record.metrics or record.metrics.get("train") == 0 for record in records)


def describe_unchanged(record: Record, interval: str) -> str:
    """Return in words since when an artifact is unchanged that a run of `interval` found finished."""
    if record.interval == interval:
        return "done already"
    since = f"unchanged since {record.interval}" if record.interval < interval else f"the same as of {record.interval}"
    return f"{since}, nothing to train" if record.stage == "train" else since


def get_section(config: Config, name: str) -> Section:
    """Return a section by its name."""
    section: Section = getattr(config, name)
    return section


def get_sections(stage: Stage, config: Config, name: str) -> dict[str, Section]:
    """Return a stage's own section and its other sections, these with defaults in unused fields."""
    own_section = get_section(config, name)
    sections = {name: own_section}
    grounded = stage.grounded if config.grounding.enabled else None
    for other, list_unused_fields in {**stage.sections, **(grounded or {})}.items():
        section = get_section(config, other)
        fields = type(section).model_fields
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in list_unused_fields(own_section)}
        sections[other] = section.model_copy(update=defaults)
    return sections


def get_hashed_values(stage: Stage, config: Config, name: str) -> dict[str, Any]:
    """Return the configuration values that influence a stage's result, as JSON values."""
    sections = get_sections(stage, config, name)
    values = sections.pop(name).get_hashed_values()
    return values | {key: other.get_hashed_values() for key, other in sections.items() if key not in stage.read_once}


def list_unused_by_tune(tune: Tune) -> tuple[str, ...]:
    """Return the fields of `train` that trials do not use; `epochs` only if trials have a fixed number of steps."""
    return ("validate_steps", "patience", "report_to", "seed", *(("epochs",) if tune.steps else ()))


def list_unused_by_clean(clean: Clean) -> tuple[str, ...]:
    """Return the fields of `annotate` that cleaning does not use: all but `test_sources` and `split_by`."""
    return tuple(name for name in Annotate.model_fields if name not in ("test_sources", "split_by"))


def list_annotate_unused_by_index(index: Index) -> tuple[str, ...]:
    """Return the fields of `annotate` that indexing has no use for: all but what is redacted."""
    return tuple(name for name in Annotate.model_fields if name != "redact")


def list_collect_unused_by_index(index: Index) -> tuple[str, ...]:
    """Return the fields of `collect` that indexing has no use for: all but the sources."""
    return tuple(name for name in Collect.model_fields if name != "sources")


def list_unused_by_features(features: Features) -> tuple[str, ...]:
    """Return the fields of `grounding` that training prompts do not depend on."""
    return ("likeness", "answer")


#: further sections of a stage that answers from the documents, see `Stage.grounded`
GROUNDED_SECTIONS: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "grounding": lambda own: (),
    "serving": lambda own: tuple(name for name in Serving.model_fields if name != "max_context"),
    "collect": list_collect_unused_by_index,
}
