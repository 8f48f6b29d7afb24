"""What the app signs: sessions, and the ids of requests that a model answers, for the key that asked.

So feedback can only be about an answer that its sender got.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner

log = logging.getLogger(__name__)

SESSION_S = 12 * 3600  #: how long a session lasts
_NAME_DIGITS = 32  #: hex digits at the beginning of an id: the time, as in UUID version 7, and random ones
_SIGNATURE_DIGITS = 16  #: hex digits at the end of an id: 64 bits, far more than can be guessed over a network


def secret(file: Path, environ: Mapping[str, str]) -> bytes:
    """What this app and its replicas sign with: `LLMOPS_SESSION_SECRET`, else the content of `file`, made if missing.

    Where the file can be neither read nor made, it is good for this process only.
    """
    if given := environ.get("LLMOPS_SESSION_SECRET"):
        return given.encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_hex(32).encode())
            os.link(partial, file)  # fails if another process was first, and then its secret counts
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)
        return file.read_bytes()
    except OSError as error:
        log.warning("%s cannot be kept (%s): sessions and feedback end with this process", file, error.strerror)
        return secrets.token_bytes(32)


def new_session(secret: bytes, prefix: str, key_hash: str) -> str:
    """The cookie of a session: the prefix of an API key with a random id, the time, and the signature of all.

    Args:
        secret: of this app.
        prefix: of the key that was shown, which `session_parts` reads.
        key_hash: SHA-256 of the key's secret. The signature depends on it, so the session ends with that secret.
    """
    return _session_signer(secret, key_hash).sign(f"{prefix}-{secrets.token_hex(16)}").decode()


def session_parts(cookie: str) -> tuple[str, str]:
    """The prefix of the key that a session was begun with, and its id, as the cookie has them: not proven yet."""
    prefix, _, id = cookie.partition(".")[0].partition("-")
    return prefix, id


def is_session(secret: bytes, cookie: str, key_hash: str) -> bool:
    """Whether `new_session` made this cookie with the same secret and hash, less than `SESSION_S` seconds ago."""
    try:
        _, begun = _session_signer(secret, key_hash).unsign(cookie, return_timestamp=True)
    except BadSignature:
        return False
    return time.time() < begun.timestamp() + SESSION_S  # `max_age` would refuse a replica whose clock is a second ahead


def _session_signer(secret: bytes, key_hash: str) -> TimestampSigner:
    return TimestampSigner(secret, f"session {key_hash}", key_derivation="hmac", digest_method=hashlib.sha256)


def new_request_id() -> str:
    """An id for a request that nobody has answered: the time in milliseconds (12 hex digits), and 36 random ones."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(18)}"


def answered_id(secret: bytes, id: str, key: str, mark: str = "") -> str:
    """The id of a request that a model answers, in place of the one it had; its last digits sign it.

    Args:
        secret: of this app.
        id: of the request so far.
        key: prefix of the key that asked; the signature depends on it, and it is not in the id.
        mark: hex digits that the id carries.
    """
    name = id[:_NAME_DIGITS] + mark
    return name + _signature(secret, name, key)


def mark_of(id: str) -> str:
    """The mark that the id of a request carries; `id` is one, see `is_answered`."""
    return id[_NAME_DIGITS:-_SIGNATURE_DIGITS]


def is_answered(secret: bytes, id: str, key: str) -> bool:
    """Whether `answered_id` made this id with this secret for this key."""
    name, signature = id[:-_SIGNATURE_DIGITS], id[-_SIGNATURE_DIGITS:]
    return hmac.compare_digest(_signature(secret, name, key).encode(), signature.encode("utf-8", "surrogatepass"))


def _signature(secret: bytes, name: str, key: str) -> str:
    text = f"answer to {key} {name}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:_SIGNATURE_DIGITS]
