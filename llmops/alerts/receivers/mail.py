"""E-mail, by SMTP."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from llmops.alerts.finding import title
from llmops.alerts.receivers.base import secrets
from llmops.config.alerts import Receiver as Settings
from llmops.errors import TransientError

#: a certificate authority of one's own is named by SSL_CERT_FILE in the environment, as OpenSSL reads it


class Mail:
    """Sends one mail for each alert; `Message-ID` is the same whenever the same is told again.

    Args:
        settings: which server, from whom, to whom.
        environ: has the password.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.name, self.timeout_s = settings.name, settings.timeout_s
        self._settings, self._environ = settings, environ

    def send(self, document: Mapping[str, Any]) -> None:
        """See `Receiver`."""
        settings = self._settings
        context = ssl.create_default_context()
        try:
            with self._connected(context) as server:
                if settings.tls == "starttls":
                    server.starttls(context=context)
                if settings.user:
                    server.login(settings.user, secrets(settings.password, self.name, self._environ))
                refused = server.send_message(self.message(document))
        except (smtplib.SMTPException, OSError) as error:
            raise TransientError(f"{settings.host}:{settings.port} does not take the mail ({error})") from error
        if refused:
            raise TransientError(f"{settings.host} refuses {', '.join(refused)}")

    def _connected(self, context: ssl.SSLContext) -> smtplib.SMTP:
        settings = self._settings
        if settings.tls == "tls":
            return smtplib.SMTP_SSL(settings.host, settings.port, timeout=self.timeout_s, context=context)
        return smtplib.SMTP(settings.host, settings.port, timeout=self.timeout_s)

    def message(self, document: Mapping[str, Any]) -> EmailMessage:
        """The mail."""
        mail = EmailMessage()
        mail["Subject"] = " ".join(f"{title(document)} {document['message']}".split())[:200]
        mail["From"], mail["To"] = self._settings.sender, ", ".join(self._settings.to)
        mail["Date"], mail["Message-ID"] = formatdate(), f"<{document['id']}@llmops>"
        first = f"<{document['alert']}.raised@llmops>"  # mail programs show what belongs together
        if document["state"] == "resolved":
            mail["In-Reply-To"] = mail["References"] = first
        mail["Auto-Submitted"] = "auto-generated"
        rows = [
            (name, document[name])
            for name in ("rule", "subject", "severity", "value", "bound", "since", "until", "raised", "resolved")
            if document[name] not in (None, "")
        ]
        lines = [document["message"], "", *(f"{name}: {value}" for name, value in rows)]
        mail.set_content(
            "\n".join([*lines, "", f"What to do: {document['runbook']}", f"Dashboard: {document['link']}"])
        )
        return mail
