"""Objects on S3 through s3fs: writes conditional by If-None-Match and If-Match, bounded waits, errors to act on.

Endpoint and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or botocore's own
chain). No listing cache and no instance cache: a cached listing hides another process's commit. After a retried
connection a success can look like a conflict, so every conflict is settled by reading back and comparing bytes that
only this writer could have written.
"""

from __future__ import annotations

import base64
import concurrent.futures
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.artifacts.objects import BLOCK_BYTES, PRIVATE, Upload, Versioned, moved
from components.artifacts.s3_copy import copy_object
from components.artifacts.s3_errors import ABSENT, broken, code_of, transient
from components.artifacts.s3_parts import write_parts
from components.failures import BadInput, DeadlineExceeded, InfrastructureError, IntegrityError, RingflowError
from components.recipe.secrets import refuse_in_address
from components.telemetry import metrics

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
# Of one request, with growing pauses. A conditional write that was done and is tried again looks like a conflict, which
# is settled by reading back (see above), so every request may be repeated.
ATTEMPTS = 4
# s3fs holds two parts of 50 MiB per transfer and lane in memory.
TRANSFER_LANES = 4
SINGLE_PUT_BYTES = 64 << 20
CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
BEYOND = {"InvalidRange", "416"}
DENIED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "Forbidden", "ExpiredToken"}


