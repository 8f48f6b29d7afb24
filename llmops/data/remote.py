"""Files that are elsewhere: S3, Azure Blob and https, through fsspec.

Credentials come from the environment (`AWS_*`, `AZURE_STORAGE_*`, and whatever ${VAR} a URL names) or from an Airflow
connection; they are handed to the filesystem and stored nowhere. Messages and documents show a location as it is
configured, with its ${VAR}.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from llmops.data import credentials, web_session
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.frame.records import make_content_id
from llmops.frame.variables import VARIABLE, fill_variables

log = logging.getLogger(__name__)

SCHEMES = ("s3", "abfs", "abfss", "az", "https", "http")
PAUSES = (1.0, 2.0, 4.0)  #: seconds before the second, third and fourth try

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SECRET_KEY = re.compile(r"pass|secret|token|key|pwd|^sig|signature|credential|auth(?!or)", re.IGNORECASE)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError")
_NOT_FOUND = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

T = TypeVar("T")


def is_remote(location: str) -> bool:
    """Return True if a location is a URL and not a path."""
    return _SCHEME.match(location) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """A URL together with the filesystem that reaches it."""

    location: str  #: the URL as configured, for documents and messages
    path: str = field(repr=False)  #: in the filesystem's form; may hold a credential
    filesystem: Any = field(repr=False)  #: fsspec.AbstractFileSystem
    secrets: Mapping[str, str] = field(repr=False)  #: the value of each ${VAR} of the URL

    def hide_secrets(self, text: str) -> str:
        """Replace the values of the URL's variables in `text` by the variables' names."""
        for name, value in self.secrets.items():
            for form in filter(None, (value, quote(value, safe=""), quote(value))):
                text = text.replace(form, f"${{{name}}}")
        return text

    def retry(self, call: Callable[[], T]) -> T:
        """Call the filesystem and return its answer. After an error that may pass, such as an overload, try again.

        There are four tries, `PAUSES` apart.

        Raises:
            OSError: if there is no such file.
            SourceError: if the filesystem refuses. The message has its words, without the credentials.
            SourceUnavailableError: if the filesystem cannot be reached.
        """
        for pause in (*PAUSES, None):
            try:
                return call()
            except Exception as caught:  # each filesystem has its own dozens of errors without a common base
                redirect = web_session.find_internal_redirect(caught)
                if not redirect and isinstance(caught, _NOT_FOUND):
                    raise
                error = redirect or caught
                refused = isinstance(error, PermissionError | ValueError) or 400 <= getattr(error, "status", 0) < 500
                words = self.hide_secrets(" ".join(str(error).split()))[:300] or "no reason given"
                refused = refused or error is redirect or type(error).__name__ in _NO_CREDENTIALS
                if pause is None or refused:
                    kind = SourceError if refused else SourceUnavailableError
                    raise kind(f"{self.location} cannot be reached: {type(error).__name__}: {words}") from None
                log.warning("%s: %s: %s; trying again in %.0f s", self.location, type(error).__name__, words, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an object store or web server."""

    location: str  #: the URL as it stands in documents
    address: Address
    size: int | None  #: bytes; None if the server does not say
    tag: str  #: changes whenever the content does: ETag, or time and size; empty if the server names neither
    md5: str  #: of the content, in hex, where the server names it

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return the file's tag, which changes with the content; empty if the server gives none."""
        return self.tag

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Copy the file into `folder` and check it. An interrupted copy begins again.

        Returns:
            The copy and its version.

        Raises:
            SourceError: if the server refuses the file.
            SourceUnavailableError: if the file cannot be reached, changes meanwhile or does not match its checksum.
        """
        target = (
            folder / make_content_id(self.location, self.tag) / (Path(urlsplit(self.address.path).path).name or "index")
        )
        if self.tag and target.is_file():
            return target, self.tag  # an interrupted run has fetched it
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = target.with_name(f".{target.name}.partial")
        try:
            self.address.retry(lambda: self.address.filesystem.get_file(self.address.path, str(copy)))
            changed = _make_remote_file(self.location, self.address, _read_info(self.address)).tag != self.tag
        except _NOT_FOUND:
            raise SourceUnavailableError(f"{self.location} is not there any more; run again.") from None
        with copy.open("rb") as handle:
            damaged = self.md5 and hashlib.file_digest(handle, "md5").hexdigest() != self.md5
        size = copy.stat().st_size
        if damaged or changed or self.size not in (None, size):
            copy.unlink()
            why = "it is not what its MD5 says" if damaged else f"{size} bytes came for {self.size}"
            why = "it changed while it was being read" if changed else why
            raise SourceUnavailableError(f"{self.location}: {why}; run again.")
        copy.replace(target)
        return target, self.tag


def connect(location: str, environ: Mapping[str, str]) -> Address:
    """Connect the filesystem of a URL and return the URL's address.

    Raises:
        SourceError: if the URL's scheme is unknown, the URL holds a credential, or one of its ${VAR} is not set.
    """
    scheme = location.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise SourceError(
            f"There is no way to read {scheme}://; use {', '.join(f'{s}://' for s in SCHEMES)} or a path."
        )
    parts = urlsplit(VARIABLE.sub("", location))
    is_token = scheme.startswith("http") and parts.username and parts.password is None  # how tokens are given
    if is_token or parts.password or any(value and _SECRET_KEY.search(key) for key, value in parse_qsl(parts.query)):
        raise SourceError(
            f"The location {scheme}://{parts.hostname}{parts.path} holds a password or token, which would be stored in "
            "the run's record; put it into an environment variable and write ${VAR} in its place."
        )
    url, secrets = expand_variables(location, environ)
    address = Address(location, url, None, secrets)
    from fsspec.core import url_to_fs

    options = {
        "skip_instance_cache": True,
        "use_listings_cache": False,
        **credentials.make_filesystem_options(scheme, environ),
    }
    if scheme.startswith("http"):
        options["get_client"] = partial(web_session.open_session, url)
    filesystem, path = address.retry(lambda: url_to_fs(url, **options))
    return Address(location, path, filesystem, secrets)


def expand_variables(location: str, environ: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Replace each ${VAR} of a URL; return the new URL and the values by variable.

    Raises:
        SourceError: if a variable is not set.
    """
    values: dict[str, str] = {}

    def get_value(name: str) -> str:
        if name not in environ:
            raise SourceError(f"The environment variable {name}, which {location} uses, is not set.")
        values[name] = environ[name]
        return values[name]

    return fill_variables(location, get_value), values


