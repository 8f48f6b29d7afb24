"""Roles and permissions, the stored form of an API key, and its errors."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from llmops.frame.errors import AccessError, LlmopsError

Role = Literal["user", "developer", "admin"]
Permission = Literal[
    "generate",
    "feedback",
    "view_dashboard",
    "view_metrics",
    "view_models",
    "test_versions",
    "run_pipeline",
    "manage_models",
    "manage_keys",
    "review_feedback",
]

ROLES: tuple[Role, ...] = get_args(Role)  #: weakest first

_USER: frozenset[Permission] = frozenset({"generate", "feedback"})
_DEVELOPER: frozenset[Permission] = _USER | {
    "view_dashboard",
    "view_metrics",
    "view_models",
    "test_versions",
    "run_pipeline",
}
_ADMIN: frozenset[Permission] = _DEVELOPER | {"manage_models", "manage_keys", "review_feedback"}

PERMISSIONS: dict[Role, frozenset[Permission]] = {"user": _USER, "developer": _DEVELOPER, "admin": _ADMIN}

PERSON = "oidc-"  #: beginning of the prefixes of people who sign in by OpenID Connect
PREFIX = f"^([0-9a-f]{{8}}|{PERSON}[0-9a-f]{{16}})$"  #: pattern of prefixes

#: role → Airflow's own role: developers trigger runs and see everything but connections
AIRFLOW_ROLES: dict[Role, str] = {"developer": "user", "admin": "admin"}


class UnknownKey(AccessError):
    """The key is unknown."""


class MissingKey(UnknownKey):
    """No key was presented."""


class ExpiredKey(AccessError):
    """The key is right, but has expired."""


class RevokedKey(AccessError):
    """The key is right, but was revoked."""


class Forbidden(AccessError):
    """The key is valid, but its role may not do this."""


class SignInRefused(AccessError):
    """The provider's answer to a sign-in does not prove who somebody is."""


class NoMappedGroup(AccessError):
    """No group of a person who signed in has a role."""


class NoSuchKey(LlmopsError):
    """No key has this prefix."""


class KeyRefused(LlmopsError):
    """A key cannot be created or changed in the requested way."""


@dataclass(frozen=True, slots=True)
class Key:
    """The stored form of an API key."""

    prefix: str
    role: Role
    owner: str
    sha256: str  #: of the secret
    created: str  #: ISO time, UTC
    expires: str = ""  #: ISO time, UTC; empty: never
    revoked: str = ""  #: ISO time, UTC; empty: not
    requests_per_minute: int | None = None  #: None: as `serving.requests_per_minute`; 0: any number
    tokens_per_minute: int | None = None  #: None: as `serving.tokens_per_minute`; 0: any number
    old_sha256: str = ""  #: of the secret before the last rotation
    old_until: str = ""  #: ISO time, UTC: end of the old secret's validity
    tokens_per_month: int | None = None  #: in a calendar month, UTC; None or 0: any number

    def without_hashes(self) -> dict[str, Any]:
        """Return everything but the hashes, for lists."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("sha256")}

    @property
    def is_person(self) -> bool:
        """Return True if this stands for a person who signs in by OpenID Connect. Nobody has its secret."""
        return self.prefix.startswith(PERSON)

    @property
    def answered_to(self) -> str:
        """Return the caller, to whom answers are signed and who counts once in a trial: a key's owner, or a person.

        A person is named by the prefix. A provider's name of a person may be the owner of somebody's key.
        """
        return self.prefix if self.is_person else self.owner

    def allows(self, permission: Permission) -> bool:
        """Return True if the key's role has the permission."""
        return permission in PERMISSIONS[self.role]


def require(key: Key, permission: Permission) -> None:
    """Check that the key's role has the permission.

    Raises:
        Forbidden: naming the role, the permission and the roles that have it.
    """
    if not key.allows(permission):
        roles = " or ".join(role for role in ROLES if permission in PERMISSIONS[role])
        raise Forbidden(f"The role {key.role} may not {permission.replace('_', ' ')}; this needs the role {roles}.")
