"""A stream as one S3 object: one request while it is short, else parts side by side, a bounded number in memory.

A multipart upload that nobody finishes is no object: whoever is killed leaves nothing to be read, and `ringflow tidy`
frees the space (components.artifacts.tidy).
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from components.artifacts.s3_errors import ABSENT, code_of
from components.failures import InfrastructureError

# Of one stream: enough to fill a connection of a host with several of them, 64 MiB in memory.
LANES = 4

Call = Callable[..., dict[str, Any]]


def write_parts(call: Call, parts: Iterator[bytes | bytearray]) -> int:
    """Stores the parts as one object; its bytes.

    call: an S3 request by name, for the object's bucket and key, repeated when the server or the connection fails.
    """
    first, second = next(parts, b""), next(parts, None)
    if second is None:
        digest = base64.b64encode(hashlib.sha256(first).digest()).decode()
        call("put_object", Body=first, ChecksumSHA256=digest)
        return len(first)
    upload = call("create_multipart_upload")["UploadId"]
    try:
        return _send(call, upload, (each for some in ((first, second), parts) for each in some))
    except BaseException:
        with suppress(Exception):  # what is left takes space until `tidy`; the failure itself matters more
            call("abort_multipart_upload", UploadId=upload)
        raise


def _send(call: Call, upload: str, parts: Iterator[bytes | bytearray]) -> int:
    size, sent, waiting = 0, [], deque[Future]()

    def put(number: int, part: bytes | bytearray) -> dict[str, Any]:
        answer = call("upload_part", UploadId=upload, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    with ThreadPoolExecutor(LANES) as pool:
        for number, part in enumerate(parts, 1):
            if len(waiting) == LANES:
                sent.append(waiting.popleft().result())
            waiting.append(pool.submit(put, number, part))
            size += len(part)
        sent += [each.result() for each in waiting]
    complete(call, upload, sent, size)
    return size


def complete(call: Call, upload: str, parts: list[dict[str, Any]], size: int) -> None:
    """Makes the parts one object of `size` bytes."""
    try:
        call("complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts})
    except OSError as error:
        if code_of(error) not in ABSENT | {"NoSuchUpload"}:
            raise
        # Done by an earlier try whose answer was lost: the upload is gone, and the object must be there.
        there = call("head_object")["ContentLength"]
        if there != size:
            raise InfrastructureError(f"an upload of {size} bytes ended as an object of {there}") from error
