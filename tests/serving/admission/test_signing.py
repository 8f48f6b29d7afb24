"""Sessions last twelve hours, and a cookie proves one key's secret to one app."""

from __future__ import annotations

import pytest

from serving.admission import signing

SECRET, HASH = b"of the app", "ab" * 32


def test_a_session_lasts_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_764_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    cookie = signing.new_session(SECRET, "ab12cd34", HASH)
    prefix, id = signing.session_parts(cookie)
    assert prefix == "ab12cd34" and len(id) == 32
    assert signing.session_parts(signing.new_session(SECRET, prefix, HASH))[1] != id  # also in the same second
    for seconds, good in ((-2, True), (0, True), (signing.SESSION_S - 1, True), (signing.SESSION_S, False)):
        monkeypatch.setattr("time.time", lambda seconds=seconds: now + seconds)  # -2: by another replica's clock
        assert signing.is_session(SECRET, cookie, HASH) == good


def test_a_cookie_is_good_for_its_key_its_secret_and_its_app_alone() -> None:
    cookie = signing.new_session(SECRET, "ab12cd34", HASH)
    prefix, begun, signature = cookie.split(".")
    assert signing.is_session(SECRET, cookie, HASH)
    assert not signing.is_session(SECRET, cookie, "cd" * 32)
    assert not signing.is_session(b"of another app", cookie, HASH)
    later = signing.new_session(SECRET, "ab12cd34", "cd" * 32).split(".")[2]
    for changed in (
        f"ab12cd35.{begun}.{signature}",
        f"{prefix[:-1]}{(int(prefix[-1], 16) + 1) % 16:x}.{begun}.{signature}",
        f"{prefix}.{begun}A.{signature}",
        f"{prefix}.{begun}.{later}",
        f"{prefix}.{signature}",
        f"{prefix}.{'_' * 40}.{signature}",
        signature,
        "",
        "..",
        "é.é.é",
    ):
        assert not signing.is_session(SECRET, changed, HASH)


def test_the_mark_of_an_id_is_signed_and_can_be_replaced() -> None:
    id = signing.answered_id(SECRET, signing.new_request_id(), "ab12cd34")
    marked = signing.answered_id(SECRET, id, "ab12cd34", "0123abcd9def")
    assert signing.is_answered(SECRET, marked, "ab12cd34") and signing.mark_of(marked) == "0123abcd9def"
    assert signing.mark_of(id) == "" and signing.answered_id(SECRET, marked, "ab12cd34") == id
    assert not signing.is_answered(SECRET, marked.replace("0123abcd9def", "0123abcd8def"), "ab12cd34")
    assert not signing.is_answered(b"of another app", marked, "ab12cd34")


def test_an_id_is_good_for_its_key_and_only_once_there_is_an_answer() -> None:
    id = signing.new_request_id()
    assert len(id) == 48 and int(id, 16) and not signing.is_answered(SECRET, id, "ab12cd34")
    answered = signing.answered_id(SECRET, id, "ab12cd34")
    assert len(answered) == 48 and answered[:32] == id[:32] and signing.is_answered(SECRET, answered, "ab12cd34")
    for key in ("ab12cd35", "", "ab12cd34 "):
        assert not signing.is_answered(SECRET, answered, key)


def test_an_id_of_an_answer_is_no_session_and_a_session_no_id() -> None:
    assert not signing.is_session(SECRET, signing.answered_id(SECRET, signing.new_request_id(), "ab12cd34"), HASH)
    assert not signing.is_answered(SECRET, signing.new_session(SECRET, "ab12cd34", HASH), "ab12cd34")
