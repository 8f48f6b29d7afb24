"""`/metrics`: what was asked and answered, as Prometheus reads it."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def parse_samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and labels, in the order of their names → value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_as_their_events_say(site: Any, leaking: Any) -> None:
    with site.client(lambda version: leaking()) as client:
        site.ready(client)
        site.ask(client, prompt="one two")
        site.ask(client, prompt="")
        site.ask(client, role=None, prompt="one two")
        client.get("/healthz")
        answer = client.get("/metrics", headers=site.headers("developer"))
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        found = parse_samples(answer.text)
        assert client.get("/metrics", headers=site.headers("user")).status_code == 403
    assert {key: value for key, value in found.items() if key[0] == "llmops_requests_total"} == {
        ("llmops_requests_total", "/generate", "200", "v1"): 1,
        ("llmops_requests_total", "/generate", "422", ""): 1,
        ("llmops_requests_total", "/generate", "401", ""): 1,
    }
    assert found["llmops_tokens_total", "input", "v1"] == 3 == found["llmops_tokens_total", "output", "v1"]
    assert found["llmops_guard_cuts_total", "SECRET", "v1"] == 1
    for name in ("request_duration", "time_to_first_token"):
        assert found[f"gen_ai_server_{name}_seconds_count", "/generate", "v1"] == 1
        assert 0 < found[f"gen_ai_server_{name}_seconds_sum", "/generate", "v1"] < 60
    assert found["llmops_engine_alive", "v1"] == 1 and found["llmops_engine_waiting", "v1"] == 0
