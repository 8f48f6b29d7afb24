"""Any of Airflow's notifiers, by the path of its class."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from llmops.alerts.finding import title
from llmops.alerts.receivers.base import secrets
from llmops.config.alerts import Receiver as Settings
from llmops.errors import ConfigError


class Notifier:
    """Makes the notifier for each alert; its templates know `message`, `title`, `alert` and all fields of the alert.

    Args:
        settings: the class, and what it is made with.
        environ: has the secrets.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.name, self.timeout_s = settings.name, settings.timeout_s
        self._settings, self._environ = settings, environ

    def send(self, document: Mapping[str, Any]) -> None:
        """See `Receiver`."""
        arguments = {name: self._filled(value) for name, value in self._settings.arguments.items()}
        self._class()(**arguments)({**document, "alert": dict(document), "title": title(document)})

    def _class(self) -> Any:
        module, _, name = self._settings.notifier.rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"There is no notifier {self._settings.notifier} ({error}).") from error
        base = import_module("airflow.sdk").BaseNotifier  # by its name: the serving app's image has no Airflow
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"{self._settings.notifier} is no notifier of Airflow.")
        return found

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return secrets(value, self.name, self._environ)
        if isinstance(value, Mapping):
            return {key: self._filled(item) for key, item in value.items()}
        return [self._filled(item) for item in value] if isinstance(value, list | tuple) else value
