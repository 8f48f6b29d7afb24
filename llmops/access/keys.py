"""API keys with a role: creation, check, rotation and revocation.

A key reads `llmops_<prefix>_<secret>`. The prefix (8 hex digits) identifies it in lists and events. The secret (256
random bits) is shown once and stored only as SHA-256. A slow password hash would add nothing: nobody can try 2^256
secrets.
"""

import hmac
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from llmops.access.presented import hash_secret, make_secret, split_key
from llmops.access.roles import ROLES, ExpiredKey, Forbidden, Key, KeyRefused, RevokedKey, Role, UnknownKey
from llmops.access.rows import find, get, insert, list_all, update
from llmops.config import Config
from llmops.events.datasets import AUDIT
from llmops.events.events import emit
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import AccessError, StateError, StateUnavailable
from llmops.state import audit
from llmops.state.database import Database, database_of

NOBODY = Key(prefix="", role="user", owner="", sha256="0" * 64, created="")  #: no secret has this hash
OWNER_CHARS = 100
MAX_DAYS = 36_500
RETRY_S = 5.0  #: pause before an unreachable database is asked again, because each request would wait for it
FRESH_S = 1.0  #: age up to which a cached key is used without asking the database
STALE_S = 300.0  #: age up to which a cached key is used while the database cannot be reached


