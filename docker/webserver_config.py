"""People sign in to Airflow's FAB auth manager at the provider of `serving.oidc`: docs/access.md.

AIRFLOW__FAB__CONFIG_FILE names this file. Without `serving.oidc` the users of Airflow's own database sign in.
"""

import os
from typing import Any

from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride
from flask_appbuilder.const import AUTH_DB, AUTH_OAUTH

from llmops.access.roles import AIRFLOW_ROLES
from llmops.config import load

OIDC = load().serving.oidc
AUTH_TYPE = AUTH_OAUTH if OIDC else AUTH_DB

if OIDC:
    GROUPS_CLAIM = OIDC.groups_claim

    class OidcSecurityManager(FabAirflowSecurityManagerOverride):
        """Takes a person's groups from the ID token, which authlib has checked."""

        def get_oauth_user_info(self, provider: str, resp: dict[str, Any]) -> dict[str, Any]:
            """Return the person's name and groups, which `AUTH_ROLES_MAPPING` makes roles."""
            claims, groups = resp["userinfo"], resp["userinfo"].get(GROUPS_CLAIM) or []
            return {
                "username": claims["sub"],
                "email": claims.get("email", ""),
                "first_name": claims.get("given_name", ""),
                "last_name": claims.get("family_name", ""),
                "role_keys": groups if isinstance(groups, list) else [groups],
            }

    SECURITY_MANAGER_CLASS = OidcSecurityManager
    OAUTH_PROVIDERS = [
        {
            "name": "oidc",
            "icon": "fa-sign-in",
            "token_key": "access_token",
            "remote_app": {
                "client_id": OIDC.client_id,
                "client_secret": os.environ["LLMOPS_OIDC_CLIENT_SECRET"],
                "server_metadata_url": OIDC.issuer.rstrip("/") + "/.well-known/openid-configuration",
                "client_kwargs": {"scope": OIDC.scope, "code_challenge_method": "S256"},
            },
        }
    ]
    AUTH_ROLES_MAPPING = {
        group: [AIRFLOW_ROLES[role].capitalize()] for group, role in OIDC.roles.items() if role in AIRFLOW_ROLES
    }
    AUTH_ROLES_SYNC_AT_LOGIN = True
    AUTH_USER_REGISTRATION = True  # a person's first sign-in makes the user
    AUTH_USER_REGISTRATION_ROLE = "Public"  # of everybody; it may do nothing
