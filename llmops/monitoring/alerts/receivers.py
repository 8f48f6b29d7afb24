"""Receivers of alerts: the log and the events, and the configured services, by apprise URLs."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from llmops.config import Config
from llmops.config.alerts import Receiver as Settings
from llmops.events.datasets import ALERT
from llmops.events.events import emit, format_timestamp
from llmops.frame.errors import ConfigError, TransientError, describe_error
from llmops.frame.variables import VARIABLE, fill_variables
from llmops.monitoring.alerts.breach import build_message, format_text, format_title

log = logging.getLogger(__name__)

SERVICE_TIMEOUT_S = 30.0  #: time limit of a service, besides its own limits for connecting and reading
SECRET_REPLACEMENT = "…"  #: replaces a secret
#: chat programs read these as a mention of everybody, or a link to somebody
_MENTION = re.compile(r"<(?=[!@#])|@(?=(?:channel|here|all|everyone)\b)")
_DETAIL_PREFIXES = ("Socket Exception", "Response Details")  #: beginnings of apprise's debug messages with the reason


class Receiver(NamedTuple):
    """A receiver of alerts. `send` takes a message of `build_message`, maybe twice, and raises if it fails."""

    name: str
    send: Callable[[Mapping[str, Any]], None]


def make_receivers(config: Config, environ: Mapping[str, str] = os.environ) -> list[Receiver]:
    """Return the log, the events, and the receivers of the configuration."""
    named = [
        Receiver(settings.name, partial(_send_to_service, settings, environ)) for settings in config.alerts.receivers
    ]
    return [Receiver("log", _log_alert), Receiver("event", partial(emit_alert, config.events)), *named]


def build_service(settings: Settings, environ: Mapping[str, str] = os.environ, alert: str = "0") -> Any:
    """Return apprise's service for a receiver's URL, with `{alert}` replaced by the alert's id.

    Raises:
        ConfigError: if a variable is not set, or apprise cannot use the URL.
    """
    from apprise import Apprise, AppriseAsset

    # apprise's messages may quote secrets: they are taken from the result, with the secrets removed
    for name, level in (("apprise", logging.DEBUG), ("urllib3", logging.INFO)):
        logging.getLogger(name).setLevel(level)
    logger = logging.getLogger("apprise")
    logger.propagate, logger.handlers = False, logger.handlers or [logging.NullHandler()]

    def read_variable(name: str) -> str:
        if name not in environ:
            raise ConfigError(f"The receiver {settings.name} needs ${{{name}}}; set {name} in the environment.")
        return environ[name]

    url = fill_variables(settings.url.replace("{alert}", alert), read_variable)
    asset = AppriseAsset(app_id="llmops", http_redirects=False, service_timeout=SERVICE_TIMEOUT_S)
    if service := Apprise.instantiate(url, asset=asset):
        return service
    scheme = url.partition("://")[0] if re.match(r"\w+://", url) else "SCHEME"
    raise ConfigError(
        f"apprise cannot use the URL of the receiver {settings.name}; write it as https://appriseit.com/services/ says "
        f"of {scheme}://."
    )


def _send_to_service(settings: Settings, environ: Mapping[str, str], document: Mapping[str, Any]) -> None:
    from apprise import Apprise

    service = build_service(settings, environ, document["alert"])
    if hasattr(service, "payload_extras"):  # json://, form:// and xml:// get all fields, besides title and message
        fields = {**document["details"], **{name: document[name] for name in document if name != "message"}}
        fields = {name: value for name, value in fields.items() if isinstance(value, str | int | float)}
        numbers = service.protocol != "xml"  # in XML apprise would leave numbers empty
        service.payload_extras |= {name: value if numbers else str(value) for name, value in fields.items()}
    sender = Apprise()
    sender.add(service)
    severity = "failure" if document["severity"] == "critical" else "warning"
    result = sender.notify(
        title=_MENTION.sub("\\g<0>\u200b", format_title(document)),
        body=_MENTION.sub("\\g<0>\u200b", format_text(document)),
        body_format="text",
        log_level=logging.DEBUG,
        notify_type={"resolved": "success", "test": "info"}.get(document["state"], severity),
    )
    if not result:
        reasons = [
            e.message
            for e in result.logs()
            if e.level in ("WARNING", "ERROR") or e.message.startswith(_DETAIL_PREFIXES)
        ]
        raise TransientError(_redact_secrets(" ".join(reasons) or result.status.name, settings, environ))


def _redact_secrets(text: str, settings: Settings, environ: Mapping[str, str]) -> str:
    """Hide the URL's variables, user and path, which may contain tokens: an error may quote the address."""
    user, path = re.fullmatch(r"(?:[^:]+://)?(?:([^?]*)@)?[^/?]*([^?]*).*", settings.url, re.DOTALL).groups()  # type: ignore[union-attr]
    secrets, literal = set(), [VARIABLE.sub("/", part or "") for part in (user, path)]
    for value in (*(environ[name] for name in VARIABLE.findall(settings.url)), *literal):
        parts = [part for part in re.split(r"[/:@?&=,]+", value) if len(part) > 3]
        for part in (value, *parts):
            secrets |= {part, quote(part), quote(part, safe=""), unquote(part)}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, SECRET_REPLACEMENT)
    return text


def _log_alert(document: Mapping[str, Any]) -> None:
    log.warning("%s %s Runbook: %s", format_title(document), document["message"], document["runbook"])


def emit_alert(folder: Path, document: Mapping[str, Any]) -> None:
    """Emit an event `llmops.alert`. Its id is the same if it is sent twice, so that sinks keep it once."""
    fields = {
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, document["id"])),
        "event.kind": "alert",
        "event.action": document["state"],
        "event.reason": document.get("reason"),
        "user.name": document.get("by"),
        "rule.name": document["rule"],
        "message": document["message"],
        "llmops.alert.id": document["alert"],
        **{
            f"llmops.alert.{name}": document[name] or None
            for name in (
                "state", "severity", "subject", "since", "until", "raised", "resolved", "place", "runbook", "link",
            )
        },
        **document["details"],
        "llmops.alert.value": document["value"],
        "llmops.alert.bound": document["bound"],
    }  # fmt: skip
    emit(folder, ALERT, {name: value for name, value in fields.items() if value is not None})


def send_test_message(config: Config, receivers: Sequence[Receiver]) -> dict[str, str]:
    """Send each receiver a test message. Return name → error, empty for success."""
    now = format_timestamp()
    text = "This is a test of the receivers of alerts; nothing has happened."
    body: dict[str, Any] = {"message": text, "value": None, "bound": None, "since": "", "until": ""}
    row = {"id": uuid.uuid4().hex, "rule": "test", "subject": "", "place": "", "severity": "warning"}
    message = build_message(config, {**row, "finding": {**body, "details": {}}, "raised": now, "resolved": now}, "test")

    def send(receiver: Receiver) -> str:
        try:
            receiver.send(message)
        except Exception as error:  # the result of the test
            return f"{type(error).__name__}: {describe_error(error)}"
        return ""

    with ThreadPoolExecutor(max(1, len(receivers))) as pool:
        return dict(zip([receiver.name for receiver in receivers], pool.map(send, receivers), strict=True))
