"""Who may do what: roles, one table of permissions, and the keys that carry a role.

A key reads `llmops_<prefix>_<secret>`: the prefix (8 hex digits) names it in lists and events, the secret (256 random
bits) is shown once and kept only as its SHA-256. A slow password hash would add nothing: nobody can try 2^256 secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from llmops.artifacts import locked
from llmops.errors import AccessError, LlmopsError

Role = Literal["user", "developer", "admin"]
Permission = Literal[
    "generate",
    "feedback",
    "view_dashboard",
    "view_metrics",
    "view_models",
    "run_pipeline",
    "manage_models",
    "manage_keys",
]

ROLES: tuple[Role, ...] = get_args(Role)  #: weakest first

_USER: frozenset[Permission] = frozenset({"generate", "feedback"})
_DEVELOPER: frozenset[Permission] = _USER | {"view_dashboard", "view_metrics", "view_models", "run_pipeline"}
_ADMIN: frozenset[Permission] = _DEVELOPER | {"manage_models", "manage_keys"}

PERMISSIONS: dict[Role, frozenset[Permission]] = {"user": _USER, "developer": _DEVELOPER, "admin": _ADMIN}

AIRFLOW_ROLES: dict[Role, str] = {"user": "viewer", "developer": "op", "admin": "admin"}


class UnknownKey(AccessError):
    """The key is not one of ours, or there is none."""


class ExpiredKey(AccessError):
    """The key was right, but its time is over."""


class RevokedKey(AccessError):
    """The key was right, but has been revoked."""


class Forbidden(AccessError):
    """The key is good, but its role may not do this."""


class KeyFileError(LlmopsError):
    """The file of keys cannot be read."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of an API key."""

    prefix: str
    role: Role
    owner: str
    sha256: str  #: of the secret
    created: str  #: ISO time, UTC
    expires: str = ""  #: ISO time, UTC; empty: never
    revoked: str = ""  #: ISO time, UTC; empty: not

    def allows(self, permission: Permission) -> bool:
        """Whether the key's role has the permission."""
        return permission in PERMISSIONS[self.role]


def require(key: Key, permission: Permission) -> None:
    """Make sure that the key's role has the permission.

    Raises:
        Forbidden: naming the role, the permission and the roles that have it.
    """
    if not key.allows(permission):
        able = " or ".join(role for role in ROLES if permission in PERMISSIONS[role])
        raise Forbidden(f"The role {key.role} may not {permission.replace('_', ' ')}; this needs the role {able}.")


class KeyStore:
    """The keys in one JSON file, readable by its owner only; shared between processes, a change counts at once."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path, self._now = path, now
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def create(self, role: Role, owner: str, days: float | None = None, by: Role = "admin") -> tuple[str, Key]:
        """Mint a key; returns the key as its owner must present it, which is not kept, and what is kept.

        Args:
            role: what the key may do.
            owner: who gets it, for lists and audits.
            days: how long it is good; None: until it is revoked.
            by: the role of whoever asks.

        Raises:
            Forbidden: if `role` is above `by`.
            ValueError: if the role is unknown, the owner empty or the time not positive.
        """
        if role not in ROLES:
            raise ValueError(f"There is no role {role!r}; use one of {', '.join(ROLES)}.")
        if not owner.strip():
            raise ValueError("A key needs an owner.")
        if days is not None and not days > 0:
            raise ValueError(f"A key must be good for more than {days} days.")
        if ROLES.index(role) > ROLES.index(by):
            raise Forbidden(f"The role {by} may not create a key of the role {role}, which is above it.")
        now, secret = self._now(), secrets.token_urlsafe(32)
        with self._changing() as keys:
            prefix = secrets.token_hex(4)
            while prefix in keys:
                prefix = secrets.token_hex(4)
            expires = (now + timedelta(days=days)).isoformat(timespec="seconds") if days is not None else ""
            keys[prefix] = Key(prefix, role, owner, _hash(secret), now.isoformat(timespec="seconds"), expires)
        return f"llmops_{prefix}_{secret}", keys[prefix]

    def list(self) -> Sequence[Key]:
        """All keys, oldest first, the revoked and expired included."""
        return tuple(self._read().values())

    def revoke(self, prefix: str) -> Key:
        """Make a key useless from now on; revoking it again changes nothing.

        Raises:
            UnknownKey: if no key has this prefix.
        """
        with self._changing() as keys:
            if prefix not in keys:
                raise UnknownKey(f"No key has the prefix {prefix!r}; `llmops keys list` shows them.")
            if not keys[prefix].revoked:
                keys[prefix] = replace(keys[prefix], revoked=self._now().isoformat(timespec="seconds"))
            return keys[prefix]

    def check(self, presented: str) -> Key:
        """The key that was presented, if it is good.

        Raises:
            UnknownKey, ExpiredKey, RevokedKey: saying what to do.
            KeyFileError: if the file of keys is damaged.
        """
        head, _, rest = presented.strip().partition("_")
        prefix, _, secret = rest.partition("_")
        key = self._read().get(prefix) if head == "llmops" else None
        expected = key.sha256 if key else "0" * 64
        if not hmac.compare_digest(_hash(secret), expected) or key is None:
            raise UnknownKey("This API key is not known here; ask an admin for one.")
        return self._good(key)

    def current(self, prefix: str) -> Key:
        """The key with this prefix, if it is still good; for sessions, whose owner has shown the secret before.

        Raises:
            UnknownKey, ExpiredKey, RevokedKey: saying what to do.
        """
        key = self._read().get(prefix)
        if key is None:
            raise UnknownKey("The API key of this session is gone; sign in again.")
        return self._good(key)

    def _good(self, key: Key) -> Key:
        if key.revoked:
            raise RevokedKey(f"The API key {key.prefix} was revoked on {key.revoked}; ask an admin for a new one.")
        if key.expires and datetime.fromisoformat(key.expires) <= self._now():
            raise ExpiredKey(f"The API key {key.prefix} expired on {key.expires}; ask an admin for a new one.")
        return key

    def _read(self) -> dict[str, Key]:
        """The keys by prefix; read again only when the file is another one."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            try:
                keys = [Key(**item) for item in json.loads(self._path.read_text(encoding="utf-8"))["keys"]]
            except (ValueError, TypeError, KeyError) as error:
                raise KeyFileError(f"The file of keys {self._path} is damaged ({error}); restore it.") from error
            self._keys, self._stamp = {key.prefix: key for key in keys}, stamp
        return self._keys

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys to change, under the lock of the file, which is replaced when the block ends well."""
        with locked(self._path):
            keys = dict(self._read())
            yield keys
            content = json.dumps({"keys": [asdict(key) for key in keys.values()]}, indent=1)
            partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, self._path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
