"""Sessions last twelve hours, and a cookie proves one key's secret to one app."""

import pytest

from serving.admission import signing

SECRET, HASH = b"of the app", "ab" * 32


def test_a_session_lasts_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_764_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    cookie = signing.make_session(SECRET, "ab12cd34", HASH)
    assert signing.read_session_prefix(cookie) == "ab12cd34"
    for seconds, good in ((-2, True), (0, True), (signing.SESSION_S - 1, True), (signing.SESSION_S, False)):
        monkeypatch.setattr("time.time", lambda seconds=seconds: now + seconds)  # -2: by another replica's clock
        assert signing.is_session(SECRET, cookie, HASH) == good


def test_a_cookie_is_good_for_its_key_its_secret_and_its_app_alone() -> None:
    cookie = signing.make_session(SECRET, "ab12cd34", HASH)
    prefix, begun, signature = cookie.split(".")
    assert signing.is_session(SECRET, cookie, HASH)
    assert not signing.is_session(SECRET, cookie, "cd" * 32)
    assert not signing.is_session(b"of another app", cookie, HASH)
    later = signing.make_session(SECRET, "ab12cd34", "cd" * 32).split(".")[2]
    for changed in (
        f"ab12cd35.{begun}.{signature}",
        f"{prefix}.{begun}A.{signature}",
        f"{prefix}.{begun}.{later}",
        f"{prefix}.{signature}",
        f"{prefix}.{'_' * 40}.{signature}",
        "",
        "é.é.é",
    ):
        assert not signing.is_session(SECRET, changed, HASH)


def test_an_id_of_an_answer_is_good_for_its_owner_its_app_and_its_texts_alone() -> None:
    id = signing.make_request_id()
    assert len(id) == 32 and int(id, 16) and signing.read_answer_id(SECRET, id, "ana") is None
    for mark in ("0123abcd9def", ""):
        parts = signing.AnswerId(mark, "ab" * 4, "cd" * 4)
        signed = signing.sign_answer(SECRET, id, "ana", parts)
        assert signed.startswith(id) and int(signed, 16) and signing.read_answer_id(SECRET, signed, "ana") == parts
        assert signing.sign_answer(SECRET, signed, "ana", parts) == signed
        for owner in ("bo", "", "ana ", "ana b"):
            assert signing.read_answer_id(SECRET, signed, owner) is None
        for changed in (
            signed.replace("ab" * 4, "ac" * 4),
            signed.replace("cd" * 4, "ce" * 4),
            signed[1:],
            f"b {signed}",
        ):
            assert signing.read_answer_id(SECRET, changed, "ana") is None
        assert signing.read_answer_id(b"of another app", signed, "ana") is None
    of_ana_b = signing.sign_answer(SECRET, id, "ana b", parts)
    assert signing.read_answer_id(SECRET, f"b {of_ana_b}", "ana") is None  # where owner and id meet is not moved
    assert signing.read_answer_id(SECRET, signing.make_session(SECRET, "ab12cd34", HASH), "ana") is None
    assert not signing.is_session(SECRET, signed, HASH)
