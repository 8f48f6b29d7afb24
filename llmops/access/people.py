"""People who sign in by OpenID Connect: their prefixes, and their roles by their groups."""

import hashlib
from collections.abc import Iterable, Mapping

from llmops.access.roles import PERSON, ROLES, Role


def make_prefix(issuer: str, subject: str) -> str:
    """Return the prefix that names a person: a digest of the provider and of the provider's id of the person."""
    text = f"{issuer}\n{subject}".encode("utf-8", "surrogatepass")
    return PERSON + hashlib.sha256(text).hexdigest()[:16]


def choose_role(groups: Iterable[str], roles: Mapping[str, Role]) -> Role | None:
    """Return the strongest role of the groups, or None if no group has a role."""
    return max((roles[group] for group in groups if group in roles), key=ROLES.index, default=None)