class KeyStore:
    """The keys in the database, shared between processes.

    A change takes effect within `FRESH_S` in every process, because found keys are cached that long. Unknown prefixes
    are not cached, so the cache never has more entries than there are keys.

    Each change adds a row of `audit` in the same transaction and an event `llmops.audit` in the spool, before it takes
    effect. A change that cannot be recorded does not happen.
    """

    def __init__(self, database: Database, events: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._events, self._clock = database, events, clock
        #: prefix → monotonic time of the last query, and the key that it found
        self._cache: dict[str, tuple[float, Key]] = {}
        self._retry_at = 0.0  #: monotonic time before which an unreachable database is not asked again

    def create(
        self,
        role: Role,
        owner: str,
        days: float | None = None,
        by_role: Role = "admin",
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        tokens_per_month: int | None = None,
        by: str = "",
    ) -> tuple[str, Key]:
        """Create a key. Return it as its owner presents it, which is not stored, and its stored form.

        `days` is its validity (None: until it is revoked), `by` the creator, `by_role` the creator's role. A limit per
        minute of None means the configured one, 0 none. `tokens_per_month` is its budget; None or 0 means none.

        Raises:
            Forbidden: if `role` is above `by_role`.
            KeyRefused: if the role is unknown, the owner is no name, or a time or limit is invalid.
        """
        if role not in ROLES:
            raise KeyRefused(f"There is no role {role!r}; use one of {', '.join(ROLES)}.")
        if not owner.strip() or not owner.isprintable() or len(owner) > OWNER_CHARS:
            raise KeyRefused(f"A key needs an owner: a name of at most {OWNER_CHARS} printable characters.")
        if days is not None and not 0 < days <= MAX_DAYS:
            raise KeyRefused(f"A key must be good for more than 0 and at most {MAX_DAYS} days, not {days}.")
        if min(requests_per_minute or 0, tokens_per_minute or 0, tokens_per_month or 0) < 0:
            raise KeyRefused("A limit per minute or month is 0 (none) or more.")
        now, secret = self._clock.now(), make_secret()
        with self._database.change() as connection:
            prefix = secrets.token_hex(4)
            while find(connection, prefix):
                prefix = secrets.token_hex(4)
            key = Key(
                prefix,
                role,
                owner,
                hash_secret(secret),
                created=_format_time(now),
                expires=_format_time(now + timedelta(days=days)) if days is not None else "",
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                tokens_per_month=tokens_per_month,
            )
            _check_not_above(key, by_role, "create")
            insert(connection, key)
            self._record(connection, "create_key", key, by_role, by)
        return f"llmops_{prefix}_{secret}", key

    def list(self) -> Sequence[Key]:
        """Return all keys, oldest first, including revoked and expired ones."""
        with self._database.read() as connection:
            return tuple(list_all(connection))

    def revoke(self, prefix: str, by_role: Role = "admin", by: str = "") -> Key:
        """Revoke a key from now on. Revoking it again changes nothing.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by_role`.
        """
        with self._transaction(prefix) as connection:
            key = get(connection, prefix)
            _check_not_above(key, by_role, "revoke")
            if not key.revoked:
                key = update(connection, replace(key, revoked=_format_time(self._clock.now())))
                self._record(connection, "revoke_key", key, by_role, by)
            return key

    def rotate(self, prefix: str, hours: float = 24.0, by_role: Role = "admin", by: str = "") -> tuple[str, Key]:
        """Give a key a new secret. Return the key as its owner presents it from now on, and its stored form.

        The current secret stays valid for `hours`; an older one ends at once. Prefix, role, expiry and limits stay.
        `by` is the caller, `by_role` the caller's role.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by_role`.
            KeyRefused: if it is revoked or expired, or the time is invalid.
        """
        if not 0 <= hours <= 24 * MAX_DAYS:
            raise KeyRefused(f"The old secret can be good for 0 to {24 * MAX_DAYS} hours, not {hours}.")
        secret = make_secret()
        with self._transaction(prefix) as connection:
            key = get(connection, prefix)
            _check_not_above(key, by_role, "rotate")
            if key.is_person:
                raise KeyRefused(f"{prefix} is a person who signs in by OpenID Connect, and has no secret to rotate.")
            try:
                self.check_valid(key)
            except AccessError as error:
                raise KeyRefused(f"{error} It cannot be rotated.") from error
            until = _format_time(self._clock.now() + timedelta(hours=hours))
            old = key.sha256 if hours else ""
            key = update(connection, replace(key, sha256=hash_secret(secret), old_sha256=old, old_until=until))
            self._record(connection, "rotate_key", key, by_role, by)
        return f"llmops_{prefix}_{secret}", key

    def admit_person(self, prefix: str, name: str, role: Role) -> Key:
        """Return the key that stands for a person who has signed in. Create it, or update its role and owner.

        It has all that a key has: limits, revocation, an entry in lists. Nobody knows its secret.

        Raises:
            RevokedKey: if an admin has revoked it.
        """
        owner = "".join(filter(str.isprintable, name))[:OWNER_CHARS].strip() or prefix
        known = self._find(prefix)
        if (known.role, known.owner) == (role, owner):
            return self.check_valid(known)
        with self._transaction(prefix) as connection:
            if stored := find(connection, prefix):
                key = update(connection, replace(self.check_valid(stored), role=role, owner=owner))
                action = "update_key"
            else:
                key = Key(prefix, role, owner, hash_secret(make_secret()), created=_format_time(self._clock.now()))
                insert(connection, key)
                action = "create_key"
            self._record(connection, action, key, role, f"key {prefix}")
        return key

    def check(self, presented: str) -> Key:
        """Return the presented key if it is valid.

        Raises:
            UnknownKey: if it is unknown.
            ExpiredKey: if it has expired.
            RevokedKey: if it was revoked.
            StateError: if the database is damaged, or was down for too long.
        """
        return self.check_valid(self.identify(presented))

    def is_cached(self, prefix: str) -> bool:
        """Return True if the key was found less than `FRESH_S` ago, so that `check` asks no database."""
        return self._clock.monotonic() - self._cache.get(prefix, (-math.inf, NOBODY))[0] < FRESH_S

    def is_erased(self, prefix: object) -> bool:
        """Return True if no key has this prefix any more: only an erasure deletes keys. False while nobody can tell."""
        try:
            return bool(prefix) and self._find(str(prefix)) is NOBODY
        except StateError:
            return False

    def identify(self, presented: str) -> Key:
        """Return the presented key, even if it is expired or revoked. Known and unknown prefixes take the same work.

        Raises:
            UnknownKey: if its secret is wrong.
            StateError: if the database is damaged, or was down for too long.
        """
        head, prefix, secret = split_key(presented)
        key = self._find(prefix)
        digest, now = hash_secret(secret), _format_time(self._clock.now())
        is_current = hmac.compare_digest(digest, key.sha256)
        is_old = hmac.compare_digest(digest, key.old_sha256 or NOBODY.sha256) and now < key.old_until
        if head != "llmops" or not (is_current or is_old):
            raise UnknownKey("This API key is not known here; ask an admin for one.")
        return key

    def identify_session(self, prefix: str, is_shown: Callable[[str], bool]) -> Key:
        """Return the key of a session, even if it is expired or revoked.

        `is_shown` returns True for the SHA-256 of the secret that its owner showed when the session began.

        Raises:
            UnknownKey: if there is no such key, or the secret is no longer valid.
        """
        key = self._find(prefix)
        has_old = key.old_sha256 and _format_time(self._clock.now()) < key.old_until
        if not (is_shown(key.sha256) or (has_old and is_shown(key.old_sha256))):
            raise UnknownKey("The session is over; sign in again.")
        return key

    def check_valid(self, key: Key) -> Key:
        """Return the key if it is valid.

        Raises:
            ExpiredKey: if it has expired.
            RevokedKey: if it was revoked.
        """
        if key.revoked:
            raise RevokedKey(f"The API key {key.prefix} was revoked on {key.revoked}; ask an admin for a new one.")
        if key.expires and datetime.fromisoformat(key.expires) <= self._clock.now():
            raise ExpiredKey(f"The API key {key.prefix} expired on {key.expires}; ask an admin for a new one.")
        return key

    def _record(self, connection: sa.Connection, action: str, key: Key, by_role: Role, by: str) -> None:
        fields: dict[str, object] = {
            "event.action": action,
            "event.category": ["iam"],
            "event.outcome": "success",
            "user.name": by,
            "user.roles": [by_role],
            "user.target.name": key.owner,
            "user.target.roles": [key.role],
            "llmops.target.key.prefix": key.prefix,
            "llmops.target.key.expires": key.expires or None,
            "llmops.target.key.requests_per_minute": key.requests_per_minute,
            "llmops.target.key.tokens_per_minute": key.tokens_per_minute,
            "llmops.target.key.tokens_per_month": key.tokens_per_month,
        }
        audit.record(connection, action, by=by, target=key.prefix, fields={**key.without_hashes(), "by_role": by_role})
        emit(self._events, AUDIT, fields)

    def _find(self, prefix: str) -> Key:
        """Return the key with this prefix, or `NOBODY`. While the database is down, return the cached key."""
        now = self._clock.monotonic()
        cached_at, cached = self._cache.get(prefix, (-math.inf, None))
        if cached and now - cached_at < FRESH_S:
            return cached
        try:
            if now < self._retry_at:
                raise StateUnavailable("The database of keys cannot be reached; try again in a few seconds.")
            with self._database.read() as connection:
                key = find(connection, prefix)
        except StateUnavailable:
            if now >= self._retry_at:
                self._retry_at = self._clock.monotonic() + RETRY_S
            if cached is None or now - cached_at > STALE_S:
                raise
            return cached
        if key is None:
            self._cache.pop(prefix, None)
            return NOBODY
        self._cache[prefix] = (now, key)
        return key

    @contextmanager
    def _transaction(self, prefix: str) -> Iterator[sa.Connection]:
        with self._database.change() as connection:
            yield connection
        self._cache.pop(prefix, None)


def keys_of(config: Config) -> KeyStore:
    """Return the key store of a configuration."""
    return KeyStore(database_of(config), config.events)


def _check_not_above(key: Key, by_role: Role, action: str) -> None:
    if ROLES.index(key.role) > ROLES.index(by_role):
        raise Forbidden(f"The role {by_role} may not {action} a key of the role {key.role}, which is above it.")


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
