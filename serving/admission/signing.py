"""What the app signs: sessions, and the ids of requests, so that feedback can only be about one that was made here."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

_MAC = 16  #: hex digits of an id that are its signature: 64 bits, far more than can be guessed at over a network


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


def mac(secret: bytes, text: str) -> str:
    """What this app signs a text with, in 64 hex digits."""
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def new_id(secret: bytes) -> str:
    """An id for a request: 32 random hex digits and their signature."""
    name = uuid.uuid4().hex
    return name + _signature(secret, name)


def is_ours(secret: bytes, id: str) -> bool:
    """Whether an id was made by `new_id` with this secret."""
    name, signature = id[:-_MAC], id[-_MAC:]
    return hmac.compare_digest(_signature(secret, name).encode(), signature.encode("utf-8", "surrogatepass"))


def _signature(secret: bytes, name: str) -> str:
    return mac(secret, f"request {name}")[:_MAC]
