"""Signatures of sessions and of answered requests' ids. Feedback can only be about an answer to its own sender."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import random
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from itsdangerous import BadSignature, Signer

log = logging.getLogger(__name__)

SESSION_S = 12 * 3600  #: longest duration of a session
_NAME_DIGITS = 32  #: hex digits of a request's id: the time, like in UUID version 7, and random digits
_TEXT_DIGITS = 8  #: hex digits of a text's digest; nobody can choose a text for it without the secret
_SIGNATURE_DIGITS = 16  #: hex digits at the end of an id: 64 bits, which cannot be guessed over a network
_random = random.Random()  #: begins with the system's random digits; a library may seed the common one
NO_DIGEST = "0" * _TEXT_DIGITS  #: in place of the digest of a text that is unknown


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


class AnswerId(NamedTuple):
    """The parts of an answered request's id."""

    mark: str  #: of a trial's side, see `trials.make_mark`; or empty
    question: str  #: keyed digest, or `NO_DIGEST`
    answer: str  #: keyed digest, or `NO_DIGEST`


def make_request_id() -> str:
    """Return a new request's id: the time in milliseconds (12 hex digits) and 20 random digits.

    It is unique, but neither secret nor a proof. The system's random digits would cost 20 µs, because Python lets
    another thread run while it reads them.
    """
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"


def sign_answer(secret: bytes, id: str, owner: str, parts: AnswerId) -> str:
    """Return the id of a request that was answered to a key of this owner. `id` may be signed already."""
    name = id[:_NAME_DIGITS] + parts.mark + parts.question[:_TEXT_DIGITS] + parts.answer[:_TEXT_DIGITS]
    return name + _sign(secret, owner, name)


def read_answer_id(secret: bytes, id: str, owner: str) -> AnswerId | None:
    """Return the parts of an id that `sign_answer` made with the same secret for the same owner; else None."""
    name, signature = id[:-_SIGNATURE_DIGITS], id[-_SIGNATURE_DIGITS:]
    if not hmac.compare_digest(_sign(secret, owner, name).encode(), signature.encode("utf-8", "surrogatepass")):
        return None
    texts = len(name) - 2 * _TEXT_DIGITS
    return AnswerId(name[_NAME_DIGITS:texts], name[texts:-_TEXT_DIGITS], name[-_TEXT_DIGITS:])


def is_digest_of(part: str, digest: str) -> bool:
    """Return True if a part of an id stands for a text with this digest."""
    return part == digest[:_TEXT_DIGITS]


def _sign(secret: bytes, owner: str, name: str) -> str:
    text = f"answer {len(owner)} {owner} {name}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:_SIGNATURE_DIGITS]
