"""Signatures of the app: of sessions, and of request ids, so that feedback can only be about a request made here."""

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
    """Return the app's secret: `LLMOPS_SESSION_SECRET`, else the content of `file`, made if missing.

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
    """Return the cookie of a session: the prefix of an API key, the time, and the signature of both.

    The signature depends on `key_hash`, the SHA-256 of the key's secret, so the session ends with that secret.
    """
    return _session_signer(secret, key_hash).sign(prefix).decode()


def session_prefix(cookie: str) -> str:
    """Return the prefix of the key that a session was begun with, which is not proven yet."""
    return cookie.partition(".")[0]


def is_session(secret: bytes, cookie: str, key_hash: str) -> bool:
    """Return whether `new_session` made this cookie with the same secret and hash, less than `SESSION_S` ago."""
    try:
        _, begun = _session_signer(secret, key_hash).unsign(cookie, return_timestamp=True)
    except BadSignature:
        return False
    return time.time() < begun.timestamp() + SESSION_S  # `max_age` would refuse a replica whose clock is a second ahead


def _session_signer(secret: bytes, key_hash: str) -> TimestampSigner:
    return TimestampSigner(secret, f"session {key_hash}", key_derivation="hmac", digest_method=hashlib.sha256)


def new_request_id(secret: bytes) -> str:
    """Make an id for a request: the time in milliseconds (12 hex digits), 20 random ones, and 16 that sign them."""
    name = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    return name + _signature(secret, name)


def marked_id(secret: bytes, id: str, mark: str) -> str:
    """Return the id of a request with this mark, in hex digits, in place of the one it had."""
    name = id[:_NAME_DIGITS] + mark
    return name + _signature(secret, name)


def mark_of(id: str) -> str:
    """Return the mark that the id of a request carries; `id` is one, see `is_request_id`."""
    return id[_NAME_DIGITS:-_SIGNATURE_DIGITS]


def is_request_id(secret: bytes, id: str) -> bool:
    """Return whether an id was made by `new_request_id` or `marked_id` with this secret."""
    name, signature = id[:-_SIGNATURE_DIGITS], id[-_SIGNATURE_DIGITS:]
    return hmac.compare_digest(_signature(secret, name).encode(), signature.encode("utf-8", "surrogatepass"))


def _signature(secret: bytes, name: str) -> str:
    text = f"request {name}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:_SIGNATURE_DIGITS]
