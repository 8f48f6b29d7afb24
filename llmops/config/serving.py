"""The sections `serving` and `grounding`."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from llmops.config.section import Section, Unhashed, check_redis_url, check_web_url

PersonalData = Literal["SECRET", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS"]
AnswerMode = Literal["auto", "model", "quote"]  #: values of `grounding.answer`
Guarded = PersonalData | Literal["SCRIPT", "EXTERNAL_CONTENT", "COMMAND"]  #: values of `serving.guard`


class Oidc(Section):
    """A provider of OpenID Connect whose users may sign in. Its client secret is LLMOPS_OIDC_CLIENT_SECRET."""

    issuer: str = Field(
        description="Address of the provider, as in its tokens: `https://login.example.com/realms/shop`."
    )
    client_id: str = Field(min_length=1, description="Name of this app at the provider.")
    roles: dict[str, Literal["user", "developer", "admin"]] = Field(
        min_length=1, description="Group → role. The strongest role of a person's groups counts."
    )
    groups_claim: str = Field("groups", min_length=1, description="Claim of the ID token that lists the groups.")
    scope: str = Field("openid email", description="What the provider is asked for; some need `groups` in it.")

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, value: str) -> str:
        check_web_url(value)
        url = urlsplit(value)
        if url.scheme != "https" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("use https; the keys that sign tokens come from there")
        return value

    @field_validator("scope")
    @classmethod
    def _check_scope(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("name openid; without it there is no ID token")
        return value


class Serving(Section):
    """The serving app."""

    host: str = Field("127.0.0.1", description="Address to listen on; default: only this machine.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    max_new_tokens: int = Field(256, ge=1, description="Longest answer, in tokens; a request for more is cut there.")
    max_prompt_chars: int = Field(8000, ge=1, description="Longest prompt, and longest context, in characters.")
    max_queue: int = Field(64, ge=1, description="Requests waiting before new ones get 429.")
    max_batch: int = Field(16, ge=1, description="Most requests that are answered together.")
    max_context: int = Field(2048, ge=64, description="Most tokens of a request, prompt and answer together.")
    engine: Literal["auto", "openvino", "transformers", "vllm"] = Field(
        "auto",
        description="Engine that runs the model. `auto`: `openvino` for a version in GGUF (which `compress` makes for "
        "CPUs), else `transformers`; `vllm` needs its own environment: docs/vllm.md.",
    )
    precision: Literal["f32", "bf16"] = Field(
        "f32",
        description="Precision of the engine `openvino`. `f32`: an answer does not depend on concurrent requests; "
        "`bf16`: more tokens/s, but near ties between tokens may fall differently.",
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of vLLM's `AsyncEngineArgs`, such as `kv_cache_memory_bytes` or "
        "`gpu_memory_utilization`.",
    )
    poll_s: float = Field(1.0, gt=0, description="Seconds between checks of the registry's aliases.")
    trials: bool = Field(
        True, description="Take part in canaries and A/B tests; the app started by the stage `deploy` does not."
    )
    test_idle_s: float = Field(
        300.0,
        ge=0,
        description="Seconds without a request after which a version under test by its name is unloaded; 0: only "
        "serving versions can be named. It needs memory for one more model.",
    )
    timeout_s: float = Field(120.0, gt=0, description="Longest duration of a request, waiting included; then 504.")
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which `/readyz` is red and requests are still accepted, so that a load "
        "balancer can react.",
    )
    threads: int = Field(
        0, ge=0, description="Compute threads; 0: one per core available to the container, at most `OMP_NUM_THREADS`."
    )
    guard: tuple[Guarded, ...] = Field(
        ("SECRET", "CREDIT_CARD", "IBAN_CODE", "SCRIPT"),
        description="Kinds of data that an answer may contain only if its prompt does; other answers are cut with "
        "`content_filter`.",
    )
    classify_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least probability with which a classifier gives a label, in the app and in batches; 1: it gives "
        "none. Empty: the version's own threshold (`compress.max_refused`).",
    )
    requests_per_minute: int = Field(
        60, ge=0, description="Requests that a key may send in any 60 s, unless it has its own limit; 0: any number."
    )
    tokens_per_minute: int = Field(
        20_000, ge=0, description="Tokens, of prompts and answers, that a key may use in any 60 s; 0: any number."
    )
    limits: str = Field(
        "",
        description="Where requests and tokens are counted. Empty: in each process. For replicas "
        "`redis://:${REDIS_PASSWORD}@host:6379/1` (`rediss://` with TLS); ${VAR} is read from the environment.",
    )
    oidc: Oidc | None = Field(
        None,
        description="Sign-in by OpenID Connect: `issuer`, `client_id`, `roles` (group → role), `groups_claim`, "
        "`scope`; docs/access.md. Empty: by API key only.",
    )

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, value: str) -> str:
        if value:
            check_redis_url(value)
        return value


class SearchServer(NamedTuple):
    """An Elasticsearch that searches the served index; credentials come from the environment."""

    url: str
    name: str  #: the beginning of the names of its indices
    ca_file: Path | None = None


class Grounding(Section):
    """Answer from the served index of documents, and name the passages beside the answer."""

    enabled: bool = Field(
        False,
        description="Answer from the documents if an index is served and a request does not say otherwise; the gate "
        "judges models with them.",
    )
    answer: AnswerMode = Field(
        "auto",
        description="`model`: the model answers from the passages. `quote`: the answer is the sentences of the "
        "passages that are most like the question, without the model. `auto`: `quote` if the base model has fewer than "
        "a billion parameters, else `model`.",
    )
    passages: int = Field(3, ge=1, le=20, description="Most passages in a prompt, the best first.")
    room: int = Field(1600, ge=200, description="Most bytes of these passages; a token of English has about four.")
    likeness: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least match of the question and a passage: their cosine, and 0.12 more for a rare word in "
        "common, 0.24 at most. Below it the documents do not say, and the answer is a refusal, without the model. "
        "Empty: a value that `index` chooses by the documents; `llmops index stats` shows it.",
    )
    elasticsearch: Annotated[str, Unhashed()] = Field(
        "",
        pattern="^(llmops-passages-[a-z0-9-]+)?$",
        description="The server of `monitoring.elasticsearch_url` searches the served index, in an index of its own "
        "whose name begins so, such as `llmops-passages-shop`. Empty: its files are searched.",
    )

    def with_answer(self, of_version: str) -> Self:
        """Return these settings with the answer mode of a version or a base model in place of `auto`.

        A version without a mode was judged before there was `auto`, with answers of the model.
        """
        return self.model_copy(update={"answer": of_version or "model"}) if self.answer == "auto" else self
