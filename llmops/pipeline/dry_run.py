"""The dry run: checks what the configuration needs from this machine, before any work starts.

    llmops plan

It shows what would be built. It checks the base model and its tokenizer, the memory of every stage, the disk, the Hub
(if used), Java, the Spark master, and the port of the app. It names the encoders; they are small, so their memory is
not checked. Weights are neither loaded nor downloaded: their size is counted on torch's meta device. Local weights are
hashed, like in a run, and the database caches the hashes. An old database is migrated; a missing one is not created.
"""

import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own
from transformers import AutoTokenizer

from llmops.config import Config, Select
from llmops.config.space import get_largest
from llmops.data.work_location import check_work_location
from llmops.frame import artifacts, doctor, intervals
from llmops.frame.doctor import Check
from llmops.frame.errors import LlmopsError
from llmops.frame.machine import GIB
from llmops.frame.records import get_base_path, read_selection
from llmops.model.base.load import load_tokenizer
from llmops.model.base.memory import (
    STAGE_NAMES,
    Memory,
    MemoryNeed,
    MemorySettings,
    ModelForm,
    count_weight_bytes,
    list_needs,
    read_machine_memory,
    suggest_remedy,
)
from llmops.model.base.objections import BaseModelChoice, find_capacity, predict_base, read_base_config
from llmops.model.base.shape import MIN_WRITER_PARAMETERS, ModelShape, choose_answer_mode, measure_shape
from llmops.model.base.weights import find_encoder, list_encoders
from llmops.model.training.space import build_search_space, count_points
from llmops.pipeline import pipeline, stage_inputs
from llmops.pipeline.hub_checks import DOWNLOAD, check_download, check_push
from llmops.pipeline.stage_inputs import StagePlan

CHECKPOINTS_GIB = 1.0  #: checkpoints of an adapter, logs, and files of other stages

WAIT_S = 10.0  #: timeout of a Spark master


@dataclass(slots=True)
class DryRun:
    """The result of the dry run."""

    checks: list[Check] = field(default_factory=list)
    stages: list[tuple[str, str]] = field(default_factory=list)  #: stage → done, to build, not known yet, or the error
    memory: list[MemoryNeed] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return True if all checks passed."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; memory in GiB."""
        return {
            "ok": self.ok,
            "checks": [check._asdict() for check in self.checks],
            "stages": dict(self.stages),
            "memory": [{**asdict(row), "ok": row.ok} for row in self.memory],
        }


def make_dry_run(config: Config, interval: str, gpu_gib: float | None = None) -> DryRun:
    """Check everything. It writes only hashes of weights, and a tokenizer from the Hub to its cache."""
    result = DryRun()
    plans = pipeline.plan_stages(config, interval)
    result.stages = list(_describe_stages(plans, config))
    if failed := [str(why) for why in plans.values() if isinstance(why, LlmopsError)]:
        result.checks.append(Check("sources", False, failed[0], "see the message"))
    if not config.collect.sources:
        result.checks.append(Check("sources", False, "there is none", "list one under `collect: sources:`"))
    try:
        intervals.check_ended(interval)
    except LlmopsError as error:
        result.checks.append(Check("interval", False, str(error), "leave it out, or name an earlier day"))
    try:
        stage_inputs.hash_weights(config)  # raises if they are damaged
        if encoders := list_encoders(config.select):
            result.checks += _check_encoders(encoders, config.select, _read_chosen_base(plans["select"]))
        else:
            _check_base(result, config, plans["select"], gpu_gib)
    except LlmopsError as error:
        result.checks.append(Check("base model", False, str(error), "set the section select"))
    result.checks += check_push(config.push_to_hub)
    result.checks += list(_check_home(config))
    result.checks += list(_check_search_space(config))
    result.checks += doctor.check_machine(config, ("java", "ports"))
    result.checks += list(_check_spark(config))
    result.checks += list(check_work_location(config.clean))
    return result


