"""`/admin/ab_test`: two versions against each other, by what users say of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.access.roles import Key
from llmops.release import rollout
from serving.admission.dependencies import AppPartsDep, require
from serving.answers.schemas import Override

router = APIRouter(prefix="/admin", tags=["admin"])


class ABTestRequest(BaseModel):
    """Which version to test against the champion, or how to end the test there is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "v3"}, {"conclude": True, "promote": True}, {"stop": True}]},
    )

    version: str = Field("", max_length=100, description="Version or alias.")
    share: float = Field(0.5, gt=0, lt=1, description="Of the callers.")
    override: Override = ""
    stop: bool = Field(False, description="End the test without a decision: the champion answers everybody.")
    conclude: bool = Field(False, description="Act on the verdict of what was counted so far.")
    promote: bool = Field(False, description="If users like the version better, make it the champion; with `conclude`.")

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if bool(self.version) + self.stop + self.conclude != 1:
            raise ValueError("give a version to test, or stop: true, or conclude: true")
        if self.promote and not self.conclude:
            raise ValueError("promote goes with conclude: true")
        return self


@router.post("/ab_test")
def ab_test(
    body: ABTestRequest, app: AppPartsDep, key: Annotated[Key, Depends(require("manage_models"))]
) -> dict[str, Any]:
    """Let a version answer its callers beside the champion, and judge it by their ratings, too.

    Nobody is switched to it without a verdict that users like it better, and `promote`.
    """
    by, events, decision = f"key {key.prefix}", app.config.events, None
    who = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    asked: dict[str, Any] = {"by": by, "why": "asked for by POST /admin/ab_test", "who": who}
    if body.stop:
        rollout.stop(app.registry, events, kind="ab_test", **asked)
    elif body.conclude:
        going = rollout.going_on(app.registry, "ab_test").started
        rules = rollout.rules_of(app.config, app.registry, going)
        decision = rollout.conclude(app.registry, events, going, rules, by=by, promote=body.promote)
    else:
        callers = app.config.release.canary_callers
        more: dict[str, Any] = {"override": body.override, "kind": "ab_test", "callers": callers}
        rollout.start(app.registry, events, body.version, body.share, **more, **asked)
    return {"aliases": app.registry.aliases(), "ab_test": rollout.state(app.registry), "decision": decision}
