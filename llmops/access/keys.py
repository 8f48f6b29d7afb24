"""The API keys that carry a role: made, checked, rotated and revoked.

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
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmops.access.roles import (
    ROLES,
    ExpiredKey,
    Forbidden,
    Key,
    KeyFileError,
    KeyRefused,
    NoSuchKey,
    RevokedKey,
    Role,
    UnknownKey,
)
from llmops.artifacts import locked
from llmops.errors import AccessError
from llmops.monitoring.events import AUDIT, emit

NOBODY = Key(prefix="", role="user", owner="", sha256="0" * 64, created="")  #: no secret has this hash
OWNER_CHARS = 100
MAX_DAYS = 36_500


class KeyStore:
    """The keys in one JSON file, readable by its owner only; shared between processes, a change counts at once.

    Each change is an event of the dataset `llmops.audit`, in the spool before the change counts: a change that
    cannot be written down does not happen.

    Args:
        path: the file.
        now: the clock.
        events: the events folder; by default `events` beside the file.
    """

    def __init__(
        self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC), events: Path | None = None
    ) -> None:
        self._path, self._now, self._events = path, now, events or path.parent / "events"
        #: what was read last and from which file; one value, for threads read and replace it at the same time
        self._cached: tuple[tuple[int, int, int] | None, dict[str, Key]] = (None, {})

    def create(
        self,
        role: Role,
        owner: str,
        days: float | None = None,
        by: Role = "admin",
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        who: str = "",
    ) -> tuple[str, Key]:
        """Mint a key; returns the key as its owner must present it, which is not kept, and what is kept.

        Args:
            role: what the key may do.
            owner: who gets it, for lists and audits.
            days: how long it is good; None: until it is revoked.
            by: the role of whoever asks.
            requests_per_minute, tokens_per_minute: limits of its own; None: those of the configuration; 0: none.
            who: whoever asks, for the audit.

        Raises:
            Forbidden: if `role` is above `by`.
            KeyRefused: if the role is unknown, the owner is no name, or a time or limit makes no sense.
        """
        if role not in ROLES:
            raise KeyRefused(f"There is no role {role!r}; use one of {', '.join(ROLES)}.")
        if not owner.strip() or not owner.isprintable() or len(owner) > OWNER_CHARS:
            raise KeyRefused(f"A key needs an owner: a name of at most {OWNER_CHARS} printable characters.")
        if days is not None and not 0 < days <= MAX_DAYS:
            raise KeyRefused(f"A key must be good for more than 0 and at most {MAX_DAYS} days, not {days}.")
        if min(requests_per_minute or 0, tokens_per_minute or 0) < 0:
            raise KeyRefused("A limit per minute is 0 (none) or more.")
        now, secret = self._now(), _secret()
        with self._changing() as keys:
            prefix = secrets.token_hex(4)
            while prefix in keys:
                prefix = secrets.token_hex(4)
            key = Key(
                prefix,
                role,
                owner,
                sha256(secret),
                created=_iso(now),
                expires=_iso(now + timedelta(days=days)) if days is not None else "",
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
            )
            _not_above(key, by, "create")
            keys[prefix] = key
            self._tell("create_key", key, by, who)
        return f"llmops_{prefix}_{secret}", key

    def list(self) -> Sequence[Key]:
        """All keys, oldest first, the revoked and expired included."""
        return tuple(self._read().values())

    def revoke(self, prefix: str, by: Role = "admin", who: str = "") -> Key:
        """Make a key useless from now on; revoking it again changes nothing.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by`.
        """
        with self._changing() as keys:
            key = _named(keys, prefix)
            _not_above(key, by, "revoke")
            if not key.revoked:
                key = keys[prefix] = replace(key, revoked=_iso(self._now()))
                self._tell("revoke_key", key, by, who)
            return key

    def rotate(self, prefix: str, hours: float = 24.0, by: Role = "admin", who: str = "") -> tuple[str, Key]:
        """Give a key a new secret; returns the key as it must be presented from now on, and what is kept.

        Args:
            prefix: of the key, which stays, as do its role, expiry and limits.
            hours: how long the secret until now is good, too. One from before that is useless at once.
            by: the role of whoever asks.
            who: whoever asks, for the audit.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by`.
            KeyRefused: if it is revoked or expired, or the time makes no sense.
        """
        if not 0 <= hours <= 24 * MAX_DAYS:
            raise KeyRefused(f"The old secret can be good for 0 to {24 * MAX_DAYS} hours, not {hours}.")
        secret = _secret()
        with self._changing() as keys:
            key = _named(keys, prefix)
            _not_above(key, by, "rotate")
            try:
                self.good(key)
            except AccessError as error:
                raise KeyRefused(f"{error} It cannot be rotated.") from error
            until = _iso(self._now() + timedelta(hours=hours))
            key = replace(key, sha256=sha256(secret), old_sha256=key.sha256 if hours else "", old_until=until)
            keys[prefix] = key
            self._tell("rotate_key", key, by, who)
        return f"llmops_{prefix}_{secret}", key

    def check(self, presented: str) -> Key:
        """The key that was presented, if it is good.

        Raises:
            UnknownKey, ExpiredKey, RevokedKey: saying what to do.
            KeyFileError: if the file of keys is damaged.
        """
        return self.good(self.known(presented))

    def known(self, presented: str) -> Key:
        """The key that was presented, good or not; the same work is done whether or not its prefix is known.

        Raises:
            UnknownKey: if its secret is not the right one.
            KeyFileError: if the file of keys is damaged.
        """
        head, prefix, secret = split(presented)
        key = self._read().get(prefix, NOBODY)
        given, now = sha256(secret), _iso(self._now())
        right = hmac.compare_digest(given, key.sha256)
        before = hmac.compare_digest(given, key.old_sha256 or NOBODY.sha256) and now < key.old_until
        if head != "llmops" or not (right or before):
            raise UnknownKey("This API key is not known here; ask an admin for one.")
        return key

    def proven(self, prefix: str, proof: Callable[[str], bool]) -> Key:
        """The key with this prefix, good or not; for sessions, whose owner has shown a secret of it before.

        Args:
            prefix: of the key.
            proof: whether it was the secret with this SHA-256 that was shown.

        Raises:
            UnknownKey: if there is no such key, or the secret that was shown is not good any more.
        """
        key = self._read().get(prefix, NOBODY)
        before = key.old_sha256 and _iso(self._now()) < key.old_until
        if not (proof(key.sha256) or (before and proof(key.old_sha256))):
            raise UnknownKey("The session is over; sign in again.")
        return key

    def good(self, key: Key) -> Key:
        """The key itself.

        Raises:
            ExpiredKey, RevokedKey: if it is not good any more.
        """
        if key.revoked:
            raise RevokedKey(f"The API key {key.prefix} was revoked on {key.revoked}; ask an admin for a new one.")
        if key.expires and datetime.fromisoformat(key.expires) <= self._now():
            raise ExpiredKey(f"The API key {key.prefix} expired on {key.expires}; ask an admin for a new one.")
        return key

    def _tell(self, action: str, key: Key, by: Role, who: str) -> None:
        fields: dict[str, object] = {
            "event.action": action,
            "event.category": ["iam"],
            "event.outcome": "success",
            "user.name": who,
            "user.roles": [by],
            "user.target.name": key.owner,
            "user.target.roles": [key.role],
            "llmops.target.key.prefix": key.prefix,
            "llmops.target.key.expires": key.expires or None,
            "llmops.target.key.requests_per_minute": key.requests_per_minute,
            "llmops.target.key.tokens_per_minute": key.tokens_per_minute,
        }
        emit(self._events, AUDIT, fields)

    def _read(self) -> dict[str, Key]:
        """The keys by prefix; read again only when the file is another one."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known, cached = self._cached
        if stamp != known:
            try:
                keys = [Key(**item) for item in json.loads(self._path.read_text(encoding="utf-8"))["keys"]]
            except (ValueError, TypeError, KeyError) as error:
                raise KeyFileError(f"The file of keys {self._path} is damaged ({error}); restore it.") from error
            cached = {key.prefix: key for key in keys}
            self._cached = (stamp, cached)
        return cached

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


def split(presented: str) -> tuple[str, str, str]:
    """The parts of a key as it is presented: `llmops`, its prefix, its secret; empty where there is none."""
    head, _, rest = presented.strip().partition("_")
    prefix, _, secret = rest.partition("_")
    return head, prefix, secret


def _named(keys: dict[str, Key], prefix: str) -> Key:
    if prefix not in keys:
        raise NoSuchKey(f"No key has the prefix {prefix!r}; `llmops keys list` shows them.")
    return keys[prefix]


def _not_above(key: Key, by: Role, action: str) -> None:
    if ROLES.index(key.role) > ROLES.index(by):
        raise Forbidden(f"The role {by} may not {action} a key of the role {key.role}, which is above it.")


def _secret() -> str:
    return secrets.token_urlsafe(32)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def sha256(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
