"""Repairs that Spark has no function for: HTML entities, mojibake, Unicode normalisation. Runs on its workers."""

from __future__ import annotations

import html
import json

import ftfy


def repair(text: str) -> str:
    """`text` without HTML entities and mojibake, with straight quotes, in NFKC."""
    for _ in range(3):  # "&amp;amp;" was escaped twice; more often than three times is somebody writing about HTML
        plain = html.unescape(text) if "&" in text else text
        if plain == text:
            break
        text = plain
    return text if text.isascii() else ftfy.fix_text(text, unescape_html=False, normalization="NFKC")


def repair_fields(fields: str) -> str:
    """`repair` for every value of a JSON object."""
    return json.dumps({name: repair(value) for name, value in json.loads(fields).items()}, ensure_ascii=False)
