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

from llmops.access.presented import new_secret, sha256, split
from llmops.access.roles import ROLES, ExpiredKey, Forbidden, Key, KeyRefused, NoSuchKey, RevokedKey, Role, UnknownKey
from llmops.access.rows import add, every, find, put
from llmops.config import Config
from llmops.events.datasets import AUDIT
from llmops.events.events import emit
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import AccessError, StateUnavailable
from llmops.state import audit
from llmops.state.database import Database, database_of

NOBODY = Key(prefix="", role="user", owner="", sha256="0" * 64, created="")  #: no secret has this hash
OWNER_CHARS = 100
MAX_DAYS = 36_500
REST_S = 5.0  #: pause before an unreachable database is asked again, because each request would wait for it
FRESH_S = 1.0  #: age up to which a cached key is used without asking the database
AWAY_S = 300.0  #: age up to which a cached key is used while the database cannot be reached


class KeyStore:
    """The keys in the database, shared between processes.

    A change takes effect within `FRESH_S` in every process, because found keys are cached that long. Unknown prefixes
    are not cached, so the cache never has more entries than there are keys.

    Each change adds a row of `audit` in the same transaction and an event `llmops.audit` in the spool, before it takes
    effect. A change that cannot be recorded does not happen.
    """

    def __init__(
        self,
        database: Database,
        events: Path,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._database, self._events, self._clock = database, events, clock
        #: prefix → when the database was asked last, and the key it had
        self._seen: dict[str, tuple[float, Key]] = {}
        self._rest_until = 0.0  #: end of the pause of an unreachable database

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
        """Create a key. Return it as its owner presents it, which is not stored, and its stored form.

        `days` is its validity (None: until it is revoked), `by` the creator's role, `who` the creator. A limit per
        minute of None means the configured one, 0 none.

        Raises:
            Forbidden: if `role` is above `by`.
            KeyRefused: if the role is unknown, the owner is no name, or a time or limit is invalid.
        """
        if role not in ROLES:
            raise KeyRefused(f"There is no role {role!r}; use one of {', '.join(ROLES)}.")
        if not owner.strip() or not owner.isprintable() or len(owner) > OWNER_CHARS:
            raise KeyRefused(f"A key needs an owner: a name of at most {OWNER_CHARS} printable characters.")
        if days is not None and not 0 < days <= MAX_DAYS:
            raise KeyRefused(f"A key must be good for more than 0 and at most {MAX_DAYS} days, not {days}.")
        if min(requests_per_minute or 0, tokens_per_minute or 0) < 0:
            raise KeyRefused("A limit per minute is 0 (none) or more.")
        now, secret = self._clock.now(), new_secret()
        with self._database.change() as connection:
            prefix = secrets.token_hex(4)
            while find(connection, prefix):
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
            add(connection, key)
            self._tell(connection, "create_key", key, by, who)
        return f"llmops_{prefix}_{secret}", key

    def list(self) -> Sequence[Key]:
        """Return all keys, oldest first, including revoked and expired ones."""
        with self._database.read() as connection:
            return tuple(every(connection))

    def revoke(self, prefix: str, by: Role = "admin", who: str = "") -> Key:
        """Revoke a key from now on. Revoking it again changes nothing.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by`.
        """
        with self._changing(prefix) as connection:
            key = _get(connection, prefix)
            _not_above(key, by, "revoke")
            if not key.revoked:
                key = put(connection, replace(key, revoked=_iso(self._clock.now())))
                self._tell(connection, "revoke_key", key, by, who)
            return key

    def rotate(self, prefix: str, hours: float = 24.0, by: Role = "admin", who: str = "") -> tuple[str, Key]:
        """Give a key a new secret. Return the key as its owner presents it from now on, and its stored form.

        The current secret stays valid for `hours`; an older one ends at once. Prefix, role, expiry and limits stay.
        `by` is the caller's role, `who` the caller.

        Raises:
            NoSuchKey: if no key has this prefix.
            Forbidden: if its role is above `by`.
            KeyRefused: if it is revoked or expired, or the time is invalid.
        """
        if not 0 <= hours <= 24 * MAX_DAYS:
            raise KeyRefused(f"The old secret can be good for 0 to {24 * MAX_DAYS} hours, not {hours}.")
        secret = new_secret()
        with self._changing(prefix) as connection:
            key = _get(connection, prefix)
            _not_above(key, by, "rotate")
            try:
                self.good(key)
            except AccessError as error:
                raise KeyRefused(f"{error} It cannot be rotated.") from error
            until = _iso(self._clock.now() + timedelta(hours=hours))
            old = key.sha256 if hours else ""
            key = put(connection, replace(key, sha256=sha256(secret), old_sha256=old, old_until=until))
            self._tell(connection, "rotate_key", key, by, who)
        return f"llmops_{prefix}_{secret}", key

    def check(self, presented: str) -> Key:
        """Return the presented key if it is valid.

        Raises:
            UnknownKey: if it is unknown.
            ExpiredKey: if it has expired.
            RevokedKey: if it was revoked.
            StateError: if the database is damaged, or was away for too long.
        """
        return self.good(self.known(presented))

    def at_hand(self, prefix: str) -> bool:
        """Return True if the key was found less than `FRESH_S` ago, so that `check` asks no database."""
        return self._clock.monotonic() - self._seen.get(prefix, (-math.inf, NOBODY))[0] < FRESH_S

    def known(self, presented: str) -> Key:
        """Return the presented key, valid or not. The work is the same for known and unknown prefixes.

        Raises:
            UnknownKey: if its secret is wrong.
            StateError: if the database is damaged, or was away for too long.
        """
        head, prefix, secret = split(presented)
        key = self._find(prefix)
        given, now = sha256(secret), _iso(self._clock.now())
        right = hmac.compare_digest(given, key.sha256)
        before = hmac.compare_digest(given, key.old_sha256 or NOBODY.sha256) and now < key.old_until
        if head != "llmops" or not (right or before):
            raise UnknownKey("This API key is not known here; ask an admin for one.")
        return key

    def proven(self, prefix: str, proof: Callable[[str], bool]) -> Key:
        """Return the key with this prefix, valid or not. For sessions, whose owner has shown a secret before.

        `proof` returns True for the SHA-256 of the secret that was shown.

        Raises:
            UnknownKey: if there is no such key, or the secret is no longer valid.
        """
        key = self._find(prefix)
        before = key.old_sha256 and _iso(self._clock.now()) < key.old_until
        if not (proof(key.sha256) or (before and proof(key.old_sha256))):
            raise UnknownKey("The session is over; sign in again.")
        return key

    def good(self, key: Key) -> Key:
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

    def _tell(self, connection: sa.Connection, action: str, key: Key, by: Role, who: str) -> None:
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
        audit.note(connection, action, by=who, target=key.prefix, fields={**key.shown(), "by_role": by})
        emit(self._events, AUDIT, fields)

    def _find(self, prefix: str) -> Key:
        """Return the key with this prefix, or `NOBODY`. While the database is away, return the cached key."""
        moment = self._clock.monotonic()
        seen, kept = self._seen.get(prefix, (-math.inf, None))
        if kept and moment - seen < FRESH_S:
            return kept
        try:
            if moment < self._rest_until:
                raise StateUnavailable("The database of keys cannot be reached; try again in a few seconds.")
            with self._database.read() as connection:
                key = find(connection, prefix)
        except StateUnavailable:
            if moment >= self._rest_until:
                self._rest_until = self._clock.monotonic() + REST_S
            if kept is None or moment - seen > AWAY_S:
                raise
            return kept
        if key is None:
            self._seen.pop(prefix, None)
            return NOBODY
        self._seen[prefix] = (moment, key)
        return key

    @contextmanager
    def _changing(self, prefix: str) -> Iterator[sa.Connection]:
        with self._database.change() as connection:
            yield connection
        self._seen.pop(prefix, None)


def keys_of(config: Config) -> KeyStore:
    """Return the key store of a configuration."""
    return KeyStore(database_of(config), config.events)


def _get(connection: sa.Connection, prefix: str) -> Key:
    key = find(connection, prefix)
    if key is None:
        raise NoSuchKey(f"No key has the prefix {prefix!r}; `llmops keys list` shows them.")
    return key


def _not_above(key: Key, by: Role, action: str) -> None:
    if ROLES.index(key.role) > ROLES.index(by):
        raise Forbidden(f"The role {by} may not {action} a key of the role {key.role}, which is above it.")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
