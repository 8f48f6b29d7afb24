"""Personal data is found and replaced; numbers of ours are left alone; what comes out scans clean."""

import re
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.frame.errors import ConfigError
from llmops.scans import pii
from llmops.scans.pii import NER, count_entities, find_spans, redact_texts
from tests.growth import assert_linear

ALL = ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("John+x@shop.internal, b@xn--80ak6aa92e.com", "<EMAIL_ADDRESS>, <EMAIL_ADDRESS>"),
        ("x" * 80 + "@example.com", "x" * 16 + "<EMAIL_ADDRESS>"),
        ("+999 123 456 789", "<PHONE_NUMBER>"),
        ("card 4111\u20131111\u20131111\u20131111, 2223 0031 2200 3222", "card <CREDIT_CARD>, <CREDIT_CARD>"),
        ("ssn 219-09-9999", "ssn <US_SSN>"),
        ("my phone is 4155550132", "my phone is <PHONE_NUMBER>"),
        ("card 4111\u00a01111\u00a01111\u00a01111", "card <CREDIT_CARD>"),
        ("card \uff14111111111111111", "card <CREDIT_CARD>"),
        ("IBAN DE89 3704 0044 0532 0130 00 thanks", "IBAN <IBAN_CODE> thanks"),
        ("ip 10.1.2.3 and 2001:db8::1", "ip <IP_ADDRESS> and <IP_ADDRESS>"),
        ("password: Hunter22!x", "password: <SECRET>"),
    ],
)
def test_personal_data_is_replaced(text: str, redacted: str) -> None:
    assert redact_texts([text], ALL)[0].text == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Order 100482 has shipped; orders 100483, 100484 follow",
        "Order #4155550132",
        "tracking number 9400 1102 0088 1234",
        "2024-01-31 2024-02-01 and 2024-01-31T10:00:00",
        "0.123456789 in all",
        "version 1.2.3.4 and v1.2.3.4",
        "$1,234,567.89 or 1 299.00 to 2 499.00",
        "2019-2020-2021 and 2020 2021 2022 2023",
        "4111 1111 1111 1112 breaks Luhn's checksum",
        "Your order number is 4539148803436467",  # passes Luhn's, as one number in ten does
        "Order 4539148803436467 has shipped; invoice no. 4111111111111111 too",
        '{"order_id": "4539148803436467"}, reference code: 378282246310005',
        "DE89 3704 0044 0532 0130 01 breaks the IBAN's",
        "your password is required and must be 8-16 characters",
        "<EMAIL_ADDRESS> <PHONE_NUMBER>, password: <SECRET>,a1b2c3",
    ],
)
def test_numbers_of_ours_stay(text: str) -> None:
    assert redact_texts([text], ALL)[0].text == text
    assert count_entities([text], ALL) == [{}]


#: a number of each issuer that passes Luhn's checksum, as issuers publish them for tests
CARDS = (
    "4111111111111111", "4222222222222", "5555555555554444", "2223003122003222", "378282246310005", "6011111111111117",
    "30569309025904", "3530111333300000", "6200000000000005", "6205500000000000004", "6759649826438453",
    "5641821111111111", "2200770212727079",
)  # fmt: skip


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize(
    "words",
    [
        "It is {}.", "Card for your order: {}", "The order number is on file, your visa is {}", "Order 12 was paid: {}",
        "In any case {}", "I have placed the order. {}", "Your order number is {}, card of ana",
        "您的卡号是{}，请",
    ],
)  # fmt: skip
def test_no_card_number_stays_whatever_stands_around_it(number: str, words: str) -> None:
    assert number not in redact_texts([words.format(number)], ["CREDIT_CARD"])[0].text


@pytest.mark.parametrize("number", [number for number in CARDS if len(number) > 14])
def test_a_card_number_between_letters_is_found(number: str) -> None:
    """Shorter ones, of which hashes have many, are not."""
    assert redact_texts([f"ID{number}x"], ["CREDIT_CARD"])[0].text == "ID<CREDIT_CARD>x"


