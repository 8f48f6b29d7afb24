"""The provider of sign-ins by OpenID Connect: authorization code with PKCE, `state` and `nonce`, by authlib.

authlib checks the ID token: signature, issuer, audience, expiry and nonce. Between the two steps a signed cookie of the
browser holds state, nonce and verifier, for ten minutes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from fastapi import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer
from joserfc.errors import JoseError

from llmops.access.people import make_prefix
from llmops.access.roles import Role, SignInRefused
from llmops.config.serving import Oidc
from llmops.frame.errors import ConfigError
from serving.admission.signing import SESSION_S
from serving.errors import SignInUnavailable

log = logging.getLogger(__name__)

COOKIE = "llmops_sign_in"
PATH = "/signin/oidc"  #: of both routes, and of the cookie
SIGN_IN_S = 600  #: longest time between the two steps
TIMEOUT_S = 10.0  #: of a request to the provider
LEEWAY_S = 60  #: by which the clocks of app and provider may differ

#: of ID tokens: those with public keys, since a provider may name `none`, too, and authlib would then accept it
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")

#: raised by authlib if the provider's answer is no JSON, or lacks a part
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class Person:
    """A person who has signed in."""

    prefix: str
    name: str
    groups: tuple[str, ...]
    seconds: float  #: until the ID token expires, at most `SESSION_S`


class Provider:
    """The configured provider.

    Raises:
        ConfigError: if LLMOPS_OIDC_CLIENT_SECRET is missing.
    """

    def __init__(self, oidc: Oidc, environ: Mapping[str, str], secret: bytes) -> None:
        client_secret = environ.get("LLMOPS_OIDC_CLIENT_SECRET")
        if not client_secret:
            raise ConfigError("serving.oidc needs the client secret; set LLMOPS_OIDC_CLIENT_SECRET in the environment.")
        self.roles: Mapping[str, Role] = oidc.roles
        self._oidc = oidc
        self._client: Any = OAuth().register(
            "provider",
            client_id=oidc.client_id,
            client_secret=client_secret,
            server_metadata_url=oidc.issuer.rstrip("/") + "/.well-known/openid-configuration",
            client_kwargs={
                "scope": oidc.scope,
                "code_challenge_method": "S256",
                "timeout": TIMEOUT_S,
                "verify": httpx2.create_ssl_context(),  # else each sign-in makes one, and all wait for it, 10 ms
            },
        )
        options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._serializer = URLSafeTimedSerializer(secret, "sign in", signer_kwargs=options)

    async def redirect(self, request: Request, to: str) -> Response:
        """Send the browser to the provider. `to` is the path to open after the sign-in.

        Raises:
            SignInUnavailable: if the provider does not answer, or not by the protocol.
        """
        request.scope["session"] = session = {"to": to}
        try:
            answer: Response = await self._client.authorize_redirect(request, request.url_for("finish_sign_in"))
        except (httpx2.HTTPError, *_MALFORMED) as error:
            raise self._explain(error) from error
        answer.set_cookie(
            COOKIE,
            str(self._serializer.dumps(session)),
            max_age=SIGN_IN_S,
            path=PATH,
            httponly=True,
            samesite="lax",  # the provider sends the browser back from another site
            secure=request.url.scheme == "https",
        )
        return answer

    async def identify(self, request: Request) -> Person:
        """Return the person whom the provider has sent back.

        Raises:
            SignInRefused: if the answer is not that of this browser's sign-in, or its ID token is not valid.
            SignInUnavailable: if the provider does not answer.
        """
        request.scope["session"] = self._read_session(request)
        expected = {"iss": self._oidc.issuer, "aud": self._oidc.client_id}
        options = {name: {"essential": True, "value": value} for name, value in expected.items()}
        try:
            metadata = await self._client.load_server_metadata()
            metadata["id_token_signing_alg_values_supported"] = list(ALGORITHMS)
            token = await self._client.authorize_access_token(request, claims_options=options, leeway=LEEWAY_S)
            claims = token["userinfo"]  # missing if the answer has no ID token
        except httpx2.HTTPError as error:
            raise self._explain(error) from error
        except (AuthlibBaseError, JoseError, *_MALFORMED) as error:
            log.warning("Request %s: a sign-in is refused: %r", request.state.id, error)
            raise SignInRefused(
                "The sign-in is not valid: it is too old, was not begun in this browser, or the provider's answer does "
                "not prove who you are. Begin again; the log has the reason."
            ) from error
        if not claims.get("sub"):
            raise SignInRefused("The provider's answer names nobody. Begin again; the log has the reason.")
        groups = claims.get(self._oidc.groups_claim) or []
        email = claims.get("email") if claims.get("email_verified", True) in (True, "true") else None
        return Person(
            make_prefix(self._oidc.issuer, str(claims["sub"])),
            str(email or claims.get("preferred_username") or claims["sub"]),
            tuple(map(str, groups if isinstance(groups, list) else [groups])),
            min(claims["exp"] - int(time.time()), SESSION_S),
        )

    def read_destination(self, request: Request) -> str:
        """Return the path to open after the sign-in."""
        return str(self._read_session(request).get("to", "/dashboard"))

    def forget(self, answer: Response) -> None:
        """Delete the browser's cookie of the sign-in, so that nothing can finish it again."""
        answer.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="lax")

    def _read_session(self, request: Request) -> dict[str, Any]:
        try:
            session: dict[str, Any] = self._serializer.loads(request.cookies.get(COOKIE, ""), max_age=SIGN_IN_S)
        except BadData:
            return {}
        return session

    def _explain(self, error: Exception) -> SignInUnavailable:
        log.warning("The provider %s does not answer, or not by the protocol: %r", self._oidc.issuer, error)
        return SignInUnavailable("The provider of sign-ins does not answer; try again, or sign in with an API key.")