def _check_base(result: DryRun, config: Config, select: StagePlan | LlmopsError | None, gpu_gib: float | None) -> None:
    base, objection = _find_base(config, select, gpu_gib)
    shape = measure_shape(read_base_config(base))
    where = str(base.weights) if base.weights else "to download"
    detail = f"{base.model}, {shape.parameters:,} parameters, {where}"
    remedy = "change what stands in its way in the section select"
    result.checks.append(Check("base model", not objection, f"{detail}; {objection}" if objection else detail, remedy))
    if config.grounding.enabled:
        result.checks.append(_describe_answers(config, shape.parameters))
    download = check_download(config.select, base)
    result.checks.append(_check_tokenizer(base, unreachable=any(not check.ok for check in download)))
    memory = _get_available_memory(config, gpu_gib)
    settings = get_memory_settings(config, gpu=memory.gpu > 0)
    result.memory = list_needs(STAGE_NAMES, shape, settings, memory)
    result.checks += _check_memory(result.memory, shape, settings, config, gpu_gib)
    result.checks.append(_check_disk(config, shape, settings, base))
    result.checks += download


def _check_encoders(names: Sequence[str], config: Select, chosen: BaseModelChoice | None) -> Iterator[Check]:
    """Yield a check of each encoder, or the one that will be trained if the stage select has `chosen` it already."""
    trained = "trained with a head for the labels"
    if chosen:
        yield Check("encoder", True, f"{chosen.model}, chosen by select, {trained}")
        return
    if len(names) > 1:
        trained = f"one of {len(names)}: select trains the smallest, or a larger one that needs fewer bits per label"
    for name in names:
        try:
            yield Check("encoder", True, f"{name}, {trained}, {find_encoder(name, config.revision, offline=True)}")
        except LlmopsError as error:
            if config.offline or Path(name).is_dir():
                yield Check("encoder", False, str(error), "set select.encoders")
            else:
                yield from check_download(config, BaseModelChoice(name, config.revision, None))


def get_memory_settings(config: Config, gpu: bool) -> MemorySettings:
    """Return the settings that decide the memory, with the largest values that tune may choose."""
    defaults = MemorySettings()
    largest = {name: int(get_largest(expression)) for name, expression in config.tune.space.items()}
    return MemorySettings(
        method="qlora" if config.train.method == "qlora" else "lora",
        rank=config.train.rank or largest.get("rank", defaults.rank),
        examples=config.train.micro_batch or config.train.batch or largest.get("batch", defaults.examples),
        tokens=config.features.max_tokens,
        answers=max(config.evaluate.max_new_tokens, config.compress.max_new_tokens),
        batch=max(config.evaluate.batch, config.compress.batch),
        variants=config.compress.list_tried_forms("bf16" if gpu else "f16", gpu),
        slots=config.serving.max_batch,
        context=config.serving.max_context,
    )


def _describe_stages(plans: Mapping[str, StagePlan | LlmopsError | None], config: Config) -> Iterator[tuple[str, str]]:
    for name, plan in plans.items():
        if isinstance(plan, LlmopsError):
            yield name, str(plan)
        elif plan:
            yield name, "done" if plan.done else "to build"
        else:
            yield name, "not known yet" if artifacts.list_finished(config.artifacts / name) else "to build"


def _find_base(
    config: Config, select: StagePlan | LlmopsError | None, gpu_gib: float | None
) -> tuple[BaseModelChoice, str]:
    if not config.select.model and (chosen := _read_chosen_base(select)):
        return chosen, ""
    limits = find_capacity(config.select)
    if gpu_gib is not None:
        limits = replace(limits, training_gib=gpu_gib, serving_gib=config.select.max_serving_gib or gpu_gib, gpu=True)
    return predict_base(config.select, limits)


def _read_chosen_base(select: StagePlan | LlmopsError | None) -> BaseModelChoice | None:
    if not isinstance(select, StagePlan) or not select.done:
        return None
    try:
        selection = read_selection(select.path)
        return BaseModelChoice(selection["model"], selection["revision"], Path(get_base_path(select.path)))
    except LlmopsError:
        return None


