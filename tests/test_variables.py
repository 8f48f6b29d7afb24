"""A variable's value stands as it is, but where it would be taken for a part of a URL."""

import pytest

from llmops.variables import filled

P = "p@s/s w#rd?"
QUOTED = "p%40s%2Fs%20w%23rd%3F"


@pytest.mark.parametrize(
    "text,expected",
    [
        ("postgresql://${P}:${P}@host/db", f"postgresql://{QUOTED}:{QUOTED}@host/db"),
        ("sftp://u:${P}@host:22/a/${P}/b", f"sftp://u:{QUOTED}@host:22/a/{P}/b"),
        ("a://u@x:${P}@host", f"a://u@x:{QUOTED}@host"),
        ("s3://bucket/${P}/v@1.csv", f"s3://bucket/{P}/v@1.csv"),
        ("https://host?to=${P}@example.com", f"https://host?to={P}@example.com"),
        ("${P}", P),
        ("${P}@example.com", f"{P}@example.com"),
        ("${P} @ops", f"{P} @ops"),
        ("Bearer ${P}, a@b", f"Bearer {P}, a@b"),
        ("see https://host and tell ${P} @ops", f"see https://host and tell {P} @ops"),
        ("a://${P}@h/ b://${P}@h/ ${P}@h", f"a://{QUOTED}@h/ b://{QUOTED}@h/ {P}@h"),
    ],
)
def test_only_who_asks_in_a_url_is_quoted(text, expected):
    assert filled(text, {"P": P}.__getitem__) == expected
