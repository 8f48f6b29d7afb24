"""The parts of a key as its owner presents it, and the hash of its secret."""

import hashlib
import secrets


def split_key(presented: str) -> tuple[str, str, str]:
    """Return the parts of a presented key: `llmops`, prefix and secret; empty if missing."""
    head, _, rest = presented.strip().partition("_")
    prefix, _, secret = rest.partition("_")
    return head, prefix, secret


def make_secret() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return the stored hash of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
