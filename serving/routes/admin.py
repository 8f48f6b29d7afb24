"""`/admin`: which versions there are, which ones answer, and changes of both. Each change is an event with the key."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.access.roles import Key
from llmops.release import rollout
from llmops.release.trials import AB_TEST, Kind
from serving.admission.dependencies import AppParts, AppPartsDep, require
from serving.answers.schemas import Str

AdminDep = Annotated[Key, Depends(require("manage_models"))]

RECENT = 50  #: decisions that are shown

router = APIRouter(prefix="/admin", tags=["admin"])

Override = Annotated[
    str, Field(max_length=500, description="Why a version that the gate did not pass is used all the same.")
]


class PromoteRequest(BaseModel):
    """Which version to make the champion."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, examples=["v2"])
    override: Override = ""


class CanaryRequest(BaseModel):
    """Which version to try on a share of the callers, or how to end the trial there is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"version": "v3", "share": 0.1}, {"conclude": True}]}
    )

    version: Str = Field("", max_length=100, description="Version or alias.")
    share: float = Field(0.1, gt=0, lt=1, description="Of the callers.")
    stop: bool = Field(False, description="End the trial without a decision: the champion answers everybody.")
    conclude: bool = Field(False, description="Act on the verdict: promoted if enough was seen and no harm.")
    override: Override = ""

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if bool(self.version) + self.stop + self.conclude != 1:
            raise ValueError("give a version to try, or stop: true, or conclude: true")
        return self


class ABTestRequest(CanaryRequest):
    """Which version to test against the champion, or how to end the test there is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "v3"}, {"conclude": True, "promote": True}, {"stop": True}]}
    )

    share: float = Field(0.5, gt=0, lt=1, description="Of the callers.")
    conclude: bool = Field(False, description="Act on the verdict; nothing is promoted without `promote`.")
    promote: bool = Field(False, description="If users like the version better, make it the champion; with `conclude`.")

    @model_validator(mode="after")
    def _promotes_at_the_end(self) -> Self:
        if self.promote and not self.conclude:
            raise ValueError("promote goes with conclude: true")
        return self


@router.get("/models", dependencies=[Depends(require("view_models"))])
def models(app: AppPartsDep) -> dict[str, Any]:
    """List the versions, the aliases, the trial over all replicas, the latest decisions, and what answers now."""
    champion, reasons = app.models.champion, app.registry.overrides()
    names = ("name", "status", "base_model", "removed")
    versions = [
        {**{name: getattr(v, name) for name in names}, "override": reasons.get(v.name, "")}
        for v in app.registry.versions()
    ]
    return {
        "model": app.config.release.name,
        "aliases": app.registry.aliases(),
        "serving": champion.version.name if champion else None,
        "detail": app.models.cause(),
        "canary": rollout.state(app.registry),
        "versions": versions,
        "decisions": app.registry.decisions()[-RECENT:],
    }


@router.post("/promote")
def promote(body: PromoteRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make a version the champion; it answers once it is loaded. A canary's trial is over."""
    by = _by(key, "promote")
    rollout.promote(app.registry, app.config.events, body.version, override=body.override, **by)
    return {"aliases": app.registry.aliases()}


@router.post("/rollback")
def rollback(app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make the previous champion the champion again. A canary's trial is over."""
    rollout.rollback(app.registry, app.config.events, **_by(key, "rollback"))
    return {"aliases": app.registry.aliases()}


@router.post("/canary")
def canary(body: CanaryRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Let a version answer a share of the callers, or end that. It is pulled by itself at a regression."""
    decision = _try(app, body, "canary", _by(key, "canary"))
    return {"aliases": app.registry.aliases(), "canary": rollout.state(app.registry), "decision": decision}


@router.post("/ab_test")
def ab_test(body: ABTestRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Let a version answer its callers beside the champion, and judge it by their ratings, too.

    Nobody is switched to it without a verdict that users like it better, and `promote`.
    """
    decision = _try(app, body, AB_TEST, _by(key, "ab_test"), body.promote)
    return {"aliases": app.registry.aliases(), "ab_test": rollout.state(app.registry), "decision": decision}


def _try(
    app: AppParts, body: CanaryRequest, kind: Kind, by: dict[str, Any], promote: bool = True
) -> dict[str, Any] | None:
    """Begin, stop or conclude a trial; return the decision that concluded it."""
    registry, events = app.registry, app.config.events
    if body.stop:
        rollout.stop(registry, events, kind=kind, **by)
    elif body.conclude:
        going = rollout.going_on(registry, kind).started
        rules = rollout.rules_of(app.config, registry, going)
        return rollout.conclude(registry, events, going, rules, by=by["by"], promote=promote)
    else:
        rollout.start(registry, events, body.version, body.share, kind=kind, override=body.override, **by)
    return None


def _by(key: Key, route: str) -> dict[str, Any]:
    who = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    return {"by": f"key {key.prefix}", "why": f"asked for by POST /admin/{route}", "who": who}
