"""A client of one repository of the Hugging Face Hub, or of a server with the same API (`HF_ENDPOINT`)."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff  # type: ignore[attr-defined]

from llmops.frame.errors import HubUnavailableError, RegistryError, is_busy
from llmops.scans.signed_urls import keep_queries_out_of_logs, remove_queries

MAIN = "main"  #: the branch that is loaded if no revision is named

Content = Path | bytes  #: a file on this machine, or the content of a file

_CHANGED = {409, 412}  #: status if somebody else has changed the repository since it was read

_REMEDIES = {
    401: "HF_TOKEN is not known there, or has expired: set a token that is",
    403: "HF_TOKEN may not write there: set a token that may",
    404: "it does not exist, or HF_TOKEN may not see it: check push_to_hub.repo and the token",
}


def read_token(repo: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the token in `HF_TOKEN`.

    Raises:
        RegistryError: if there is no token, or it has characters that no token has.
    """
    token = environ.get("HF_TOKEN", "").strip()  # a secret's file or an `.env` may end it with a line break
    if not token:
        raise RegistryError(
            f"To push to {repo}, set HF_TOKEN to a Hub token that may write there; or empty push_to_hub.repo."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise RegistryError("HF_TOKEN is no Hub token: it has blanks or other characters that no token has.")
    return token


class ChangedMeanwhile(Exception):
    """Somebody else has changed the repository since it was read. Read it again."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the repository, from a listing."""

    blob: str  #: Git's SHA-1 of the file, or of the pointer of a large file
    size: int  #: bytes
    sha256: str  #: hash of a large file's content; else empty


class Hub:
    """A model repository `repo` (`owner/name`), with the rights of the token.

    Every method may raise `RegistryError` with the server's answer and a remedy, `ChangedMeanwhile`, or
    `HubUnavailableError` if another try may succeed.
    """

    def __init__(self, repo: str, environ: Mapping[str, str] = os.environ) -> None:
        self.repo = repo
        self.endpoint = environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self._token = read_token(repo, environ)
        keep_queries_out_of_logs()
        self._api = HfApi(endpoint=self.endpoint, token=self._token)

    def create(self, private: bool) -> None:
        """Create the repository if it does not exist."""
        with self._convert_errors():
            self._api.create_repo(self.repo, private=private, exist_ok=True)

    def list_refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return branches and tags, each with its commit; empty if there is no such repository."""
        with self._convert_errors():
            try:
                refs = self._api.list_repo_refs(self.repo)
            except HfHubHTTPError as error:
                if error.response.status_code == 404:
                    return {}, {}
                raise
        return {b.name: b.target_commit for b in refs.branches}, {t.name: t.target_commit for t in refs.tags}

    def list_files(self, revision: str) -> dict[str, File]:
        """Return the files of a commit, branch or tag, by path."""
        with self._convert_errors():
            entries = list(self._api.list_repo_tree(self.repo, recursive=True, revision=revision))
        files = (entry for entry in entries if isinstance(entry, RepoFile))
        return {f.path: File(f.blob_id, f.size, f.lfs.sha256 if f.lfs else "") for f in files}

    def read(self, path: str, revision: str) -> bytes:
        """Return the content of a small file."""
        url = hf_hub_url(self.repo, path, revision=revision, endpoint=self.endpoint)
        with self._convert_errors():
            response = http_backoff("GET", url, headers=build_hf_headers(token=self._token), follow_redirects=True)
            hf_raise_for_status(response)
        return bytes(response.content)

    def create_tag(self, name: str, commit: str) -> None:
        """Tag a commit. Raise `ChangedMeanwhile` if the tag exists."""
        with self._convert_errors():
            self._api.create_tag(self.repo, tag=name, revision=commit)

    def commit(
        self, branch: str, parent: str, files: Mapping[str, Content], removed: Collection[str], message: str
    ) -> str:
        """Commit changes to a branch that is still at `parent`, all or none, and return the new commit."""
        adds = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        deletes = [CommitOperationDelete(path, is_folder=False) for path in sorted(removed)]
        with self._convert_errors():
            commit = self._api.create_commit(
                self.repo,
                [*deletes, *adds],
                commit_message=message,
                revision=branch,
                parent_commit=parent,
            )
        return str(commit.oid)

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        """Convert errors of the Hub's client into this project's, without the token."""
        try:
            yield
        except OfflineModeIsEnabled:
            raise RegistryError(f"HF_HUB_OFFLINE is set, so {self.repo} cannot be reached; unset it to push.") from None
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            cause = error.__cause__ if type(error) is RuntimeError else None  # upload errors are wrapped by a thread
            raise self._convert_error(cause or error) from None

    def _convert_error(self, error: BaseException) -> Exception:
        message = str(error)
        if isinstance(error, HfHubHTTPError):
            message = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
        message = " ".join(remove_queries(message).replace(self._token, "<SECRET>").split()) or type(error).__name__
        where = f"{self.repo} at {self.endpoint}"
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status in _CHANGED:
                return ChangedMeanwhile(message)
            if is_busy(status):
                return HubUnavailableError(f"{where} is overloaded or broken: {message}")
            remedy = _REMEDIES.get(status, "mend the cause that it names")
            return RegistryError(f"{where} refuses: {message} ({remedy}).")
        final = isinstance(error, FileNotFoundError | PermissionError) or (
            isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
        )
        if final:
            return RegistryError(f"Nothing can be pushed to {where}: {message}")
        return HubUnavailableError(f"{where} cannot be reached: {type(error).__name__}: {message}")
