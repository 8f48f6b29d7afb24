"""`/admin/keys`: the API keys. The same functions as `llmops keys`; each change is an event of `llmops.audit`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from llmops.access.keys import MAX_DAYS, OWNER_CHARS
from llmops.access.roles import PREFIX, Key, Role
from serving.admission.dependencies import AppPartsDep, require
from serving.answers.schemas import Problem

router = APIRouter(
    prefix="/admin/keys",
    tags=["admin"],
    responses={n: {"model": Problem} for n in (401, 403, 404, 422, 503)},
)
KeyDep = Annotated[Key, Depends(require("manage_keys"))]
Prefix = Annotated[str, Path(pattern=PREFIX, description="The 8 hex digits after `llmops_`, or a person's `oidc-…`.")]
PerMinute = Annotated[int | None, Field(ge=0, le=2**31, description="Per minute; 0: any number; default: the app's.")]


PerMonth = Annotated[
    int | None, Field(ge=0, le=2**53, description="In a calendar month, UTC; 0, the default: any number.")
]


class KeyRequest(BaseModel):
    """The properties of a new key."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    owner: str = Field(min_length=1, max_length=OWNER_CHARS, description="Who gets it.")
    days: float | None = Field(None, gt=0, le=MAX_DAYS, description="How long it is valid; default: until revoked.")
    requests_per_minute: PerMinute = None
    tokens_per_minute: PerMinute = None
    tokens_per_month: PerMonth = None


class RotateRequest(BaseModel):
    """The options of a rotation."""

    model_config = ConfigDict(extra="forbid")

    hours: float = Field(24.0, ge=0, le=24 * MAX_DAYS, description="How long the old secret stays valid.")


class KeyEntry(BaseModel):
    """A key without its hash."""

    prefix: str
    role: Role
    owner: str
    created: str
    expires: str
    revoked: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_month: int | None
    old_until: str = Field(
        description="End of the validity of the secret before the last rotation; empty: it has ended."
    )


class NewKey(KeyEntry):
    """A key with its secret, which is shown this once."""

    key: str


@router.get("", name="keys")
def list_keys(app: AppPartsDep, key: KeyDep) -> list[KeyEntry]:
    """List all keys, oldest first, including revoked and expired ones."""
    return [KeyEntry(**entry.without_hashes()) for entry in app.keys.list()]


@router.post("", status_code=201)
def create(body: KeyRequest, app: AppPartsDep, key: KeyDep) -> NewKey:
    """Create a key of at most one's own role."""
    secret, entry = app.keys.create(**body.model_dump(), by_role=key.role, by=f"key {key.prefix}")
    return NewKey(key=secret, **entry.without_hashes())


@router.post("/{prefix}/rotate")
def rotate(prefix: Prefix, app: AppPartsDep, key: KeyDep, body: RotateRequest | None = None) -> NewKey:
    """Give a key a new secret; the old one stays valid for some hours."""
    hours = (body or RotateRequest()).hours
    secret, entry = app.keys.rotate(prefix, hours, by_role=key.role, by=f"key {key.prefix}")
    return NewKey(key=secret, **entry.without_hashes())


@router.delete("/{prefix}")
def revoke(prefix: Prefix, app: AppPartsDep, key: KeyDep) -> KeyEntry:
    """Revoke a key at once."""
    return KeyEntry(**app.keys.revoke(prefix, by_role=key.role, by=f"key {key.prefix}").without_hashes())
