"""Signatures of sessions and of request ids. Thanks to them, feedback can only be about a request made here."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from itsdangerous import BadSignature, Signer

log = logging.getLogger(__name__)

SESSION_S = 12 * 3600  #: longest duration of a session
_NAME_DIGITS = 32  #: hex digits at the beginning of an id: the time, like in UUID version 7, and random digits
_SIGNATURE_DIGITS = 16  #: hex digits at the end of an id: 64 bits, which cannot be guessed over a network


def read_secret(file: Path, environ: Mapping[str, str]) -> bytes:
    """Return the app's secret: `LLMOPS_SESSION_SECRET`, else the content of `file`, which is created if missing.

    If the file can be neither read nor created, return a secret for this process only.
    """
    if configured := environ.get("LLMOPS_SESSION_SECRET"):
        return configured.encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_hex(32).encode())
            os.link(partial, file)  # fails if another process was first; its secret is then read
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)
        return file.read_bytes()
    except OSError as error:
        log.warning("%s cannot be kept (%s): sessions and feedback end with this process", file, error.strerror)
        return secrets.token_bytes(32)


def make_session(secret: bytes, prefix: str, key_hash: str, seconds: float = SESSION_S) -> str:
    """Return the cookie of a session: the prefix of an API key, the time of its end, and the signature of both.

    It lasts for `seconds`, at most `SESSION_S`. The signature depends on `key_hash`, the SHA-256 of the key's secret,
    so the session ends with that secret.
    """
    end = int(time.time() + min(seconds, SESSION_S))
    return _make_signer(secret, key_hash).sign(f"{prefix}.{end}").decode()


def read_session_prefix(cookie: str) -> str:
    """Return the prefix of the key that a session claims. The signature is not checked yet."""
    return cookie.partition(".")[0]


def is_session(secret: bytes, cookie: str, key_hash: str) -> bool:
    """Return True if `make_session` made this cookie with the same secret and hash, and the session is not over."""
    try:
        end = _make_signer(secret, key_hash).unsign(cookie).decode().rpartition(".")[2]
    except BadSignature:
        return False
    return end.isdecimal() and time.time() < int(end)


def _make_signer(secret: bytes, key_hash: str) -> Signer:
    return Signer(secret, f"session {key_hash}", key_derivation="hmac", digest_method=hashlib.sha256)


def make_request_id(secret: bytes) -> str:
    """Return a new request id: the time in milliseconds (12 hex digits), 20 random digits, and 16 that sign them."""
    name = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    return name + _sign(secret, name)


def mark_id(secret: bytes, id: str, mark: str) -> str:
    """Return a request id with this mark (hex digits) in place of its earlier mark."""
    name = id[:_NAME_DIGITS] + mark
    return name + _sign(secret, name)


def read_mark(id: str) -> str:
    """Return the mark in a valid request id, see `is_request_id`."""
    return id[_NAME_DIGITS:-_SIGNATURE_DIGITS]


def is_request_id(secret: bytes, id: str) -> bool:
    """Return True if `make_request_id` or `mark_id` made this id with the same secret."""
    name, signature = id[:-_SIGNATURE_DIGITS], id[-_SIGNATURE_DIGITS:]
    return hmac.compare_digest(_sign(secret, name).encode(), signature.encode("utf-8", "surrogatepass"))


def _sign(secret: bytes, name: str) -> str:
    text = f"request {name}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:_SIGNATURE_DIGITS]
