"""The parameters of a single run: one list for Airflow's form, REST, `llmops trigger` and the DAGs' tasks.

All else comes from the deployed configuration (LLMOPS_CONFIG): a user who may start a run must not be able to choose
the criteria that judge it. The list is flat, because Airflow's form has one field per name.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llmops.frame.errors import ConfigError


@dataclass(frozen=True, slots=True)
class OverriddenField:
    """Metadata of a parameter: it overrides this field of the configuration."""

    section: str
    field: str


class RunParameters(BaseModel):
    """The parameters of a run of `llmops_pipeline`. A missing parameter, or null, means the configured value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    interval: Annotated[str | None, Field(json_schema_extra={"format": "date"})] = Field(
        None,
        description="Day to read (UTC), as 2026-01-31; it must have ended. Default: the run's own; by hand: yesterday.",
    )
    epochs: Annotated[float | None, OverriddenField("train", "epochs")] = Field(
        None, gt=0, le=100, description="Passes over the training examples."
    )
    learning_rate: Annotated[float | None, OverriddenField("train", "learning_rate")] = Field(
        None, ge=0, le=1, description="Peak learning rate; 0 takes what tune found."
    )
    rank: Annotated[int | None, OverriddenField("train", "rank")] = Field(
        None, ge=0, le=1024, description="LoRA rank; 0 takes what tune found."
    )
    batch: Annotated[int | None, OverriddenField("train", "batch")] = Field(
        None, ge=0, le=4096, description="Examples per optimiser step; 0 takes what tune found."
    )
    seed: Annotated[int | None, OverriddenField("train", "seed")] = Field(
        None, ge=0, le=2**32 - 1, description="Seed of adapter initialisation and data order."
    )
    trials: Annotated[int | None, OverriddenField("tune", "trials")] = Field(
        None,
        ge=0,
        le=1000,
        description="Most points that tune tries; 0 or 1: take the starting point untried. TPE needs six.",
    )
    base_model: Annotated[str | None, OverriddenField("select", "model")] = Field(
        None, pattern=r"^\w[\w.-]*/\w[\w.-]*$", description="A base model of the catalogue, at its revision there."
    )

    @field_validator("rank", "batch", "seed", "trials", mode="before")
    @classmethod
    def _accept_whole_floats(cls, value: Any) -> Any:
        """Accept 8.0 for 8: JSON does not distinguish them, and Airflow accepts both as integers."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @field_validator("interval")
    @classmethod
    def _check_interval(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("write the day as 2026-01-31")
        try:
            return value and date.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError(f"{value} is no day of the calendar") from None


def build_schemas(**choices: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every parameter, for Airflow's `Param` and its form."""
    schemas = {}
    for name, schema in RunParameters.model_json_schema()["properties"].items():
        form: dict[str, Any] = next(kind for kind in schema["anyOf"] if kind["type"] != "null")
        form |= {"type": ["null", form["type"]], "description": schema["description"]}
        form |= {"format": schema["format"]} if "format" in schema else {}
        if name in choices:
            form |= {"enum": [None, *choices[name]], "values_display": {"null": "as configured"}}
        schemas[name] = form
    return schemas


def split_overrides(given: Mapping[str, Any]) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """Return the interval, if given, and the configuration sections that a run's parameters override.

    Raises:
        ConfigError: for an unknown name or a value out of its limits, naming what is allowed.
    """
    refuse_unknown(given, RunParameters.model_fields)
    try:
        parameters = RunParameters(**given)
    except ValidationError as error:
        mistakes = "; ".join(f"{e['loc'][0]}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"Parameters of the run are wrong: {mistakes}.") from None
    sections: dict[str, dict[str, Any]] = {}
    for name, field in RunParameters.model_fields.items():
        target = next((item for item in field.metadata if isinstance(item, OverriddenField)), None)
        if target and (value := getattr(parameters, name)) is not None:
            sections.setdefault(target.section, {})[target.field] = value
    if "select" in sections:
        sections["select"]["revision"] = ""  # the configured revision is of another model
    return parameters.interval, sections


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Check that a run gets only known parameters. Airflow accepts unknown ones.

    Raises:
        ConfigError: naming the unknown and the allowed ones.
    """
    if unknown := sorted(set(given) - set(known)):
        allowed = f"only {', '.join(known)}" if known else "nothing"
        raise ConfigError(
            f"A run may not be given {', '.join(map(repr, unknown))}, {allowed}; everything else comes from the "
            "deployed configuration (LLMOPS_CONFIG)."
        )
