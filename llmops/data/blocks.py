"""A part of a remote file, of one version of it and of no other: the request names the version's ETag.

A file that becomes another and what it was again between two questions for its ETag would else be mixed unseen.
"""

from __future__ import annotations

from typing import Any


class Changed(Exception):
    """The file is in another version by now."""


def block(files: Any, path: str, start: int, end: int, etag: str) -> bytes:
    """The bytes of a file from `start` up to `end`, or all of them from a server that knows no ranges.

    Args:
        files: the filesystem of fsspec that reaches it.
        path: as the filesystem wants it.
        start: first byte.
        end: the one after the last.
        etag: of the version that is wanted; empty asks for whichever there is, as do weak ones, which servers do not
            compare byte by byte.

    Raises:
        Changed: if the file has another ETag.
        Exception: what the filesystem raises.
    """
    if not etag or etag.startswith("W/"):
        data: bytes = files.cat_file(path, start=start, end=end)
        return data
    kinds = [files.protocol] if isinstance(files.protocol, str) else files.protocol
    ask = _of_s3 if "s3" in kinds else _of_azure if "abfs" in kinds else _of_web
    try:
        return ask(files, path, start, end, etag)
    except Exception as error:  # each filesystem has its own
        if _is_refused(error):
            raise Changed from None
        raise


def _of_s3(files: Any, path: str, start: int, end: int, etag: str) -> bytes:
    from fsspec.asyn import sync

    bucket, key, _ = files.split_path(path)
    answer = files.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=etag)
    data: bytes = sync(files.loop, answer["Body"].read)
    return data


def _of_azure(files: Any, path: str, start: int, end: int, etag: str) -> bytes:
    from azure.core import MatchConditions
    from fsspec.asyn import sync

    container, blob, _ = files.split_path(path)

    async def download() -> bytes:
        async with files.service_client.get_blob_client(container=container, blob=blob) as client:
            stream = await client.download_blob(
                offset=start, length=end - start, etag=etag, match_condition=MatchConditions.IfNotModified
            )
            data: bytes = await stream.readall()
            return data

    data: bytes = sync(files.loop, download)
    return data


def _of_web(files: Any, path: str, start: int, end: int, etag: str) -> bytes:
    headers = {**files.kwargs.get("headers", {}), "If-Match": etag}
    data: bytes = files.cat_file(path, start=start, end=end, headers=headers)
    return data


def _is_refused(error: Exception) -> bool:
    """Whether a server said 412, that the version is another."""
    cause: BaseException | None = error
    while cause is not None:
        answer = getattr(cause, "response", None)
        codes = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
        if 412 in (codes, getattr(cause, "status", 0), getattr(cause, "status_code", 0)):
            return True
        cause = cause.__cause__
    return False
