"""The receivers that a configuration has.

Adding a kind: a class with the members of `base.Receiver`, named here and in `llmops.config.alerts.Receiver`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from llmops.alerts.receivers.base import Receiver
from llmops.alerts.receivers.house import Events, Log
from llmops.alerts.receivers.mail import Mail
from llmops.alerts.receivers.notifier import Notifier
from llmops.alerts.receivers.webhook import Webhook
from llmops.config import Config
from llmops.config.alerts import Receiver as Settings

log = logging.getLogger(__name__)

_KINDS: dict[str, Callable[[Settings, Mapping[str, str]], Receiver]] = {
    "webhook": Webhook,
    "email": Mail,
    "airflow": Notifier,
}


def receivers_of(config: Config, environ: Mapping[str, str] = os.environ) -> list[Receiver]:
    """The log, the events, and all that the configuration names and this process can reach.

    An Airflow notifier needs Airflow: where that is not installed, as beside the serving app, what it has to be told
    waits for a process that has it.
    """
    found: list[Receiver] = [Log(), Events(config.events)]
    for settings in config.alerts.receivers:
        if settings.kind == "airflow" and find_spec("airflow") is None:
            log.info("The receiver %s needs Airflow, which is not here; a process that has it tells it", settings.name)
        else:
            found.append(_KINDS[settings.kind](settings, environ))
    return found
