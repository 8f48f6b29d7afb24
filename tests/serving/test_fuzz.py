"""No request makes the app fail: those schemathesis makes of the API's description, and hypothesis of bytes."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

PATHS = [
    "/generate",
    "/feedback",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/admin/promote",
    "/signin",
]
KEYS = [*"abcdefgh", "prompt", "model", "messages", "role", "content", "stop", "stream", "max_tokens", "id", "rating"]

quick = settings(
    max_examples=4, database=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("mode", GenerationMode)
def test_nothing_made_of_the_description_makes_the_app_fail(site, mode):
    with site.live() as url:
        statuses = {}
        for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
            operation = found.ok()
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
                continue  # there is nothing in it that could be wrong

            @quick
            @given(case=operation.as_strategy(mode))
            def send(case):
                answer = case.call_and_validate(headers=site.headers("admin"), checks=[not_a_server_error])
                statuses.setdefault(case.operation.label, set()).add(answer.status_code)

            send()
    assert {"POST /generate", "POST /v1/chat/completions", "POST /feedback"} <= statuses.keys()
    assert 401 not in set().union(*statuses.values())
    if mode is GenerationMode.POSITIVE:
        assert statuses["GET /v1/models"] == statuses["GET /readyz"] == {200}
    else:
        assert 422 in statuses["POST /generate"] and 400 in statuses["POST /v1/chat/completions"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=5),
    max_leaves=12,
)
bodies = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())
header_values = st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0").strip())
headers = st.dictionaries(
    st.sampled_from(["Content-Type", "Accept", "Cookie", "X-Llmops-Side", "Authorization", "Content-Encoding"]),
    header_values | st.sampled_from([b"application/json", b"text/html", b"multipart/form-data", b"*/*", b"Bearer "]),
    max_size=4,
)


def test_no_bytes_make_the_app_fail(site, client):
    @settings(quick, max_examples=100)
    @given(path=st.sampled_from(PATHS), body=bodies, given=headers, typed=st.booleans())
    def send(path, body, given, typed):
        kind = {"Content-Type": b"application/json"} if typed else {}
        key = {} if "Authorization" in given else {"X-API-Key": site.keys["admin"]}
        assert client.post(path, content=body, headers={**given, **kind, **key}).status_code < 500

    send()
