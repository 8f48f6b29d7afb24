"""`/admin`: the versions, the aliases and trials, and their changes. Each change is an event with the caller's key."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.access.roles import Key
from llmops.release import rollout
from llmops.release.trials import AB_TEST, TrialKind
from serving.admission.dependencies import AppParts, AppPartsDep, require
from serving.answers.schemas import ValidStr

AdminDep = Annotated[Key, Depends(require("manage_models"))]

RECENT = 50  #: shown decisions

router = APIRouter(prefix="/admin", tags=["admin"])

Override = Annotated[str, Field(max_length=500, description="The reason to use a version that the gate did not pass.")]


class PromoteRequest(BaseModel):
    """The version to make the champion."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, examples=["v2"])
    override: Override = ""


class CanaryRequest(BaseModel):
    """The version to try on a share of the callers, or the way to end the running trial."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"version": "v3", "share": 0.1}, {"conclude": True}]}
    )

    version: ValidStr = Field("", max_length=100, description="Version or alias.")
    share: float = Field(0.1, gt=0, lt=1, description="Of the callers.")
    stop: bool = Field(False, description="End the trial without a decision: the champion answers everybody.")
    conclude: bool = Field(False, description="Act on the verdict: promote if there is enough data and no harm.")
    override: Override = ""

    @model_validator(mode="after")
    def _check_exclusive(self) -> Self:
        if bool(self.version) + self.stop + self.conclude != 1:
            raise ValueError("give a version to try, or stop: true, or conclude: true")
        return self


class ABTestRequest(CanaryRequest):
    """The version to test against the champion, or the way to end the running test."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "v3"}, {"conclude": True, "promote": True}, {"stop": True}]}
    )

    share: float = Field(0.5, gt=0, lt=1, description="Of the callers.")
    conclude: bool = Field(False, description="Act on the verdict; nothing is promoted without `promote`.")
    promote: bool = Field(False, description="If users like the version better, make it the champion; with `conclude`.")

    @model_validator(mode="after")
    def _check_promote(self) -> Self:
        if self.promote and not self.conclude:
            raise ValueError("promote goes with conclude: true")
        return self


@router.get("/models", name="models", dependencies=[Depends(require("view_models"))])
def list_models(app: AppPartsDep) -> dict[str, Any]:
    """List versions, aliases, the running trial (figures of all replicas), latest decisions, and the serving version.

    `canary` is the running trial of either kind. `detail` tells why no champion, or no newer one, is loaded.
    """
    champion, reasons = app.models.champion, app.registry.overrides()
    names = ("name", "status", "base_model", "system_prompt")
    versions = [
        {**{n: getattr(v, n) for n in names}, "removed": v.removed_at, "override": reasons.get(v.name, "")}
        for v in app.registry.versions()
    ]
    return {
        "model": app.config.release.name,
        "aliases": app.registry.aliases(),
        "serving": champion.version.name if champion else None,
        "detail": app.models.explain_with_error(),
        "canary": rollout.describe_trial(app.registry),
        "versions": versions,
        "decisions": app.registry.decisions()[-RECENT:],
    }


@router.post("/promote")
def promote(body: PromoteRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make a version the champion. The app serves it as soon as it is loaded. A canary's trial ends."""
    by = _describe_actor(key, "promote")
    rollout.promote(app.registry, app.config.events, body.version, override=body.override, **by)
    return {"aliases": app.registry.aliases()}


@router.post("/rollback")
def rollback(app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make the previous champion the champion again. A canary's trial ends."""
    rollout.rollback(app.registry, app.config.events, **_describe_actor(key, "rollback"))
    return {"aliases": app.registry.aliases()}


@router.post("/canary", name="canary")
def change_canary(body: CanaryRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Let a version answer a share of the callers, or end its trial. At a regression the app pulls it."""
    decision = _change_trial(app, body, "canary", _describe_actor(key, "canary"))
    return {"aliases": app.registry.aliases(), "canary": rollout.describe_trial(app.registry), "decision": decision}


@router.post("/ab_test", name="ab_test")
def change_ab_test(body: ABTestRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Let a version answer a share of the callers, and judge it by their ratings, too.

    It becomes champion only with `promote`, and a verdict that users like it better.
    """
    decision = _change_trial(app, body, AB_TEST, _describe_actor(key, "ab_test"), body.promote)
    return {"aliases": app.registry.aliases(), "ab_test": rollout.describe_trial(app.registry), "decision": decision}


def _change_trial(
    app: AppParts, body: CanaryRequest, kind: TrialKind, by: dict[str, Any], promote: bool = True
) -> dict[str, Any] | None:
    """Start, stop or conclude a trial; return the decision if it was concluded."""
    registry, events = app.registry, app.config.events
    if body.stop:
        rollout.stop(registry, events, kind=kind, **by)
    elif body.conclude:
        started = rollout.get_running(registry, kind).started
        rules = rollout.read_rules(app.config, registry, started)
        return rollout.conclude(registry, events, started, rules, by=by["by"], promote=promote)
    else:
        rollout.start(registry, events, body.version, body.share, kind=kind, override=body.override, **by)
    return None


def _describe_actor(key: Key, route: str) -> dict[str, Any]:
    fields = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    return {"by": f"key {key.prefix}", "why": f"asked for by POST /admin/{route}", "fields": fields}
