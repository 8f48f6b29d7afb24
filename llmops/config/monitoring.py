"""The section of events, and of what is derived from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmops.config.section import Section


class Monitoring(Section):
    """Events and what is derived from them."""

    sinks: tuple[Literal["local", "elasticsearch"], ...] = Field(("local",), description="Where events go.")
    elasticsearch_url: str = Field("", description="Server URL; key in ELASTICSEARCH_API_KEY.")
    elasticsearch_index: str = Field("llmops-events", description="Data stream or index that events go to.")
    latency_p95_ms: float = Field(20_000, gt=0, description="Objective for the 95th percentile of /generate.")
    error_rate: float = Field(0.01, ge=0, le=1, description="Objective for the share of 5xx answers.")
    min_requests: int = Field(20, ge=1, description="With fewer requests in the window, nothing is judged.")
    drift_hours: int = Field(24, ge=1, description="Length of the windows of requests that are looked at for drift.")
    drift_requests: int = Field(200, ge=20, description="With fewer requests in a window, no drift is judged.")
    drift_days: int = Field(3, ge=1, description="First days of a version, with which later windows are compared.")

    @model_validator(mode="after")
    def _has_server(self) -> Monitoring:
        if "elasticsearch" in self.sinks and not self.elasticsearch_url:
            raise ValueError("sinks names elasticsearch; set elasticsearch_url too")
        return self
