"""A webhook: one POST of JSON for each alert, in a form that its receiver knows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from llmops.alerts.finding import title
from llmops.alerts.receivers.base import secrets
from llmops.config.alerts import Receiver as Settings
from llmops.errors import TransientError
from llmops.variables import VARIABLE

HIDDEN = "…"  #: stands for a secret


class Webhook:
    """Posts to an address; `Idempotency-Key` is the same whenever the same is told again.

    Args:
        settings: where to, in which form.
        environ: has the secrets.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.name, self.timeout_s = settings.name, settings.timeout_s
        self._settings, self._environ = settings, environ

    def send(self, document: Mapping[str, Any]) -> None:
        """See `Receiver`."""
        import httpx

        for client in ("httpx", "httpcore"):  # they log addresses, in which secrets stand
            logging.getLogger(client).setLevel(logging.WARNING)
        url = secrets(self._settings.url, self.name, self._environ)
        own = {name: secrets(value, self.name, self._environ) for name, value in self._settings.headers.items()}
        headers = {"Content-Type": "application/json", "Idempotency-Key": document["id"], **own}
        try:
            answer = httpx.post(
                url, content=self.body(document).encode(), headers=headers, timeout=self.timeout_s, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # whose text may have the address, which may be a secret
            raise TransientError(f"it cannot be reached ({type(error).__name__})") from None
        if not answer.is_success:
            raise TransientError(f"it answers {answer.status_code}: {self._without_secrets(answer.text)[:200]}")

    def _without_secrets(self, text: str) -> str:
        """An answer may repeat the address that it was asked at, or a header."""
        names = VARIABLE.findall(" ".join((self._settings.url, *self._settings.headers.values())))
        for value in {self._environ[name] for name in names} - {""}:
            address = urlsplit(value)
            for part in (value, quote(value), f"{address.path}?{address.query}".rstrip("?")):
                text = text.replace(part, HIDDEN) if part.strip("/") else text
        return text

    def body(self, document: Mapping[str, Any]) -> str:
        """What is posted."""
        if self._settings.template_file:
            from jinja2 import Environment, StrictUndefined

            source = self._settings.template_file.read_text(encoding="utf-8")
            environment = Environment(undefined=StrictUndefined)  # noqa: S701  # JSON, by the filter `tojson`
            return environment.from_string(source).render(**document, title=title(document))
        form = slack(document) if self._settings.template == "slack" else dict(document)
        return json.dumps(form, ensure_ascii=False)


def slack(document: Mapping[str, Any]) -> dict[str, Any]:
    """The form of Slack's incoming webhooks, which Mattermost and others take, too
    (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""
    sign = {"resolved": ":white_check_mark:", "test": ":wave:"}.get(
        document["state"], ":rotating_light:" if document["severity"] == "critical" else ":warning:"
    )
    text = f"{sign} *{_escaped(title(document))}*\n{_escaped(document['message'])}"
    where = f"Runbook: {_escaped(document['runbook'])} · <{document['link']}|dashboard>"
    return {
        "text": _escaped(f"{title(document)} {document['message']}"),
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": where[:3000]}]},
        ],
    }


def _escaped(text: str) -> str:
    """Slack's three signs, so that nobody's subject becomes a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