def make_local_address(folder: str) -> Address:
    """Return the address of a folder of this machine, so that it is read like a remote one."""
    from fsspec.implementations.local import LocalFileSystem

    return Address(folder, str(Path(folder).expanduser().absolute()), LocalFileSystem(), {})


def find_remote_files(location: str, environ: Mapping[str, str]) -> list[RemoteFile]:
    """List the files that a URL names, sorted; the URL may be a glob. The list is empty if nothing matches.

    Raises:
        SourceError: if the URL cannot be reached.
    """
    address = connect(location, environ)
    try:
        if not re.search(r"[*\[]" if location.startswith("http") else r"[*?\[]", address.path):
            found = {address.path: _read_info(address)}
        else:
            found = address.retry(lambda: address.filesystem.glob(address.path, detail=True))
    except _NOT_FOUND:
        return []
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    prefix = "" if location.startswith("http") else location.partition("://")[0] + "://"
    addresses = [
        Address(address.hide_secrets(prefix + name), name, address.filesystem, address.secrets) for name in names
    ]
    if len(addresses) == 1 and addresses[0].path == address.path:
        addresses = [address]
    infos = [found[name] for name in names]
    if location.startswith("http") and len(addresses) > 1:  # the listing of a web server has no ETags
        with ThreadPoolExecutor(8) as pool:
            infos = list(pool.map(_read_info, addresses))
    return [_make_remote_file(p.location, p, info) for p, info in zip(addresses, infos, strict=True)]


def _read_info(address: Address) -> dict[str, Any]:
    return dict(address.retry(lambda: address.filesystem.info(address.path)))


def _make_remote_file(location: str, address: Address, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    etag = info.get("ETag") or info.get("etag")
    changed = info.get("LastModified") or info.get("last_modified") or info.get("Last-Modified")
    tag = f"{etag} {size}" if etag else f"{changed} {size}" if changed and size is not None else ""
    return RemoteFile(location, address, size, tag, _get_md5(info))


def _get_md5(info: Mapping[str, Any]) -> str:
    """Return a file's MD5 from the store's description of it, in hex; empty if the store keeps none.

    S3's ETag is not used: for files encrypted with a KMS key it looks like an MD5 but is another value.
    """
    settings = info.get("content_settings") or {}
    known = settings.get("content_md5")
    return bytes(known).hex() if known else ""
