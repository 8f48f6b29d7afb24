"""The section of events and their evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llmops.config.section import Section, check_web_url

#: routes that ask a model; each has its own figures and alerts
Operation = Literal["/generate", "/classify", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


class Monitoring(Section):
    """Events and their evaluation."""

    sinks: tuple[Literal["local", "elasticsearch", "logstash", "otlp"], ...] = Field(
        ("local",), description="Destinations of events."
    )
    elasticsearch_url: str = Field(
        "", description="Server URL; key in ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USER and ELASTICSEARCH_PASSWORD."
    )
    elasticsearch_days: int = Field(90, ge=1, description="Days that Elasticsearch keeps events.")
    kibana_url: str = Field("", description="Kibana's URL, for `llmops elk setup`.")
    logstash_url: str = Field(
        "", description="URL of Logstash's HTTP input; user in LOGSTASH_USER and LOGSTASH_PASSWORD."
    )
    otlp_url: str = Field(
        "",
        description="Base URL of an OpenTelemetry collector, without /v1/logs; headers in OTEL_EXPORTER_OTLP_HEADERS.",
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) to check the sinks' servers with; empty: the system's."
    )
    spool_max_mb: int = Field(
        0, ge=0, description="Largest size of the spool, dead letters included; 0: limited by the disk."
    )
    spool_free_mb: int = Field(128, ge=0, description="Free disk space below which the spool takes no more events.")
    keep_text: bool = Field(
        False, description="Keep prompts and answers, without personal data and secrets, in events `llmops.text`."
    )
    keep_text_days: int = Field(30, ge=1, description="Days after which these texts are removed.")
    traces_url: str = Field(
        "", description="Collector that traces go to by OTLP over HTTP, e.g. `http://localhost:4318`; empty: none."
    )
    raw_days: float = Field(30, gt=0, description="Days that the local store keeps the events of requests.")
    raw_mb: float = Field(2000, gt=0, description="Size of the local store above which the oldest of these go.")
    history_days: float = Field(
        400, gt=0, description="Days that the local store keeps hourly figures of requests and all other events."
    )
    latency_p95_ms: float = Field(1_000, gt=0, description="Objective for the 95th percentile of each operation.")
    latency_p95_ms_of: dict[Operation, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Objective of single operations in its place, by their routes: `{/v1/chat/completions: 10000}`.",
    )
    error_rate: float = Field(0.01, ge=0, le=1, description="Objective for the share of 5xx answers.")
    min_requests: int = Field(20, ge=1, description="With fewer requests in the window, nothing is judged.")
    drift_hours: int = Field(24, ge=1, description="Length of the windows of requests that are checked for drift.")
    drift_requests: int = Field(200, ge=20, description="With fewer requests in a window, no drift is judged.")
    drift_days: int = Field(3, ge=1, description="First days of a version, with which later windows are compared.")

    @field_validator("elasticsearch_url", "logstash_url", "otlp_url", "traces_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value:
            check_web_url(value)
        return value

    @model_validator(mode="after")
    def _check_sinks(self) -> Monitoring:
        for sink in ("elasticsearch", "logstash", "otlp"):
            if sink in self.sinks and not getattr(self, f"{sink}_url"):
                raise ValueError(f"sinks names {sink}; set {sink}_url too")
        return self
