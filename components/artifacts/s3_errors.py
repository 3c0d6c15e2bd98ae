"""What an S3 server or the connection to it meant by an exception of s3fs."""

from __future__ import annotations

from typing import Any

ABSENT = {"NoSuchKey", "404", "NotFound"}


def code_of(error: BaseException) -> str:
    """The S3 error code behind an exception of s3fs, empty when there is none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def transient(error: BaseException) -> bool:
    """Whether the server itself failed, and may answer the same request a moment later."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or code_of(error) in ("RequestTimeout", "Throttling", "ThrottlingException")


def broken(error: BaseException) -> bool:
    """Whether a connection ended in the middle of something."""
    from s3fs.core import S3_RETRYABLE_ERRORS

    return isinstance(error, S3_RETRYABLE_ERRORS)


def _response(error: BaseException) -> dict[str, Any]:
    return getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
