"""Digests of files that no stage made: a recipe names them by place, their content decides what is computed again.

Local files by sha256, remembered by size, inode and time of change, so that a second look costs nothing. Objects on S3
by their ETag, which changes with their content; their sha256 is recorded when they are read. Files of a Hugging Face
data set by the commit in their URI (hf://datasets/OWNER/NAME@COMMIT/PATH).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.artifacts.digest import HASH_THREADS, file_sha256
from components.artifacts.objects import open_objects
from components.artifacts.spent import spent_on
from components.failures import BadInput

REMEMBERED = "outside.json"


def outside_digests(uris: Iterable[str], memory: Path) -> dict[str, str]:
    """{uri: `sha256:...`, `etag:...` or `commit:...`} of single files.

    Args:
        uris: plain paths, file:// or s3:// of files that exist.
        memory: directory for what is remembered of local files.

    Raises:
        BadInput: a file is not there. InfrastructureError: S3 does not answer.
    """
    uris = list(dict.fromkeys(uris))
    known = _read(memory / REMEMBERED)
    with spent_on("hashing"), ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = list(pool.map(lambda uri: _digest(uri, known), uris))
    _write(memory / REMEMBERED, known)
    return dict(zip(uris, digests, strict=True))


def files_of(uri: str) -> list[str]:
    """URIs of every file of a local or S3 directory, sorted."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        root = Path(unquote(parts.path) if parts.scheme else uri)
        return [str(path) for path in sorted(root.rglob("*")) if path.is_file()]
    return [f"{uri.rstrip('/')}/{name}" for name in sorted(open_objects(uri).files(""))]


def _digest(uri: str, known: dict[str, list]) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from components.artifacts.s3 import S3Objects

        key = f"{parts.path}?{parts.query}" if parts.query else parts.path
        tag = S3Objects(parts.netloc).etag(key.lstrip("/"))
        if tag is None:
            raise BadInput("no such object", where=uri)
        return f"etag:{tag}"
    if parts.scheme == "hf":
        return f"commit:{uri.partition('@')[2].partition('/')[0]}"
    path = Path(unquote(parts.path) if parts.scheme else uri).absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=uri) from error
    state = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    if (remembered := known.get(str(path))) is None or remembered[:-1] != state:
        known[str(path)] = remembered = [*state, file_sha256(path)]
    return f"sha256:{remembered[-1]}"


def _read(path: Path) -> dict[str, list]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # only a memory: without it everything is hashed again
        return {}


def _write(path: Path, known: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
    beside.write_text(json.dumps(known))
    os.replace(beside, path)
