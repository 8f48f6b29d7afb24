"""A key as its bearer presents it: its parts, and what is kept of its secret."""

from __future__ import annotations

import hashlib
import re
import secrets


def split(presented: str) -> tuple[str, str, str]:
    """The parts of a key as it is presented: `llmops`, its prefix, its secret; empty where there is none."""
    head, _, rest = presented.strip().partition("_")
    prefix, _, secret = rest.partition("_")
    return head, prefix, secret


def is_formed(prefix: str, session: str = "") -> bool:
    """Whether there can be a key with this prefix, and a session with this id: else no database need be asked."""
    return bool(re.fullmatch(r"[0-9A-Za-z]{1,32}", prefix) and re.fullmatch(r"([0-9a-f]{32})?", session))


def new_secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def sha256(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
