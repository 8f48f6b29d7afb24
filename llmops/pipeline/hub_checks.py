"""The dry run's checks of the Hub: that it has the base model, and takes the token that a push needs."""

import os

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own

from llmops.config import PushToHub, Select
from llmops.frame.doctor import Check
from llmops.frame.errors import RegistryError
from llmops.model.base.objections import BaseModelChoice
from llmops.release.push_to_hub.hub import read_token
from llmops.scans.signed_urls import remove_queries

DOWNLOAD = "hub: download"  #: name of a check


def check_download(config: Select, base: BaseModelChoice) -> list[Check]:
    """Check that the Hub gives the base model to this machine's token; empty if its weights are here."""
    if base.weights is not None:
        return []
    if config.offline:
        remedy = "set select.offline: false, or name a local folder in select.model"
        return [Check(DOWNLOAD, False, f"{base.model} is not on this machine, and select.offline is on", remedy)]
    try:
        HfApi(endpoint=_get_endpoint()).auth_check(base.model)
    except (HTTPError, OSError, ValueError) as error:
        remedy = "look at HF_ENDPOINT and HF_HUB_OFFLINE; for a gated model accept its licence, set HF_TOKEN"
        return [Check(DOWNLOAD, False, _format_error(error, get_token()), remedy)]
    return [Check(DOWNLOAD, True, f"{base.model} at {_get_endpoint()}")]


def check_push(config: PushToHub) -> list[Check]:
    """Check that the Hub knows the token of `push_to_hub`; empty if nothing is pushed."""
    if not config.repo:
        return []
    name, token, remedy = "hub: push", "", "look at HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN"
    try:
        token = read_token(config.repo)
        who = HfApi(endpoint=_get_endpoint(), token=token).whoami().get("name", "somebody")
    except RegistryError as error:
        return [Check(name, False, str(error), remedy)]
    except (HTTPError, OSError, ValueError) as error:
        return [Check(name, False, _format_error(error, token), remedy)]
    return [Check(name, True, f"{config.repo} at {_get_endpoint()} as {who}")]


def _get_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _format_error(error: Exception, token: str | None) -> str:
    text = remove_queries(next(iter(str(error).strip().splitlines()), type(error).__name__))
    return text.replace(token, "<SECRET>") if token else text
