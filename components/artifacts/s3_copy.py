"""A copy of an S3 object made by the server: one request while it is short, else ranges of it side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from components.artifacts.s3_parts import Call, complete

# Of one request, so that a server that copies byte by byte answers within its deadline; S3 takes up to 5 GiB.
RANGE_BYTES = 512 << 20
LANES = 4


def copy_object(call: Call, source: dict[str, str], size: int) -> None:
    """call: an S3 request by name, for the target's bucket and key. source: Bucket and Key; size: its bytes."""
    if size <= RANGE_BYTES:
        call("copy_object", CopySource=source)
        return
    upload = call("create_multipart_upload")["UploadId"]

    def copy(number: int, start: int) -> dict[str, Any]:
        asked = f"bytes={start}-{min(start + RANGE_BYTES, size) - 1}"
        answer = call("upload_part_copy", UploadId=upload, PartNumber=number, CopySource=source, CopySourceRange=asked)
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    try:
        with ThreadPoolExecutor(LANES) as pool:
            parts = list(pool.map(copy, *zip(*enumerate(range(0, size, RANGE_BYTES), 1), strict=True)))
        complete(call, upload, parts, size)
    except BaseException:
        with suppress(Exception):  # what is left takes space until `tidy`; the failure itself matters more
            call("abort_multipart_upload", UploadId=upload)
        raise
