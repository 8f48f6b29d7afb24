"""The provider of `oidc-provider-mock` on a free port, which a test may let issue other ID tokens."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flask
import httpx
import oidc_provider_mock
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import BaseWSGIServer, make_server

Claims = dict[str, Any]
SECRET = "the-client-secret-of-the-tests"
ENVIRON = {"LLMOPS_OIDC_CLIENT_SECRET": SECRET}
ROLES = {"shop-users": "user", "shop-developers": "developer", "shop-admins": "admin"}


class Provider:
    """A provider whose people are `add`ed. `issue`, if set, makes the ID token of claims, in place of the provider."""

    def __init__(self, port: int, keys: dict[str, RSAKey]) -> None:
        self.issuer = f"http://localhost:{port}"
        self.issue: Callable[[Claims], str | None] | None = None
        self._keys = keys

    @property
    def settings(self) -> dict[str, Any]:
        """Values of `serving.oidc`."""
        return {"issuer": self.issuer, "client_id": "llmops", "roles": ROLES}

    def add(self, subject: str, *groups: str, **claims: Any) -> None:
        claims |= {"email": f"{subject}@example.com", "groups": groups}
        assert httpx.put(f"{self.issuer}/users/{subject}", json=claims).status_code == 204

    def approve(self, url: str, subject: str) -> str:
        """Sign in as this person at the address that a browser was sent to; give the one that it is sent back to."""
        return httpx.post(url, data={"sub": subject}).headers["location"]

    def sign(self, claims: Claims, key: RSAKey | None = None) -> str:
        """Return a token of these claims, signed with the provider's key, or as if another key were it."""
        return jwt.encode({"alg": "RS256", "kid": self._keys["own"].kid}, claims, key or self._keys["own"])

    def sign_in(self, client: Any, subject: str, to: str = "/dashboard") -> Any:
        """Go the whole way with a client of the app that follows no redirects; give the last answer."""
        begun = client.get("/signin/oidc", params={"to": to}, follow_redirects=False)
        return client.get(self.approve(begun.headers["location"], subject), follow_redirects=False)


@contextmanager
def run_provider() -> Iterator[Provider]:
    """Run a provider until the block ends."""
    app = oidc_provider_mock.app(require_nonce=True)
    keys: dict[str, RSAKey] = {}
    server = make_server("localhost", 0, app, threaded=True)
    provider = Provider(server.server_port, keys)

    @app.after_request
    def change_token(response: flask.Response) -> flask.Response:
        if flask.request.path == "/.well-known/openid-configuration":
            algorithms = ["RS256", "HS256", "none"]  # some name them all
            described = {**response.get_json(), "id_token_signing_alg_values_supported": algorithms}
            response.set_data(flask.json.dumps(described))
        keys["own"] = RSAKey.import_key(flask.g.oidc_provider_mock_storage.jwk.as_dict(is_private=True))
        if provider.issue and flask.request.path == "/oauth2/token":
            answer = response.get_json()
            claims = jwt.decode(answer["id_token"], keys["own"]).claims
            answer["id_token"] = provider.issue(claims)
            response.set_data(flask.json.dumps({name: value for name, value in answer.items() if value is not None}))
        return response

    with run_server(server):
        yield provider


@contextmanager
def run_server(server: BaseWSGIServer) -> Iterator[None]:
    """Let a server answer until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(50)
        server.server_close()


def read_prefix(client: Any) -> str:
    """Return the prefix in a client's session."""
    found = re.match(r"oidc-[0-9a-f]{16}", client.cookies["llmops_session"])
    assert found
    return found[0]
