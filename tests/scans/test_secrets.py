"""Keys and tokens are found whole; prose about passwords is not."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.access.keys import KeyStore
from llmops.scans import secrets
from llmops.state.database import database_at

SECRETS = {
    "Hugging Face": "hf_" + "aB3" * 12,
    "GitHub": "ghp_" + "a1B2" * 9,
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "AWS secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
    "OpenAI": "sk-proj-" + "abc123DEF456ghi789JKL",
    "Slack": "xoxb-" + "123456789012-abcdefABCDEF",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA\n-----END RSA PRIVATE KEY-----",
    "cut private key": "-----BEGIN PRIVATE KEY-----\nMIIBAAAA",
}


@pytest.mark.parametrize("name", SECRETS)
def test_the_whole_secret_is_found(name: str) -> None:
    secret, prefix = SECRETS[name], "aws_secret_access_key = " if name == "AWS secret" else "use "
    text = f"{prefix}{secret}"
    hidden = set[int]().union(*(range(start, end) for start, end, _ in secrets.find_secrets(text)))
    assert set(range(len(prefix), len(text))) <= hidden


def test_a_key_of_this_platform_is_a_secret(tmp_path: Path) -> None:
    key, _ = KeyStore(database_at(f"sqlite:///{tmp_path / 'state.db'}"), tmp_path).create("user", "a test")
    assert [(0, len(key))] == [found[:2] for found in secrets.find_secrets(key)]


@pytest.mark.parametrize(
    "text", ["password is Hunter22", "API key: abc123def", "passwd=s3cr3t!x", "Access token = a1b2c3d4"]
)
def test_written_passwords(text: str) -> None:
    ((start, end, kind),) = secrets.find_secrets(text)
    assert kind == "Password"
    assert text[start:end] in {"Hunter22", "abc123def", "s3cr3t!x", "a1b2c3d4"}


@pytest.mark.parametrize(
    "text",
    [
        "Your password is required. Passwords: at least eight characters.",
        "the llm_continuous_improvement job and llmops_pipeline",
        "Our secret recipe since 1987; a sk-ip and a task-oriented-dialogue-system-of-words",
        "fingerprint 0123456789abcdef0123456789abcdef",
    ],
)
def test_prose_is_no_secret(text: str) -> None:
    assert secrets.find_secrets(text) == []


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_first_look_loses_nothing(data: st.DataObject) -> None:
    kind, pattern = data.draw(st.sampled_from(secrets._load_patterns()))
    text = data.draw(st.from_regex(pattern))
    seen = secrets.find_secrets(text)
    assert any(found == kind for _, _, found in seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_PREFILTERS", {})
        assert secrets.find_secrets(text) == seen
