"""Push a version to the Hugging Face Hub, or to any server that speaks its API (`HF_ENDPOINT`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own: which, it changes

from llmops.errors import RegistryError
from llmops.registry.version import Version

log = logging.getLogger(__name__)


def push(version: Version, repo: str, private: bool, token: str, environ: Mapping[str, str] = os.environ) -> str:
    """Upload the version's folder as one commit, tagged with its name; returns the commit's URL.

    Doing it again uploads only what changed and keeps the tag that is there.

    Args:
        version: what to upload.
        repo: `owner/name`; created if it does not exist.
        private: whether it is created as private.
        token: a Hub token that may write; never logged.
        environ: `HF_ENDPOINT` names another server.

    Raises:
        RegistryError: with the server's words, if it refuses or cannot be reached.
    """
    endpoint = environ.get("HF_ENDPOINT") or "https://huggingface.co"
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=version.path,
            ignore_patterns=["answers.parquet", "features/*"],  # test items with their texts, our stores: stay at home
            commit_message=f"{version.name}: {version.status} against {version.compared_with}",
        )
        api.create_tag(repo, tag=version.name, revision=commit.oid, exist_ok=True)
    except (HTTPError, OSError, ValueError) as error:
        raise RegistryError(
            f"Pushing {version.name} to {repo} at {endpoint} failed: {str(error).replace(token, '<SECRET>')}"
        ) from None
    log.info("%s pushed to %s at %s", version.name, repo, endpoint)
    return str(commit.commit_url)