@pytest.mark.parametrize("separator", [" ", "-", ".", "\u00a0"])
def test_a_number_in_groups_of_four_is_a_card_even_after_the_word_order(separator: str) -> None:
    card = separator.join(["4539", "1488", "0343", "6467"])
    assert redact_texts([f"Order number {card}"], ALL)[0].text == "Order number <CREDIT_CARD>"


def test_a_secret_in_a_script_without_spaces_is_found() -> None:
    text = "令牌hf_" + "aB3dE" * 6 + "，邮箱ana@example.com，IBAN是DE89370400440532013000"
    assert redact_texts([text], ALL)[0].text == "令牌<SECRET>，<EMAIL_ADDRESS>，IBAN是<IBAN_CODE>"


def test_counts_order_and_only_what_was_asked_for() -> None:
    first, second, third = redact_texts(["a@b.com and c@d.org", "nothing", "a@b.com, 4111111111111111"], ALL)
    assert first.counts == {"EMAIL_ADDRESS": 2}
    assert (second.text, second.counts) == ("nothing", {})
    assert third.counts == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 1}
    assert redact_texts([], ALL) == []
    assert redact_texts(["a@b.com 4111111111111111"], ["CREDIT_CARD"])[0].text == "a@b.com <CREDIT_CARD>"
    with pytest.raises(ConfigError, match="SHOE_SIZE"):
        redact_texts(["x"], ["SHOE_SIZE"])


def test_of_overlapping_spans_nothing_of_the_loser_stays() -> None:
    text = "postgres://bob:s3cret@db.example.com/x"  # the secret and what reads as an e-mail address overlap
    assert "s3cret" not in redact_texts([text], ALL)[0].text


PIECES = st.sampled_from(
    ["a@b.com", "4111111111111111", "+1 415 555 0132", "219-09-9999", "10.1.2.3", "DE89370400440532013000", "hf_", "<"]
    + ["EMAIL_ADDRESS>", "password: ", "Abc12345", "://u:", "@", "-", " ", ".", "1", "order ", "\u00a0", "\ufffc", "é"]
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_comes_out_scans_clean_and_stays(text: str) -> None:
    once = redact_texts([text], ALL)[0]
    assert count_entities([once.text], ALL) == [{}]
    assert redact_texts([once.text], ALL)[0].text == once.text


NUMBERS = st.text("0123456789 .-()/+:@,~<>aAfFDE\u0661\uff11\u00a0", max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.lists(PIECES, max_size=8).map("".join), NUMBERS))
def test_the_first_look_loses_nothing(text: str) -> None:
    seen = find_spans([text], ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pii, "_PREFILTERS", dict.fromkeys(pii.PATTERNS, re.compile("")))
        assert find_spans([text], ALL) == seen


@pytest.mark.parametrize("unit", ["a", "a-", "1 ", "1.", ":", "AA11", "a@", "x.@"])
def test_long_hostile_text_costs_no_more_than_linear_time(unit: str) -> None:
    assert_linear(lambda text: count_entities([text + "@"], ALL), unit, longest=4_000)


@pytest.mark.parametrize("unit", ["password:", "://", "eyJ"])
def test_long_text_that_is_hostile_to_the_formats_of_secrets_costs_little(unit: str) -> None:
    count_entities(["warm"], ALL)
    started = time.thread_time()  # of this thread alone, so that no other process decides
    count_entities([(unit * 20_000)[:20_000]], ALL)
    assert time.thread_time() - started < 5  # 0.3: the patterns cost the square of the length


def test_nothing_asks_the_network_or_loads_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("llmops.scans.pii._load_engine", refuse)
    assert count_entities(["a@example.com"], ALL) == [{"EMAIL_ADDRESS": 1}]


def test_names_only_when_asked_for() -> None:
    text = "John Smith lives in Berlin; write to j@example.com"
    assert redact_texts([text], ["PERSON", "LOCATION", "EMAIL_ADDRESS"])[0].text == (
        "<PERSON> lives in <LOCATION>; write to <EMAIL_ADDRESS>"
    )
    assert count_entities(["Nothing of the kind is here.", ""], NER) == [{}, {}]
