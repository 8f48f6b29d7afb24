"""Data sets for the library `datasets`: a local folder, or a repository of the Hub."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llmops.data.collect.local_files import check_links, copy_file, get_size
from llmops.frame.errors import SourceError, SourceUnavailableError, is_busy
from llmops.frame.records import make_content_id
from llmops.scans.signed_urls import keep_queries_out_of_logs, remove_queries

T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """The files of a local data set."""

    location: str
    folder: Path
    files: Sequence[Path]  #: sorted

    @property
    def size(self) -> int | None:
        """Return the bytes of all files; None if one cannot be read."""
        sizes = [get_size(file) for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return a hash of names and content of all files; empty if one cannot be read (reading will report it)."""
        try:
            self._check_links()
            return self._combine_hashes(list(map(sha256, self.files)))
        except OSError:
            return ""

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Copy the folder. Return the copy, and the version of the copied bytes."""
        self._check_links()
        target, digests = folder / make_content_id(self.location) / "data", []
        for file in self.files:
            copy = target / file.relative_to(self.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            digests.append(copy_file(file, copy))
        return target, self._combine_hashes(digests)

    def _check_links(self) -> None:
        for file in self.files:
            check_links(file, self.folder)

    def _combine_hashes(self, digests: Sequence[str]) -> str:
        names = (file.relative_to(self.folder).as_posix() for file in self.files)
        return make_content_id(*(part for pair in zip(names, digests, strict=True) for part in pair))


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set repository of the Hub at one commit, downloaded to the local Hub cache."""

    location: str  #: such as `org/name`
    revision: str  #: a commit, branch or tag

    @property
    def size(self) -> int | None:
        """Return None: the size is unknown before the download."""
        return None

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return the revision's commit; without a network (`HF_HUB_OFFLINE`), the one in the cache.

        Raises:
            SourceError: if the Hub has no such repository or revision, or the token has no access.
            SourceUnavailableError: if the Hub cannot be reached.
        """
        from huggingface_hub import HfApi, constants

        if _COMMIT.fullmatch(self.revision):
            return self.revision
        if constants.HF_HUB_OFFLINE:
            return self._download(self.revision).name
        commit = self._call_hub(lambda: HfApi().dataset_info(self.location, revision=self.revision).sha)
        return str(commit)

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Return the repository's folder in the Hub's cache, where files are named by content, and its commit."""
        snapshot = self._download(self.revision)  # by revision: the cache remembers its commit, for offline use
        return snapshot, snapshot.name

    def _download(self, revision: str) -> Path:
        from huggingface_hub import constants, snapshot_download

        is_offline = bool(constants.HF_HUB_OFFLINE)
        return Path(
            self._call_hub(
                lambda: snapshot_download(
                    self.location, repo_type="dataset", revision=revision, local_files_only=is_offline
                )
            )
        )

    def _call_hub(self, call: Callable[[], T]) -> T:
        from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

        keep_queries_out_of_logs()
        try:
            return call()
        except (HTTPError, OSError, ValueError) as error:  # including offline and not in the cache
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            is_permanent = isinstance(error, FileNotFoundError | ValueError) or (
                400 <= status < 500 and not is_busy(status)
            )
            message = remove_queries(" ".join(str(error).split()))[:300]
            raise (SourceError if is_permanent else SourceUnavailableError)(
                f"The data set {self.location} at {self.revision} cannot be had from the Hub: {message} A private or "
                "gated one needs HF_TOKEN; without a network, what was downloaded before is read with HF_HUB_OFFLINE=1."
            ) from None