class S3Objects:
    """Keys below `prefix` of one bucket. Safe to use from many threads; open a new one in a forked process."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str = "", region: str = "") -> None:
        self.bucket, self.prefix = bucket, prefix
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self.region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self.endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        refuse_in_address(
            self.endpoint or "", "AWS_ENDPOINT_URL", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
        self._filesystem: Any = None
        self._opening = threading.Lock()

    @property
    def fs(self) -> Any:
        with self._opening:
            if self._filesystem is None:
                self._filesystem = self._open(CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS)
            return self._filesystem

    def read(self, key: str) -> Versioned | None:
        return self._read(key)

    def read_part(self, key: str, start: int, size: int) -> bytes | None:
        if size == 0:
            return b""
        found = self._read(key, Range=f"bytes={start}-{start + size - 1}")
        return None if found is None else found.data

    def _read(self, key: str, **asked: str) -> Versioned | None:
        with self._errors(key):
            for attempt in range(ATTEMPTS):
                try:
                    answer = self.fs.call_s3("get_object", **self._at(key), **asked)
                except OSError as error:
                    if code_of(error) in ABSENT:
                        return None
                    if asked and code_of(error) in BEYOND:
                        return Versioned(b"", "")
                    raise
                try:
                    data = _body(self.fs, answer)
                    moved("read", len(data))
                    return Versioned(data, answer["ETag"])
                except Exception as error:  # s3fs repeats a request, not one whose answer broke off
                    if attempt == ATTEMPTS - 1 or not broken(error):
                        raise
                    metrics.add("ringflow_store_retries_total")
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def etag(self, key: str) -> str | None:
        """The object's entity tag, None when it is not there."""
        found = self._head(key)
        return None if found is None else found["ETag"].strip('"')

    def create(self, key: str, data: bytes) -> bool:
        with self._errors(key):
            try:
                self.fs.call_s3("put_object", **self._at(key), Body=data, IfNoneMatch="*")
            except OSError as error:
                if code_of(error) not in CONFLICTS:
                    raise
                current = self.read(key)
                return current is not None and current.data == data
        moved("write", len(data))
        return True

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        with self._errors(key):
            try:
                etag = self.fs.call_s3("put_object", **self._at(key), Body=data, IfMatch=version)["ETag"]
                moved("write", len(data))
                return etag
            except OSError as error:
                if code_of(error) not in CONFLICTS | ABSENT:
                    raise
                current = self.read(key)
                return current.version if current is not None and current.data == data else None

    def put(self, path: Path, key: str, sha256: str) -> None:
        # Only a single PUT takes a whole-object SHA-256; parts are guarded by botocore's own CRC.
        single = path.stat().st_size < SINGLE_PUT_BYTES
        checked = {"ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()} if single else {}
        with self._errors(key):
            self.fs.put_file(str(path), self._full(key), max_concurrency=TRANSFER_LANES, **checked)
        moved("write", path.stat().st_size)

    def write(self, key: str, parts: Iterator[bytes | bytearray]) -> None:
        with self._errors(key):
            size = write_parts(lambda call, **more: self.fs.call_s3(call, **self._at(key), **more), parts)
        moved("write", size)

    def copy(self, source: str, target: str) -> None:
        found = self._head(source)
        if found is None:
            raise IntegrityError(f"{self.url}/{source} is missing")
        place, size = self._at(target), found["ContentLength"]
        with self._errors(target):
            copy_object(lambda call, **more: self.fs.call_s3(call, **place, **more), self._at(source), size)

    def get(self, key: str, path: Path) -> bool:
        with self._errors(key):
            try:
                self.fs.get_file(self._full(key), str(path), max_concurrency=TRANSFER_LANES)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                return False
        moved("read", path.stat().st_size)
        return True

    @contextmanager
    def open(self, key: str) -> Iterator[Any]:
        """A seekable stream that reads ahead. Raises FileNotFoundError when absent."""
        with (
            self._errors(key, absent=FileNotFoundError),
            self.fs.open(self._full(key), "rb", block_size=8 * BLOCK_BYTES, cache_type="readahead") as stream,
        ):
            yield stream

    def blocks(self, key: str) -> Iterator[bytes]:
        with self.open(key) as stream:
            size = 0
            while block := stream.read(BLOCK_BYTES):
                size += len(block)
                yield block
            moved("read", size)

    def files(self, prefix: str) -> dict[str, int]:
        base = self._full(prefix).rstrip("/") + "/"
        with self._errors(prefix):
            try:
                found = _listing(lambda: self.fs.find(base, detail=True))
            except FileNotFoundError:
                return {}
        return {name[len(base) :]: int(entry["size"]) for name, entry in found.items() if name.startswith(base)}

    def folders(self, prefix: str) -> list[str]:
        base = self._full(prefix).rstrip("/") + "/"
        with self._errors(prefix):
            try:
                entries = _listing(lambda: self.fs.ls(base, detail=True))
            except FileNotFoundError:
                return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[1] for entry in entries if entry["type"] == "directory")

    def remove(self, prefix: str) -> None:
        with self._errors(prefix):
            names = [f"{prefix}/{name}" for name in self.files(prefix)]
            for name in [*names, prefix]:
                self.fs.call_s3("delete_object", **self._at(name))

    def modified(self, prefix: str) -> float | None:
        base = self._full(prefix).rstrip("/")
        with self._errors(prefix):
            try:
                found = self.fs.find(base, detail=True)
            except FileNotFoundError:
                return None
        times = [
            entry["LastModified"].timestamp()
            for name, entry in found.items()
            if name == base or name.startswith(f"{base}/")
        ]
        return max(times, default=None)

    def uploads(self) -> list[Upload]:
        found: list[Upload] = []
        where = {"Bucket": self.bucket, "Prefix": f"{self.prefix}/" if self.prefix else ""}
        position: dict[str, str] = {}
        with self._errors(""):
            while True:
                answer = self.fs.call_s3("list_multipart_uploads", **where, **position)
                for upload in answer.get("Uploads", []):
                    key = upload["Key"].removeprefix(where["Prefix"])
                    found.append(Upload(key, upload["UploadId"], upload["Initiated"].timestamp()))
                if not answer.get("IsTruncated"):
                    return found
                position = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort(self, upload: Upload) -> None:
        with self._errors(upload.key):
            try:
                self.fs.call_s3("abort_multipart_upload", **self._at(upload.key), UploadId=upload.token)
            except OSError as error:
                if code_of(error) not in ABSENT | {"NoSuchUpload"}:
                    raise

    def check(self, deadline_s: float, create: bool) -> None:
        """Endpoint, credentials, bucket, and that conditional writes are honoured: a clear error for each.

        Raises BadInput for credentials, bucket or a server without conditional writes; InfrastructureError for an
        endpoint that cannot be reached; DeadlineExceeded when it accepts connections but does not answer.
        """
        self._reach(min(deadline_s, CONNECT_TIMEOUT_S))
        import s3fs  # noqa: F401  its import is no answer of the server's: on a busy machine it takes seconds

        pool = concurrent.futures.ThreadPoolExecutor(1)
        try:
            pool.submit(self._probe, deadline_s, create).result(deadline_s)
        except concurrent.futures.TimeoutError as error:
            raise DeadlineExceeded(
                f"{self._place()} accepted a connection and gave no answer in {deadline_s:g} s"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._errors(key):
            try:
                return self.fs.call_s3("head_object", **self._at(key))
            except OSError as error:
                if code_of(error) in ABSENT:
                    return None
                raise

    def _open(self, connect_s: float, read_s: float, attempts: int) -> Any:
        from s3fs import S3FileSystem
        from s3fs.core import set_custom_error_handler

        set_custom_error_handler(_again)  # by itself s3fs repeats broken connections and SlowDown, but no 500 or 503
        fs = S3FileSystem(
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.region},
            config_kwargs={
                "connect_timeout": connect_s,
                "read_timeout": read_s,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                "max_pool_connections": 32,
            },
            use_listings_cache=False,
            skip_instance_cache=True,
            max_concurrency=TRANSFER_LANES,
        )
        # The retries are s3fs's alone: two layers of them would multiply every deadline.
        fs.retries = attempts
        return fs

    def _reach(self, deadline_s: float) -> None:
        if not self.endpoint:
            return
        parts = urlsplit(self.endpoint)
        if not parts.hostname:
            raise BadInput("AWS_ENDPOINT_URL is not a URL", where=self.endpoint, remedy="Give http(s)://host:port")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), timeout=deadline_s).close()
        except OSError as error:
            raise InfrastructureError(
                f"S3 endpoint {self.endpoint} cannot be reached: {error.strerror or error}. "
                "Is the server up (`ringflow status`), is AWS_ENDPOINT_URL right?"
            ) from error

    def _probe(self, deadline_s: float, create: bool) -> None:
        fs = self._open(min(deadline_s, CONNECT_TIMEOUT_S), deadline_s, attempts=1)
        try:
            fs.call_s3("head_bucket", Bucket=self.bucket)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and create:
                self._create_bucket(fs)
            elif isinstance(error, FileNotFoundError):
                raise BadInput(
                    f"bucket {self.bucket} does not exist",
                    where=self._place(),
                    remedy="Create it, or name another one in RINGFLOW_STORE",
                ) from error
            else:
                raise self._translated(error, "") from error
        key = f"{PRIVATE}check/{uuid.uuid4().hex}"
        if not self.create(key, b"probe") or self.create(key, b"other"):
            raise self._unconditional("If-None-Match")
        stored = self.read(key)
        if stored is None or stored.data != b"probe":
            raise InfrastructureError(f"{self._place()}: a probe object read back differently")
        if self.replace(key, b"third", '"00000000000000000000000000000000"') is not None:
            raise self._unconditional("If-Match")
        self.remove(key)

    def _unconditional(self, header: str) -> BadInput:
        return BadInput(
            f"the S3 server ignores {header}, so two runs could both commit",
            where=self._place(),
            remedy="Use a server with conditional writes (AWS S3, SeaweedFS 4, MinIO, Ceph)",
        )

    def _create_bucket(self, fs: Any) -> None:
        with self._errors(""):
            try:
                fs.call_s3("create_bucket", Bucket=self.bucket)
            except FileExistsError:  # made by another starter between the two calls
                return

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def _full(self, key: str) -> str:
        return f"{self.bucket}/{self._at(key)['Key']}"

    def _place(self) -> str:
        return f"{self.url} at {self.endpoint or 'AWS'}"

    @contextmanager
    def _errors(self, key: str, absent: type[Exception] | None = None):
        try:
            yield
        except RingflowError:
            raise
        except Exception as error:
            if absent is not None and isinstance(error, FileNotFoundError):
                raise
            raise self._translated(error, key) from error

    def _translated(self, error: Exception, key: str) -> RingflowError:
        from botocore.exceptions import NoCredentialsError, PartialCredentialsError

        metrics.add("ringflow_store_errors_total")
        place, code = f"{self._place()}{' ' + key if key else ''}", code_of(error)
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return BadInput(
                "no S3 credentials",
                where=place,
                remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        if isinstance(error, PermissionError) or code in DENIED:
            return BadInput(
                f"S3 refused the credentials ({code or 'access denied'}: {error})",
                where=place,
                remedy="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the key's rights on the bucket",
            )
        if code == "NoSuchBucket":
            return BadInput(f"bucket {self.bucket} does not exist", where=place, remedy="Create it or name another one")
        return InfrastructureError(f"{place}: {code or type(error).__name__}: {error}")


def _again(error: BaseException) -> bool:
    """Whether s3fs tries a request again; asked by it after every answer that is an error."""
    if found := transient(error):
        metrics.add("ringflow_store_retries_total")
    return found


def _listing(call: Callable[[], Any]) -> Any:
    """The call's answer. s3fs does not repeat the pages of a listing, so this does."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            if not (broken(error) or transient(error)):
                raise
            metrics.add("ringflow_store_retries_total")
            time.sleep(0.1 * 2**attempt)
    return call()


def _body(fs: Any, answer: dict[str, Any]) -> bytes:
    from fsspec.asyn import sync

    async def collect() -> bytes:
        async with answer["Body"] as stream:
            return await stream.read()

    return sync(fs.loop, collect)
