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


def test_an_id_of_a_request_and_its_mark_are_signed_and_it_is_no_session() -> None:
    id = signing.make_request_id(SECRET)
    assert len(id) == 48 and int(id, 16) and signing.is_request_id(SECRET, id)
    with_mark = signing.mark_id(SECRET, id, "0123abcd9def")
    assert signing.is_request_id(SECRET, with_mark) and signing.read_mark(with_mark) == "0123abcd9def"
    assert signing.read_mark(id) == "" and signing.mark_id(SECRET, with_mark, "") == id
    assert not signing.is_request_id(SECRET, with_mark.replace("0123abcd9def", "0123abcd8def"))
    assert not signing.is_request_id(b"of another app", with_mark)
    assert not signing.is_session(SECRET, id, HASH)
    assert not signing.is_request_id(SECRET, signing.make_session(SECRET, "ab12cd34", HASH))