def _get_available_memory(config: Config, gpu_gib: float | None) -> Memory:
    memory = read_machine_memory()
    if gpu_gib is not None:
        return Memory(gpu_gib, memory.ram)
    if config.select.max_memory_gib and memory.gpu:
        return Memory(config.select.max_memory_gib, memory.ram)
    return Memory(memory.gpu, config.select.max_memory_gib or memory.ram)


def _check_memory(
    rows: list[MemoryNeed], shape: ModelShape, settings: MemorySettings, config: Config, gpu_gib: float | None
) -> Iterator[Check]:
    for row in rows:
        detail = f"{row.needed:.1f} of {row.there:.1f} GiB ({row.kind})"
        remedy = "" if row.ok else suggest_remedy(row, shape, settings, _get_available_memory(config, gpu_gib))
        yield Check(f"memory: {row.stage}", row.ok, detail, remedy)


def _check_tokenizer(base: BaseModelChoice, unreachable: bool) -> Check:
    name = "tokenizer"
    if base.weights is None and unreachable:
        return Check(name, False, "not on this machine", f"see {DOWNLOAD}")
    try:
        if base.weights is None:
            found: Any = AutoTokenizer.from_pretrained(base.model, revision=base.revision or None)
        elif base.weights.is_file():
            found = AutoTokenizer.from_pretrained(str(base.weights.parent), gguf_file=base.weights.name)
        else:
            found = load_tokenizer(base.weights)
    except (OSError, ValueError, HTTPError) as error:
        return Check(name, False, str(error).splitlines()[0], "get the folder or the Hub's repository whole")
    template = "with a chat template" if found.chat_template else "without a chat template"
    return Check(name, True, f"{len(found):,} tokens, {template}")


def _describe_answers(config: Config, parameters: int) -> Check:
    """Return how questions will be answered from the documents, and why."""
    mode = config.grounding.with_answer(choose_answer_mode(parameters)).answer
    words = "quotes of the documents" if mode == "quote" else "written by the model from the documents"
    size = "fewer than a billion" if parameters < MIN_WRITER_PARAMETERS else "a billion or more"
    why = f"the base model has {size} parameters" if config.grounding.answer == "auto" else "grounding.answer says so"
    first = "; the first version is served without the gate" if config.release.serve_documents == "first" else ""
    return Check("answers", True, f"{words}, because {why}{first}")


def _check_disk(config: Config, shape: ModelShape, settings: MemorySettings, base: BaseModelChoice) -> Check:
    """Check the space for a copy of the base, the merged model, all smaller forms, and a copied version."""
    full: ModelForm = "bf16"
    forms = [count_weight_bytes(shape, form) for form in (full, *settings.variants)]
    copies = 0 if base.revision == "local" else count_weight_bytes(shape, "bf16")
    needed = (copies + sum(forms) + max(forms)) / GIB + CHECKPOINTS_GIB
    folder = doctor.find_existing_parent(config.home)
    free = shutil.disk_usage(folder).free / GIB
    remedy = "free as much, or set LLMOPS_HOME to a disk that has it"
    return Check("disk", free >= needed, f"{needed:.1f} GiB needed, {free:.1f} free in {folder}", remedy)


def _check_home(config: Config) -> Iterator[Check]:
    folder = doctor.find_existing_parent(config.artifacts)
    if not folder.is_dir():
        yield Check("home", False, f"{folder} is no folder", "move it away, or set LLMOPS_HOME to another folder")


def _check_search_space(config: Config) -> Iterator[Check]:
    try:
        count_points(config.tune, build_search_space(config.tune, config.train))
    except LlmopsError as error:
        yield Check("tune", False, str(error), "change the section tune")


def _check_spark(config: Config) -> Iterator[Check]:
    for key, master in (("clean.master", config.clean.master), ("tune.spark", config.tune.spark)):
        address = urlsplit(master.removeprefix("k8s://"))
        if not master or master.startswith("local") or not address.hostname:
            continue
        port = address.port or (443 if address.scheme == "https" else 7077)
        try:
            with socket.create_connection((address.hostname, port), WAIT_S):
                yield Check(key, True, f"{master} listens")
        except OSError as error:
            yield Check(key, False, f"{master}: {error}", f"start it, or set {key} to another master")
